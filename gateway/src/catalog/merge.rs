//! Many backends' offers as one.
//!
//! What a thing is called depends on its backend and its terms only ([`crate::catalog::exposure`]). Here it is decided who wins when two are
//! called the same. Nobody's health matters for that: a backend that fails keeps its names, so that a client's next call does not
//! silently reach another server. Lists are sorted, so that every replica gives the same.

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

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use vmcp_crds::status::Health;

use super::overlap;
use super::snapshot::{CatalogSnapshot, TemplateRoute, UnseenBackend};
use super::uri_owners::UriOwners;
use super::{ItemRoute, instructions};
use crate::backend::{Backend, ListKind};
use crate::catalog::backend_state::BackendCatalog;
use crate::catalog::diagnostics::{Diagnostics, OF_ALL, quoted};
use crate::catalog::exposure::AdvertisedItem;
use crate::catalog::merged_list::{ItemLookup, MergedList};
use crate::catalog::uri_template::{MAX_BYTES as MAX_TEMPLATE_BYTES, MAX_EXPRESSIONS, UriTemplate};
use crate::config::{Aggregation, BackendName, ConflictResolution, FailureMode};

/// How many resource templates of one backend are used to find resources: each is compared with every URI that no list names.
const MAX_MATCHERS: usize = 1000;

/// A backend with what is known of it, in the order of who wins.
struct RankedBackend<'a> {
    backend: &'a Backend,
    known: &'a BackendCatalog,
    listed: bool,
}

/// Somebody who wants a name.
struct NameClaim<'a> {
    ranked: &'a RankedBackend<'a>,
    entry: &'a AdvertisedItem,
}

/// Merges what is known of the backends, which are in the order of the configuration.
pub(super) fn merge(
    members: &[(Backend, Arc<BackendCatalog>)],
    aggregation: &Arc<Aggregation>,
) -> CatalogSnapshot {
    let ranked = rank(members, aggregation);
    let (mut conflicts, mut faults) = (Diagnostics::default(), Diagnostics::default());
    let mut warnings = Diagnostics::default();
    if let ConflictResolution::Priority(names) = &aggregation.strategy {
        let absent = names
            .iter()
            .filter(|name| !members.iter().any(|(backend, _)| backend.name() == *name));
        for name in absent {
            let warning = format_args!("the list of priorities names {name}, which is no backend");
            warnings.push(OF_ALL, warning);
        }
    }
    for shown in members.iter().filter_map(|(_, known)| known.shown.as_ref()) {
        conflicts.extend(OF_ALL, &shown.conflicts);
        faults.extend(OF_ALL, &shown.refused);
        warnings.extend(OF_ALL, &shown.warnings);
    }
    let [tools, prompts, resources, templates] = ListKind::ALL.map(|kind| {
        let winners = settle(kind, &ranked, aggregation, &mut conflicts);
        listing(kind, aggregation.page_size, &winners)
    });
    let unknown = members.iter().filter(|(_, known)| known.shown.is_none());
    let unknown = unknown.map(|(backend, known)| UnseenBackend {
        backend: backend.clone(),
        terms: Arc::clone(&known.terms),
    });
    let told = members.iter().filter_map(|(backend, known)| {
        let offer = known.state.offer.as_ref()?;
        Some((backend.name().as_str(), offer.instructions.as_deref()?))
    });
    let silent = members.iter().filter(|(_, known)| {
        let offer = known.state.offer.as_ref();
        offer.is_some_and(|offer| !offer.capabilities.completions)
    });
    let (matchers, owners) = (matchers(&ranked, &templates, &mut faults), owners(members));
    overlap::report(&owners, &matchers, &mut conflicts, &mut warnings);
    CatalogSnapshot {
        matchers,
        owners,
        tools,
        prompts,
        resources,
        templates,
        unknown: unknown.collect(),
        without_completions: silent.map(|(backend, _)| backend.name().clone()).collect(),
        reserved: None,
        instructions: instructions::join(members.len(), told),
        aggregation: Arc::clone(aggregation),
        conflicts,
        faults,
        warnings,
    }
}

fn rank<'a>(
    members: &'a [(Backend, Arc<BackendCatalog>)],
    aggregation: &Aggregation,
) -> Vec<RankedBackend<'a>> {
    let hide = aggregation.failure_mode == FailureMode::Hide;
    let mut ranked: Vec<_> = members
        .iter()
        .map(|(backend, known)| RankedBackend {
            backend,
            known,
            listed: !(hide && known.state.health == Health::Unavailable),
        })
        .collect();
    ranked.sort_by_key(|ranked| priority(aggregation, ranked.backend.name()));
    ranked
}

/// The place of `backend` in the order of who wins; of those with the same place the first in the configuration does.
pub(super) fn priority(aggregation: &Aggregation, backend: &BackendName) -> usize {
    match &aggregation.strategy {
        ConflictResolution::Priority(names) => names
            .iter()
            .position(|name| name == backend)
            .unwrap_or(usize::MAX),
        ConflictResolution::Prefix | ConflictResolution::None | ConflictResolution::Manual => 0,
    }
}

/// Whether nobody gets a name that two claim.
pub(super) fn nobody_wins(aggregation: &Aggregation, kind: ListKind) -> bool {
    aggregation.strategy == ConflictResolution::Manual && matches!(kind, ListKind::Tools | ListKind::Prompts)
}

/// Who has which name, sorted by name. A backend claims each name once.
fn settle<'a>(
    kind: ListKind,
    ranked: &'a [RankedBackend<'a>],
    aggregation: &Aggregation,
    conflicts: &mut Diagnostics,
) -> Vec<NameClaim<'a>> {
    let mut claims: BTreeMap<&str, Vec<NameClaim<'a>>> = BTreeMap::new();
    for ranked in ranked {
        let shown = ranked.known.shown.as_ref();
        for entry in shown.map_or(&[][..], |shown| shown.entries(kind)) {
            let same = claims.entry(&entry.advertised).or_default();
            same.push(NameClaim { ranked, entry });
        }
    }
    let nobody_wins = nobody_wins(aggregation, kind);
    let mut winners = Vec::with_capacity(claims.len());
    for (name, claims) in claims {
        let noun = kind.noun();
        match claims.split_first() {
            Some((_, [])) => winners.extend(claims),
            Some((winner, losers)) if !nobody_wins => {
                let (name, losers) = (quoted(name), who(losers));
                let conflict = format!(
                    "the {noun} {name} of {losers} is not offered: backend {winner}, which comes first, has it too"
                );
                conflicts.push(OF_ALL, conflict);
                winners.extend(claims.into_iter().take(1));
            }
            _ => {
                let conflict = format!(
                    "the {noun} {} is offered by none of {}: give all but one of them another name with an override",
                    quoted(name),
                    who(&claims)
                );
                conflicts.push(OF_ALL, conflict);
            }
        }
    }
    winners
}

fn who(claims: &[NameClaim<'_>]) -> String {
    let claims: Vec<_> = claims.iter().map(ToString::to_string).collect();
    claims.join(", ")
}

/// The backend, and what it calls the thing where that is something else.
impl fmt::Display for NameClaim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ranked.backend.name())?;
        if self.entry.name == self.entry.advertised {
            return Ok(());
        }
        write!(f, " (its {})", quoted(&self.entry.name))
    }
}

fn listing(kind: ListKind, page_size: usize, winners: &[NameClaim<'_>]) -> MergedList {
    let mut listed: Vec<(Arc<str>, Bytes)> = Vec::with_capacity(winners.len());
    let mut routes = HashMap::with_capacity(winners.len());
    for NameClaim { ranked, entry } in winners {
        let route = (!entry.hidden).then(|| ItemRoute {
            backend: ranked.backend.clone(),
            name: Arc::clone(&entry.name),
        });
        if route.is_some() && ranked.listed {
            listed.push((Arc::clone(&entry.advertised), entry.json.clone()));
        }
        routes.insert(Arc::clone(&entry.advertised), route);
    }
    MergedList::new(kind, page_size, listed, routes)
}

/// The templates by which URIs are found that no list names: those that say more about a URI first, then by who wins.
fn matchers(
    ranked: &[RankedBackend<'_>],
    templates: &MergedList,
    faults: &mut Diagnostics,
) -> Vec<TemplateRoute> {
    let mut matchers: Vec<TemplateRoute> = Vec::new();
    for ranked in ranked {
        let shown = ranked.known.shown.as_ref();
        let backend = ranked.backend.name();
        let (mut used, mut left_out) = (0_usize, 0_usize);
        for entry in shown.map_or(&[][..], |shown| shown.entries(ListKind::Templates)) {
            if let ItemLookup::At(route) = templates.place(&entry.advertised)
                && route.backend.name() == backend
            {
                if used == MAX_MATCHERS {
                    left_out = left_out.saturating_add(1);
                    continue;
                }
                let template = UriTemplate::new(&entry.advertised);
                if !template.is_usable() {
                    let fault = format_args!(
                        "the resource template {} of backend {backend} is listed, but not used to find resources: the most are \
                         {MAX_EXPRESSIONS} expressions, and {MAX_TEMPLATE_BYTES} bytes of other text",
                        quoted(&entry.advertised)
                    );
                    faults.push(OF_ALL, fault);
                    continue;
                }
                used = used.saturating_add(1);
                matchers.push(TemplateRoute {
                    template,
                    backend: ranked.backend.clone(),
                    terms: Arc::clone(&ranked.known.terms),
                });
            }
        }
        if left_out > 0 {
            let fault = format_args!(
                "{left_out} resource templates of backend {backend} are listed, but not used to find resources: the most are \
                 {MAX_MATCHERS}"
            );
            faults.push(OF_ALL, fault);
        }
    }
    matchers.sort_by_key(|matcher| std::cmp::Reverse(matcher.template.literal_bytes()));
    matchers
}

fn owners(members: &[(Backend, Arc<BackendCatalog>)]) -> UriOwners {
    let mut owners = UriOwners::default();
    for (backend, known) in members {
        let Some(shown) = &known.shown else { continue };
        for entry in shown.entries(ListKind::Resources) {
            owners.note_resource(&entry.advertised, backend, &known.terms);
        }
        for entry in shown.entries(ListKind::Templates) {
            let template = UriTemplate::new(&entry.advertised);
            owners.note_template(template.literal_beginning(), backend, &known.terms);
        }
    }
    owners
}
