//! Warns of names in the configuration that the backend does not offer: usually a typo, and in `deny` a typo leaves the intended item
//! exposed.
//!
//! This is no error, because the backend may offer the item later. Only exact names are checked; a pattern may be meant for future items. A
//! list that is not known is not checked.

use std::collections::HashSet;

use crate::backend::{BackendList, ListKind};
use crate::catalog::diagnostics::{Diagnostics, MAX_PER_BACKEND, quoted};
use crate::catalog::exposure::{BackendOffer, rules};
use crate::catalog::uri_template::UriTemplate;
use crate::config::{BackendName, ExposurePolicy, ItemRules, NameFilter, Pattern, canonical};

/// Adds a warning for each exact name in `policy` that `backend` does not offer.
pub(super) fn report(
    backend: &BackendName,
    offer: &BackendOffer,
    policy: &ExposurePolicy,
    warnings: &mut Diagnostics,
) {
    let mut warn = |warning: String| warnings.push(MAX_PER_BACKEND, warning);
    for kind in [ListKind::Tools, ListKind::Prompts] {
        let (list, noun) = (offer.list(kind), kind.noun());
        let Some(rules) = rules(kind, policy).filter(|_| !list.is_unknown) else {
            continue;
        };
        let offered: HashSet<&str> = list.items.iter().map(|item| item.key.as_str()).collect();
        let mut overridden: Vec<_> = rules.overrides.keys().collect();
        overridden.sort_unstable();
        for name in overridden {
            if let Some(reason) = without_effect(name, rules, &offered) {
                warn(format!(
                    "the override of the {noun} {} of backend {backend} has no effect: {reason}",
                    quoted(name)
                ));
            }
        }
        for (field, patterns) in [
            ("allow", &rules.filter.allow),
            ("deny", &rules.filter.deny),
            ("hidden", &rules.hidden),
        ] {
            for name in exact(patterns).filter(|name| !offered.contains(name)) {
                warn(format!(
                    "`{noun}s.{field}` of backend {backend} names {}, but the backend offers no {noun} of that name",
                    quoted(name)
                ));
            }
        }
    }
    let lists = [offer.list(ListKind::Resources), offer.list(ListKind::Templates)];
    if lists.iter().any(|list| list.is_unknown) {
        return;
    }
    for (field, uri) in unlisted(lists, &policy.resources) {
        warn(format!(
            "`resources.{field}` of backend {backend} names {}, but the backend lists no such resource, and no template that \
             fits it",
            quoted(uri)
        ));
    }
}

/// Why the override of `name` has no effect; `None` if it has one.
fn without_effect(name: &str, rules: &ItemRules, offered: &HashSet<&str>) -> Option<&'static str> {
    if !offered.contains(name) {
        Some("the backend offers none of that name")
    } else if !rules.filter.passes(name) {
        Some("`allow` and `deny` do not let it pass")
    } else if rules.hides(name) {
        Some("it is `hidden`")
    } else {
        None
    }
}

/// URIs in `filter` that are neither listed nor matched by a template, each with its field.
fn unlisted<'a>(lists: [&BackendList; 2], filter: &'a NameFilter) -> Vec<(&'static str, &'a str)> {
    let named = [("allow", &filter.allow), ("deny", &filter.deny)];
    let mut named: Vec<_> = named
        .into_iter()
        .flat_map(|(field, patterns)| exact(patterns).map(move |uri| (field, uri)))
        .collect();
    if named.is_empty() {
        return named;
    }
    let items = || lists.iter().flat_map(|list| &list.items);
    let listed: HashSet<String> = items().map(|item| canonical(&item.key)).collect();
    named.retain(|(_, uri)| !listed.contains(&canonical(uri)));
    if !named.is_empty() {
        let templates = lists[1].items.iter().map(|item| UriTemplate::new(&item.key));
        let templates: Vec<_> = templates.filter(UriTemplate::is_usable).collect();
        named.retain(|(_, uri)| !templates.iter().any(|template| template.matches(uri)));
    }
    named
}

fn exact(patterns: &[Pattern]) -> impl Iterator<Item = &str> {
    patterns.iter().filter_map(Pattern::exact)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::test_util::list;
    use crate::config::ItemOverride;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::new(text)).collect()
    }

    fn override_of(rules: &mut ItemRules, name: &str) {
        let named = ItemOverride {
            name: Some(format!("new_{name}")),
            ..ItemOverride::default()
        };
        rules.overrides.insert(name.to_owned(), named);
    }

    fn reported(offer: &BackendOffer, policy: &ExposurePolicy) -> Vec<String> {
        let mut warnings = Diagnostics::default();
        report(&BackendName::for_test("a"), offer, policy, &mut warnings);
        warnings.to_lines()
    }

    fn offer() -> BackendOffer {
        BackendOffer {
            tools: list(ListKind::Tools, &[r#"{"name":"now"}"#, r#"{"name":"raw"}"#]),
            prompts: list(ListKind::Prompts, &[r#"{"name":"greet"}"#]),
            resources: list(ListKind::Resources, &[r#"{"uri":"file:///a"}"#]),
            templates: list(ListKind::Templates, &[r#"{"uriTemplate":"file:///t/{id}"}"#]),
            ..BackendOffer::default()
        }
    }

    /// An exact name that the backend does not offer is reported; a pattern without a match is not.
    #[test]
    fn exact_name_without_match_is_warned_of() {
        let mut policy = ExposurePolicy::default();
        policy.tools.filter.allow = patterns(&["now", "raw", "nwo", "later_*"]);
        policy.tools.filter.deny = patterns(&["secrte", "secret_?"]);
        policy.tools.hidden = patterns(&["rwa", "*_raw"]);
        policy.prompts.filter.deny = patterns(&["greet", "gret"]);
        assert_eq!(
            reported(&offer(), &policy),
            [
                "`tools.allow` of backend a names \"nwo\", but the backend offers no tool of that name",
                "`tools.deny` of backend a names \"secrte\", but the backend offers no tool of that name",
                "`tools.hidden` of backend a names \"rwa\", but the backend offers no tool of that name",
                "`prompts.deny` of backend a names \"gret\", but the backend offers no prompt of that name",
            ]
        );
    }

    #[test]
    fn override_without_effect_is_warned_of_with_reason() {
        let mut policy = ExposurePolicy::default();
        for name in ["typo", "now", "raw"] {
            override_of(&mut policy.tools, name);
        }
        override_of(&mut policy.prompts, "greet");
        policy.tools.hidden = patterns(&["r*"]);
        policy.prompts.filter.deny = patterns(&["*"]);
        assert_eq!(
            reported(&offer(), &policy),
            [
                "the override of the tool \"raw\" of backend a has no effect: it is `hidden`",
                "the override of the tool \"typo\" of backend a has no effect: the backend offers none of that name",
                "the override of the prompt \"greet\" of backend a has no effect: `allow` and `deny` do not let it pass",
            ]
        );
    }

    /// A URI in the rules is compared with both lists and with the templates, in any spelling.
    #[test]
    fn uri_rule_matches_lists_and_templates_in_any_spelling() {
        let mut policy = ExposurePolicy::default();
        policy.resources.allow = patterns(&["FILE:///%61", "file:///t/{id}", "file:///t/7", "file:///x/*"]);
        assert!(reported(&offer(), &policy).is_empty());
        policy.resources.deny = patterns(&["file:///b", "file:///t/7/8"]);
        let ending = "but the backend lists no such resource, and no template that fits it";
        assert_eq!(
            reported(&offer(), &policy),
            ["file:///b", "file:///t/7/8"]
                .map(|uri| format!("`resources.deny` of backend a names {uri:?}, {ending}"))
        );
    }

    #[test]
    fn unknown_lists_are_not_checked() {
        let mut policy = ExposurePolicy::default();
        policy.tools.filter.allow = patterns(&["nwo"]);
        policy.prompts.filter.allow = patterns(&["gret"]);
        policy.resources.allow = patterns(&["file:///b"]);
        override_of(&mut policy.tools, "typo");
        let mut offer = offer();
        assert_eq!(reported(&offer, &policy).len(), 4);
        offer.tools.is_unknown = true;
        assert_eq!(reported(&offer, &policy).len(), 2);
        offer.prompts.is_unknown = true;
        offer.templates.is_unknown = true;
        assert!(reported(&offer, &policy).is_empty());
    }
}
