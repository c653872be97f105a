//! What clients get of a backend's items under an exposure policy.

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
            examples: vec![("big".to_owned(), 30 << 20)],
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
            examples: vec![("odd".to_owned(), "description, icons.0.sizes".to_owned())],
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
