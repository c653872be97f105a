//! Where backends claim the same URIs: sentences for `/status`, each of which names who is concerned.

use std::collections::{BTreeMap, BTreeSet};

use super::snapshot::TemplateRoute;
use super::uri_owners::{UriOwner, UriOwners, normal, scheme};
use crate::catalog::diagnostics::{Diagnostics, OF_ALL, quoted};
use crate::catalog::uri_template_overlap::{overlap, reaches};
use crate::config::BackendName;

/// How many pairs of templates are compared.
const MAX_PAIRS: usize = 20_000;
/// How many steps the comparisons may take together.
const MAX_STEPS: usize = 4_000_000;
/// What is said when that was not enough.
const TOO_MANY: &str = "there are too many resource templates to find all of those that claim others' URIs";
/// How many names stand in a sentence.
const MAX_NAMES: usize = 5;

/// Schemes of which anybody may have something: they say nothing about whose a URI is.
const COMMON_SCHEMES: [&str; 3] = ["http:", "https:", "file:"];

/// Reports who claims URIs that others claim, too: in `conflicts` where somebody gets less than he asks for, and in `warnings` where
/// nobody gets a URI.
pub(super) fn report(
    owners: &UriOwners,
    matchers: &[TemplateRoute],
    conflicts: &mut Diagnostics,
    warnings: &mut Diagnostics,
) {
    lists(owners, conflicts);
    templates_in_lists(owners, matchers, conflicts);
    templates(owners, matchers, conflicts);
    let listed = owners.listed();
    for (scheme, backends) in owners.shared_schemes() {
        // Where their lists meet, that is a conflict already.
        let mut meeting = listed.iter().filter(|(_, owners)| owners.len() > 1);
        if !COMMON_SCHEMES.contains(&scheme) && !meeting.any(|(beginning, _)| beginning.starts_with(scheme)) {
            let warning = format_args!(
                "{} have resources of the scheme {}: one that begins like none that is listed, and that no template fits, cannot be read",
                names(backends.iter().map(|owner| owner.backend.name())),
                quoted(scheme),
            );
            warnings.push(OF_ALL, warning);
        }
    }
}

/// Lists of several backends in one place.
fn lists(owners: &UriOwners, conflicts: &mut Diagnostics) {
    let backends = |owners: &[UriOwner]| names(owners.iter().map(|owner| owner.backend.name()));
    for (beginning, listing) in owners.listed() {
        let shown = quoted(beginning);
        if listing.len() > 1 {
            let conflict = format_args!(
                "{} list resources that begin with {shown}: one that neither lists is found by the template that says most about it, or not at all",
                backends(listing)
            );
            conflicts.push(OF_ALL, conflict);
        }
        if let Some((around, outer)) = owners.around(beginning)
            && let Some(others) = without(outer, listing)
        {
            let conflict = format_args!(
                "{} lists resources that begin with {shown}, within {} where {others} lists some: what begins so goes to the former",
                backends(listing),
                quoted(around),
            );
            conflicts.push(OF_ALL, conflict);
        }
    }
}

/// The names of those of `owners` that are none of `these`.
fn without(owners: &[UriOwner], these: &[UriOwner]) -> Option<String> {
    let is_other = |owner: &&UriOwner| {
        !these
            .iter()
            .any(|this| this.backend.name() == owner.backend.name())
    };
    let others: Vec<_> = owners
        .iter()
        .filter(is_other)
        .map(|owner| owner.backend.name())
        .collect();
    (!others.is_empty()).then(|| names(others.into_iter()))
}

/// Templates that fit what begins like resources that another backend lists.
fn templates_in_lists(owners: &UriOwners, matchers: &[TemplateRoute], conflicts: &mut Diagnostics) {
    let listed = owners.listed();
    let all = listed.iter().flat_map(|(_, owners)| owners.iter());
    let all: BTreeSet<&BackendName> = all.map(|owner| owner.backend.name()).collect();
    let mut steps = 0;
    for matcher in matchers {
        let (name, text) = (matcher.backend.name(), matcher.template.text());
        if scheme(matcher.template.literal_beginning()).is_none() {
            let others: Vec<_> = all.iter().copied().filter(|other| *other != name).collect();
            if !others.is_empty() {
                let conflict = format_args!(
                    "the template {} of {name} begins with no scheme: it takes no URI of a scheme of which others have resources: {}",
                    quoted(text),
                    names(others.into_iter()),
                );
                conflicts.push(OF_ALL, conflict);
            }
            continue;
        }
        // The place in which all its URIs are, and those that some of them may be in: these stand together in the sorted list.
        let literal = normal(matcher.template.literal_beginning());
        let first = listed.partition_point(|(beginning, _)| **beginning < *literal);
        let within = listed.iter().skip(first);
        let within = within.take_while(|(beginning, _)| beginning.starts_with(&*literal));
        let around = owners
            .place(&literal)
            .filter(|(beginning, _)| **beginning != *literal);
        for (beginning, listing) in around.into_iter().chain(within.copied()) {
            let [owner] = listing else { continue };
            if owner.backend.name() == name {
                continue;
            }
            if steps > MAX_STEPS {
                conflicts.push(OF_ALL, TOO_MANY);
                return;
            }
            if reaches(&matcher.template, beginning, &mut steps) {
                let conflict = format_args!(
                    "the template {} of {name} takes nothing that begins with {}: {} lists such resources",
                    quoted(text),
                    quoted(beginning),
                    owner.backend.name(),
                );
                conflicts.push(OF_ALL, conflict);
            }
        }
    }
}

/// Templates of two backends that fit the same URI, which is owned by neither.
fn templates(owners: &UriOwners, matchers: &[TemplateRoute], conflicts: &mut Diagnostics) {
    let mut schemes: BTreeMap<&str, Vec<(&TemplateRoute, Option<&BackendName>)>> = BTreeMap::new();
    for matcher in matchers {
        let literal = matcher.template.literal_beginning();
        let owner = owners.owner(literal).map(|owner| owner.backend.name());
        if let Some(scheme) = scheme(literal) {
            schemes.entry(scheme).or_default().push((matcher, owner));
        }
    }
    let (mut pairs, mut steps) = (0, 0);
    for group in schemes.values() {
        for (at, (first, first_owner)) in group.iter().enumerate() {
            for (second, second_owner) in group.iter().skip(at + 1) {
                let (one, other) = (first.backend.name(), second.backend.name());
                if one == other || *first_owner == Some(other) || *second_owner == Some(one) {
                    continue;
                }
                pairs += 1;
                if pairs > MAX_PAIRS || steps > MAX_STEPS {
                    let conflict =
                        "there are too many resource templates to find all of those that fit the same URIs";
                    conflicts.push(OF_ALL, conflict);
                    return;
                }
                if overlap(&first.template, &second.template, &mut steps) {
                    let conflict = format_args!(
                        "the template {} of {} fits URIs that {} of {} fits, too: the former says more about them, or comes first, and takes them",
                        quoted(first.template.text()),
                        one,
                        quoted(second.template.text()),
                        other,
                    );
                    conflicts.push(OF_ALL, conflict);
                }
            }
        }
    }
}

fn names<'a>(backends: impl ExactSizeIterator<Item = &'a BackendName>) -> String {
    let more = backends.len().saturating_sub(MAX_NAMES);
    let mut names: Vec<_> = backends.take(MAX_NAMES).map(ToString::to_string).collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}
