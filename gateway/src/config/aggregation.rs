//! How the catalogs of the backends are merged and exposed: validated settings.

use std::collections::HashMap;
use std::time::Duration;

use vmcp_crds::config::Capability;

pub use vmcp_crds::config::rules::{MAX_LENIENT_NAME_BYTES, MAX_NAME_BYTES, is_name_byte, is_unprintable};
pub use vmcp_crds::config::{FailureMode, NameRule};

use super::{BackendName, Pattern};
use crate::config::canonical_uri::{canonical, deniable_forms, is_ambiguous};

/// How the catalogs of all backends become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregation {
    /// Which backend wins when two offer the same name.
    pub strategy: ConflictResolution,
    /// Whether the items of an unavailable backend stay in the lists.
    pub failure_mode: FailureMode,
    /// Time between two discoveries of a backend that reports no changes.
    pub refresh: Duration,
    /// Most items in one page of a list; at least one.
    pub page_size: usize,
    /// The capabilities that the gateway declares to clients.
    pub capabilities: Vec<Capability>,
}

/// Which backend wins when two offer the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConflictResolution {
    /// Each backend's names get its prefix. Where two names are equal nevertheless, the first backend in the configuration wins.
    Prefix,
    /// The first backend in the configuration wins.
    None,
    /// The first backend in this list wins, then the first in the configuration.
    Priority(Vec<BackendName>),
    /// No backend wins: a name that two backends offer is not advertised.
    Manual,
}

/// What of a backend's catalog is advertised to clients, and under which names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExposurePolicy {
    /// Prefix of the advertised names of tools and prompts.
    pub prefix: String,
    /// Which tool names are acceptable.
    pub names: NameRule,
    /// Rules for its tools.
    pub tools: ItemRules,
    /// Rules for its prompts.
    pub prompts: ItemRules,
    /// Filter of its resources and resource templates, by URI.
    pub resources: NameFilter,
}

/// Which items of one kind are advertised, and how. All names are the backend's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemRules {
    /// Items that do not pass are treated as if they did not exist.
    pub filter: NameFilter,
    /// Items that exist, and claim their names, but that clients can neither see nor call.
    pub hidden: Vec<Pattern>,
    /// Fields that replace those of the backend, by the backend's own name.
    pub overrides: HashMap<String, ItemOverride>,
}

/// Allow and deny lists over names or URIs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameFilter {
    /// Patterns of names that pass. An empty list passes all names.
    pub allow: Vec<Pattern>,
    /// Patterns of names that do not pass, even if `allow` lists them.
    pub deny: Vec<Pattern>,
}

/// Fields that are advertised instead of those of the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemOverride {
    /// The new name, before the prefix is added.
    pub name: Option<String>,
    /// Fields of the item: key, and value as JSON.
    pub fields: Vec<(&'static str, String)>,
    /// Fields of the item's `annotations`: key, and value as JSON.
    pub annotations: Vec<(&'static str, String)>,
}

impl Default for Aggregation {
    fn default() -> Self {
        let raw = vmcp_crds::config::AggregationConfig::default();
        Self {
            strategy: ConflictResolution::Prefix,
            failure_mode: raw.failure_mode,
            refresh: raw.refresh.get(),
            page_size: raw.page_size as usize,
            capabilities: raw.capabilities,
        }
    }
}

impl Aggregation {
    /// Whether the gateway declares `capability`.
    #[must_use]
    pub fn offers(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}

impl NameFilter {
    /// Whether the name `text` passes the filter.
    #[must_use]
    pub fn passes(&self, text: &str) -> bool {
        !self.denies(text) && self.allows(text)
    }

    fn allows(&self, text: &str) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|pattern| pattern.matches(text))
    }

    fn denies(&self, text: &str) -> bool {
        self.deny.iter().any(|pattern| pattern.matches(text))
    }

    /// Whether the resource `uri` passes the filter in any spelling of the URI.
    #[must_use]
    pub fn passes_uri(&self, uri: &str) -> bool {
        if self.denies_uri(uri) || !self.allows(uri) {
            return false;
        }
        let form = canonical(uri);
        self.allow.is_empty() || self.allow.iter().any(|pattern| pattern.matches_canonical(&form))
    }

    /// Whether the filter cannot decide about `uri`: it has rules, and URI parsers may disagree about what `uri` refers to.
    #[must_use]
    pub fn is_undecidable(&self, uri: &str) -> bool {
        !(self.allow.is_empty() && self.deny.is_empty()) && is_ambiguous(uri)
    }

    /// Whether the filter denies the resource `uri` in any spelling of the URI.
    #[must_use]
    pub fn denies_uri(&self, uri: &str) -> bool {
        if self.deny.is_empty() {
            return false;
        }
        let forms = deniable_forms(uri);
        let mut deny = self.deny.iter();
        deny.any(|pattern| pattern.matches(uri) || forms.iter().any(|form| pattern.matches_canonical(form)))
    }
}

impl ItemRules {
    /// The advertised name, without the prefix, of the backend's item `name`.
    #[must_use]
    pub fn renamed<'a>(&'a self, name: &'a str) -> &'a str {
        let named = self.overrides.get(name);
        named.and_then(|named| named.name.as_deref()).unwrap_or(name)
    }

    /// The backend's own name of the item that is advertised as `renamed`, if clients may use it. The inverse of [`Self::renamed`].
    #[must_use]
    pub fn original<'a>(&'a self, renamed: &'a str) -> Option<&'a str> {
        // An item that the filter drops claims no name. The backend's own item of this name, if there is one, keeps it.
        let by_override = self
            .overrides
            .iter()
            .find(|(name, named)| named.name.as_deref() == Some(renamed) && self.filter.passes(name));
        let name = match by_override {
            Some((name, _)) => name.as_str(),
            None if self.renamed(renamed) == renamed => renamed,
            None => return None,
        };
        (self.filter.passes(name) && !self.hides(name)).then_some(name)
    }

    /// Whether an item of the backend, hidden or not, may claim the name `renamed`.
    #[must_use]
    pub fn may_claim(&self, renamed: &str) -> bool {
        let by_override = self
            .overrides
            .iter()
            .any(|(name, named)| named.name.as_deref() == Some(renamed) && self.filter.passes(name));
        by_override || (self.renamed(renamed) == renamed && self.filter.passes(renamed))
    }

    /// Whether `name` may be another spelling of a denied or hidden name. For names that are not known to exist at the backend: a server
    /// that ignores case, white space, or everything after a NUL in names would resolve `name` to the denied item.
    #[must_use]
    pub fn resembles_denied(&self, name: &str) -> bool {
        let plain = |text: &str| {
            let text = text.split('\0').next().unwrap_or_default().to_lowercase();
            text.replace(
                |character: char| character.is_whitespace() || character.is_control(),
                "",
            )
        };
        let name = plain(name);
        let mut refused = self.filter.deny.iter().chain(&self.hidden);
        refused.any(|pattern| Pattern::new(&plain(pattern.text())).matches(&name))
    }

    /// Whether the item `name` is hidden: clients can neither see nor call it.
    #[must_use]
    pub fn hides(&self, name: &str) -> bool {
        self.hidden.iter().any(|pattern| pattern.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_wins_over_allow_and_empty_allow_passes_all() {
        let patterns = |texts: &[&str]| texts.iter().map(|text| Pattern::new(text)).collect();
        let filter = NameFilter {
            allow: patterns(&["get_*", "echo"]),
            deny: patterns(&["*_secret"]),
        };
        for (name, passes) in [
            ("echo", true),
            ("get_time", true),
            ("get_secret", false),
            ("put", false),
        ] {
            assert_eq!(filter.passes(name), passes, "{name}");
        }
        assert!(NameFilter::default().passes("anything"));
    }

    #[test]
    fn uri_filter_holds_for_every_spelling() {
        let patterns = |texts: &[&str]| texts.iter().map(|text| Pattern::new(text)).collect();
        let filter = NameFilter {
            allow: patterns(&["file:///public/*", "file:///a%20b"]),
            deny: patterns(&["*secret", "file:///public/%C3%A9"]),
        };
        for (uri, passes) in [
            ("file:///public/x", true),
            ("file:///public/a/../x", true),
            ("file:///a%20b", true),
            ("file:///public/../etc/passwd", false),
            ("file:///public/%2e%2e/etc/passwd", false),
            ("file:///public/%73ecret", false),
            ("file:///public/é", false),
            ("file:///other", false),
        ] {
            assert_eq!(filter.passes_uri(uri), passes, "{uri}");
        }
        assert!(filter.denies_uri("file:///other/%73ecret") && !filter.denies_uri("file:///other"));
        assert!(NameFilter::default().passes_uri("anything"));
    }

    #[test]
    fn renamed_tool_is_found_by_its_new_name_only() {
        let named = ItemOverride {
            name: Some("now".to_owned()),
            ..ItemOverride::default()
        };
        let rules = ItemRules {
            overrides: HashMap::from([("get_time".to_owned(), named)]),
            hidden: vec![Pattern::new("raw")],
            ..ItemRules::default()
        };
        assert_eq!(rules.original("now"), Some("get_time"));
        assert_eq!(rules.original("get_time"), None);
        assert_eq!(rules.original("other"), Some("other"));
        assert_eq!(rules.original("raw"), None);
        let denying = ItemRules {
            filter: NameFilter {
                deny: vec![Pattern::new("get_time")],
                ..NameFilter::default()
            },
            ..rules
        };
        assert_eq!(denying.original("now"), Some("now"));
    }
}
