//! Tests of the merge: which backend gets a name, what is listed, and the route of each item.

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

fn policy(prefix: &str) -> ExposurePolicy {
    ExposurePolicy {
        prefix: prefix.to_owned(),
        ..ExposurePolicy::default()
    }
}

fn known(name: &str, policy: ExposurePolicy, offer: BackendOffer) -> (Backend, Arc<BackendCatalog>) {
    let member = CatalogBackend::new(backend(name), Arc::new(policy), HealthSettings::default());
    member.record_discovery(Ok(offer));
    (member.backend.clone(), member.advertise())
}

fn undiscovered(name: &str, policy: ExposurePolicy) -> (Backend, Arc<BackendCatalog>) {
    let member = CatalogBackend::new(backend(name), Arc::new(policy), HealthSettings::default());
    (member.backend.clone(), member.advertise())
}

fn failing(name: &str, policy: ExposurePolicy, offer: BackendOffer) -> (Backend, Arc<BackendCatalog>) {
    let member = CatalogBackend::new(backend(name), Arc::new(policy), HealthSettings::default());
    member.record_discovery(Ok(offer));
    for _ in 0..member.settings().unhealthy_after {
        member.record_discovery(Err(BackendError::status(500)));
    }
    (member.backend.clone(), member.advertise())
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

/// With prefixes no backend loses a name, and the list is sorted whatever the order of the backends.
#[tokio::test]
async fn prefixes_avoid_conflicts_in_any_order() {
    let (a, b) = (
        known("a", policy("a_"), offer(&["z", "y"])),
        known("b", policy("b_"), offer(&["y"])),
    );
    let one = merged(ConflictResolution::Prefix, &[a.clone(), b.clone()]);
    let other = merged(ConflictResolution::Prefix, &[b, a]);
    assert_eq!(tools(&one), ["a_y", "a_z", "b_y"]);
    assert_eq!(tools(&one), tools(&other));
    assert_eq!(owner(&one, "a_y"), "a/y");
    assert_eq!(one.conflicts.count(), 0);
}

/// With strategy `none` the first backend in the configuration wins, and the conflict names the loser.
#[tokio::test]
async fn strategy_none_prefers_the_first_backend() {
    let (a, b) = (
        known("a", policy(""), offer(&["x", "only-a"])),
        known("b", policy(""), offer(&["x", "only-b"])),
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

/// With strategy `priority` the list decides; backends that it does not contain come last.
#[tokio::test]
async fn strategy_priority_follows_its_list() {
    let members = ["a", "b", "c"].map(|name| known(name, policy(""), offer(&["x", name])));
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
async fn strategy_manual_drops_both_until_renamed() {
    let members = ["a", "b"].map(|name| known(name, policy(""), offer(&["x", name])));
    let snapshot = merged(ConflictResolution::Manual, &members);
    assert_eq!(tools(&snapshot), ["a", "b"]);
    assert_eq!(snapshot.tool("x").unwrap_err(), NotFound::Unknown);
    assert!(
        snapshot.conflicts.kept()[0].contains("none of a, b"),
        "{:?}",
        snapshot.conflicts
    );
    let mut renamed = policy("");
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
async fn duplicate_item_of_one_backend_keeps_the_first() {
    let snapshot = merged(
        ConflictResolution::Prefix,
        &[known("a", policy("a_"), offer(&["x", "x"]))],
    );
    assert_eq!(tools(&snapshot), ["a_x"]);
    assert!(
        snapshot.faults.kept()[0].contains("twice"),
        "{:?}",
        snapshot.faults
    );
    assert_eq!(snapshot.conflicts.count(), 0, "no other item claims the name");
}

/// A policy that advertises the tool `name` as `x`.
fn naming_x(prefix: &str, name: &str) -> ExposurePolicy {
    let mut policy = policy(prefix);
    let named = ItemOverride {
        name: Some("x".to_owned()),
        ..ItemOverride::default()
    };
    policy.tools.overrides.insert(name.to_owned(), named);
    policy
}

/// Within one backend, the tool that an override names gets the name with every strategy, and the conflict names both tools.
#[tokio::test]
async fn override_wins_with_every_strategy() {
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
        assert_eq!(snapshot.conflicts.to_lines(), [conflict], "{strategy:?}");
        assert_eq!(snapshot.faults.count(), 0, "{strategy:?}");
    }
}

/// Overrides do not affect which backend wins. The conflict gives the own names of the tools where they differ.
#[tokio::test]
async fn override_does_not_win_between_backends() {
    let members = [
        known("a", naming_x("", "now"), offer(&["x", "now"])),
        known("b", policy(""), offer(&["x"])),
        known("c", naming_x("", "then"), offer(&["then"])),
    ];
    let across = |strategy| {
        let snapshot = merged(strategy, &members);
        let lines = snapshot.conflicts.to_lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        (snapshot, lines[1].clone())
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

/// Frequent faults are listed up to a limit per backend and in total, but all of them are counted.
#[tokio::test]
async fn faults_are_bounded_per_backend_and_counted() {
    // Names with control characters are never advertised.
    let names: Vec<String> = (0..600).map(|number| format!(r"tool\u0007{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let members: Vec<_> = (0..7)
        .map(|number| known(&format!("b{number}"), policy("p_"), offer(&names)))
        .collect();
    let faults = merged(ConflictResolution::Prefix, &members).faults;
    let lines = faults.to_lines();
    assert_eq!((faults.count(), lines.len()), (7 * 600, 501));
    assert!(
        lines[400].contains("backend b4"),
        "no backend takes the others' place: {}",
        lines[400]
    );
    assert_eq!(lines[500], "and 3700 more");
}

/// A hidden tool is neither listed nor callable, and no other backend gets its name. A denied tool leaves its name to others.
#[tokio::test]
async fn hidden_tool_reserves_its_name() {
    let mut hiding = policy("");
    hiding.tools.hidden = vec![Pattern::new("x")];
    let snapshot = merged(
        ConflictResolution::None,
        &[
            known("a", hiding, offer(&["x"])),
            known("b", policy(""), offer(&["x"])),
        ],
    );
    assert!(tools(&snapshot).is_empty());
    assert_eq!(snapshot.tool("x").unwrap_err(), NotFound::Unknown);
    let mut denying = policy("");
    denying.tools.filter.deny = vec![Pattern::new("x")];
    let snapshot = merged(
        ConflictResolution::None,
        &[
            known("a", denying, offer(&["x"])),
            known("b", policy(""), offer(&["x"])),
        ],
    );
    assert_eq!(owner(&snapshot, "x"), "b/x");
}

/// With both failure modes a failing backend keeps its names, whether its items are listed or not.
#[tokio::test]
async fn failing_backend_keeps_its_names() {
    let members = [
        failing("a", policy(""), offer(&["x"])),
        known("b", policy(""), offer(&["x", "y"])),
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

/// A name of a backend that has not answered yet is routed by its prefix, within the backend's filters.
#[tokio::test]
async fn name_of_undiscovered_backend_is_routed_by_prefix() {
    let mut cold = policy("cold_");
    let named = ItemOverride {
        name: Some("now".to_owned()),
        ..ItemOverride::default()
    };
    cold.tools.overrides.insert("get_time".to_owned(), named);
    cold.tools.filter.deny = vec![Pattern::new("secret")];
    let members = [
        known("a", policy("a_"), offer(&["x"])),
        undiscovered("cold", cold),
        undiscovered("colder", policy("cold_er_")),
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
    // Without prefixes the owner is unknown until all backends have answered, and "unknown tool" would be wrong.
    let snapshot = merged(ConflictResolution::None, &[undiscovered("cold", policy(""))]);
    let undiscovered = NotFound::Undiscovered(BackendName::for_test("cold"));
    assert_eq!(snapshot.tool("y").unwrap_err(), undiscovered);
    assert_eq!(snapshot.resource("x://y").unwrap_err(), undiscovered);
}

/// A resource is found by its listed URI, otherwise by the template with the most literal text.
#[tokio::test]
async fn resource_is_found_by_uri_then_by_best_template() {
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
    let mut of_b = policy("b_");
    of_b.resources = NameFilter {
        allow: Vec::new(),
        deny: vec![Pattern::new("x://a/secret")],
    };
    let snapshot = merged(
        ConflictResolution::Prefix,
        &[known("a", policy("a_"), a), known("b", of_b, b)],
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
async fn prompts_have_their_own_names_and_rules() {
    let both = BackendOffer {
        tools: list(ListKind::Tools, &[r#"{"name":"x"}"#]),
        prompts: list(ListKind::Prompts, &[r#"{"name":"x"}"#, r#"{"name":"y"}"#]),
        ..BackendOffer::default()
    };
    let mut policy = policy("a_");
    policy.prompts.filter.allow = vec![Pattern::new("x")];
    let snapshot = merged(ConflictResolution::Prefix, &[known("a", policy, both)]);
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
async fn only_visible_changes_count() {
    let changes = ListChanges::default();
    let versions = || *changes.versions.subscribe().borrow();
    let empty = merged(ConflictResolution::Prefix, &[]);
    let some = merged(
        ConflictResolution::Prefix,
        &[known("a", policy("a_"), offer(&["x"]))],
    );
    let same = merged(
        ConflictResolution::Prefix,
        &[failing("a", policy("a_"), offer(&["x"]))],
    );
    changes.record(&empty, &some);
    changes.record(&some, &same);
    let once = ListVersions {
        tools: 1,
        ..ListVersions::default()
    };
    assert_eq!(versions(), once);
    changes.record(&some, &empty);
    assert_eq!(versions().tools, 2);
}

#[tokio::test]
async fn templates_beyond_the_limits_are_not_matched() {
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
    let snapshot = merged(ConflictResolution::None, &[known("a", policy(""), offer)]);
    assert_eq!(snapshot.templates.len(), 1003);
    assert_eq!(snapshot.matchers.len(), 1000);
    let faults = snapshot.faults.to_lines();
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
async fn readers_do_not_wait_for_a_running_merge() {
    let tasks = Tasks::default();
    let catalog = Catalog::new(HttpClient::new(tasks.clone()), tasks.clone(), Metrics::new());
    let configured =
        |name| config::BackendSettings::for_test(name, "http://localhost:1/mcp".parse().unwrap());
    let backends = ["a", "b"].map(configured);
    catalog.apply(&backends, &Arc::default(), None);
    catalog.merge();
    let name = BackendName::for_test("a");
    assert!(catalog.backend("a").is_some());
    // Simulates a merge that does not end.
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
async fn waiting_merges_are_coalesced() {
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
    while catalog.shared.merge_requests.load(Ordering::Acquire) < 9 {
        std::thread::yield_now();
    }
    drop(held);
    let seen: Vec<_> = waiting.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(seen.iter().all(|snapshot| Arc::ptr_eq(snapshot, &seen[0])));
    assert!(!Arc::ptr_eq(&seen[0], &first), "each sees what it changed");
}
