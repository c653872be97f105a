//! Many backends' offers as one.
//!
//! What a thing is called depends on its backend and its terms only ([`super::offer`]). Here it is decided who wins when two are
//! called the same. Nobody's health matters for that: a backend that fails keeps its names, so that a client's next call does not
//! silently reach another server. Lists are sorted, so that every replica gives the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use vmcp_crds::status::Health;

use super::listing::{Listing, Place};
use super::member::Known;
use super::offer::Entry;
use super::origin::Origins;
use super::snapshot::{Matcher, Snapshot, Unknown};
use super::template::UriTemplate;
use super::{Route, instructions};
use crate::backend::{Backend, Kind};
use crate::config::{Aggregation, FailureMode, Strategy};

/// How many sentences `/status` tells at most; what goes wrong so often is not understood better by more of them.
const MAX_SENTENCES: usize = 500;

/// A backend with what is known of it, in the order of who wins.
struct Ranked<'a> {
    backend: &'a Backend,
    known: &'a Known,
    listed: bool,
}

/// Somebody who wants a name.
struct Claim<'a> {
    ranked: &'a Ranked<'a>,
    entry: &'a Entry,
}

/// Merges what is known of the backends, which are in the order of the configuration.
pub(super) fn merge(members: &[(Backend, Known)], aggregation: &Arc<Aggregation>) -> Snapshot {
    let ranked = rank(members, aggregation);
    let (mut conflicts, mut faults): (Vec<String>, Vec<String>) = Default::default();
    let mut warnings: Vec<String> = Vec::new();
    if let Strategy::Priority(names) = &aggregation.strategy {
        let absent = names
            .iter()
            .filter(|name| !members.iter().any(|(backend, _)| backend.name() == *name));
        warnings
            .extend(absent.map(|name| format!("the list of priorities names {name}, which is no backend")));
    }
    for shown in members.iter().filter_map(|(_, known)| known.shown.as_ref()) {
        faults.extend(shown.refused.iter().cloned());
        warnings.extend(shown.warnings.iter().cloned());
    }
    let [tools, prompts, resources, templates] = Kind::ALL.map(|kind| {
        let winners = settle(kind, &ranked, aggregation, &mut conflicts, &mut faults);
        listing(kind, aggregation.page_size, &winners)
    });
    let unknown = members.iter().filter(|(_, known)| known.shown.is_none());
    let unknown = unknown.map(|(backend, known)| Unknown {
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
    Snapshot {
        matchers: matchers(&ranked, &templates),
        origins: origins(members),
        tools,
        prompts,
        resources,
        templates,
        unknown: unknown.collect(),
        without_completions: silent.map(|(backend, _)| backend.name().clone()).collect(),
        instructions: instructions::join(members.len(), told),
        aggregation: Arc::clone(aggregation),
        conflicts: bounded(conflicts),
        faults: bounded(faults),
        warnings: bounded(warnings),
    }
}

fn rank<'a>(members: &'a [(Backend, Known)], aggregation: &Aggregation) -> Vec<Ranked<'a>> {
    let hide = aggregation.failure_mode == FailureMode::Hide;
    let mut ranked: Vec<_> = members
        .iter()
        .map(|(backend, known)| Ranked {
            backend,
            known,
            listed: !(hide && known.state.health == Health::Unavailable),
        })
        .collect();
    if let Strategy::Priority(names) = &aggregation.strategy {
        let place = |ranked: &Ranked<'_>| names.iter().position(|name| name == ranked.backend.name());
        ranked.sort_by_key(|ranked| place(ranked).unwrap_or(usize::MAX));
    }
    ranked
}

/// Who has which name, sorted by name.
fn settle<'a>(
    kind: Kind,
    ranked: &'a [Ranked<'a>],
    aggregation: &Aggregation,
    conflicts: &mut Vec<String>,
    faults: &mut Vec<String>,
) -> Vec<Claim<'a>> {
    let mut claims: BTreeMap<&str, Vec<Claim<'a>>> = BTreeMap::new();
    for ranked in ranked {
        let shown = ranked.known.shown.as_ref();
        for entry in shown.map_or(&[][..], |shown| shown.entries(kind)) {
            let same = claims.entry(&entry.advertised).or_default();
            if same
                .last()
                .is_some_and(|other| other.ranked.backend.name() == ranked.backend.name())
            {
                faults.push(format!(
                    "backend {} has the {} {:?} twice",
                    ranked.backend.name(),
                    kind.noun(),
                    entry.advertised
                ));
            } else {
                same.push(Claim { ranked, entry });
            }
        }
    }
    let nobody_wins = aggregation.strategy == Strategy::Manual && matches!(kind, Kind::Tools | Kind::Prompts);
    let mut winners = Vec::with_capacity(claims.len());
    for (name, claims) in claims {
        let names: Vec<_> = claims
            .iter()
            .map(|claim| claim.ranked.backend.name().as_str())
            .collect();
        match names.split_first() {
            Some((_, [])) => winners.extend(claims),
            Some((winner, losers)) if !nobody_wins => {
                let (noun, losers) = (kind.noun(), losers.join(", "));
                conflicts.push(format!(
                    "the {noun} {name:?} of {losers} is not offered: backend {winner}, which comes first, has it too"
                ));
                winners.extend(claims.into_iter().take(1));
            }
            _ => conflicts.push(format!(
                "the {} {name:?} is offered by none of {}: give all but one of them another name with an override",
                kind.noun(),
                names.join(", ")
            )),
        }
    }
    winners
}

fn listing(kind: Kind, page_size: usize, winners: &[Claim<'_>]) -> Listing {
    let mut listed: Vec<(Arc<str>, Bytes)> = Vec::with_capacity(winners.len());
    let mut routes = HashMap::with_capacity(winners.len());
    for Claim { ranked, entry } in winners {
        let route = (!entry.hidden).then(|| Route {
            backend: ranked.backend.clone(),
            name: Arc::clone(&entry.name),
        });
        if route.is_some() && ranked.listed {
            listed.push((Arc::clone(&entry.advertised), entry.json.clone()));
        }
        routes.insert(Arc::clone(&entry.advertised), route);
    }
    Listing::new(kind, page_size, listed, routes)
}

/// The templates by which URIs are found that no list names: those that say more about a URI first, then by who wins.
fn matchers(ranked: &[Ranked<'_>], templates: &Listing) -> Vec<Matcher> {
    let mut matchers: Vec<Matcher> = Vec::new();
    for ranked in ranked {
        let shown = ranked.known.shown.as_ref();
        for entry in shown.map_or(&[][..], |shown| shown.entries(Kind::Templates)) {
            if let Place::At(route) = templates.place(&entry.advertised)
                && route.backend.name() == ranked.backend.name()
            {
                matchers.push(Matcher {
                    template: UriTemplate::new(&entry.advertised),
                    backend: ranked.backend.clone(),
                    terms: Arc::clone(&ranked.known.terms),
                });
            }
        }
    }
    matchers.sort_by_key(|matcher| std::cmp::Reverse(matcher.template.literal_bytes()));
    matchers
}

fn origins(members: &[(Backend, Known)]) -> Origins {
    let mut origins = Origins::default();
    for (backend, known) in members {
        for kind in [Kind::Resources, Kind::Templates] {
            let shown = known.shown.as_ref();
            for entry in shown.map_or(&[][..], |shown| shown.entries(kind)) {
                origins.note(&entry.advertised, backend, &known.terms);
            }
        }
    }
    origins
}

fn bounded(mut sentences: Vec<String>) -> Vec<String> {
    if sentences.len() > MAX_SENTENCES {
        let more = sentences.len() - MAX_SENTENCES;
        sentences.truncate(MAX_SENTENCES);
        sentences.push(format!("and {more} more"));
    }
    sentences
}
