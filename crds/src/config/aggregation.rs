//! How the catalogs of all backends are merged into one.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::rules::{self, range};
use super::{Duration, cel, is_default};

/// How the catalogs of all backends are merged into one. The advertised name of an item depends only on this configuration, its
/// backend and its name there. Adding another backend never renames an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = strategy_rules()))]
pub struct AggregationConfig {
    /// How tools and prompts are named, and which backend wins when two offer the same name. `prefix`: every name begins with its
    /// backend's prefix. `none` (or `transparent`): names are unchanged, and the first backend in the configuration wins. `priority`:
    /// names are unchanged, and the first backend in `priority` wins. `manual`: names are unchanged except for `overrides`, and a name
    /// that two backends share is not advertised at all. `/status` lists everything that is hidden by such a conflict. Within one
    /// backend, an item that an override gives a name wins over the item that has this name itself. Resources always keep their URIs.
    /// If two backends offer the same URI, the winning backend's resource is advertised; with `manual`, that of the first backend in
    /// the configuration.
    #[schemars(extend("default" = ConflictStrategy::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub strategy: ConflictStrategy,
    /// The prefix of names with `strategy: prefix`. `{backend}` stands for the backend's name: `{backend}_` turns the tool `now` of the
    /// backend `time` into `time_now`. A backend can set its own `prefix`.
    #[schemars(
        length(max = 64),
        extend("default" = default_prefix_format()),
        extend("x-kubernetes-validations" = [cel::rule(
            "self.replace('{backend}', '').replace('{workload}', '').matches('^[A-Za-z0-9_./-]*$')",
            rules::PREFIX_EXPECTED
        )])
    )]
    #[serde(
        default = "default_prefix_format",
        skip_serializing_if = "is_default_prefix_format"
    )]
    pub prefix_format: String,
    /// With `strategy: priority`: names of backends, most important first. Backends that are not listed come last, in the order of the
    /// configuration.
    #[schemars(
        length(max = 256),
        inner(length(max = 63)),
        extend("x-kubernetes-validations" = [
            cel::rule(
                "self.all(name, name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))",
                rules::PRIORITY_NAME_EXPECTED
            ),
            cel::rule("self.all(name, self.exists_one(other, other == name))", rules::PRIORITY_NAME_TWICE),
        ])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priority: Vec<String>,
    /// Which tool names are allowed. The protocol recommends 1 to 128 characters of `A-Z a-z 0-9 _ . -`. `lenient`: a tool with another
    /// name is advertised, and `/status` shows a warning, because some clients reject such names. `strict`: it is not advertised. An
    /// override can give the tool a valid name. This rule does not apply to prompts. A name of more than 1024 bytes or with control
    /// characters is never advertised.
    #[schemars(extend("default" = NameRule::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub names: NameRule,
    /// Whether lists contain the items of an unavailable backend (see the backend's `health`). `keep`: they stay in the lists. `hide`:
    /// they are removed from the lists until the backend answers again. In both cases calls are still sent to the backend, and no other
    /// backend takes over its names.
    #[schemars(extend("default" = FailureMode::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub failure_mode: FailureMode,
    /// Maximum age of a backend's catalog before the gateway fetches it again, at least `1s`. Clients never wait for the refresh.
    #[schemars(
        extend("default" = default_refresh().to_string()),
        extend("x-kubernetes-validations" = range::REFRESH.cel())
    )]
    #[serde(default = "default_refresh", skip_serializing_if = "is_default_refresh")]
    pub refresh: Duration,
    /// Number of items on one page of a list, from 1 to 100000. Many clients read only the first page.
    #[schemars(range(min = 1, max = 100_000), extend("default" = default_page_size()))]
    #[serde(default = "default_page_size", skip_serializing_if = "is_default_page_size")]
    pub page_size: u32,
    /// The capabilities that the gateway declares to clients and uses at backends. The list is fixed, so that an existing session can
    /// use a backend that is added later. Methods of a capability that is left out are answered with error -32601.
    #[schemars(length(max = 16), extend("default" = Capability::ALL.map(Capability::as_str)))]
    #[serde(
        default = "default_capabilities",
        skip_serializing_if = "is_default_capabilities"
    )]
    pub capabilities: Vec<Capability>,
}

/// How a name that two backends offer is resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(transform = with_transparent)]
pub enum ConflictStrategy {
    /// Every name begins with its backend's prefix, so that there is no conflict.
    #[default]
    Prefix,
    /// The first backend in the configuration wins.
    #[serde(alias = "transparent")]
    None,
    /// The first backend in the list `priority` wins.
    Priority,
    /// Neither backend's item is advertised.
    Manual,
}

/// Adds the serde alias `transparent` to the schema, which does not contain aliases.
fn with_transparent(schema: &mut Schema) {
    if let Some(Json::Array(choices)) = schema.get_mut("oneOf") {
        choices.push(json!({"description": "The same as `none`.", "type": "string", "const": "transparent"}));
    }
}

/// Which tool names are advertised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NameRule {
    /// Names that the protocol recommends, and others with a warning.
    #[default]
    Lenient,
    /// Only names that the protocol recommends.
    Strict,
}

/// Whether the items of an unavailable backend are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailureMode {
    /// The items stay in the lists.
    #[default]
    Keep,
    /// The items are removed from the lists until the backend answers again.
    Hide,
}

/// A capability of an MCP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Tools are listed and called.
    Tools,
    /// Resources and resource templates are listed and read.
    Resources,
    /// Prompts are listed and got.
    Prompts,
    /// Arguments of prompts and of resource templates are completed.
    Completions,
}

impl ConflictStrategy {
    /// The strategy's name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::None => "none",
            Self::Priority => "priority",
            Self::Manual => "manual",
        }
    }
}

impl NameRule {
    /// The rule's name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lenient => "lenient",
            Self::Strict => "strict",
        }
    }
}

impl FailureMode {
    /// The mode's name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Hide => "hide",
        }
    }
}

impl Capability {
    /// All capabilities.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Resources, Self::Prompts, Self::Completions];

    /// The capability's name in the file and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Prompts => "prompts",
            Self::Completions => "completions",
        }
    }
}

impl Default for AggregationConfig {
    fn default() -> Self {
        Self {
            strategy: ConflictStrategy::default(),
            prefix_format: default_prefix_format(),
            priority: Vec::new(),
            names: NameRule::default(),
            failure_mode: FailureMode::default(),
            refresh: default_refresh(),
            page_size: default_page_size(),
            capabilities: default_capabilities(),
        }
    }
}

fn strategy_rules() -> Json {
    let is = |strategy: &str| format!("has(self.strategy) && self.strategy == '{strategy}'");
    let prefix_format = format!(
        "!has(self.prefixFormat) || self.prefixFormat == '{}' || !has(self.strategy) || {}",
        default_prefix_format(),
        is("prefix")
    );
    let has_priority = "has(self.priority) && size(self.priority) > 0";
    let needs_priority = format!("!({}) || ({has_priority})", is("priority"));
    let allows_priority = format!("!({has_priority}) || ({})", is("priority"));
    json!([
        cel::rule_of_field("prefixFormat", &prefix_format, rules::PREFIX_WITHOUT_EFFECT),
        cel::rule_of_field("priority", &needs_priority, rules::PRIORITY_MISSING),
        cel::rule_of_field("priority", &allows_priority, rules::PRIORITY_WITHOUT_EFFECT),
    ])
}

fn default_prefix_format() -> String {
    "{backend}_".to_owned()
}

fn default_refresh() -> Duration {
    Duration::from_secs(60)
}

fn default_page_size() -> u32 {
    10_000
}

fn default_capabilities() -> Vec<Capability> {
    Capability::ALL.to_vec()
}

fn is_default_prefix_format(format: &str) -> bool {
    format == default_prefix_format()
}

fn is_default_refresh(refresh: &Duration) -> bool {
    *refresh == default_refresh()
}

fn is_default_page_size(size: &u32) -> bool {
    *size == default_page_size()
}

fn is_default_capabilities(capabilities: &[Capability]) -> bool {
    capabilities == Capability::ALL
}
