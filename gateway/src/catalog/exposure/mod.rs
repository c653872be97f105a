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

#[cfg(test)]
mod tests;

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
        for (key, bytes) in &oversized.examples {
            self.refuse(format_args!(
                "the {noun} {} of backend {backend} is not offered: it has {bytes} bytes, and the most is {MAX_ITEM_BYTES}",
                quoted(key)
            ));
        }
        let more = oversized.count.saturating_sub(oversized.examples.len());
        if more > 0 {
            self.refuse(format_args!(
                "{more} more {noun}s of backend {backend} are not offered: each has more than {MAX_ITEM_BYTES} bytes"
            ));
        }
    }

    fn warn_of_mended(&mut self, backend: &BackendName, kind: ListKind, mended: &MendedItems) {
        let noun = kind.noun();
        for (key, places) in &mended.examples {
            let warning = format_args!(
                "the {noun} {} of backend {backend} breaks the schema of the protocol in {places}; clients get it without that, or put right",
                quoted(key)
            );
            self.warnings.push(OF_ONE_BACKEND, warning);
        }
        let more = mended.count.saturating_sub(mended.examples.len());
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
