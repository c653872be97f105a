//! Conditions and backend states that are derived from the reports of gateway pods.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value as Json, json};
use vmcp_crds::v1alpha1::{ObservedBreaker, ObservedHealth, VirtualMCPServer};
use vmcp_external::requires;

use crate::failing_writes::message;
use crate::fake_gateway::FakeGateway;
use crate::harness::Harness;
use crate::hot_config::rendered_hash;

#[requires(api_server)]
#[tokio::test]
async fn reports_on_backends_become_conditions() {
    let harness = Harness::start("discovery").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    harness
        .wait_for_condition("BackendsDiscovered", "Unknown", "AwaitingGateways")
        .await;
    let gateway = FakeGateway::start(&harness.status_token().await, &rendered_hash(&harness).await).await;
    harness.roll_out(&[&gateway]).await;
    harness
        .wait_for_condition("BackendsDiscovered", "Unknown", "DiscoveryPending")
        .await;
    harness
        .wait_for_condition("BackendNeedsAffinity", "False", "SessionsKept")
        .await;

    gateway.report(
        "backends",
        json!([{
            "name": "time", "state": "failing", "health": "unavailable", "breaker": "open", "tools": 3, "prompts": 2, "resources": 1,
            "needsAffinity": true, "error": "it refused the connection",
        }]),
    );
    harness.reconcile().await;
    harness
        .wait_for_condition("BackendsDiscovered", "False", "BackendsFailing")
        .await;
    harness
        .wait_for_condition("BackendNeedsAffinity", "True", "BackendLosesSessions")
        .await;
    harness.wait_for_condition("Ready", "True", "Serving").await;
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let backend = server.status.unwrap().backends.remove(0);
    assert_eq!(backend.health, Some(ObservedHealth::Unavailable));
    assert_eq!(backend.breaker, Some(ObservedBreaker::Open));
    assert_eq!(
        (backend.tools, backend.prompts, backend.resources),
        (Some(3), Some(2), Some(1))
    );
    assert_eq!(backend.message.as_deref(), Some("it refused the connection"));

    gateway.report(
        "backends",
        json!([{"name": "time", "state": "ready", "tools": 3}]),
    );
    harness.reconcile().await;
    harness
        .wait_for_condition("BackendsDiscovered", "True", "AllBackendsReady")
        .await;
}

/// A virtual server with its sessions in Redis, and the token and the configuration of its gateways.
async fn with_redis(name: &str) -> (Harness, String, String) {
    let harness = Harness::start(name).await;
    harness.apply_group(&[]).await;
    harness
        .apply_server(json!({"sessionStorage": {"provider": "redis", "address": "redis:6379"}}))
        .await;
    harness
        .wait_for_condition("SessionStorageReady", "Unknown", "AwaitingGateways")
        .await;
    let (token, hash) = (harness.status_token().await, rendered_hash(&harness).await);
    (harness, token, hash)
}

fn denied(words: &str) -> Json {
    json!({"provider": "redis", "available": false, "error": words})
}

fn available() -> Json {
    json!({"provider": "redis", "available": true})
}

// Clients cannot begin sessions while no pod reaches Redis, so the server is not ready, and says why in the gateway's words.
#[requires(api_server)]
#[tokio::test]
async fn store_that_no_pod_reaches_makes_server_not_ready() {
    let (harness, token, hash) = with_redis("store").await;
    let (one, two) = (
        FakeGateway::start(&token, &hash).await,
        FakeGateway::start(&token, &hash).await,
    );
    for gateway in [&one, &two] {
        gateway.report("sessionStore", denied("WRONGPASS: check the password"));
    }
    harness.roll_out(&[&one, &two]).await;
    harness
        .wait_for_condition("SessionStorageReady", "False", "SessionStorageUnavailable")
        .await;
    harness
        .wait_for_condition("Ready", "False", "SessionStoreUnavailable")
        .await;
    harness
        .wait_for_words("Ready", "cannot use Redis: WRONGPASS: check the password")
        .await;
    harness.wait_for_event("Warning", "SessionStoreUnavailable").await;

    // One pod is enough.
    one.report("sessionStore", available());
    harness.reconcile().await;
    harness.wait_for_condition("Ready", "True", "Serving").await;
    harness
        .wait_for_words("SessionStorageReady", &format!("{} cannot use Redis", two.pod))
        .await;

    two.report("sessionStore", available());
    harness.reconcile().await;
    harness
        .wait_for_condition("SessionStorageReady", "True", "SessionStorageAvailable")
        .await;
    two.report(
        "sessionStore",
        json!({"provider": "redis", "available": true, "warning": "Redis drops sessions"}),
    );
    harness.reconcile().await;
    harness
        .wait_for_condition("SessionStorageWarning", "True", "SessionsMayBeEvicted")
        .await;
}

// After the progress deadline a person has to act, and the reason is still the store's.
#[requires(api_server)]
#[tokio::test]
async fn store_outage_without_progress_is_stalled() {
    let (harness, token, hash) = with_redis("store-stalled").await;
    let gateway = FakeGateway::start(&token, &hash).await;
    gateway.report("sessionStore", denied("WRONGPASS: check the password"));
    harness.roll_out(&[&gateway]).await;
    harness.exceed_progress_deadline().await;
    harness
        .wait_for_condition("Stalled", "True", "SessionStoreUnavailable")
        .await;
}

// The rollout waits for the new pod, and `Ready` says why. The operator asks a pod that is not ready, and asks again by itself.
#[requires(api_server)]
#[tokio::test]
async fn stopped_rollout_quotes_the_refused_pod() {
    let (harness, token, hash) = with_redis("stopped").await;
    let (old, new) = (
        FakeGateway::start(&token, &hash).await,
        FakeGateway::start(&token, &hash).await,
    );
    for gateway in [&old, &new] {
        gateway.report("sessionStore", available());
    }
    harness.stop_rollout(&old, &new).await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    harness
        .wait_for_condition("SessionStorageReady", "True", "SessionStorageAvailable")
        .await;
    // Nothing that the operator watches changes.
    new.report("sessionStore", denied("WRONGPASS: check the password"));
    let denied_at = Instant::now();
    let words = format!("{} cannot use Redis: WRONGPASS: check the password", new.pod);
    let reason = harness.wait_for_words("Ready", &words).await;
    let noticed_after = denied_at.elapsed();
    assert!(noticed_after < Duration::from_secs(20), "{noticed_after:?}");
    assert_eq!(reason, "DeploymentProgressing");
    harness.wait_for_words("SessionStorageReady", &words).await;
    // The same words are not written again.
    harness.settle().await;
}

// The operator asks a pod with an address of IPv6, and quotes its URL with brackets while it does not answer as it should. The Service has an address of
// each family that the cluster has.
#[requires(api_server)]
#[tokio::test]
async fn pod_with_ipv6_address_reports_its_status() {
    let harness = Harness::start("ipv6").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let gateway =
        FakeGateway::start_on_ipv6(&harness.status_token().await, &rendered_hash(&harness).await).await;
    harness.roll_out(&[&gateway]).await;
    harness.wait_for_condition("Ready", "True", "Serving").await;
    assert!(gateway.request_count() > 0);
    let service: Service = harness.wait_for_object("vmcp-x").await;
    let policy = service.spec.unwrap().ip_family_policy;
    assert_eq!(policy.as_deref(), Some("PreferDualStack"));

    gateway.report("tools", json!("not a number"));
    harness
        .wait_for_condition("Ready", "False", "GatewayUnreachable")
        .await;
    let message = message(&harness, "Ready").await;
    assert!(message.ends_with(" at http://[::1]:9483/status"), "{message}");
}
