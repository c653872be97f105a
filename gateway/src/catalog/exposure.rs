//! What one backend offers, on the terms on which clients get it.
//!
//! This depends on the backend's list and its terms only, so that it is made once per change of either, and not with every change
//! of anybody.
//!
//! An override may give a tool the name that another one of the backend has by itself. Then the one that the configuration names has
//! it: the name is written down there, and a backend that comes to use it for something else does not take it over. No strategy is
//! asked; those are for several backends. Two overrides of one backend that give the same name are refused at load.

// Backends of strangers send what is read here.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::task_support::requires_task;
use crate::backend::{
    BackendItem, BackendList, ListKind, MAX_ITEM_BYTES, MendedItems, OversizedItems, ServerCapabilities,
};
use crate::catalog::diagnostics::{Diagnostics, OF_ONE_BACKEND, quoted};
use crate::catalog::unmatched_rules;
use crate::config::aggregation::{
    MAX_LENIENT_NAME_BYTES, MAX_NAME_BYTES, NameRule, is_name_byte, is_unprintable,
};
use crate::config::{BackendName, ExposurePolicy, ItemOverride, ItemRules};
use crate::mcp::object_edit::EditedObject;
use crate::runtime::truncate::head;

/// Some clients refuse longer names.
const COMFORTABLE_NAME_LENGTH: usize = 64;
/// The most bytes of what is wrong with a description.
const MAX_REASON_BYTES: usize = 300;

/// What a backend offers, as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendOffer {
    /// What it says it can do.
    pub capabilities: ServerCapabilities,
    /// Whether it gives session ids.
    pub gives_session_ids: bool,
    /// What it tells models about using it.
    pub instructions: Option<String>,
    /// Its tools.
    pub tools: BackendList,
    /// Its prompts.
    pub prompts: BackendList,
    /// Its resources.
    pub resources: BackendList,
    /// Its resource templates.
    pub templates: BackendList,
    /// Which lists cannot be had although it declares them, and why.
    pub faults: Vec<String>,
}

/// The same, on the terms on which clients get it.
#[derive(Debug, Default)]
pub(super) struct AdvertisedOffer {
    entries: [Vec<AdvertisedItem>; 4],
    /// What is not offered because another one of the backend has the name.
    pub(super) conflicts: Diagnostics,
    /// What is not offered, with the reason.
    pub(super) refused: Diagnostics,
    /// What is offered, but not as somebody meant it.
    pub(super) warnings: Diagnostics,
}

/// One thing that clients get.
#[derive(Clone, Debug)]
pub(super) struct AdvertisedItem {
    /// What clients call it by.
    pub(super) advertised: Arc<str>,
    /// What the backend calls it by.
    pub(super) name: Arc<str>,
    /// Its description, as clients get it.
    pub(super) json: Bytes,
    /// Whether it only keeps its name, and clients can neither see nor use it.
    pub(super) hidden: bool,
    /// Whether the configuration gives it its name.
    is_renamed: bool,
}

impl BackendOffer {
    /// The list of that kind.
    #[must_use]
    pub fn list(&self, kind: ListKind) -> &BackendList {
        match kind {
            ListKind::Tools => &self.tools,
            ListKind::Prompts => &self.prompts,
            ListKind::Resources => &self.resources,
            ListKind::Templates => &self.templates,
        }
    }

    pub(super) fn list_mut(&mut self, kind: ListKind) -> &mut BackendList {
        match kind {
            ListKind::Tools => &mut self.tools,
            ListKind::Prompts => &mut self.prompts,
            ListKind::Resources => &mut self.resources,
            ListKind::Templates => &mut self.templates,
        }
    }
}

impl AdvertisedOffer {
    pub(super) fn entries(&self, kind: ListKind) -> &[AdvertisedItem] {
        let [tools, prompts, resources, templates] = &self.entries;
        match kind {
            ListKind::Tools => tools,
            ListKind::Prompts => prompts,
            ListKind::Resources => resources,
            ListKind::Templates => templates,
        }
    }

    fn entries_mut(&mut self, kind: ListKind) -> &mut Vec<AdvertisedItem> {
        let [tools, prompts, resources, templates] = &mut self.entries;
        match kind {
            ListKind::Tools => tools,
            ListKind::Prompts => prompts,
            ListKind::Resources => resources,
            ListKind::Templates => templates,
        }
    }

    pub(super) fn new(backend: &BackendName, offer: &BackendOffer, terms: &ExposurePolicy) -> Self {
        let mut shown = Self::default();
        for kind in ListKind::ALL {
            let list = offer.list(kind);
            shown.show_list(backend, kind, list, terms);
            if list.unusable > 0 {
                shown.refuse(format_args!(
                    "backend {backend} lists {} {}s that cannot be called by anything: each needs {}",
                    list.unusable,
                    kind.noun(),
                    kind.needs()
                ));
            }
        }
        for kind in ListKind::ALL {
            let list = offer.list(kind);
            shown.refuse_oversized(backend, kind, &list.oversized);
            shown.warn_of_mended(backend, kind, &list.mended);
        }
        unmatched_rules::report(backend, offer, terms, &mut shown.warnings);
        for fault in &offer.faults {
            shown.refuse(format_args!("backend {backend}: {fault}"));
        }
        shown
    }

    /// The same with `lists` in the place of those of their kinds. What is wrong with these stands nowhere: they are one session's.
    pub(super) fn with_lists<'a>(
        &self,
        backend: &BackendName,
        lists: impl Iterator<Item = (ListKind, &'a BackendList)>,
        terms: &ExposurePolicy,
    ) -> Self {
        let mut shown = Self {
            entries: self.entries.clone(),
            ..Self::default()
        };
        for (kind, list) in lists {
            shown.entries_mut(kind).clear();
            shown.show_list(backend, kind, list, terms);
        }
        shown
    }

    fn show_list(
        &mut self,
        backend: &BackendName,
        kind: ListKind,
        list: &BackendList,
        terms: &ExposurePolicy,
    ) {
        let mut seen = HashSet::new();
        for listed in &list.items {
            self.show(backend, kind, listed, terms, &mut seen);
        }
        self.settle(backend, kind);
    }

    fn show<'a>(
        &mut self,
        backend: &BackendName,
        kind: ListKind,
        listed: &'a BackendItem,
        terms: &ExposurePolicy,
        seen: &mut HashSet<&'a str>,
    ) {
        let entry = match rules(kind, terms) {
            Some(rules) if !rules.filter.passes(&listed.key) => return,
            Some(rules) => named(kind, listed, terms, rules),
            None if !terms.resources.passes_uri(&listed.key) => return,
            None => Ok(AdvertisedItem {
                advertised: listed.key.as_str().into(),
                name: listed.key.as_str().into(),
                json: listed.json.clone(),
                hidden: false,
                is_renamed: false,
            }),
        };
        let (noun, key) = (kind.noun(), quoted(&listed.key));
        if !seen.insert(&listed.key) {
            self.refuse(format_args!("backend {backend} has the {noun} {key} twice"));
            return;
        }
        match entry {
            Ok(entry) => self.entries_mut(kind).push(entry),
            Err(reason) => self.refuse(format_args!(
                "the {noun} {key} of backend {backend} is not offered: {reason}"
            )),
        }
    }

    /// Lets one have each name.
    fn settle(&mut self, backend: &BackendName, kind: ListKind) {
        let claims = std::mem::take(self.entries_mut(kind));
        let noun = kind.noun();
        let mut winners: Vec<AdvertisedItem> = Vec::with_capacity(claims.len());
        let mut places: HashMap<Arc<str>, usize> = HashMap::with_capacity(claims.len());
        for claim in claims {
            let place = places.get(&claim.advertised).copied();
            let Some(winner) = place.and_then(|place| winners.get_mut(place)) else {
                places.insert(Arc::clone(&claim.advertised), winners.len());
                winners.push(claim);
                continue;
            };
            // Not by the order of the list, which is the backend's affair: by what the configuration says, and by name.
            let rank = |entry: &AdvertisedItem| (!entry.is_renamed, Arc::clone(&entry.name));
            let loser = if rank(&claim) < rank(winner) {
                std::mem::replace(winner, claim)
            } else {
                claim
            };
            let conflict = format!(
                "the {noun} {} of {backend} (its {}) is not offered: an override gives the name to its {}",
                quoted(&loser.advertised),
                quoted(&loser.name),
                quoted(&winner.name),
            );
            self.conflicts.push(OF_ONE_BACKEND, conflict);
        }
        if matches!(kind, ListKind::Tools | ListKind::Prompts) {
            for AdvertisedItem { advertised, .. } in &winners {
                let shown = quoted(advertised);
                if let (ListKind::Tools, Err(reason)) = (kind, recommended(advertised)) {
                    let warning = format_args!(
                        "the {noun} {shown} of backend {backend} may be refused by clients: {reason}; an override can give it another name"
                    );
                    self.warnings.push(OF_ONE_BACKEND, warning);
                    continue;
                }
                let length = advertised.chars().count();
                if length > COMFORTABLE_NAME_LENGTH {
                    let warning = format_args!(
                        "the {noun} {shown} of backend {backend} has a name of {length} characters; some clients allow \
                         {COMFORTABLE_NAME_LENGTH}"
                    );
                    self.warnings.push(OF_ONE_BACKEND, warning);
                }
            }
        }
        if kind == ListKind::Tools {
            for AdvertisedItem { advertised, .. } in winners.iter().filter(|entry| requires_task(&entry.json))
            {
                let warning = format_args!(
                    "the tool {} of backend {backend} can be called as a task only (execution.taskSupport is \"required\"), and the \
                     gateway passes no tasks on; a call gets the backend's error",
                    quoted(advertised)
                );
                self.warnings.push(OF_ONE_BACKEND, warning);
            }
        }
        *self.entries_mut(kind) = winners;
    }

    fn refuse_oversized(&mut self, backend: &BackendName, kind: ListKind, oversized: &OversizedItems) {
        let noun = kind.noun();
        for (key, bytes) in &oversized.told {
            self.refuse(format_args!(
                "the {noun} {} of backend {backend} is not offered: it has {bytes} bytes, and the most is {MAX_ITEM_BYTES}",
                quoted(key)
            ));
        }
        let more = oversized.count.saturating_sub(oversized.told.len());
        if more > 0 {
            self.refuse(format_args!(
                "{more} more {noun}s of backend {backend} are not offered: each has more than {MAX_ITEM_BYTES} bytes"
            ));
        }
    }

    fn warn_of_mended(&mut self, backend: &BackendName, kind: ListKind, mended: &MendedItems) {
        let noun = kind.noun();
        for (key, places) in &mended.told {
            let warning = format_args!(
                "the {noun} {} of backend {backend} breaks the schema of the protocol in {places}; clients get it without that, or put right",
                quoted(key)
            );
            self.warnings.push(OF_ONE_BACKEND, warning);
        }
        let more = mended.count.saturating_sub(mended.told.len());
        if more > 0 {
            let warning =
                format_args!("{more} more {noun}s of backend {backend} break the schema of the protocol");
            self.warnings.push(OF_ONE_BACKEND, warning);
        }
    }

    fn refuse(&mut self, reason: impl std::fmt::Display) {
        self.refused.push(OF_ONE_BACKEND, reason);
    }
}

/// The rules for what has names of its own; resources have URIs, which never change.
pub(super) fn rules(kind: ListKind, terms: &ExposurePolicy) -> Option<&ItemRules> {
    match kind {
        ListKind::Tools => Some(&terms.tools),
        ListKind::Prompts => Some(&terms.prompts),
        ListKind::Resources | ListKind::Templates => None,
    }
}

fn named(
    kind: ListKind,
    listed: &BackendItem,
    terms: &ExposurePolicy,
    rules: &ItemRules,
) -> Result<AdvertisedItem, String> {
    let renamed = rules.renamed(&listed.key);
    let advertised = format!("{}{renamed}", terms.prefix);
    if advertised.len() > MAX_LENIENT_NAME_BYTES {
        return Err(format!(
            "its name, with prefix, is longer than {MAX_LENIENT_NAME_BYTES} bytes"
        ));
    }
    if advertised.chars().any(is_unprintable) {
        return Err("its name has control characters".to_owned());
    }
    if kind == ListKind::Tools && terms.names == NameRule::Strict {
        recommended(&advertised)?;
    }
    let json = rewritten(listed, &advertised, rules.overrides.get(&listed.key))?;
    Ok(AdvertisedItem {
        is_renamed: renamed != listed.key,
        advertised: advertised.into(),
        name: listed.key.as_str().into(),
        json,
        hidden: rules.hides(&listed.key),
    })
}

/// Whether the protocol recommends such a name for a tool, and why not.
fn recommended(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME_BYTES {
        return Err(format!(
            "its name, with prefix, is longer than {MAX_NAME_BYTES} characters"
        ));
    }
    if !name.bytes().all(is_name_byte) {
        return Err("its name has characters outside A-Z a-z 0-9 _ . / -".to_owned());
    }
    Ok(())
}

/// The description with the advertised name and the overrides, and everything else as the backend wrote it.
fn rewritten(listed: &BackendItem, advertised: &str, named: Option<&ItemOverride>) -> Result<Bytes, String> {
    if advertised == listed.key && named.is_none() {
        return Ok(listed.json.clone());
    }
    let text = std::str::from_utf8(&listed.json).map_err(|error| error.to_string())?;
    let mut changes: Vec<(&'static str, String)> = Vec::new();
    if advertised != listed.key {
        changes.push(("name", serde_json::Value::from(advertised).to_string()));
    }
    let object = read("what the backend says of it", text)?;
    if let Some(named) = named {
        changes.extend(named.fields.iter().cloned());
        if !named.annotations.is_empty() {
            let old = object.get("annotations").map_or("{}", |raw| raw.get());
            let old = if old == "null" { "{}" } else { old };
            let hints = spliced(&read("its `annotations`", old)?, &named.annotations)?;
            changes.push(("annotations", hints));
        }
    }
    spliced(&object, &changes).map(Bytes::from)
}

/// The object that `text` is; `what` it is, stands in the reason why it cannot be read.
fn read<'a>(what: &str, text: &'a str) -> Result<EditedObject<'a>, String> {
    EditedObject::read(text).map_err(|error| {
        let error = error.to_string();
        format!("{what} cannot be read: {}", head(&error, MAX_REASON_BYTES))
    })
}

fn spliced(object: &EditedObject<'_>, changes: &[(&'static str, String)]) -> Result<String, String> {
    // A client that ignores the case of keys would read what the backend says in the place of what the configuration does.
    let lookalike = |(key, _): &(&'static str, String)| Some((object.lookalike_of(key)?, *key));
    if let Some((other, key)) = changes.iter().find_map(lookalike) {
        return Err(format!(
            "its key {} can be taken for {key:?}, which is changed",
            quoted(other)
        ));
    }
    let text = object.with(&borrowed(changes)).map(Vec::from);
    text.and_then(|text| String::from_utf8(text).ok())
        .ok_or_else(|| "its description cannot be changed".to_owned())
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
    use crate::catalog::test_util::list;
    use crate::config::{NameFilter, Pattern};

    fn shown(tools: &[&str], terms: &ExposurePolicy) -> AdvertisedOffer {
        let offer = BackendOffer {
            tools: list(ListKind::Tools, tools),
            ..BackendOffer::default()
        };
        AdvertisedOffer::new(&BackendName::for_test("time"), &offer, terms)
    }

    fn prefixed(prefix: &str) -> ExposurePolicy {
        ExposurePolicy {
            prefix: prefix.to_owned(),
            ..ExposurePolicy::default()
        }
    }

    #[test]
    fn tool_that_requires_tasks_is_offered_with_a_warning() {
        let tool = r#"{"name":"slow","execution":{"taskSupport":"required"}}"#;
        let shown = shown(&[tool, r#"{"name":"fast"}"#], &prefixed("time_"));
        assert_eq!(shown.entries(ListKind::Tools).len(), 2);
        let told = shown.warnings.told();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains("\"time_slow\" of backend time") && told[0].contains("task"),
            "{told:?}"
        );
    }

    #[test]
    fn a_tool_keeps_every_byte_but_its_name() {
        let tool = r#"{"x-vendor": 1.0, "name" :"now", "inputSchema":{"$defs":{}}}"#;
        let shown = shown(&[tool], &prefixed("time_"));
        let entry = &shown.entries(ListKind::Tools)[0];
        assert_eq!((&*entry.advertised, &*entry.name), ("time_now", "now"));
        assert_eq!(entry.json, tool.replace(r#""now""#, r#""time_now""#));
    }

    #[test]
    fn overrides_replace_what_they_name_and_nothing_else() {
        let mut terms = prefixed("t.");
        let named = ItemOverride {
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
        let entries = shown.entries(ListKind::Tools);
        assert_eq!(
            entries[0].json,
            r#"{"name":"t.clock","description":"D","annotations":{"x":1.0,"readOnlyHint":true},"y":[ ],"title":"T"}"#
        );
        assert_eq!(entries[1].json, r#"{"name":"t.then"}"#);
        assert_eq!((shown.refused.count(), shown.warnings.count()), (0, 0));
    }

    #[test]
    fn what_is_denied_is_gone_and_what_is_hidden_keeps_its_name() {
        let mut terms = ExposurePolicy::default();
        terms.tools.filter = NameFilter {
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
            .entries(ListKind::Tools)
            .iter()
            .map(|entry| (&*entry.advertised, entry.hidden))
            .collect();
        assert_eq!(seen, [("raw", true), ("now", false)]);
    }

    /// A tool with an unusual name is offered with a warning, or, with the strict rule, not at all.
    #[test]
    fn unusual_tool_name_is_warned_of_or_refused() {
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(127));
        let uncomfortable = format!(r#"{{"name":"{}"}}"#, "y".repeat(63));
        let tools = [
            r#"{"name":"white \"space\""}"#,
            r#"{"name":"greet:user"}"#,
            &long,
            &uncomfortable,
            r#"{"name":"ok"}"#,
        ];
        let mut terms = prefixed("a_");
        let lenient = shown(&tools, &terms);
        assert_eq!(lenient.entries(ListKind::Tools).len(), 5);
        assert_eq!(lenient.refused.count(), 0, "{:?}", lenient.refused);
        assert_eq!(lenient.warnings.count(), 4, "{:?}", lenient.warnings);
        let entry = &lenient.entries(ListKind::Tools)[0];
        assert_eq!(entry.json, r#"{"name":"a_white \"space\""}"#);
        terms.names = NameRule::Strict;
        let strict = shown(&tools, &terms);
        assert_eq!(strict.entries(ListKind::Tools).len(), 2);
        assert_eq!(strict.refused.count(), 3, "{:?}", strict.refused);
        assert_eq!(strict.warnings.count(), 1, "{:?}", strict.warnings);
        let warning = &strict.warnings.told()[0];
        assert!(warning.contains("65 characters"), "{warning}");
    }

    /// Prompts may be called anything that people can read, with either rule.
    #[test]
    fn prompt_name_has_no_rule_but_length_and_control_characters() {
        let prompts = ["Code Review", "greet:user", "代码审查", r"a\nb", r"a\u202eb"]
            .map(|name| format!(r#"{{"name":"{name}"}}"#));
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(1025));
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).chain([&*long]).collect();
        let offer = BackendOffer {
            prompts: list(ListKind::Prompts, &prompts),
            ..BackendOffer::default()
        };
        for names in [NameRule::Lenient, NameRule::Strict] {
            let terms = ExposurePolicy {
                names,
                ..ExposurePolicy::default()
            };
            let shown = AdvertisedOffer::new(&BackendName::for_test("a"), &offer, &terms);
            let offered: Vec<&str> = shown
                .entries(ListKind::Prompts)
                .iter()
                .map(|entry| &*entry.advertised)
                .collect();
            assert_eq!(offered, ["Code Review", "greet:user", "代码审查"]);
            assert_eq!((shown.refused.count(), shown.warnings.count()), (3, 0));
        }
    }

    #[test]
    fn resources_keep_their_uris_and_are_filtered_by_them() {
        let terms = ExposurePolicy {
            prefix: "a_".to_owned(),
            resources: NameFilter {
                allow: vec![Pattern::new("file:///open/*")],
                deny: vec![Pattern::new("*.key")],
            },
            ..ExposurePolicy::default()
        };
        let offer = BackendOffer {
            resources: list(
                ListKind::Resources,
                &[
                    r#"{"uri":"file:///open/a","name":"a b"}"#,
                    r#"{"uri":"file:///open/a.key","name":"a"}"#,
                    r#"{"uri":"file:///shut/a","name":"a"}"#,
                ],
            ),
            ..BackendOffer::default()
        };
        let shown = AdvertisedOffer::new(&BackendName::for_test("a"), &offer, &terms);
        let entries = shown.entries(ListKind::Resources);
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].json, r#"{"uri":"file:///open/a","name":"a b"}"#);
    }

    /// The terms under which `get_time` is called `now`.
    fn renaming() -> ExposurePolicy {
        let mut terms = prefixed("a_");
        let named = ItemOverride {
            name: Some("now".to_owned()),
            ..ItemOverride::default()
        };
        terms.tools.overrides.insert("get_time".to_owned(), named);
        terms
    }

    #[test]
    fn a_name_that_an_override_gives_is_taken_from_the_backends_own_and_the_loser_is_named() {
        let terms = renaming();
        let (own, given) = (r#"{"name":"now"}"#, r#"{"name":"get_time"}"#);
        for order in [[own, given], [given, own]] {
            let shown = shown(&order, &terms);
            let entries = shown.entries(ListKind::Tools);
            assert_eq!(entries.len(), 1, "{order:?}");
            assert_eq!(
                (&*entries[0].advertised, &*entries[0].name),
                ("a_now", "get_time")
            );
            assert_eq!(
                shown.conflicts.told(),
                [
                    r#"the tool "a_now" of time (its "now") is not offered: an override gives the name to its "get_time""#
                ]
            );
            assert_eq!(shown.refused.count(), 0, "it is a conflict, and no fault");
        }
        let alone = shown(&[own], &terms);
        assert_eq!(&*alone.entries(ListKind::Tools)[0].name, "now");
        assert_eq!(alone.conflicts.count(), 0, "nobody else claims the name");
    }

    #[test]
    fn the_same_holds_for_prompts() {
        let mut terms = renaming();
        terms.prompts = std::mem::take(&mut terms.tools);
        let offer = BackendOffer {
            prompts: list(
                ListKind::Prompts,
                &[r#"{"name":"now"}"#, r#"{"name":"get_time"}"#],
            ),
            ..BackendOffer::default()
        };
        let shown = AdvertisedOffer::new(&BackendName::for_test("time"), &offer, &terms);
        assert_eq!(&*shown.entries(ListKind::Prompts)[0].name, "get_time");
        let conflicts = shown.conflicts.told();
        assert!(
            conflicts[0].starts_with(r#"the prompt "a_now" of time"#),
            "{conflicts:?}"
        );
    }

    #[test]
    fn what_a_backend_lists_twice_under_one_name_is_its_fault_and_no_conflict() {
        let uri = r#"{"uri":"x://y"}"#;
        let given = r#"{"name":"get_time"}"#;
        let offer = BackendOffer {
            tools: list(ListKind::Tools, &[given, given]),
            resources: list(ListKind::Resources, &[uri, uri]),
            ..BackendOffer::default()
        };
        let shown = AdvertisedOffer::new(&BackendName::for_test("time"), &offer, &renaming());
        assert_eq!(
            shown.refused.told(),
            [
                r#"backend time has the tool "get_time" twice"#,
                r#"backend time has the resource "x://y" twice"#
            ]
        );
        assert_eq!(shown.conflicts.count(), 0);
        assert_eq!(
            (
                shown.entries(ListKind::Tools).len(),
                shown.entries(ListKind::Resources).len()
            ),
            (1, 1)
        );
    }

    #[test]
    fn what_cannot_be_changed_is_left_out_and_the_reason_says_what_is_wrong_with_it() {
        let mut terms = prefixed("t_");
        let named = ItemOverride {
            annotations: vec![("readOnlyHint", "true".to_owned())],
            ..ItemOverride::default()
        };
        terms.tools.overrides = HashMap::from([("hints".to_owned(), named)]);
        let shown = shown(
            &[
                r#"{"name":"twice","title":1,"title":2}"#,
                r#"{"name":"hints","annotations":["x"]}"#,
            ],
            &terms,
        );
        assert!(shown.entries(ListKind::Tools).is_empty());
        let refused = shown.refused.told();
        for (refused, reason) in refused.iter().zip([
            "what the backend says of it cannot be read: duplicate field `title`",
            "its `annotations` cannot be read: invalid type: sequence, expected an object",
        ]) {
            assert!(refused.contains(reason), "{refused}");
        }
        assert_eq!(refused.len(), 2);
    }

    #[test]
    fn key_that_can_be_taken_for_an_overridden_one_is_refused() {
        let mut terms = prefixed("t_");
        let named = ItemOverride {
            fields: vec![("title", r#""T""#.to_owned())],
            annotations: vec![("readOnlyHint", "true".to_owned())],
            ..ItemOverride::default()
        };
        terms.tools.overrides = HashMap::from([("hints".to_owned(), named)]);
        for (tool, reason) in [
            (
                r#"{"name":"hints","annotations":{"readOnlyHint":true,"ReadOnlyHint":false}}"#,
                r#"its key "ReadOnlyHint" can be taken for "readOnlyHint", which is changed"#,
            ),
            (
                r#"{"name":"hints","Title":"x"}"#,
                r#"its key "Title" can be taken for "title", which is changed"#,
            ),
        ] {
            let shown = shown(&[tool], &terms);
            assert!(shown.entries(ListKind::Tools).is_empty(), "{tool}");
            assert!(shown.refused.told()[0].contains(reason), "{:?}", shown.refused);
        }
    }

    #[test]
    fn item_too_large_is_a_fault_that_names_it() {
        let tools = BackendList {
            oversized: OversizedItems {
                count: 3,
                told: vec![("big".to_owned(), 30 << 20)],
            },
            ..BackendList::default()
        };
        let offer = BackendOffer {
            tools,
            ..BackendOffer::default()
        };
        let shown = AdvertisedOffer::new(&BackendName::for_test("time"), &offer, &ExposurePolicy::default());
        assert_eq!(
            shown.refused.told(),
            [
                r#"the tool "big" of backend time is not offered: it has 31457280 bytes, and the most is 262144"#,
                "2 more tools of backend time are not offered: each has more than 262144 bytes"
            ]
        );
    }

    #[test]
    fn mended_item_is_a_warning_that_names_its_fields() {
        let tools = BackendList {
            mended: MendedItems {
                count: 2,
                told: vec![("odd".to_owned(), "description, icons.0.sizes".to_owned())],
            },
            ..BackendList::default()
        };
        let offer = BackendOffer {
            tools,
            ..BackendOffer::default()
        };
        let shown = AdvertisedOffer::new(&BackendName::for_test("time"), &offer, &ExposurePolicy::default());
        let told = shown.warnings.told();
        assert!(
            told[0].contains(
                r#""odd" of backend time breaks the schema of the protocol in description, icons.0.sizes"#
            ),
            "{told:?}"
        );
        assert!(told[1].contains("1 more tools"), "{told:?}");
    }

    #[test]
    fn what_has_no_name_is_counted_and_told_what_it_lacks() {
        let tools = BackendList {
            unusable: 2,
            ..BackendList::default()
        };
        let offer = BackendOffer {
            tools,
            ..BackendOffer::default()
        };
        let shown = AdvertisedOffer::new(&BackendName::for_test("time"), &offer, &ExposurePolicy::default());
        let refused = shown.refused.told();
        assert!(
            refused[0].contains("2 tools that cannot be called"),
            "{refused:?}"
        );
        assert!(refused[0].contains("a `name`, once"), "{refused:?}");
    }
}
