//! Merges what all backends advertise into one snapshot.
//!
//! An advertised name depends on its backend and the exposure policy only ([`crate::catalog::exposure`]). The merge decides which backend
//! gets a name that several claim. Health does not matter: a failing backend keeps its names, so that a client's next call does not
//! silently reach another server. Lists are sorted, so that every replica serves the same list.

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

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use vmcp_crds::status::Health;

use super::overlap;
use super::snapshot::{CatalogSnapshot, TemplateRoute, UndiscoveredBackend};
use super::uri_owners::UriOwners;
use super::{ItemRoute, instructions};
use crate::backend::{Backend, ListKind};
use crate::catalog::backend_state::BackendCatalog;
use crate::catalog::diagnostics::{Diagnostics, MAX_TOTAL, quoted};
use crate::catalog::exposure::AdvertisedItem;
use crate::catalog::merged_list::{ItemLookup, MergedList};
use crate::catalog::uri_template::{MAX_BYTES as MAX_TEMPLATE_BYTES, MAX_EXPRESSIONS, UriTemplate};
use crate::config::{Aggregation, BackendName, ConflictResolution, FailureMode};

/// Maximum number of templates of one backend that are matched. Each is matched against every requested URI that no list contains.
const MAX_MATCHERS: usize = 1000;

/// A backend in the order of precedence.
struct RankedBackend<'a> {
    backend: &'a Backend,
    known: &'a BackendCatalog,
    listed: bool,
}

/// A backend's claim to an advertised name.
struct NameClaim<'a> {
    ranked: &'a RankedBackend<'a>,
    entry: &'a AdvertisedItem,
}

/// Merges `members`, which are in the order of the configuration, into a snapshot.
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
            let warning =
                format_args!("the list of priorities names {name}, which is not a configured backend");
            warnings.push(MAX_TOTAL, warning);
        }
    }
    for advertised in members.iter().filter_map(|(_, known)| known.advertised.as_ref()) {
        conflicts.extend(MAX_TOTAL, &advertised.conflicts);
        faults.extend(MAX_TOTAL, &advertised.refused);
        warnings.extend(MAX_TOTAL, &advertised.warnings);
    }
    let [tools, prompts, resources, templates] = ListKind::ALL.map(|kind| {
        let winners = resolve_conflicts(kind, &ranked, aggregation, &mut conflicts);
        listing(kind, aggregation.page_size, &winners)
    });
    let undiscovered = members.iter().filter(|(_, known)| known.advertised.is_none());
    let undiscovered = undiscovered.map(|(backend, known)| UndiscoveredBackend {
        backend: backend.clone(),
        policy: Arc::clone(&known.policy),
    });
    let instructions = members.iter().filter_map(|(backend, known)| {
        let offer = known.state.offer.as_ref()?;
        Some((backend.name().as_str(), offer.instructions.as_deref()?))
    });
    let without_completions = members.iter().filter(|(_, known)| {
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
        undiscovered: undiscovered.collect(),
        without_completions: without_completions
            .map(|(backend, _)| backend.name().clone())
            .collect(),
        reserved: None,
        instructions: instructions::join(members.len(), instructions),
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

/// Rank of `backend` by the strategy, smaller is better. Among equal ranks the order of the configuration decides.
pub(super) fn priority(aggregation: &Aggregation, backend: &BackendName) -> usize {
    match &aggregation.strategy {
        ConflictResolution::Priority(names) => names
            .iter()
            .position(|name| name == backend)
            .unwrap_or(usize::MAX),
        ConflictResolution::Prefix | ConflictResolution::None | ConflictResolution::Manual => 0,
    }
}

/// Whether a name that several backends claim is dropped instead of being given to one of them.
pub(super) fn is_conflict_dropped(aggregation: &Aggregation, kind: ListKind) -> bool {
    aggregation.strategy == ConflictResolution::Manual && matches!(kind, ListKind::Tools | ListKind::Prompts)
}

/// The winning claim of each name, sorted by name. A backend claims each name once.
fn resolve_conflicts<'a>(
    kind: ListKind,
    ranked: &'a [RankedBackend<'a>],
    aggregation: &Aggregation,
    conflicts: &mut Diagnostics,
) -> Vec<NameClaim<'a>> {
    let mut claims: BTreeMap<&str, Vec<NameClaim<'a>>> = BTreeMap::new();
    for ranked in ranked {
        let advertised = ranked.known.advertised.as_ref();
        for entry in advertised.map_or(&[][..], |advertised| advertised.entries(kind)) {
            let same = claims.entry(&entry.advertised).or_default();
            same.push(NameClaim { ranked, entry });
        }
    }
    let is_conflict_dropped = is_conflict_dropped(aggregation, kind);
    let mut winners = Vec::with_capacity(claims.len());
    for (name, claims) in claims {
        let noun = kind.noun();
        match claims.split_first() {
            Some((_, [])) => winners.extend(claims),
            Some((winner, losers)) if !is_conflict_dropped => {
                let (name, losers) = (quoted(name), join_claims(losers));
                let conflict = format!(
                    "the {noun} {name} of {losers} is not offered: backend {winner}, which comes first, has it too"
                );
                conflicts.push(MAX_TOTAL, conflict);
                winners.extend(claims.into_iter().take(1));
            }
            _ => {
                let conflict = format!(
                    "the {noun} {} is offered by none of {}: give all but one of them another name with an override",
                    quoted(name),
                    join_claims(&claims)
                );
                conflicts.push(MAX_TOTAL, conflict);
            }
        }
    }
    winners
}

fn join_claims(claims: &[NameClaim<'_>]) -> String {
    let claims: Vec<_> = claims.iter().map(ToString::to_string).collect();
    claims.join(", ")
}

/// The backend, followed by its own name of the item if that differs from the advertised one.
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

/// The templates that are matched against unlisted URIs: most literal bytes first, then by precedence.
fn matchers(
    ranked: &[RankedBackend<'_>],
    templates: &MergedList,
    faults: &mut Diagnostics,
) -> Vec<TemplateRoute> {
    let mut matchers: Vec<TemplateRoute> = Vec::new();
    for ranked in ranked {
        let advertised = ranked.known.advertised.as_ref();
        let backend = ranked.backend.name();
        let (mut used, mut left_out) = (0_usize, 0_usize);
        for entry in advertised.map_or(&[][..], |advertised| advertised.entries(ListKind::Templates)) {
            if let ItemLookup::Found(route) = templates.lookup(&entry.advertised)
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
                    faults.push(MAX_TOTAL, fault);
                    continue;
                }
                used = used.saturating_add(1);
                matchers.push(TemplateRoute {
                    template,
                    backend: ranked.backend.clone(),
                    policy: Arc::clone(&ranked.known.policy),
                });
            }
        }
        if left_out > 0 {
            let fault = format_args!(
                "{left_out} resource templates of backend {backend} are listed, but not used to find resources: the most are \
                 {MAX_MATCHERS}"
            );
            faults.push(MAX_TOTAL, fault);
        }
    }
    matchers.sort_by_key(|matcher| std::cmp::Reverse(matcher.template.literal_bytes()));
    matchers
}

fn owners(members: &[(Backend, Arc<BackendCatalog>)]) -> UriOwners {
    let mut owners = UriOwners::default();
    for (backend, known) in members {
        let Some(advertised) = &known.advertised else {
            continue;
        };
        for entry in advertised.entries(ListKind::Resources) {
            owners.note_resource(&entry.advertised, backend, &known.policy);
        }
        for entry in advertised.entries(ListKind::Templates) {
            let template = UriTemplate::new(&entry.advertised);
            owners.note_template(template.literal_beginning(), backend, &known.policy);
        }
    }
    owners
}
