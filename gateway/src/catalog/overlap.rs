//! Reports URIs that several backends claim, for `/status`. Each message names the backends involved.

use std::collections::{BTreeMap, BTreeSet};

use super::snapshot::TemplateRoute;
use super::uri_owners::{UriOwner, UriOwners, normalize, scheme};
use crate::catalog::diagnostics::{Diagnostics, MAX_TOTAL, quoted};
use crate::catalog::uri_template_overlap::{overlap, overlaps_prefix};
use crate::config::BackendName;

/// Maximum number of pairs of templates that are compared.
const MAX_PAIRS: usize = 20_000;
/// Maximum number of steps of all comparisons together.
const MAX_STEPS: usize = 4_000_000;
/// Message when the comparisons exceed [`MAX_STEPS`].
const TOO_MANY_TEMPLATES: &str =
    "there are too many resource templates to find all of those that claim others' URIs";
/// Maximum number of backend names in a message.
const MAX_NAMES: usize = 5;

/// Schemes that any server may use: sharing one of them is no reason for a warning.
const COMMON_SCHEMES: [&str; 3] = ["http:", "https:", "file:"];

/// Reports overlapping claims: in `conflicts` if a backend gets less than it claims, and in `warnings` if no backend gets a URI.
pub(super) fn report(
    owners: &UriOwners,
    matchers: &[TemplateRoute],
    conflicts: &mut Diagnostics,
    warnings: &mut Diagnostics,
) {
    report_lists(owners, conflicts);
    report_templates_in_owned_prefixes(owners, matchers, conflicts);
    report_overlapping_templates(owners, matchers, conflicts);
    let listed = owners.listed();
    for (scheme, backends) in owners.shared_schemes() {
        // Overlapping lists are already reported as a conflict.
        let mut meeting = listed.iter().filter(|(_, owners)| owners.len() > 1);
        if !COMMON_SCHEMES.contains(&scheme) && !meeting.any(|(beginning, _)| beginning.starts_with(scheme)) {
            let warning = format_args!(
                "{} have resources of the scheme {}: one that begins like none that is listed, and that no template fits, cannot be read",
                names(backends.iter().map(|owner| owner.backend.name())),
                quoted(scheme),
            );
            warnings.push(MAX_TOTAL, warning);
        }
    }
}

/// Reports resources of several backends in one authority or directory.
fn report_lists(owners: &UriOwners, conflicts: &mut Diagnostics) {
    let backends = |owners: &[UriOwner]| names(owners.iter().map(|owner| owner.backend.name()));
    for (beginning, listing) in owners.listed() {
        let shown = quoted(beginning);
        if listing.len() > 1 {
            let conflict = format_args!(
                "{} list resources that begin with {shown}: one that neither lists is found by the template that says most about it, or not at all",
                backends(listing)
            );
            conflicts.push(MAX_TOTAL, conflict);
        }
        if let Some((around, outer)) = owners.enclosing_directory(beginning)
            && let Some(others) = names_not_in(outer, listing)
        {
            let conflict = format_args!(
                "{} lists resources that begin with {shown}, within {} where {others} lists some: such URIs go to {}",
                backends(listing),
                quoted(around),
                backends(listing),
            );
            conflicts.push(MAX_TOTAL, conflict);
        }
    }
}

/// Names of the backends in `owners` that are not in `these`, joined; `None` if there are none.
fn names_not_in(owners: &[UriOwner], these: &[UriOwner]) -> Option<String> {
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

/// Reports templates that match URIs in an authority or directory that another backend owns.
fn report_templates_in_owned_prefixes(
    owners: &UriOwners,
    matchers: &[TemplateRoute],
    conflicts: &mut Diagnostics,
) {
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
                conflicts.push(MAX_TOTAL, conflict);
            }
            continue;
        }
        // `around` contains all URIs of the template. `within` are the prefixes that some of them may have, which are adjacent in the
        // sorted list.
        let literal = normalize(matcher.template.literal_beginning());
        let first = listed.partition_point(|(beginning, _)| **beginning < *literal);
        let within = listed.iter().skip(first);
        let within = within.take_while(|(beginning, _)| beginning.starts_with(&*literal));
        let around = owners
            .nearest_listed_prefix(&literal)
            .filter(|(beginning, _)| **beginning != *literal);
        for (beginning, listing) in around.into_iter().chain(within.copied()) {
            let [owner] = listing else { continue };
            if owner.backend.name() == name {
                continue;
            }
            if steps > MAX_STEPS {
                conflicts.push(MAX_TOTAL, TOO_MANY_TEMPLATES);
                return;
            }
            if overlaps_prefix(&matcher.template, beginning, &mut steps) {
                let conflict = format_args!(
                    "the template {} of {name} takes nothing that begins with {}: {} lists such resources",
                    quoted(text),
                    quoted(beginning),
                    owner.backend.name(),
                );
                conflicts.push(MAX_TOTAL, conflict);
            }
        }
    }
}

/// Reports templates of two backends that match a common URI that neither owns.
fn report_overlapping_templates(owners: &UriOwners, matchers: &[TemplateRoute], conflicts: &mut Diagnostics) {
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
                    conflicts.push(MAX_TOTAL, conflict);
                    return;
                }
                if overlap(&first.template, &second.template, &mut steps) {
                    let conflict = format_args!(
                        "the template {} of {} fits URIs that {} of {} fits, too: the first one is the better match, or comes first, and takes them",
                        quoted(first.template.text()),
                        one,
                        quoted(second.template.text()),
                        other,
                    );
                    conflicts.push(MAX_TOTAL, conflict);
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
