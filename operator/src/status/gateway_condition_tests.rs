//! What follows from the reports of the gateway pods: the backends, and the conditions about them and Redis.

use serde_json::{Value as Json, json};
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::{ObservedBackendState, ObservedBreaker, ObservedEra, ObservedHealth};

use super::test_util::{Fixture, assert_condition, backend, gateway};
use super::*;

#[test]
fn backend_failing_for_one_pod_is_failing() {
    let mut fixture = Fixture::ready();
    let failing = json!([{"name": "time", "state": "failing", "tools": 5, "error": "connection refused"}]);
    fixture.gateways[1] = gateway("b", &fixture.files.hot_hash, &failing);
    let status = fixture.status();
    assert_eq!(status.backends[0].state, ObservedBackendState::Failing);
    assert_eq!(status.backends[0].message.as_deref(), Some("connection refused"));
    assert_eq!(status.backend_count, Some(0));
    assert_condition(&status, "Ready", Some(("True", "Serving")));
}

// The lists in the status are bounded, and failing backends are kept.
#[test]
fn status_lists_are_bounded_and_keep_failures() {
    let mut fixture = Fixture::ready();
    let backend = |number: usize| backend(&format!("backend-{number:03}"), "http://x?key=s3cret");
    fixture.backends = Some((0..150).map(backend).collect());
    let reports: Vec<Json> = (0..150)
        .map(|number| {
            let state = if number == 149 { "failing" } else { "ready" };
            json!({"name": format!("backend-{number:03}"), "state": state, "tools": 1})
        })
        .collect();
    fixture.gateways = vec![gateway("a", &fixture.files.hot_hash, &Json::Array(reports))];
    let many = |message| (0..80).map(|number| format!("{message} {number}")).collect();
    let reported = fixture.gateways[0].status.as_mut().unwrap();
    (reported.conflicts, reported.faults) = (many("conflict"), many("fault"));
    let status = fixture.status();
    assert_eq!(status.backends.len(), 100);
    assert_eq!(status.backends[99].state, ObservedBackendState::Failing);
    assert_eq!(status.backend_count, Some(149));
    assert_eq!(status.backends[0].url, "http://x?key=<hidden>");
    assert_eq!((status.conflicts.len(), status.faults.len()), (50, 50));
    assert_eq!(
        (&*status.conflicts[0], &*status.faults[0]),
        ("conflict 0", "fault 0")
    );
}

// A backend that cannot be used is left out alone, and the condition says which field is invalid.
#[test]
fn unusable_backend_is_named_by_condition() {
    let mut fixture = Fixture::ready();
    let problem = Some("spec.prefix: has no effect".to_owned());
    fixture.backends.as_mut().unwrap().push(Backend {
        problem,
        ..backend("zoo", "http://zoo/mcp")
    });
    let status = fixture.status();
    assert_condition(&status, "Ready", Some(("True", "Serving")));
    assert_condition(&status, "ConfigValid", Some(("True", "ConfigValid")));
    let message = &find(&status.conditions, "ConfigValid").unwrap().message;
    assert!(
        message.ends_with("without 1 of the 2 backends: MCPServerEntry zoo: spec.prefix: has no effect"),
        "{message}"
    );
    assert_eq!(status.backends[1].state, ObservedBackendState::LeftOut);
}

/// A fixture in which the two pods report these states of the backend `time`.
fn reporting(first: &Json, second: &Json) -> Fixture {
    let mut fixture = Fixture::ready();
    let hash = fixture.files.hot_hash.clone();
    fixture.gateways = vec![
        gateway("a", &hash, &json!([first])),
        gateway("b", &hash, &json!([second])),
    ];
    fixture
}

// The worst health and breaker, the newest era, and the largest counts, of all pods.
#[test]
fn health_breaker_era_and_counts_are_merged() {
    let first = json!({
        "name": "time", "state": "ready", "tools": 5, "prompts": 2, "resources": 1, "health": "healthy", "breaker": "closed",
        "era": "legacy",
    });
    let mut second = first.clone();
    let backend = |second: &Json| reporting(&first, second).status().backends.remove(0);
    let good = backend(&second);
    assert_eq!(good.health, Some(ObservedHealth::Healthy));
    assert_eq!(good.breaker, Some(ObservedBreaker::Closed));
    assert_eq!((good.prompts, good.resources), (Some(2), Some(1)));
    assert_eq!(good.era, Some(ObservedEra::Legacy));
    second["era"] = json!("modern");
    second["health"] = json!("degraded");
    second["breaker"] = json!("open");
    second["resources"] = json!(3);
    let bad = backend(&second);
    assert_eq!(bad.health, Some(ObservedHealth::Degraded));
    assert_eq!(bad.breaker, Some(ObservedBreaker::Open));
    assert_eq!(bad.resources, Some(3));
    assert_eq!(bad.era, Some(ObservedEra::Modern));
    second["breaker"] = json!("halfOpen");
    assert_eq!(backend(&second), bad, "a trial call changes nothing");
    second["health"] = json!("unavailable");
    assert_eq!(backend(&second).health, Some(ObservedHealth::Unavailable));
}

#[test]
fn unreported_health_and_breaker_are_absent() {
    let mut fixture = Fixture::ready();
    assert_eq!(fixture.status().backends[0].breaker, None);
    fixture.gateways.clear();
    let backend = fixture.status().backends.remove(0);
    assert_eq!((backend.health, backend.breaker), (None, None));
    assert_eq!((backend.prompts, backend.resources), (None, None));
    assert_eq!(backend.era, None);
}

#[test]
fn backends_are_discovered_when_all_are_ready() {
    let type_ = "BackendsDiscovered";
    let mut fixture = Fixture::ready();
    assert_condition(&fixture.status(), type_, Some(("True", "AllBackendsReady")));
    // A backend that is left out of the configuration does not count.
    fixture.backends.as_mut().unwrap().push(Backend {
        problem: Some("spec.prefix: has no effect".to_owned()),
        ..backend("zoo", "http://zoo/mcp")
    });
    assert_condition(&fixture.status(), type_, Some(("True", "AllBackendsReady")));
    let other = backend("weather", "http://weather/mcp");
    fixture.backends.as_mut().unwrap().push(other);
    let pending = fixture.status();
    assert_condition(&pending, type_, Some(("Unknown", "DiscoveryPending")));
    let message = &find(&pending.conditions, type_).unwrap().message;
    assert_eq!(message, "1 of 2 backends not discovered yet: weather");
    fixture.gateways.clear();
    assert_condition(&fixture.status(), type_, Some(("Unknown", "AwaitingGateways")));
}

#[test]
fn failing_backend_is_named_and_server_stays_ready() {
    let failing =
        json!({"name": "time", "state": "failing", "tools": 0, "error": "it refused the connection"});
    let status = reporting(&json!({"name": "time", "state": "ready", "tools": 1}), &failing).status();
    assert_condition(&status, "BackendsDiscovered", Some(("False", "BackendsFailing")));
    assert_condition(&status, "Ready", Some(("True", "Serving")));
    let message = &find(&status.conditions, "BackendsDiscovered").unwrap().message;
    let expected = "1 of 1 backends failing: time (time: it refused the connection); check";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn backend_that_loses_sessions_needs_affinity() {
    let type_ = "BackendNeedsAffinity";
    let ready = json!({"name": "time", "state": "ready", "tools": 1});
    let mut losing = ready.clone();
    losing["needsAffinity"] = json!(true);
    assert_condition(
        &reporting(&ready, &ready).status(),
        type_,
        Some(("False", "SessionsKept")),
    );
    let status = reporting(&ready, &losing).status();
    assert_condition(&status, type_, Some(("True", "BackendLosesSessions")));
    let message = &find(&status.conditions, type_).unwrap().message;
    assert!(message.contains("repeatedly: time."), "{message}");
    let mut fixture = Fixture::ready();
    fixture.gateways.clear();
    assert_condition(&fixture.status(), type_, None);
}

#[test]
fn unpolled_pods_keep_their_conditions() {
    let failing = json!({"name": "time", "state": "failing", "tools": 0, "needsAffinity": true});
    let mut fixture = reporting(&failing, &failing);
    fixture.old = fixture.status();
    fixture.gateways.clear();
    fixture.backends = None;
    let status = fixture.status_with(SecretsState::Unknown, None);
    for type_ in [
        "BackendsDiscovered",
        "BackendNeedsAffinity",
        "SessionStorageReady",
    ] {
        assert_eq!(
            find(&status.conditions, type_),
            find(&fixture.old.conditions, type_)
        );
        assert!(find(&status.conditions, type_).is_some(), "{type_}");
    }
}
