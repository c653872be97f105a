//! Tests of the exposure policy of one backend.

use std::collections::HashMap;

use super::*;
use crate::catalog::test_util::list;
use crate::config::{NameFilter, Pattern};

fn shown(tools: &[&str], policy: &ExposurePolicy) -> AdvertisedOffer {
    let offer = BackendOffer {
        tools: list(ListKind::Tools, tools),
        ..BackendOffer::default()
    };
    AdvertisedOffer::new(&BackendName::for_test("time"), &offer, policy)
}

fn prefixed(prefix: &str) -> ExposurePolicy {
    ExposurePolicy {
        prefix: prefix.to_owned(),
        ..ExposurePolicy::default()
    }
}

#[test]
fn tool_that_requires_tasks_gets_a_warning() {
    let tool = r#"{"name":"slow","execution":{"taskSupport":"required"}}"#;
    let shown = shown(&[tool, r#"{"name":"fast"}"#], &prefixed("time_"));
    assert_eq!(shown.entries(ListKind::Tools).len(), 2);
    let lines = shown.warnings.to_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("\"time_slow\" of backend time") && lines[0].contains("task"),
        "{lines:?}"
    );
}

#[test]
fn prefix_changes_only_the_name_of_a_tool() {
    let tool = r#"{"x-vendor": 1.0, "name" :"now", "inputSchema":{"$defs":{}}}"#;
    let shown = shown(&[tool], &prefixed("time_"));
    let entry = &shown.entries(ListKind::Tools)[0];
    assert_eq!((&*entry.advertised, &*entry.name), ("time_now", "now"));
    assert_eq!(entry.json, tool.replace(r#""now""#, r#""time_now""#));
}

#[test]
fn overrides_replace_only_the_named_fields() {
    let mut policy = prefixed("t.");
    let named = ItemOverride {
        name: Some("clock".to_owned()),
        fields: vec![
            ("description", r#""D""#.to_owned()),
            ("title", r#""T""#.to_owned()),
        ],
        annotations: vec![("readOnlyHint", "true".to_owned())],
    };
    policy.tools.overrides = HashMap::from([("now".to_owned(), named)]);
    let shown = shown(
        &[
            r#"{"name":"now","description":"d","annotations":{"x":1.0,"readOnlyHint":false},"y":[ ]}"#,
            r#"{"name":"then"}"#,
        ],
        &policy,
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
fn denied_tool_is_dropped_and_hidden_tool_reserves_name() {
    let mut policy = ExposurePolicy::default();
    policy.tools.filter = NameFilter {
        allow: Vec::new(),
        deny: vec![Pattern::new("*_secret")],
    };
    policy.tools.hidden = vec![Pattern::new("raw")];
    let shown = shown(
        &[
            r#"{"name":"get_secret"}"#,
            r#"{"name":"raw"}"#,
            r#"{"name":"now"}"#,
        ],
        &policy,
    );
    let seen: Vec<_> = shown
        .entries(ListKind::Tools)
        .iter()
        .map(|entry| (&*entry.advertised, entry.hidden))
        .collect();
    assert_eq!(seen, [("raw", true), ("now", false)]);
}

/// A tool with an unusual name is advertised with a warning, or not at all if `names` is `strict`.
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
    let mut policy = prefixed("a_");
    let lenient = shown(&tools, &policy);
    assert_eq!(lenient.entries(ListKind::Tools).len(), 5);
    assert_eq!(lenient.refused.count(), 0, "{:?}", lenient.refused);
    assert_eq!(lenient.warnings.count(), 4, "{:?}", lenient.warnings);
    let entry = &lenient.entries(ListKind::Tools)[0];
    assert_eq!(entry.json, r#"{"name":"a_white \"space\""}"#);
    policy.names = NameRule::Strict;
    let strict = shown(&tools, &policy);
    assert_eq!(strict.entries(ListKind::Tools).len(), 2);
    assert_eq!(strict.refused.count(), 3, "{:?}", strict.refused);
    assert_eq!(strict.warnings.count(), 1, "{:?}", strict.warnings);
    let warning = &strict.warnings.to_lines()[0];
    assert!(warning.contains("65 characters"), "{warning}");
}

/// `names` does not apply to prompts: only length and control characters are checked.
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
        let policy = ExposurePolicy {
            names,
            ..ExposurePolicy::default()
        };
        let shown = AdvertisedOffer::new(&BackendName::for_test("a"), &offer, &policy);
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
    let policy = ExposurePolicy {
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
    let shown = AdvertisedOffer::new(&BackendName::for_test("a"), &offer, &policy);
    let entries = shown.entries(ListKind::Resources);
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].json, r#"{"uri":"file:///open/a","name":"a b"}"#);
}

/// A policy that advertises `get_time` as `now`.
fn renaming() -> ExposurePolicy {
    let mut policy = prefixed("a_");
    let named = ItemOverride {
        name: Some("now".to_owned()),
        ..ItemOverride::default()
    };
    policy.tools.overrides.insert("get_time".to_owned(), named);
    policy
}

/// A name that an override gives is not left to the tool that has it by itself, and the conflict is reported.
#[test]
fn override_wins_against_the_backends_own_name() {
    let policy = renaming();
    let (own, given) = (r#"{"name":"now"}"#, r#"{"name":"get_time"}"#);
    for order in [[own, given], [given, own]] {
        let shown = shown(&order, &policy);
        let entries = shown.entries(ListKind::Tools);
        assert_eq!(entries.len(), 1, "{order:?}");
        assert_eq!(
            (&*entries[0].advertised, &*entries[0].name),
            ("a_now", "get_time")
        );
        assert_eq!(
            shown.conflicts.to_lines(),
            [
                r#"the tool "a_now" of time (its "now") is not offered: an override gives the name to its "get_time""#
            ]
        );
        assert_eq!(shown.refused.count(), 0, "it is a conflict, and no fault");
    }
    let alone = shown(&[own], &policy);
    assert_eq!(&*alone.entries(ListKind::Tools)[0].name, "now");
    assert_eq!(alone.conflicts.count(), 0, "no other item claims the name");
}

#[test]
fn override_wins_for_prompts_too() {
    let mut policy = renaming();
    policy.prompts = std::mem::take(&mut policy.tools);
    let offer = BackendOffer {
        prompts: list(
            ListKind::Prompts,
            &[r#"{"name":"now"}"#, r#"{"name":"get_time"}"#],
        ),
        ..BackendOffer::default()
    };
    let shown = AdvertisedOffer::new(&BackendName::for_test("time"), &offer, &policy);
    assert_eq!(&*shown.entries(ListKind::Prompts)[0].name, "get_time");
    let conflicts = shown.conflicts.to_lines();
    assert!(
        conflicts[0].starts_with(r#"the prompt "a_now" of time"#),
        "{conflicts:?}"
    );
}

/// An item that a backend lists twice is reported as a fault, not as a conflict.
#[test]
fn duplicate_item_is_a_fault_and_no_conflict() {
    let uri = r#"{"uri":"x://y"}"#;
    let given = r#"{"name":"get_time"}"#;
    let offer = BackendOffer {
        tools: list(ListKind::Tools, &[given, given]),
        resources: list(ListKind::Resources, &[uri, uri]),
        ..BackendOffer::default()
    };
    let shown = AdvertisedOffer::new(&BackendName::for_test("time"), &offer, &renaming());
    assert_eq!(
        shown.refused.to_lines(),
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

/// An item whose JSON cannot be rewritten is dropped, and the reason names the problem.
#[test]
fn item_that_cannot_be_rewritten_is_dropped_with_reason() {
    let mut policy = prefixed("t_");
    let named = ItemOverride {
        annotations: vec![("readOnlyHint", "true".to_owned())],
        ..ItemOverride::default()
    };
    policy.tools.overrides = HashMap::from([("hints".to_owned(), named)]);
    let shown = shown(
        &[
            r#"{"name":"twice","title":1,"title":2}"#,
            r#"{"name":"hints","annotations":["x"]}"#,
        ],
        &policy,
    );
    assert!(shown.entries(ListKind::Tools).is_empty());
    let refused = shown.refused.to_lines();
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
    let mut policy = prefixed("t_");
    let named = ItemOverride {
        fields: vec![("title", r#""T""#.to_owned())],
        annotations: vec![("readOnlyHint", "true".to_owned())],
        ..ItemOverride::default()
    };
    policy.tools.overrides = HashMap::from([("hints".to_owned(), named)]);
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
        let shown = shown(&[tool], &policy);
        assert!(shown.entries(ListKind::Tools).is_empty(), "{tool}");
        assert!(
            shown.refused.to_lines()[0].contains(reason),
            "{:?}",
            shown.refused
        );
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
        shown.refused.to_lines(),
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
    let lines = shown.warnings.to_lines();
    assert!(
        lines[0].contains(
            r#""odd" of backend time breaks the schema of the protocol in description, icons.0.sizes"#
        ),
        "{lines:?}"
    );
    assert!(lines[1].contains("1 more tools"), "{lines:?}");
}

#[test]
fn unnamed_items_are_counted_with_the_requirement() {
    let tools = BackendList {
        unusable: 2,
        ..BackendList::default()
    };
    let offer = BackendOffer {
        tools,
        ..BackendOffer::default()
    };
    let shown = AdvertisedOffer::new(&BackendName::for_test("time"), &offer, &ExposurePolicy::default());
    let refused = shown.refused.to_lines();
    assert!(
        refused[0].contains("2 tools that cannot be called"),
        "{refused:?}"
    );
    assert!(refused[0].contains("a `name`, once"), "{refused:?}");
}
