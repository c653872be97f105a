//! What the pods say of the session store, in conditions.

use serde_json::{Value as Json, json};
use vmcp_crds::condition::find;

use super::test_util::{Fixture, assert_condition, deployment, server};
use crate::status_client::GatewayPod;

#[test]
fn memory_storage_with_replicas_gives_warning() {
    let mut fixture = Fixture::ready();
    let warning = "SessionStorageWarning";
    assert_condition(
        &fixture.status(),
        warning,
        Some(("False", "SessionStorageConfigured")),
    );
    fixture.server = server(&json!({"provider": "memory"}));
    assert_condition(
        &fixture.status(),
        warning,
        Some(("True", "SessionStorageMissingForReplicas")),
    );
    fixture.server = server(&Json::Null);
    assert_condition(
        &fixture.status(),
        warning,
        Some(("True", "SessionStorageMissingForReplicas")),
    );
    fixture.expected_replicas = 1;
    assert_condition(
        &fixture.status(),
        warning,
        Some(("False", "SessionStorageWarningNotApplicable")),
    );
}

#[test]
fn redis_that_may_drop_sessions_gives_warning() {
    let mut fixture = Fixture::ready();
    let store = &mut fixture.gateways[1].status.as_mut().unwrap().session_store;
    store.warning = Some("Redis drops sessions".to_owned());
    let warning = "SessionStorageWarning";
    let status = fixture.status();
    assert_condition(&status, warning, Some(("True", "SessionsMayBeEvicted")));
    assert_eq!(
        find(&status.conditions, warning).unwrap().message,
        "Redis drops sessions"
    );
    // A pod that still runs with Redis says nothing about memory.
    fixture.server = server(&json!({"provider": "memory"}));
    assert_condition(
        &fixture.status(),
        warning,
        Some(("True", "SessionStorageMissingForReplicas")),
    );
}

#[test]
fn unreachable_redis_is_named_by_condition() {
    let type_ = "SessionStorageReady";
    let mut fixture = Fixture::ready();
    assert_condition(
        &fixture.status(),
        type_,
        Some(("True", "SessionStorageAvailable")),
    );
    // A pod may be unready because of Redis.
    fixture.gateways[1].ready = false;
    let store = &mut fixture.gateways[1].status.as_mut().unwrap().session_store;
    store.available = false;
    store.error = Some("connection refused".to_owned());
    let status = fixture.status();
    assert_condition(&status, type_, Some(("False", "SessionStorageUnavailable")));
    let message = &find(&status.conditions, type_).unwrap().message;
    assert!(message == "b cannot use Redis: connection refused", "{message}");
    fixture.gateways.clear();
    assert_condition(&fixture.status(), type_, Some(("Unknown", "AwaitingGateways")));
    fixture.server = server(&json!({"provider": "memory"}));
    assert_condition(&fixture.status(), type_, None);
}

/// Makes the pod report that it cannot use its store.
fn deny(gateway: &mut GatewayPod, error: &str) {
    let store = &mut gateway.status.as_mut().unwrap().session_store;
    store.available = false;
    store.error = Some(error.to_owned());
}

// While one pod reaches the store, clients can begin sessions there.
#[test]
fn server_is_not_ready_while_no_pod_reaches_its_store() {
    let mut fixture = Fixture::ready();
    deny(&mut fixture.gateways[1], "no such host");
    assert_condition(&fixture.status(), "Ready", Some(("True", "Serving")));
    deny(&mut fixture.gateways[0], "wrong password");
    let status = fixture.status();
    assert_condition(&status, "Ready", Some(("False", "SessionStoreUnavailable")));
    assert_condition(&status, "Reconciling", Some(("True", "SessionStoreUnavailable")));
    assert_condition(
        &status,
        "SessionStorageReady",
        Some(("False", "SessionStorageUnavailable")),
    );
    let message = &find(&status.conditions, "Ready").unwrap().message;
    assert_eq!(
        message,
        "no gateway pod can use its session store, so clients cannot begin sessions: a cannot use Redis: wrong password"
    );
    // A pod that does not report may reach the store.
    fixture.gateways[0].status = Err("does not respond".to_owned());
    assert_condition(&fixture.status(), "Ready", Some(("False", "GatewayUnreachable")));
}

// New pods that their store refuses are not ready. That is the reason, and not that pods are starting.
#[test]
fn first_pods_that_are_refused_are_quoted_in_ready() {
    let mut fixture = Fixture::ready();
    fixture.deployment = Some(deployment(2, 2, 0, 2));
    for gateway in &mut fixture.gateways {
        gateway.ready = false;
        deny(gateway, "wrong password");
    }
    assert_condition(
        &fixture.status(),
        "Ready",
        Some(("False", "SessionStoreUnavailable")),
    );
    let exceeded = json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"});
    let counts = fixture.deployment.as_mut().unwrap().status.as_mut().unwrap();
    counts.conditions = serde_json::from_value(json!([exceeded])).unwrap();
    let status = fixture.status();
    assert_condition(&status, "Stalled", Some(("True", "SessionStoreUnavailable")));
    let message = &find(&status.conditions, "Ready").unwrap().message;
    assert!(
        message.starts_with("no progress for ten minutes: no gateway pod"),
        "{message}"
    );
}

// The old pods go on, and `Ready` quotes the new pod.
#[test]
fn stopped_rollout_quotes_the_refused_pod() {
    let mut fixture = Fixture::ready();
    fixture.deployment = Some(deployment(1, 1, 1, 2));
    fixture.gateways[1].ready = false;
    deny(&mut fixture.gateways[1], "wrong password");
    let status = fixture.status();
    assert_condition(&status, "Ready", Some(("False", "DeploymentProgressing")));
    let message = &find(&status.conditions, "Ready").unwrap().message;
    assert_eq!(
        message,
        "waiting for 1 gateway pod: 1 updated, 1 available; b cannot use Redis: wrong password"
    );
    assert_condition(
        &status,
        "SessionStorageReady",
        Some(("False", "SessionStorageUnavailable")),
    );
}
