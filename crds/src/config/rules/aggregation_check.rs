//! Checks how the catalogs of the backends are merged, and the names that the configuration gives.

use std::collections::BTreeMap;

use super::super::{AggregationConfig, BackendConfig, ConflictStrategy};
use super::{FieldError, at, is_dns_label, range, words};

/// The placeholders of `prefixFormat`. `{workload}` is ToolHive's name for it.
const PLACEHOLDERS: [&str; 2] = ["{backend}", "{workload}"];
/// Maximum number of items on a page.
const MAX_PAGE_SIZE: u32 = 100_000;

/// The longest name that the protocol recommends for tools (specification 2025-11-25, server/tools).
pub const MAX_NAME_BYTES: usize = 128;

/// Whether `byte` is allowed in a name that the protocol recommends. A slash is also allowed, because some servers use it.
#[must_use]
pub fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_./-".contains(&byte)
}

impl AggregationConfig {
    /// Checks the rules that the types do not express.
    ///
    /// # Errors
    /// The name of the first invalid field, and why it is invalid.
    pub fn check(&self) -> Result<(), FieldError> {
        let refuse = |field: &'static str, message: String| Err((field.into(), message));
        if self.strategy != ConflictStrategy::Prefix && self.prefix_format != Self::default().prefix_format {
            return refuse("prefixFormat", words::PREFIX_WITHOUT_EFFECT.to_owned());
        }
        if !without_placeholders(&self.prefix_format)
            .bytes()
            .all(is_name_byte)
        {
            let message = format!("found {:?}; {}", self.prefix_format, words::PREFIX_EXPECTED);
            return refuse("prefixFormat", message);
        }
        range::REFRESH.check(self.refresh).map_err(at("refresh"))?;
        if self.page_size == 0 || self.page_size > MAX_PAGE_SIZE {
            let message = format!("found {}; allowed are 1 to {MAX_PAGE_SIZE}", self.page_size);
            return refuse("pageSize", message);
        }
        self.check_priority()
    }

    fn check_priority(&self) -> Result<(), FieldError> {
        let refuse = |message: &str| Err(("priority".into(), message.to_owned()));
        match (self.strategy, self.priority.is_empty()) {
            (ConflictStrategy::Priority, true) => return refuse(words::PRIORITY_MISSING),
            (ConflictStrategy::Priority, false) => {}
            (_, false) => return refuse(words::PRIORITY_WITHOUT_EFFECT),
            (_, true) => return Ok(()),
        }
        for (index, name) in self.priority.iter().enumerate() {
            let refuse = |message| Err((format!("priority[{index}]").into(), message));
            if !is_dns_label(name) {
                return refuse(format!("found {name:?}; {}", words::PRIORITY_NAME_EXPECTED));
            }
            // A backend may leave the group at any time, so a name that no backend has is allowed.
            if self.priority.iter().take(index).any(|other| other == name) {
                return refuse(format!("duplicate name {name:?}; {}", words::PRIORITY_NAME_TWICE));
            }
        }
        Ok(())
    }
}

fn without_placeholders(format: &str) -> String {
    PLACEHOLDERS
        .into_iter()
        .fold(format.to_owned(), |format, placeholder| {
            format.replace(placeholder, "")
        })
}

impl BackendConfig {
    /// The prefix of the names of this backend's tools and prompts.
    #[must_use]
    pub fn name_prefix(&self, aggregation: &AggregationConfig) -> String {
        if aggregation.strategy != ConflictStrategy::Prefix {
            return String::new();
        }
        self.prefix.clone().unwrap_or_else(|| {
            let format = aggregation.prefix_format.clone();
            PLACEHOLDERS.into_iter().fold(format, |format, placeholder| {
                format.replace(placeholder, &self.name)
            })
        })
    }
}

/// With `strategy: manual`, checks that no two backends are given the same name: neither could win.
///
/// # Errors
/// The index of the backend, the name of the field there, and why it is invalid.
pub fn check_unique_names(
    aggregation: &AggregationConfig,
    backends: &[&BackendConfig],
) -> Result<(), (usize, FieldError)> {
    if aggregation.strategy != ConflictStrategy::Manual {
        return Ok(());
    }
    let tools = backends.iter().copied().enumerate().flat_map(|(index, backend)| {
        let overrides = backend.tools.overrides.iter();
        overrides.map(move |(name, named)| ("tools", index, backend, name, named.name.as_deref()))
    });
    let prompts = backends.iter().copied().enumerate().flat_map(|(index, backend)| {
        let overrides = backend.prompts.overrides.iter();
        overrides.map(move |(name, named)| ("prompts", index, backend, name, named.name.as_deref()))
    });
    let mut taken: BTreeMap<(&str, &str), &BackendConfig> = BTreeMap::new();
    for (kind, index, backend, name, renamed) in tools.chain(prompts) {
        let Some(renamed) = renamed else { continue };
        if let Some(other) = taken.insert((kind, renamed), backend) {
            let message = format!(
                "the name {renamed:?} is given by backend {}, too; with `strategy: manual` names must be unique",
                other.name
            );
            return Err((index, (format!("{kind}.overrides.{name}.name").into(), message)));
        }
    }
    Ok(())
}
