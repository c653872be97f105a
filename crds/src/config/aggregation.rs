//! How the offers of many backends become one.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{Duration, is_default};

/// How the offers of many backends become one. The name under which something is offered depends on this configuration, its backend
/// and its name there, and never on who else is in the group: adding a backend renames nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AggregationConfig {
    /// What tools and prompts are called, and who wins when two backends offer the same name. `prefix`: each name begins with its
    /// backend's prefix. `none` (`transparent` means the same): names stay as they are, and the backend that stands first in the
    /// configuration wins. `priority`: names stay as they are, and the backend that stands first in `priority` wins. `manual`:
    /// names stay as they are but for `overrides`, and a name that two backends still share is offered by neither. Whatever is not
    /// offered because of this is listed by `/status`. Of one backend's own two, with every strategy, the one wins that an override
    /// gives the name, and the one that has it by itself is not offered. Resources keep their URIs with every strategy; of two with the same URI the
    /// one of the winning backend is offered, with `manual` that of the backend that stands first in the configuration.
    #[schemars(extend("default" = ConflictStrategy::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub strategy: ConflictStrategy,
    /// What names begin with when `strategy` is `prefix`; `{backend}` stands for the backend's name. A backend may have a `prefix`
    /// of its own.
    #[schemars(extend("default" = default_prefix_format()))]
    #[serde(
        default = "default_prefix_format",
        skip_serializing_if = "is_default_prefix_format"
    )]
    pub prefix_format: String,
    /// With `strategy: priority`, the names of the backends, the most important first. A backend that is not in the list comes after
    /// all that are, in the order of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priority: Vec<String>,
    /// Which names of tools are offered. The protocol recommends 1 to 128 of `A-Z a-z 0-9 _ . -`. `lenient`: a tool with another name is
    /// offered, and `/status` warns of it, because some clients refuse such names. `strict`: it is not offered. Names of prompts have no such
    /// rule. A name of more than 1024 bytes, or with control characters, is never offered. An override can give a tool a better name.
    #[schemars(extend("default" = NameRule::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub names: NameRule,
    /// What becomes of the offers of a backend that is unavailable (see `health` there). `keep`: they stay listed. `hide`: they are left
    /// out of the lists until it answers again. Calls reach the backend either way, and nobody else takes over its names.
    #[schemars(extend("default" = FailureMode::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub failure_mode: FailureMode,
    /// How old the known offers of a backend may become before the gateway looks again; at least `1s`. Clients never wait for the
    /// look.
    #[schemars(extend("default" = default_refresh().to_string()))]
    #[serde(default = "default_refresh", skip_serializing_if = "is_default_refresh")]
    pub refresh: Duration,
    /// How many items a list gives at once, from 1 to 100000. Many clients read the first page only.
    #[schemars(range(min = 1, max = 100_000), extend("default" = default_page_size()))]
    #[serde(default = "default_page_size", skip_serializing_if = "is_default_page_size")]
    pub page_size: u32,
    /// What the gateway says it can do, and asks its backends for. It does not depend on what the backends can do at the moment, so
    /// that a session that is older than a backend can use it. The methods of what is left out are answered with -32601.
    #[schemars(extend("default" = Capability::ALL.map(Capability::as_str)))]
    #[serde(
        default = "default_capabilities",
        skip_serializing_if = "is_default_capabilities"
    )]
    pub capabilities: Vec<Capability>,
}

/// What happens when two backends offer the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(transform = with_transparent)]
pub enum ConflictStrategy {
    /// It cannot happen: each name begins with its backend's prefix.
    #[default]
    Prefix,
    /// The backend that stands first in the configuration wins.
    #[serde(alias = "transparent")]
    None,
    /// The backend that stands first in the list of priorities wins.
    Priority,
    /// Neither wins.
    Manual,
}

/// The schema does not know of the other name by itself.
fn with_transparent(schema: &mut Schema) {
    if let Some(Json::Array(choices)) = schema.get_mut("oneOf") {
        choices.push(json!({"description": "The same as `none`.", "type": "string", "const": "transparent"}));
    }
}

/// Which names of tools are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NameRule {
    /// Those that the protocol recommends, and others with a warning.
    #[default]
    Lenient,
    /// Those that the protocol recommends.
    Strict,
}

/// What becomes of the offers of a backend that does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailureMode {
    /// They stay listed.
    #[default]
    Keep,
    /// They are left out of the lists until it answers again.
    Hide,
}

/// Something that an MCP server says it can do.
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
    /// All there are.
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
