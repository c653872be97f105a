//! Applies the exposure policy to what one backend offers: filters, names, overrides.
//!
//! The result depends on the backend's lists and its policy only. So it is computed once per change of either, and not when another backend
//! changes.
//!
//! An override may give a tool a name that another tool of the same backend already has. Then the tool that the configuration names gets
//! it: the configuration states what the name means, and a backend that starts to use it for something else must not take it over. The
//! conflict strategy does not apply, because it decides between backends. Two overrides of one backend that give the same name are rejected
//! when the configuration is loaded.

// This input comes from untrusted backends.
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
use crate::catalog::diagnostics::{Diagnostics, MAX_PER_BACKEND, quoted};
use crate::catalog::unmatched_rules;
use crate::config::aggregation::{
    MAX_LENIENT_NAME_BYTES, MAX_NAME_BYTES, NameRule, is_name_byte, is_unprintable,
};
use crate::config::{BackendName, ExposurePolicy, ItemOverride, ItemRules};
use crate::mcp::object_edit::EditedObject;
use crate::runtime::truncate::head;

/// Some clients refuse longer tool names, in characters.
const MAX_PORTABLE_NAME_LENGTH: usize = 64;
/// Maximum bytes of the reason in a message about a description.
const MAX_REASON_BYTES: usize = 300;

/// What a backend offers, before the exposure policy is applied.
///
/// ```
/// use vmcp_gateway::backend::ListKind;
/// use vmcp_gateway::catalog::BackendOffer;
///
/// let offer = BackendOffer::default();
/// assert!(offer.list(ListKind::Tools).items.is_empty());
/// assert!(offer.faults.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendOffer {
    /// The capabilities in its `initialize` result.
    pub capabilities: ServerCapabilities,
    /// Whether its `initialize` response had an `Mcp-Session-Id`.
    pub gives_session_ids: bool,
    /// The `instructions` of its `initialize` result: hints for the model.
    pub instructions: Option<String>,
    /// The `serverInfo` of its `initialize` result, as JSON.
    pub server_info: Option<String>,
    /// Items of `tools/list`, all pages.
    pub tools: BackendList,
    /// Items of `prompts/list`, all pages.
    pub prompts: BackendList,
    /// Items of `resources/list`, all pages.
    pub resources: BackendList,
    /// Items of `resources/templates/list`, all pages.
    pub templates: BackendList,
    /// Lists that the backend declares but that could not be read, each with the reason.
    pub faults: Vec<String>,
}

/// What clients get of one backend, after the exposure policy is applied.
#[derive(Debug, Default)]
pub(super) struct AdvertisedOffer {
    entries: [Vec<AdvertisedItem>; 4],
    /// Items that are dropped because another item of the same backend has the name.
    pub(super) conflicts: Diagnostics,
    /// Items that are dropped, with the reason.
    pub(super) refused: Diagnostics,
    /// Items that are advertised, but possibly not as intended.
    pub(super) warnings: Diagnostics,
}

/// One item under its advertised name.
#[derive(Clone, Debug)]
pub(super) struct AdvertisedItem {
    /// The name, or URI, that clients use.
    pub(super) advertised: Arc<str>,
    /// The name, or URI, that the backend uses.
    pub(super) name: Arc<str>,
    /// The item's JSON, with the advertised name and the overrides.
    pub(super) json: Bytes,
    /// Whether the item only reserves its name: it is neither listed nor callable.
    pub(super) hidden: bool,
    /// Whether an override gives the name.
    is_renamed: bool,
}

impl BackendOffer {
    /// The list of that kind, as the backend sent it.
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

    pub(super) fn new(backend: &BackendName, offer: &BackendOffer, policy: &ExposurePolicy) -> Self {
        let mut result = Self::default();
        for kind in ListKind::ALL {
            let list = offer.list(kind);
            result.advertise_list(backend, kind, list, policy);
            if list.unusable > 0 {
                result.refuse(format_args!(
                    "backend {backend} lists {} {}s that cannot be called by anything: each needs {}",
                    list.unusable,
                    kind.noun(),
                    kind.key_requirement()
                ));
            }
        }
        for kind in ListKind::ALL {
            let list = offer.list(kind);
            result.refuse_oversized(backend, kind, &list.oversized);
            result.warn_of_mended(backend, kind, &list.mended);
        }
        unmatched_rules::report(backend, offer, policy, &mut result.warnings);
        for fault in &offer.faults {
            result.refuse(format_args!("backend {backend}: {fault}"));
        }
        result
    }

    /// Replaces the items of the kinds in `lists`. Problems of these lists are not reported, because they belong to one session.
    pub(super) fn with_lists<'a>(
        &self,
        backend: &BackendName,
        lists: impl Iterator<Item = (ListKind, &'a BackendList)>,
        policy: &ExposurePolicy,
    ) -> Self {
        let mut result = Self {
            entries: self.entries.clone(),
            ..Self::default()
        };
        for (kind, list) in lists {
            result.entries_mut(kind).clear();
            result.advertise_list(backend, kind, list, policy);
        }
        result
    }

    fn advertise_list(
        &mut self,
        backend: &BackendName,
        kind: ListKind,
        list: &BackendList,
        policy: &ExposurePolicy,
    ) {
        let mut seen = HashSet::new();
        for listed in &list.items {
            self.advertise_item(backend, kind, listed, policy, &mut seen);
        }
        self.keep_one_per_name(backend, kind);
        self.warn_of_names(backend, kind);
    }

    fn advertise_item<'a>(
        &mut self,
        backend: &BackendName,
        kind: ListKind,
        listed: &'a BackendItem,
        policy: &ExposurePolicy,
        seen: &mut HashSet<&'a str>,
    ) {
        let entry = match rules(kind, policy) {
            Some(rules) if !rules.filter.passes(&listed.key) => return,
            Some(rules) => advertise_named(kind, listed, policy, rules),
            None if !policy.resources.passes_uri(&listed.key) => return,
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

    /// Keeps one item per advertised name. Conflicts between backends are not known here: [`crate::catalog::merge`] resolves them by the
    /// conflict strategy.
    fn keep_one_per_name(&mut self, backend: &BackendName, kind: ListKind) {
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
            // The order of the backend's list must not decide: a name from the configuration wins, then the smaller name.
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
            self.conflicts.push(MAX_PER_BACKEND, conflict);
        }
        *self.entries_mut(kind) = winners;
    }

    /// Warns of names that clients may refuse, and of tools that the gateway cannot call.
    fn warn_of_names(&mut self, backend: &BackendName, kind: ListKind) {
        let noun = kind.noun();
        let named = std::mem::take(self.entries_mut(kind));
        if matches!(kind, ListKind::Tools | ListKind::Prompts) {
            for AdvertisedItem { advertised, .. } in &named {
                let shown = quoted(advertised);
                if let (ListKind::Tools, Err(reason)) = (kind, check_recommended_name(advertised)) {
                    let warning = format_args!(
                        "the {noun} {shown} of backend {backend} may be refused by clients: {reason}; an override can give it another name"
                    );
                    self.warnings.push(MAX_PER_BACKEND, warning);
                    continue;
                }
                let length = advertised.chars().count();
                if length > MAX_PORTABLE_NAME_LENGTH {
                    let warning = format_args!(
                        "the {noun} {shown} of backend {backend} has a name of {length} characters; some clients allow \
                         {MAX_PORTABLE_NAME_LENGTH}"
                    );
                    self.warnings.push(MAX_PER_BACKEND, warning);
                }
            }
        }
        if kind == ListKind::Tools {
            for AdvertisedItem { advertised, .. } in named.iter().filter(|entry| requires_task(&entry.json)) {
                let warning = format_args!(
                    "the tool {} of backend {backend} can be called as a task only (execution.taskSupport is \"required\"), and the \
                     gateway passes no tasks on; a call gets the backend's error",
                    quoted(advertised)
                );
                self.warnings.push(MAX_PER_BACKEND, warning);
            }
        }
        *self.entries_mut(kind) = named;
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
                "the {noun} {} of backend {backend} breaks the schema of the protocol in {places}; clients get it without these fields, or with valid ones",
                quoted(key)
            );
            self.warnings.push(MAX_PER_BACKEND, warning);
        }
        let more = mended.count.saturating_sub(mended.examples.len());
        if more > 0 {
            let warning =
                format_args!("{more} more {noun}s of backend {backend} break the schema of the protocol");
            self.warnings.push(MAX_PER_BACKEND, warning);
        }
    }

    fn refuse(&mut self, reason: impl std::fmt::Display) {
        self.refused.push(MAX_PER_BACKEND, reason);
    }
}

/// The naming rules of that kind; `None` for resources, whose URIs never change.
pub(super) fn rules(kind: ListKind, policy: &ExposurePolicy) -> Option<&ItemRules> {
    match kind {
        ListKind::Tools => Some(&policy.tools),
        ListKind::Prompts => Some(&policy.prompts),
        ListKind::Resources | ListKind::Templates => None,
    }
}

fn advertise_named(
    kind: ListKind,
    listed: &BackendItem,
    policy: &ExposurePolicy,
    rules: &ItemRules,
) -> Result<AdvertisedItem, String> {
    let renamed = rules.renamed(&listed.key);
    let advertised = format!("{}{renamed}", policy.prefix);
    if advertised.len() > MAX_LENIENT_NAME_BYTES {
        return Err(format!(
            "its name, with prefix, is longer than {MAX_LENIENT_NAME_BYTES} bytes"
        ));
    }
    if advertised.chars().any(is_unprintable) {
        return Err("its name has control characters".to_owned());
    }
    if kind == ListKind::Tools && policy.names == NameRule::Strict {
        check_recommended_name(&advertised)?;
    }
    let json = rewrite_item(listed, &advertised, rules.overrides.get(&listed.key))?;
    Ok(AdvertisedItem {
        is_renamed: renamed != listed.key,
        advertised: advertised.into(),
        name: listed.key.as_str().into(),
        json,
        hidden: rules.hides(&listed.key),
    })
}

/// Checks a tool name against the protocol's recommendation; the error is the reason.
fn check_recommended_name(name: &str) -> Result<(), String> {
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

/// The item's JSON with the advertised name and the overrides; every other byte stays as the backend sent it.
fn rewrite_item(
    listed: &BackendItem,
    advertised: &str,
    named: Option<&ItemOverride>,
) -> Result<Bytes, String> {
    if advertised == listed.key && named.is_none() {
        return Ok(listed.json.clone());
    }
    let text = std::str::from_utf8(&listed.json).map_err(|error| error.to_string())?;
    let mut changes: Vec<(&'static str, String)> = Vec::new();
    if advertised != listed.key {
        changes.push(("name", serde_json::Value::from(advertised).to_string()));
    }
    let object = parse_object("what the backend says of it", text)?;
    if let Some(named) = named {
        changes.extend(named.fields.iter().cloned());
        if !named.annotations.is_empty() {
            let old = object.get("annotations").map_or("{}", |raw| raw.get());
            let old = if old == "null" { "{}" } else { old };
            let hints = splice_fields(&parse_object("its `annotations`", old)?, &named.annotations)?;
            changes.push(("annotations", hints));
        }
    }
    splice_fields(&object, &changes).map(Bytes::from)
}

/// Parses `text` as an object; `what` names it in the error.
fn parse_object<'a>(what: &str, text: &'a str) -> Result<EditedObject<'a>, String> {
    EditedObject::read(text).map_err(|error| {
        let error = error.to_string();
        format!("{what} cannot be read: {}", head(&error, MAX_REASON_BYTES))
    })
}

fn splice_fields(object: &EditedObject<'_>, changes: &[(&'static str, String)]) -> Result<String, String> {
    // A client that ignores the case of keys would read the backend's value instead of the configured one.
    let lookalike = |(key, _): &(&'static str, String)| Some((object.lookalike_of(key)?, *key));
    if let Some((other, key)) = changes.iter().find_map(lookalike) {
        return Err(format!(
            "its key {} can be taken for {key:?}, which is changed",
            quoted(other)
        ));
    }
    let text = object.with(&as_str_pairs(changes)).map(Vec::from);
    text.and_then(|text| String::from_utf8(text).ok())
        .ok_or_else(|| "its description cannot be changed".to_owned())
}

fn as_str_pairs<'a>(changes: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    changes
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect()
}
