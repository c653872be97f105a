//! Who wins, what is listed, and where everything is.

use std::sync::Arc;

use futures::FutureExt as _;

use super::merge::merge;
use super::*;
use crate::backend::{BackendError, ListKind, ServerCapabilities};
use crate::catalog::backend_state::BackendCatalog;
use crate::catalog::test_util::{backend, list, offer};
use crate::config::{
    ConflictResolution, ExposurePolicy, FailureMode, HealthSettings, ItemOverride, NameFilter, Pattern,
};

fn terms(prefix: &str) -> ExposurePolicy {
    ExposurePolicy {
        prefix: prefix.to_owned(),
        ..ExposurePolicy::default()
    }
}

fn known(name: &str, terms: ExposurePolicy, offer: BackendOffer) -> (Backend, Arc<BackendCatalog>) {
    let member = CatalogBackend::new(backend(name), Arc::new(terms), HealthSettings::default());
    member.observe(Ok(offer));
    (member.backend.clone(), member.show())
}

fn silent(name: &str, terms: ExposurePolicy) -> (Backend, Arc<BackendCatalog>) {
    let member = CatalogBackend::new(backend(name), Arc::new(terms), HealthSettings::default());
    (member.backend.clone(), member.show())
}

fn failing(name: &str, terms: ExposurePolicy, offer: BackendOffer) -> (Backend, Arc<BackendCatalog>) {
    let member = CatalogBackend::new(backend(name), Arc::new(terms), HealthSettings::default());
    member.observe(Ok(offer));
    for _ in 0..member.settings().unhealthy_after {
        member.observe(Err(BackendError::status(500)));
    }
    (member.backend.clone(), member.show())
}

fn merged(strategy: ConflictResolution, members: &[(Backend, Arc<BackendCatalog>)]) -> CatalogSnapshot {
    let aggregation = Aggregation {
        strategy,
        ..Aggregation::default()
    };
    merge(members, &Arc::new(aggregation))
}

fn tools(snapshot: &CatalogSnapshot) -> Vec<String> {
    let page: serde_json::Value =
        serde_json::from_slice(&snapshot.tools.page(None).now_or_never().unwrap().unwrap().whole()).unwrap();
    let tools = page["tools"].as_array().unwrap().iter();
    tools
        .map(|tool| tool["name"].as_str().unwrap().to_owned())
        .collect()
}

fn owner(snapshot: &CatalogSnapshot, tool: &str) -> String {
    let route = snapshot.tool(tool).unwrap();
    format!("{}/{}", route.backend.name(), route.name)
}

#[tokio::test]
async fn with_prefixes_nobody_loses_and_the_list_is_sorted_whatever_the_order() {
    let (a, b) = (
        known("a", terms("a_"), offer(&["z", "y"])),
        known("b", terms("b_"), offer(&["y"])),
    );
    let one = merged(ConflictResolution::Prefix, &[a.clone(), b.clone()]);
    let other = merged(ConflictResolution::Prefix, &[b, a]);
    assert_eq!(tools(&one), ["a_y", "a_z", "b_y"]);
    assert_eq!(tools(&one), tools(&other));
    assert_eq!(owner(&one, "a_y"), "a/y");
    assert_eq!(one.conflicts.count(), 0);
}

#[tokio::test]
async fn with_none_the_first_in_the_configuration_wins_and_the_loser_is_named() {
    let (a, b) = (
        known("a", terms(""), offer(&["x", "only-a"])),
        known("b", terms(""), offer(&["x", "only-b"])),
    );
    let snapshot = merged(ConflictResolution::None, &[b.clone(), a.clone()]);
    assert_eq!(tools(&snapshot), ["only-a", "only-b", "x"]);
    assert_eq!(owner(&snapshot, "x"), "b/x");
    assert_eq!(snapshot.conflicts.count(), 1);
    let conflict = &snapshot.conflicts.kept()[0];
    assert!(
        conflict.contains("\"x\" of a is not offered") && conflict.contains("backend b"),
        "{conflict}"
    );
    assert_eq!(owner(&merged(ConflictResolution::None, &[a, b]), "x"), "a/x");
}

#[tokio::test]
async fn with_priority_the_list_decides_and_who_is_not_in_it_comes_last() {
    let members = ["a", "b", "c"].map(|name| known(name, terms(""), offer(&["x", name])));
    let names = vec![BackendName::for_test("c"), BackendName::for_test("gone")];
    let snapshot = merged(ConflictResolution::Priority(names), &members);
    assert_eq!(owner(&snapshot, "x"), "c/x");
    assert_eq!(tools(&snapshot), ["a", "b", "c", "x"]);
    assert!(
        snapshot.conflicts.kept()[0].contains("\"x\" of a, b is not offered"),
        "{:?}",
        snapshot.conflicts
    );
    assert!(
        snapshot.warnings.kept()[0].contains("gone"),
        "{:?}",
        snapshot.warnings
    );
}

#[tokio::test]
async fn with_manual_nobody_wins_until_a_name_is_changed() {
    let members = ["a", "b"].map(|name| known(name, terms(""), offer(&["x", name])));
    let snapshot = merged(ConflictResolution::Manual, &members);
    assert_eq!(tools(&snapshot), ["a", "b"]);
    assert_eq!(snapshot.tool("x").unwrap_err(), NotFound::Unknown);
    assert!(
        snapshot.conflicts.kept()[0].contains("none of a, b"),
        "{:?}",
        snapshot.conflicts
    );
    let mut renamed = terms("");
    let named = ItemOverride {
        name: Some("bx".to_owned()),
        ..ItemOverride::default()
    };
    renamed.tools.overrides.insert("x".to_owned(), named);
    let members = [members[0].clone(), known("b", renamed, offer(&["x", "b"]))];
    let snapshot = merged(ConflictResolution::Manual, &members);
    assert_eq!(tools(&snapshot), ["a", "b", "bx", "x"]);
    assert_eq!(
        (owner(&snapshot, "x"), owner(&snapshot, "bx")),
        ("a/x".to_owned(), "b/x".to_owned())
    );
    assert_eq!(snapshot.conflicts.count(), 0);
}

#[tokio::test]
async fn a_backend_that_has_a_name_twice_keeps_the_first() {
    let snapshot = merged(
        ConflictResolution::Prefix,
        &[known("a", terms("a_"), offer(&["x", "x"]))],
    );
    assert_eq!(tools(&snapshot), ["a_x"]);
    assert!(
        snapshot.faults.kept()[0].contains("twice"),
        "{:?}",
        snapshot.faults
    );
    assert_eq!(snapshot.conflicts.count(), 0, "nobody else claims the name");
}

/// Terms under which the tool `name` is called `x`.
fn naming_x(prefix: &str, name: &str) -> ExposurePolicy {
    let mut terms = terms(prefix);
    let named = ItemOverride {
        name: Some("x".to_owned()),
        ..ItemOverride::default()
    };
    terms.tools.overrides.insert(name.to_owned(), named);
    terms
}

#[tokio::test]
async fn a_name_that_an_override_gives_is_its_tools_with_every_strategy_and_both_are_named() {
    for strategy in [
        ConflictResolution::Prefix,
        ConflictResolution::None,
        ConflictResolution::Priority(vec![BackendName::for_test("a")]),
        ConflictResolution::Manual,
    ] {
        let of_a = naming_x("", "now");
        let snapshot = merged(strategy.clone(), &[known("a", of_a, offer(&["x", "now"]))]);
        assert_eq!(tools(&snapshot), ["x"], "{strategy:?}");
        assert_eq!(owner(&snapshot, "x"), "a/now", "{strategy:?}");
        let conflict =
            r#"the tool "x" of a (its "x") is not offered: an override gives the name to its "now""#;
        assert_eq!(snapshot.conflicts.told(), [conflict], "{strategy:?}");
        assert_eq!(snapshot.faults.count(), 0, "{strategy:?}");
    }
}

#[tokio::test]
async fn who_wins_between_backends_does_not_change_and_their_own_names_are_told_where_they_differ() {
    let members = [
        known("a", naming_x("", "now"), offer(&["x", "now"])),
        known("b", terms(""), offer(&["x"])),
        known("c", naming_x("", "then"), offer(&["then"])),
    ];
    let across = |strategy| {
        let snapshot = merged(strategy, &members);
        let told = snapshot.conflicts.told();
        assert_eq!(told.len(), 2, "{told:?}");
        (snapshot, told[1].clone())
    };
    let (snapshot, conflict) = across(ConflictResolution::None);
    assert_eq!(owner(&snapshot, "x"), "a/now");
    assert_eq!(
        conflict,
        r#"the tool "x" of b, c (its "then") is not offered: backend a (its "now"), which comes first, has it too"#
    );
    let (snapshot, _) = across(ConflictResolution::Priority(vec![BackendName::for_test("b")]));
    assert_eq!(owner(&snapshot, "x"), "b/x");
    let (snapshot, conflict) = across(ConflictResolution::Manual);
    assert_eq!(snapshot.tool("x").unwrap_err(), NotFound::Unknown);
    let start = r#"the tool "x" is offered by none of a (its "now"), b, c (its "then"): "#;
    assert!(conflict.starts_with(start), "{conflict}");
}

#[tokio::test]
async fn what_goes_wrong_very_often_is_told_of_with_a_bound_and_counted_whole() {
    // Nobody gets names with control characters.
    let names: Vec<String> = (0..600).map(|number| format!(r"tool\u0007{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let members: Vec<_> = (0..7)
        .map(|number| known(&format!("b{number}"), terms("p_"), offer(&names)))
        .collect();
    let faults = merged(ConflictResolution::Prefix, &members).faults;
    let told = faults.told();
    assert_eq!((faults.count(), told.len()), (7 * 600, 501));
    assert!(
        told[400].contains("backend b4"),
        "no backend takes the others' place: {}",
        told[400]
    );
    assert_eq!(told[500], "and 3700 more");
}

#[tokio::test]
async fn a_hidden_tool_is_neither_listed_nor_called_and_nobody_takes_its_name() {
    let mut hiding = terms("");
    hiding.tools.hidden = vec![Pattern::new("x")];
    let snapshot = merged(
        ConflictResolution::None,
        &[
            known("a", hiding, offer(&["x"])),
            known("b", terms(""), offer(&["x"])),
        ],
    );
    assert!(tools(&snapshot).is_empty());
    assert_eq!(snapshot.tool("x").unwrap_err(), NotFound::Unknown);
    let mut denying = terms("");
    denying.tools.filter.deny = vec![Pattern::new("x")];
    let snapshot = merged(
        ConflictResolution::None,
        &[
            known("a", denying, offer(&["x"])),
            known("b", terms(""), offer(&["x"])),
        ],
    );
    assert_eq!(owner(&snapshot, "x"), "b/x");
}

#[tokio::test]
async fn a_failing_backend_is_kept_or_hidden_and_keeps_its_names_either_way() {
    let members = [
        failing("a", terms(""), offer(&["x"])),
        known("b", terms(""), offer(&["x", "y"])),
    ];
    assert_eq!(tools(&merged(ConflictResolution::None, &members)), ["x", "y"]);
    let hide = Aggregation {
        strategy: ConflictResolution::None,
        failure_mode: FailureMode::Hide,
        ..Aggregation::default()
    };
    let snapshot = merge(&members, &Arc::new(hide));
    assert_eq!(tools(&snapshot), ["y"]);
    assert_eq!(owner(&snapshot, "x"), "a/x");
}

#[tokio::test]
async fn a_name_of_a_backend_that_is_not_known_yet_is_routed_by_its_prefix() {
    let mut cold = terms("cold_");
    let named = ItemOverride {
        name: Some("now".to_owned()),
        ..ItemOverride::default()
    };
    cold.tools.overrides.insert("get_time".to_owned(), named);
    cold.tools.filter.deny = vec![Pattern::new("secret")];
    let members = [
        known("a", terms("a_"), offer(&["x"])),
        silent("cold", cold),
        silent("colder", terms("cold_er_")),
    ];
    let snapshot = merged(ConflictResolution::Prefix, &members);
    assert_eq!(owner(&snapshot, "cold_y"), "cold/y");
    assert_eq!(owner(&snapshot, "cold_now"), "cold/get_time");
    assert_eq!(owner(&snapshot, "cold_er_y"), "colder/y");
    for unknown in [
        "a_y",
        "y",
        "cold_secret",
        "cold_get_time",
        "cold_SECRET",
        "cold_secret ",
        "cold_secret\0x",
    ] {
        assert_eq!(
            snapshot.tool(unknown).unwrap_err(),
            NotFound::Unknown,
            "{unknown}"
        );
    }
    // Without prefixes nobody can say whose it is, and "unknown" would be a lie.
    let snapshot = merged(ConflictResolution::None, &[silent("cold", terms(""))]);
    let not_yet = NotFound::NotYet(BackendName::for_test("cold"));
    assert_eq!(snapshot.tool("y").unwrap_err(), not_yet);
    assert_eq!(snapshot.resource("x://y").unwrap_err(), not_yet);
}

#[tokio::test]
async fn a_resource_is_found_by_its_uri_then_by_the_template_that_says_most() {
    let a = BackendOffer {
        resources: list(
            ListKind::Resources,
            &[r#"{"uri":"x://same"}"#, r#"{"uri":"x://listed/1"}"#],
        ),
        templates: list(
            ListKind::Templates,
            &[
                r#"{"uriTemplate":"x://{+any}"}"#,
                r#"{"uriTemplate":"x://t/{id}"}"#,
            ],
        ),
        ..BackendOffer::default()
    };
    let b = BackendOffer {
        capabilities: ServerCapabilities {
            completions: true,
            ..ServerCapabilities::default()
        },
        resources: list(ListKind::Resources, &[r#"{"uri":"x://same"}"#]),
        templates: list(
            ListKind::Templates,
            &[
                r#"{"uriTemplate":"x://a/{id}"}"#,
                r#"{"uriTemplate":"x://t/{id}"}"#,
            ],
        ),
        ..BackendOffer::default()
    };
    let mut of_b = terms("b_");
    of_b.resources = NameFilter {
        allow: Vec::new(),
        deny: vec![Pattern::new("x://a/secret")],
    };
    let snapshot = merged(
        ConflictResolution::Prefix,
        &[known("a", terms("a_"), a), known("b", of_b, b)],
    );
    for (uri, owner) in [
        ("x://same", "a"),
        ("x://listed/1", "a"),
        ("x://a/other", "b"),
        ("x://a/secret", "a"),
        ("x://a/%73ecret", "a"),
        ("x://t/1", "a"),
        ("x://anything/else", "a"),
    ] {
        let route = snapshot.resource(uri).unwrap();
        assert_eq!((route.backend.name().as_str(), &*route.name), (owner, uri));
    }
    assert_eq!(snapshot.resource("y://z").unwrap_err(), NotFound::Unknown);
    let of_template = snapshot.template("x://a/{id}").unwrap();
    assert_eq!(of_template.backend.name().as_str(), "b");
    assert!(snapshot.completes(&BackendName::for_test("b")));
    assert!(!snapshot.completes(&BackendName::for_test("a")));
    let conflicts = snapshot.conflicts.kept().join("\n");
    assert!(
        conflicts.contains("resource \"x://same\" of b")
            && conflicts.contains("resource template \"x://t/{id}\" of b"),
        "{conflicts}"
    );
}

#[tokio::test]
async fn prompts_have_names_and_rules_of_their_own() {
    let both = BackendOffer {
        tools: list(ListKind::Tools, &[r#"{"name":"x"}"#]),
        prompts: list(ListKind::Prompts, &[r#"{"name":"x"}"#, r#"{"name":"y"}"#]),
        ..BackendOffer::default()
    };
    let mut terms = terms("a_");
    terms.prompts.filter.allow = vec![Pattern::new("x")];
    let snapshot = merged(ConflictResolution::Prefix, &[known("a", terms, both)]);
    assert_eq!(
        snapshot
            .prompts
            .page(None)
            .now_or_never()
            .unwrap()
            .unwrap()
            .whole(),
        r#"{"prompts":[{"name":"a_x"}]}"#
    );
    assert_eq!(&*snapshot.prompt("a_x").unwrap().name, "x");
    assert_eq!(snapshot.prompt("a_y").unwrap_err(), NotFound::Unknown);
    assert_eq!(tools(&snapshot), ["a_x"]);
}

#[tokio::test]
async fn only_a_list_that_clients_see_otherwise_counts_as_changed() {
    let changes = ListChanges::default();
    let versions = || *changes.versions.subscribe().borrow();
    let nobody = merged(ConflictResolution::Prefix, &[]);
    let some = merged(
        ConflictResolution::Prefix,
        &[known("a", terms("a_"), offer(&["x"]))],
    );
    let same = merged(
        ConflictResolution::Prefix,
        &[failing("a", terms("a_"), offer(&["x"]))],
    );
    changes.observe(&nobody, &some);
    changes.observe(&some, &same);
    let once = ListVersions {
        tools: 1,
        ..ListVersions::default()
    };
    assert_eq!(versions(), once);
    changes.observe(&some, &nobody);
    assert_eq!(versions().tools, 2);
}

#[tokio::test]
async fn templates_beyond_the_bounds_are_listed_but_find_nothing() {
    let (many, long) = ("{a}x".repeat(17), format!("l://{}/{{a}}", "x".repeat(2048)));
    let mut items: Vec<_> = [&many, &long]
        .map(|template| format!(r#"{{"uriTemplate":"{template}"}}"#))
        .into();
    items.extend((0..1001).map(|number| format!(r#"{{"uriTemplate":"t{number}://{{a}}"}}"#)));
    let items: Vec<_> = items.iter().map(String::as_str).collect();
    let offer = BackendOffer {
        templates: list(ListKind::Templates, &items),
        ..BackendOffer::default()
    };
    let snapshot = merged(ConflictResolution::None, &[known("a", terms(""), offer)]);
    assert_eq!(snapshot.templates.len(), 1003);
    assert_eq!(snapshot.matchers.len(), 1000);
    let faults = snapshot.faults.told();
    let about = |beginning: &str| faults.iter().filter(|fault| fault.starts_with(beginning)).count();
    assert_eq!(about("the resource template \"l://xxx"), 1, "{faults:?}");
    assert_eq!(about("the resource template \"{a}x{a}x"), 1, "{faults:?}");
    assert_eq!(
        about("1 resource templates of backend a are listed"),
        1,
        "{faults:?}"
    );
}

#[tokio::test]
async fn merge_under_way_keeps_nobody_who_asks_waiting() {
    let tasks = Tasks::default();
    let catalog = Catalog::new(HttpClient::new(tasks.clone()), tasks.clone(), Metrics::new());
    let configured =
        |name| config::BackendSettings::for_test(name, "http://localhost:1/mcp".parse().unwrap());
    let backends = ["a", "b"].map(configured);
    catalog.apply(&backends, &Arc::default(), None);
    catalog.merge();
    let name = BackendName::for_test("a");
    assert!(catalog.backend("a").is_some());
    // Somebody merges a catalogue without end.
    let merging = catalog.shared.merging.lock().unwrap();
    let (answered, is_answered) = std::sync::mpsc::channel();
    let asking = catalog.clone();
    std::thread::spawn(move || {
        asking.refresh(&name);
        asking.apply(&backends[..1], &Arc::default(), None);
        let seen = (
            asking.snapshot().tools.len(),
            asking.states().len(),
            asking.backends().len(),
            asking.backend("b").is_some(),
        );
        let of_one = (
            asking.health(&name),
            asking.capabilities(&name),
            asking.gives_session_ids(&name),
            asking.resource("x://y").is_some(),
        );
        answered.send((seen, of_one)).unwrap();
    });
    let answer = is_answered.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(answer, ((0, 1, 1, false), (Health::Unknown, None, None, false)));
    drop(merging);
    catalog.apply(&[], &Arc::default(), None);
    tasks.finish().await;
}

#[tokio::test]
async fn merges_that_wait_are_made_once() {
    let tasks = Tasks::default();
    let catalog = Catalog::new(HttpClient::new(tasks.clone()), tasks, Metrics::new());
    catalog.merge();
    let first = catalog.snapshot();
    let held = catalog.shared.merging.lock().unwrap();
    let waiting: Vec<_> = std::iter::repeat_with(|| catalog.clone())
        .take(8)
        .map(|catalog| {
            std::thread::spawn(move || {
                catalog.merge();
                catalog.snapshot()
            })
        })
        .collect();
    while catalog.shared.wanted.load(Ordering::Acquire) < 9 {
        std::thread::yield_now();
    }
    drop(held);
    let seen: Vec<_> = waiting.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(seen.iter().all(|snapshot| Arc::ptr_eq(snapshot, &seen[0])));
    assert!(!Arc::ptr_eq(&seen[0], &first), "each sees what it changed");
}
