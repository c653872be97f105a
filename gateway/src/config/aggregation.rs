//! How many backends become one, validated.

use std::collections::HashMap;
use std::time::Duration;

use vmcp_crds::config::Capability;

pub use vmcp_crds::config::{FailureMode, NameRule};

use super::{BackendName, Pattern};
use crate::config::canonical_uri::{canonical, deniable_forms, is_ambiguous};

/// The longest name that the protocol recommends for tools (specification 2025-11-25, server/tools).
pub const MAX_NAME_BYTES: usize = 128;

/// The longest name that is offered at all: every client gets it with every list.
pub const MAX_LENIENT_NAME_BYTES: usize = 1024;

/// Whether `byte` may stand in a name that the protocol recommends; a slash may, too, which some servers have.
#[must_use]
pub fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_./-".contains(&byte)
}

/// Control characters, and what reorders or breaks the text around a name so that people read another one.
#[must_use]
pub fn is_unprintable(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How the offers of many backends become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregation {
    /// Who wins when two backends offer the same name.
    pub strategy: ConflictResolution,
    /// What becomes of the offers of a backend that does not answer.
    pub failure_mode: FailureMode,
    /// How old what is known of a backend may become.
    pub refresh: Duration,
    /// How many items a list gives at once; at least one.
    pub page_size: usize,
    /// What the gateway says it can do.
    pub capabilities: Vec<Capability>,
}

/// Who wins when two backends offer the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConflictResolution {
    /// Names begin with prefixes; where two are the same all the same, the first in the configuration wins.
    Prefix,
    /// The first in the configuration.
    None,
    /// The first in this list, then the first in the configuration.
    Priority(Vec<BackendName>),
    /// Nobody.
    Manual,
}

/// On which terms a backend's offers are offered to clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExposurePolicy {
    /// What the names of tools and prompts begin with.
    pub prefix: String,
    /// Which names its tools may have.
    pub names: NameRule,
    /// For its tools.
    pub tools: ItemRules,
    /// For its prompts.
    pub prompts: ItemRules,
    /// For its resources and templates, by URI.
    pub resources: NameFilter,
}

/// Which named things are offered, and how. The names are the backend's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemRules {
    /// What exists at all.
    pub filter: NameFilter,
    /// What clients can neither see nor call.
    pub hidden: Vec<Pattern>,
    /// What clients are told in the place of what the backend says.
    pub overrides: HashMap<String, ItemOverride>,
}

/// What passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameFilter {
    /// What passes; nothing means everything.
    pub allow: Vec<Pattern>,
    /// What does not pass, also when it is allowed.
    pub deny: Vec<Pattern>,
}

/// What clients are told in the place of what the backend says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemOverride {
    /// The name, before the prefix.
    pub name: Option<String>,
    /// Fields of the object itself: the key, and the value as JSON.
    pub fields: Vec<(&'static str, String)>,
    /// Fields of its `annotations`.
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
    /// Whether the gateway says that it can do this.
    #[must_use]
    pub fn offers(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}

impl NameFilter {
    /// Whether it passes.
    #[must_use]
    pub fn passes(&self, text: &str) -> bool {
        !self.denies(text) && self.allows(text)
    }

    fn allows(&self, text: &str) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|pattern| pattern.matches(text))
    }

    /// Whether it is named as something that does not pass.
    fn denies(&self, text: &str) -> bool {
        self.deny.iter().any(|pattern| pattern.matches(text))
    }

    /// Whether the resource `uri` passes, however that is written.
    #[must_use]
    pub fn passes_uri(&self, uri: &str) -> bool {
        if self.denies_uri(uri) || !self.allows(uri) {
            return false;
        }
        let form = canonical(uri);
        self.allow.is_empty() || self.allow.iter().any(|pattern| pattern.is_form_of(&form))
    }

    /// Whether it has rules, and parsers of URIs may disagree about what `uri` is, so that they cannot hold.
    #[must_use]
    pub fn cannot_judge(&self, uri: &str) -> bool {
        !(self.allow.is_empty() && self.deny.is_empty()) && is_ambiguous(uri)
    }

    /// Whether the resource `uri` is named as one that does not pass, however that is written.
    #[must_use]
    pub fn denies_uri(&self, uri: &str) -> bool {
        if self.deny.is_empty() {
            return false;
        }
        let forms = deniable_forms(uri);
        let mut deny = self.deny.iter();
        deny.any(|pattern| pattern.matches(uri) || forms.iter().any(|form| pattern.is_form_of(form)))
    }
}

impl ItemRules {
    /// The name without prefix under which the backend's `name` is offered.
    #[must_use]
    pub fn renamed<'a>(&'a self, name: &'a str) -> &'a str {
        let named = self.overrides.get(name);
        named.and_then(|named| named.name.as_deref()).unwrap_or(name)
    }

    /// The backend's own name of what is offered as `renamed`, if clients may use it; the inverse of [`Self::renamed`].
    #[must_use]
    pub fn original<'a>(&'a self, renamed: &'a str) -> Option<&'a str> {
        // What does not pass claims no name, and leaves this one to whoever has it by itself.
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

    /// Whether something of the backend may claim the name `renamed`, hidden or not.
    #[must_use]
    pub fn may_claim(&self, renamed: &str) -> bool {
        let by_override = self
            .overrides
            .iter()
            .any(|(name, named)| named.name.as_deref() == Some(renamed) && self.filter.passes(name));
        by_override || (self.renamed(renamed) == renamed && self.filter.passes(renamed))
    }

    /// Whether `name` may be another spelling of one that is denied or hidden. Only for names of which it is not known whether the backend
    /// has them: a server that compares names without regard to case, white space or what stands behind a NUL would take it for that one.
    #[must_use]
    pub fn resembles_refused(&self, name: &str) -> bool {
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

    /// Whether clients can neither see nor call it.
    #[must_use]
    pub fn hides(&self, name: &str) -> bool {
        self.hidden.iter().any(|pattern| pattern.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_wins_over_allow_and_without_allow_everything_passes() {
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
    fn what_a_client_may_read_does_not_depend_on_how_it_writes_it() {
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
    fn a_renamed_tool_is_found_by_its_new_name_only() {
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
