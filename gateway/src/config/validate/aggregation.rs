//! Validates how the catalogs of the backends are merged and exposed.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use vmcp_crds::config::{
    AggregationConfig, AnnotationOverride, BackendConfig, ConflictStrategy, PromptOverride, ToolOverride,
    rules,
};

use super::ConfigFault;
use crate::config::aggregation::{MAX_LENIENT_NAME_BYTES, MAX_NAME_BYTES, is_name_byte, is_unprintable};
use crate::config::{
    Aggregation, BackendName, ConflictResolution, ExposurePolicy, ItemOverride, ItemRules, NameFilter,
    Pattern,
};

/// The placeholders of `prefixFormat`. `{workload}` is ToolHive's name for it.
const PLACEHOLDERS: [&str; 2] = ["{backend}", "{workload}"];
/// The shortest `refresh`. More frequent discoveries would load the backend.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// The largest `pageSize`.
const MAX_PAGE_SIZE: u32 = 100_000;

pub(super) fn aggregation(raw: &AggregationConfig) -> Result<Aggregation, ConfigFault> {
    let refuse =
        |field: &str, message: String| Err(ConfigFault::at(&format!("aggregation.{field}"), message));
    if raw.strategy != ConflictStrategy::Prefix
        && raw.prefix_format != AggregationConfig::default().prefix_format
    {
        let message = format!(
            "has no effect with `strategy: {}`; set `strategy: prefix` or remove it",
            raw.strategy.as_str()
        );
        return refuse("prefixFormat", message);
    }
    if raw.refresh.get() < MIN_REFRESH {
        return refuse("refresh", format!("found {}; the minimum is 1s", raw.refresh));
    }
    if raw.page_size == 0 || raw.page_size > MAX_PAGE_SIZE {
        let message = format!("found {}; allowed are 1 to {MAX_PAGE_SIZE}", raw.page_size);
        return refuse("pageSize", message);
    }
    Ok(Aggregation {
        strategy: strategy(raw)?,
        failure_mode: raw.failure_mode,
        refresh: raw.refresh.get(),
        page_size: raw.page_size as usize,
        capabilities: raw.capabilities.clone(),
    })
}

fn strategy(raw: &AggregationConfig) -> Result<ConflictResolution, ConfigFault> {
    let refuse = |message: String| Err(ConfigFault::at("aggregation.priority", message));
    if raw.strategy != ConflictStrategy::Priority && !raw.priority.is_empty() {
        return refuse(format!(
            "has no effect with `strategy: {}`; set `strategy: priority` or remove it",
            raw.strategy.as_str()
        ));
    }
    Ok(match raw.strategy {
        ConflictStrategy::Prefix => ConflictResolution::Prefix,
        ConflictStrategy::None => ConflictResolution::None,
        ConflictStrategy::Manual => ConflictResolution::Manual,
        ConflictStrategy::Priority if raw.priority.is_empty() => {
            return refuse(
                "missing; `strategy: priority` needs the backends' names in order of priority".to_owned(),
            );
        }
        ConflictStrategy::Priority => {
            for (index, name) in raw.priority.iter().enumerate() {
                let refuse = |message: String| {
                    let path = format!("aggregation.priority[{index}]");
                    Err(ConfigFault::at(&path, message))
                };
                if !rules::is_dns_label(name) {
                    return refuse(format!(
                        "found {name:?}; expected the name of a backend, {}",
                        rules::DNS_LABEL
                    ));
                }
                if raw.priority[..index].contains(name) {
                    return refuse(format!("duplicate name {name:?}; list each backend once"));
                }
            }
            // A backend may leave the group at any time, so an unknown name is not an error.
            ConflictResolution::Priority(
                raw.priority
                    .iter()
                    .map(|name| BackendName(name.as_str().into()))
                    .collect(),
            )
        }
    })
}

/// Validates what of the catalog of the backend at `index` is advertised, and under which names.
pub(super) fn exposure(
    raw: &BackendConfig,
    index: usize,
    aggregation: &AggregationConfig,
) -> Result<ExposurePolicy, ConfigFault> {
    let at = |field: &str| format!("backends[{index}].{field}");
    if raw.prefix.is_some() && aggregation.strategy != ConflictStrategy::Prefix {
        let message = format!(
            "has no effect with `aggregation.strategy: {}`; set `strategy: prefix` or remove it",
            aggregation.strategy.as_str()
        );
        return Err(ConfigFault::at(&at("prefix"), message));
    }
    let (tools, prompts, resources) = (&raw.tools, &raw.prompts, &raw.resources);
    for (field, patterns) in [
        ("tools.allow", &tools.allow),
        ("tools.deny", &tools.deny),
        ("tools.hidden", &tools.hidden),
        ("prompts.allow", &prompts.allow),
        ("prompts.deny", &prompts.deny),
        ("resources.allow", &resources.allow),
        ("resources.deny", &resources.deny),
    ] {
        if let Some(index) = patterns.iter().position(String::is_empty) {
            let message =
                "found \"\", which matches nothing; expected a name or a pattern, for example get_*";
            return Err(ConfigFault::at(&at(&format!("{field}[{index}]")), message));
        }
    }
    let prefix = prefix(raw, aggregation);
    if prefix.len() >= MAX_NAME_BYTES || !prefix.bytes().all(is_name_byte) {
        let path = if raw.prefix.is_some() {
            at("prefix")
        } else {
            "aggregation.prefixFormat".to_owned()
        };
        let message = format!(
            "results in the prefix {prefix:?}; allowed are fewer than {MAX_NAME_BYTES} of A-Z a-z 0-9 _ . / -, and in prefixFormat {{backend}}"
        );
        return Err(ConfigFault::at(&path, message));
    }
    let tools = raw.tools.overrides.iter();
    let prompts = raw.prompts.overrides.iter();
    Ok(ExposurePolicy {
        tools: ItemRules {
            filter: filter(&raw.tools.allow, &raw.tools.deny),
            hidden: patterns(&raw.tools.hidden),
            overrides: overrides(
                tools.map(|(name, raw)| (name, tool(raw))),
                &TOOL_NAMES,
                &prefix,
                &at("tools.overrides"),
            )?,
        },
        prompts: ItemRules {
            filter: filter(&raw.prompts.allow, &raw.prompts.deny),
            hidden: Vec::new(),
            overrides: overrides(
                prompts.map(|(name, raw)| (name, prompt(raw))),
                &PROMPT_NAMES,
                &prefix,
                &at("prompts.overrides"),
            )?,
        },
        resources: filter(&raw.resources.allow, &raw.resources.deny),
        names: aggregation.names,
        prefix,
    })
}

/// With `strategy: manual`, rejects overrides that give the same name to items of two backends: neither item would be advertised.
pub(super) fn check_manual_names(
    aggregation: &AggregationConfig,
    backends: &[BackendConfig],
) -> Result<(), ConfigFault> {
    if aggregation.strategy != ConflictStrategy::Manual {
        return Ok(());
    }
    let tools = backends.iter().enumerate().flat_map(|(index, backend)| {
        let overrides = backend.tools.overrides.iter();
        overrides.map(move |(name, named)| ("tools", index, name, named.name.as_deref()))
    });
    let prompts = backends.iter().enumerate().flat_map(|(index, backend)| {
        let overrides = backend.prompts.overrides.iter();
        overrides.map(move |(name, named)| ("prompts", index, name, named.name.as_deref()))
    });
    let mut taken = BTreeMap::new();
    for (kind, index, name, renamed) in tools.chain(prompts) {
        let Some(renamed) = renamed else { continue };
        if let Some(other) = taken.insert((kind, renamed), index) {
            let message = format!(
                "the name {renamed:?} is given by backend {}, too; with `strategy: manual` names must be unique",
                backends[other].name
            );
            let path = format!("backends[{index}].{kind}.overrides.{name}.name");
            return Err(ConfigFault::at(&path, message));
        }
    }
    Ok(())
}

fn prefix(raw: &BackendConfig, aggregation: &AggregationConfig) -> String {
    if aggregation.strategy != ConflictStrategy::Prefix {
        return String::new();
    }
    raw.prefix.clone().unwrap_or_else(|| {
        let format = aggregation.prefix_format.clone();
        PLACEHOLDERS.into_iter().fold(format, |format, placeholder| {
            format.replace(placeholder, &raw.name)
        })
    })
}

/// The names that overrides may give to items of one kind.
struct AllowedNames {
    max_bytes: usize,
    has_allowed_characters: fn(&str) -> bool,
    /// The allowed characters, for the error message.
    characters: &'static str,
}

const TOOL_NAMES: AllowedNames = AllowedNames {
    max_bytes: MAX_NAME_BYTES,
    has_allowed_characters: |name| name.bytes().all(is_name_byte),
    characters: "of A-Z a-z 0-9 _ . / -",
};
const PROMPT_NAMES: AllowedNames = AllowedNames {
    max_bytes: MAX_LENIENT_NAME_BYTES,
    has_allowed_characters: |name| !name.chars().any(is_unprintable),
    characters: "bytes without control characters",
};

fn overrides<'a>(
    raw: impl Iterator<Item = (&'a String, ItemOverride)>,
    names: &AllowedNames,
    prefix: &str,
    path: &str,
) -> Result<HashMap<String, ItemOverride>, ConfigFault> {
    let mut overrides: HashMap<String, ItemOverride> = HashMap::new();
    for (name, named) in raw {
        if named == ItemOverride::default() {
            let message = "overrides nothing; set a name, title, description or annotations, or remove it";
            return Err(ConfigFault::at(&format!("{path}.{name}"), message));
        }
        if let Some(renamed) = &named.name {
            let refuse = |message| Err(ConfigFault::at(&format!("{path}.{name}.name"), message));
            if renamed.is_empty()
                || prefix.len() + renamed.len() > names.max_bytes
                || !(names.has_allowed_characters)(renamed)
            {
                return refuse(format!(
                    "found {renamed:?}; allowed are 1 to {} {} after the prefix {prefix:?}",
                    names.max_bytes - prefix.len(),
                    names.characters
                ));
            }
            let same = |other: &&ItemOverride| other.name.as_ref() == Some(renamed);
            if overrides.values().find(same).is_some() {
                return refuse(format!("duplicate name {renamed:?}; give each name once"));
            }
        }
        overrides.insert(name.clone(), named);
    }
    Ok(overrides)
}

fn tool(raw: &ToolOverride) -> ItemOverride {
    let AnnotationOverride {
        title,
        read_only_hint,
        destructive_hint,
        idempotent_hint,
        open_world_hint,
    } = &raw.annotations;
    let hints = [
        ("readOnlyHint", read_only_hint),
        ("destructiveHint", destructive_hint),
        ("idempotentHint", idempotent_hint),
        ("openWorldHint", open_world_hint),
    ];
    let hints = hints
        .into_iter()
        .filter_map(|(key, hint)| Some((key, hint.as_ref()?.to_string())));
    ItemOverride {
        name: raw.name.clone(),
        fields: texts([("title", &raw.title), ("description", &raw.description)]),
        annotations: texts([("title", title)]).into_iter().chain(hints).collect(),
    }
}

fn prompt(raw: &PromptOverride) -> ItemOverride {
    ItemOverride {
        name: raw.name.clone(),
        fields: texts([("title", &raw.title), ("description", &raw.description)]),
        annotations: Vec::new(),
    }
}

fn texts<const N: usize>(fields: [(&'static str, &Option<String>); N]) -> Vec<(&'static str, String)> {
    let json = |text: &String| serde_json::Value::from(text.as_str()).to_string();
    let set = |(key, text): (&'static str, &Option<String>)| Some((key, json(text.as_ref()?)));
    fields.into_iter().filter_map(set).collect()
}

fn filter(allow: &[String], deny: &[String]) -> NameFilter {
    NameFilter {
        allow: patterns(allow),
        deny: patterns(deny),
    }
}

fn patterns(raw: &[String]) -> Vec<Pattern> {
    raw.iter().map(|text| Pattern::new(text)).collect()
}
