//! What one backend offers, on the terms on which clients get it.
//!
//! This depends on the backend's list and its terms only, so that it is made once per change of either, and not with every change
//! of anybody.

use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{Capabilities, Kind, List, Listed};
use crate::config::aggregation::{MAX_NAME_BYTES, is_name_byte};
use crate::config::{BackendName, Override, Rules, Terms};
use crate::wire::object::Object;

/// Some clients refuse longer names.
const COMFORTABLE_NAME_BYTES: usize = 64;

/// What a backend offers, as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// What it says it can do.
    pub capabilities: Capabilities,
    /// Whether it gives session ids.
    pub gives_session_ids: bool,
    /// What it tells models about using it.
    pub instructions: Option<String>,
    /// Its tools.
    pub tools: List,
    /// Its prompts.
    pub prompts: List,
    /// Its resources.
    pub resources: List,
    /// Its resource templates.
    pub templates: List,
    /// Which lists cannot be had although it declares them, and why.
    pub faults: Vec<String>,
}

/// The same, on the terms on which clients get it.
#[derive(Debug, Default)]
pub(super) struct Shown {
    entries: [Vec<Entry>; 4],
    /// What is not offered, with the reason.
    pub(super) refused: Vec<String>,
    /// What is offered, but not as somebody meant it.
    pub(super) warnings: Vec<String>,
}

/// One thing that clients get.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// What clients call it by.
    pub(super) advertised: Arc<str>,
    /// What the backend calls it by.
    pub(super) name: Arc<str>,
    /// Its description, as clients get it.
    pub(super) json: Bytes,
    /// Whether it only keeps its name, and clients can neither see nor use it.
    pub(super) hidden: bool,
}

impl Offer {
    /// The list of that kind.
    #[must_use]
    pub fn list(&self, kind: Kind) -> &List {
        match kind {
            Kind::Tools => &self.tools,
            Kind::Prompts => &self.prompts,
            Kind::Resources => &self.resources,
            Kind::Templates => &self.templates,
        }
    }

    pub(super) fn list_mut(&mut self, kind: Kind) -> &mut List {
        match kind {
            Kind::Tools => &mut self.tools,
            Kind::Prompts => &mut self.prompts,
            Kind::Resources => &mut self.resources,
            Kind::Templates => &mut self.templates,
        }
    }
}

impl Shown {
    pub(super) fn entries(&self, kind: Kind) -> &[Entry] {
        &self.entries[kind as usize]
    }

    pub(super) fn new(backend: &BackendName, offer: &Offer, terms: &Terms) -> Self {
        let mut shown = Self::default();
        for kind in Kind::ALL {
            let list = offer.list(kind);
            for listed in &list.items {
                shown.show(backend, kind, listed, terms);
            }
            if list.unusable > 0 {
                shown.refused.push(format!(
                    "backend {backend} lists {} {}s that cannot be called by anything",
                    list.unusable,
                    kind.noun()
                ));
            }
            if let Some(rules) = rules(kind, terms) {
                shown.unused_overrides(backend, kind, list, rules);
            }
        }
        let faults = offer.faults.iter();
        shown
            .refused
            .extend(faults.map(|fault| format!("backend {backend}: {fault}")));
        shown
    }

    fn show(&mut self, backend: &BackendName, kind: Kind, listed: &Listed, terms: &Terms) {
        let entry = match rules(kind, terms) {
            Some(rules) if !rules.filter.passes(&listed.key) => return,
            Some(rules) => named(listed, &terms.prefix, rules),
            None if !terms.resources.passes_uri(&listed.key) => return,
            None => Ok(Entry {
                advertised: listed.key.as_str().into(),
                name: listed.key.as_str().into(),
                json: listed.json.clone(),
                hidden: false,
            }),
        };
        let noun = kind.noun();
        match entry {
            Ok(entry) => {
                if kind != Kind::Resources
                    && kind != Kind::Templates
                    && entry.advertised.len() > COMFORTABLE_NAME_BYTES
                {
                    self.warnings.push(format!(
                        "the {noun} {} of backend {backend} has a name of {} characters; some clients allow \
                         {COMFORTABLE_NAME_BYTES}",
                        entry.advertised,
                        entry.advertised.len()
                    ));
                }
                self.entries[kind as usize].push(entry);
            }
            Err(reason) => self.refused.push(format!(
                "the {noun} {:?} of backend {backend} is not offered: {reason}",
                listed.key
            )),
        }
    }

    fn unused_overrides(&mut self, backend: &BackendName, kind: Kind, list: &List, rules: &Rules) {
        let is_offered = |name: &str| list.items.iter().any(|listed| listed.key == name);
        let mut unused: Vec<_> = rules.overrides.keys().filter(|name| !is_offered(name)).collect();
        unused.sort_unstable();
        self.warnings.extend(unused.into_iter().map(|name| {
            format!(
                "the override of the {} {name:?} of backend {backend} has no effect: the backend offers none of that name",
                kind.noun()
            )
        }));
    }
}

/// The rules for what has names of its own; resources have URIs, which never change.
fn rules(kind: Kind, terms: &Terms) -> Option<&Rules> {
    match kind {
        Kind::Tools => Some(&terms.tools),
        Kind::Prompts => Some(&terms.prompts),
        Kind::Resources | Kind::Templates => None,
    }
}

fn named(listed: &Listed, prefix: &str, rules: &Rules) -> Result<Entry, &'static str> {
    let advertised = format!("{prefix}{}", rules.renamed(&listed.key));
    if advertised.len() > MAX_NAME_BYTES {
        return Err("its name, with prefix, is longer than 128 characters");
    }
    if !advertised.bytes().all(is_name_byte) {
        return Err("its name has characters outside A-Z a-z 0-9 _ . / -");
    }
    let json = rewritten(listed, &advertised, rules.overrides.get(&listed.key))
        .ok_or("its description is not an object, or has a key twice")?;
    Ok(Entry {
        advertised: advertised.into(),
        name: listed.key.as_str().into(),
        json,
        hidden: rules.hides(&listed.key),
    })
}

/// The description with the advertised name and the overrides, and everything else as the backend wrote it.
fn rewritten(listed: &Listed, advertised: &str, named: Option<&Override>) -> Option<Bytes> {
    if advertised == listed.key && named.is_none() {
        return Some(listed.json.clone());
    }
    let text = std::str::from_utf8(&listed.json).ok()?;
    let object = Object::parse(text)?;
    let mut changes: Vec<(&str, String)> = Vec::new();
    if advertised != listed.key {
        changes.push(("name", format!("\"{advertised}\"")));
    }
    if let Some(named) = named {
        changes.extend(named.fields.iter().cloned());
        if !named.annotations.is_empty() {
            let old = object.get("annotations").map_or("{}", |raw| raw.get());
            let old = if old == "null" { "{}" } else { old };
            let hints = Object::parse(old)?.with(&borrowed(&named.annotations))?;
            changes.push(("annotations", String::from_utf8(hints.to_vec()).ok()?));
        }
    }
    object.with(&borrowed(&changes))
}

fn borrowed<'a>(changes: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    changes
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::{Filter, Pattern};
    use crate::core::catalog::scene::list;

    fn shown(tools: &[&str], terms: &Terms) -> Shown {
        let offer = Offer {
            tools: list(Kind::Tools, tools),
            ..Offer::default()
        };
        Shown::new(&BackendName::for_test("time"), &offer, terms)
    }

    fn prefixed(prefix: &str) -> Terms {
        Terms {
            prefix: prefix.to_owned(),
            ..Terms::default()
        }
    }

    #[test]
    fn a_tool_keeps_every_byte_but_its_name() {
        let tool = r#"{"x-vendor": 1.0, "name" :"now", "inputSchema":{"$defs":{}}}"#;
        let shown = shown(&[tool], &prefixed("time_"));
        let entry = &shown.entries(Kind::Tools)[0];
        assert_eq!((&*entry.advertised, &*entry.name), ("time_now", "now"));
        assert_eq!(entry.json, tool.replace(r#""now""#, r#""time_now""#));
    }

    #[test]
    fn overrides_replace_what_they_name_and_nothing_else() {
        let mut terms = prefixed("t.");
        let named = Override {
            name: Some("clock".to_owned()),
            fields: vec![
                ("description", r#""D""#.to_owned()),
                ("title", r#""T""#.to_owned()),
            ],
            annotations: vec![("readOnlyHint", "true".to_owned())],
        };
        terms.tools.overrides = HashMap::from([("now".to_owned(), named)]);
        let shown = shown(
            &[
                r#"{"name":"now","description":"d","annotations":{"x":1.0,"readOnlyHint":false},"y":[ ]}"#,
                r#"{"name":"then"}"#,
            ],
            &terms,
        );
        let entries = shown.entries(Kind::Tools);
        assert_eq!(
            entries[0].json,
            r#"{"name":"t.clock","description":"D","annotations":{"x":1.0,"readOnlyHint":true},"y":[ ],"title":"T"}"#
        );
        assert_eq!(entries[1].json, r#"{"name":"t.then"}"#);
        assert!(shown.refused.is_empty() && shown.warnings.is_empty());
    }

    #[test]
    fn an_override_that_fits_nothing_is_reported() {
        let mut terms = Terms::default();
        let named = Override {
            name: Some("x".to_owned()),
            ..Override::default()
        };
        terms.tools.overrides.insert("typo".to_owned(), named);
        let shown = shown(&[r#"{"name":"now"}"#], &terms);
        assert!(shown.warnings[0].contains("\"typo\""), "{:?}", shown.warnings);
    }

    #[test]
    fn what_is_denied_is_gone_and_what_is_hidden_keeps_its_name() {
        let mut terms = Terms::default();
        terms.tools.filter = Filter {
            allow: Vec::new(),
            deny: vec![Pattern::new("*_secret")],
        };
        terms.tools.hidden = vec![Pattern::new("raw")];
        let shown = shown(
            &[
                r#"{"name":"get_secret"}"#,
                r#"{"name":"raw"}"#,
                r#"{"name":"now"}"#,
            ],
            &terms,
        );
        let seen: Vec<_> = shown
            .entries(Kind::Tools)
            .iter()
            .map(|entry| (&*entry.advertised, entry.hidden))
            .collect();
        assert_eq!(seen, [("raw", true), ("now", false)]);
    }

    #[test]
    fn a_name_that_may_not_be_offered_is_reported_and_a_long_one_is_warned_of() {
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(127));
        let uncomfortable = format!(r#"{{"name":"{}"}}"#, "y".repeat(63));
        let shown = shown(
            &[
                r#"{"name":"white space"}"#,
                &long,
                &uncomfortable,
                r#"{"name":"ok"}"#,
            ],
            &prefixed("a_"),
        );
        assert_eq!(shown.entries(Kind::Tools).len(), 2);
        assert_eq!(shown.refused.len(), 2, "{:?}", shown.refused);
        assert_eq!(shown.warnings.len(), 1, "{:?}", shown.warnings);
        assert!(
            shown.warnings[0].contains("65 characters"),
            "{:?}",
            shown.warnings
        );
    }

    #[test]
    fn resources_keep_their_uris_and_are_filtered_by_them() {
        let terms = Terms {
            prefix: "a_".to_owned(),
            resources: Filter {
                allow: vec![Pattern::new("file:///open/*")],
                deny: vec![Pattern::new("*.key")],
            },
            ..Terms::default()
        };
        let offer = Offer {
            resources: list(
                Kind::Resources,
                &[
                    r#"{"uri":"file:///open/a","name":"a b"}"#,
                    r#"{"uri":"file:///open/a.key","name":"a"}"#,
                    r#"{"uri":"file:///shut/a","name":"a"}"#,
                ],
            ),
            ..Offer::default()
        };
        let shown = Shown::new(&BackendName::for_test("a"), &offer, &terms);
        let entries = shown.entries(Kind::Resources);
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].json, r#"{"uri":"file:///open/a","name":"a b"}"#);
    }
}
