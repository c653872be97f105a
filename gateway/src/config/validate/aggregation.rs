//! Converts how the catalogs of the backends are merged and exposed. [`vmcp_crds::config::HotConfig::check`] has validated the settings.

use vmcp_crds::config::{
    AggregationConfig, AnnotationOverride, BackendConfig, ConflictStrategy, PromptOverride, ToolOverride,
};

use crate::config::{
    Aggregation, BackendName, ConflictResolution, ExposurePolicy, ItemOverride, ItemRules, NameFilter,
    Pattern,
};

pub(super) fn aggregation(raw: &AggregationConfig) -> Aggregation {
    Aggregation {
        strategy: strategy(raw),
        failure_mode: raw.failure_mode,
        refresh: raw.refresh.get(),
        page_size: raw.page_size as usize,
        capabilities: raw.capabilities.clone(),
    }
}

fn strategy(raw: &AggregationConfig) -> ConflictResolution {
    match raw.strategy {
        ConflictStrategy::Prefix => ConflictResolution::Prefix,
        ConflictStrategy::None => ConflictResolution::None,
        ConflictStrategy::Manual => ConflictResolution::Manual,
        ConflictStrategy::Priority => ConflictResolution::Priority(
            raw.priority
                .iter()
                .map(|name| BackendName(name.as_str().into()))
                .collect(),
        ),
    }
}

/// What of the catalog of the backend `raw` is advertised, and under which names.
pub(super) fn exposure(raw: &BackendConfig, aggregation: &AggregationConfig) -> ExposurePolicy {
    let tools = raw.tools.overrides.iter();
    let prompts = raw.prompts.overrides.iter();
    ExposurePolicy {
        tools: ItemRules {
            filter: filter(&raw.tools.allow, &raw.tools.deny),
            hidden: patterns(&raw.tools.hidden),
            overrides: tools.map(|(name, raw)| (name.clone(), tool(raw))).collect(),
        },
        prompts: ItemRules {
            filter: filter(&raw.prompts.allow, &raw.prompts.deny),
            hidden: Vec::new(),
            overrides: prompts.map(|(name, raw)| (name.clone(), prompt(raw))).collect(),
        },
        resources: filter(&raw.resources.allow, &raw.resources.deny),
        names: aggregation.names,
        prefix: raw.name_prefix(aggregation),
    }
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
