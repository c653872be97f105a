//! Conditions and backend states that are derived from the reports of gateway pods.

use k8s_openapi::api::core::v1::Service;
use serde_json::json;
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

#[requires(api_server)]
#[tokio::test]
async fn unreachable_redis_becomes_a_condition() {
    let harness = Harness::start("store").await;
    harness.apply_group(&[]).await;
    harness
        .apply_server(json!({"sessionStorage": {"provider": "redis", "address": "redis:6379"}}))
        .await;
    harness
        .wait_for_condition("SessionStorageReady", "Unknown", "AwaitingGateways")
        .await;
    let gateway = FakeGateway::start(&harness.status_token().await, &rendered_hash(&harness).await).await;
    gateway.report(
        "sessionStore",
        json!({"provider": "redis", "available": false, "error": "connection refused"}),
    );
    harness.roll_out(&[&gateway]).await;
    harness
        .wait_for_condition("SessionStorageReady", "False", "SessionStorageUnavailable")
        .await;
    gateway.report("sessionStore", json!({"provider": "redis", "available": true}));
    harness.reconcile().await;
    harness
        .wait_for_condition("SessionStorageReady", "True", "SessionStorageAvailable")
        .await;
    gateway.report(
        "sessionStore",
        json!({"provider": "redis", "available": true, "warning": "Redis drops sessions"}),
    );
    harness.reconcile().await;
    harness
        .wait_for_condition("SessionStorageWarning", "True", "SessionsMayBeEvicted")
        .await;
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
