//! An API server that answers 409, 410 and 429.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use serde_json::json;
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;

use crate::fault_proxy::{FaultProxy, status_response};
use crate::harness::{Harness, eventually};

/// The longest delay before a reconcile or a watch is tried again, and time for the attempt itself.
const RECOVERY_TIME: Duration = Duration::from_secs(40);

/// Whether this is an apply of an object of this kind and name, or of its status.
fn is_apply(method: &Method, uri: &Uri, kind: &str, name: &str) -> bool {
    let is_of = |suffix: &str| uri.path().ends_with(&format!("/{kind}/{name}{suffix}"));
    method == Method::PATCH && (is_of("") || is_of("/status"))
}

// A conflict is tried again and is no warning: one write of the Deployment, of the status of the virtual server and of that of the group is
// refused with 409.
#[requires(api_server)]
#[tokio::test]
async fn conflicts_are_retried_without_warning() {
    let mut harness = Harness::without_operator("conflicts").await;
    let proxy = FaultProxy::start(&mut harness).await;
    let mut left = HashMap::from([("deployments", 1), ("virtualmcpservers", 1), ("mcpgroups", 1)]);
    proxy.inject(move |method, uri| {
        let names = [
            ("deployments", "vmcp-x"),
            ("virtualmcpservers", "x"),
            ("mcpgroups", "group"),
        ];
        let (kind, _) = names
            .into_iter()
            .find(|(kind, name)| is_apply(method, uri, kind, name))?;
        let left = left.get_mut(kind).filter(|left| **left > 0)?;
        *left -= 1;
        Some(status_response(StatusCode::CONFLICT, "Conflict"))
    });
    let begun = Instant::now();
    harness.start_operator().await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    eventually("the status of the group is written", async || {
        let passed = proxy.passed();
        passed
            .iter()
            .any(|(_, what)| what.ends_with("mcpgroups/group/status"))
            .then_some(())
    })
    .await;
    assert_eq!(proxy.injected().len(), 3, "{:?}", proxy.injected());
    assert!(begun.elapsed() < RECOVERY_TIME, "{:?}", begun.elapsed());
    let events = harness.api::<Event>().list(&ListParams::default()).await.unwrap();
    let warning = events
        .iter()
        .find(|event| event.type_.as_deref() == Some("Warning"));
    assert!(warning.is_none(), "{warning:?}");
    harness.stop_operator().await;
}

/// A watch that reports an error.
fn expired_watch() -> Response {
    let error = json!({"type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old resource version",
    }});
    ([(header::CONTENT_TYPE, "application/json")], format!("{error}\n")).into_response()
}

/// The number of watches of an operator.
const WATCHES: usize = 16;

// Every watch is refused with 410, and then ends with an error of 410. Each is listed again, and the operator goes on.
#[requires(api_server)]
#[tokio::test]
async fn expired_watches_are_listed_again() {
    let mut harness = Harness::without_operator("expired").await;
    let proxy = FaultProxy::start(&mut harness).await;
    let mut attempts = HashMap::<String, u32>::new();
    proxy.inject(move |_, uri| {
        let query = uri.query().unwrap_or_default();
        if !query.contains("watch=true") {
            return None;
        }
        // The same kind may be watched with and without a selector of labels.
        let selects = query.contains("labelSelector");
        let attempt = attempts.entry(format!("{} {selects}", uri.path())).or_default();
        *attempt += 1;
        match attempt {
            1 => Some(status_response(StatusCode::GONE, "Expired")),
            2 => Some(expired_watch()),
            _ => None,
        }
    });
    let begun = Instant::now();
    harness.start_operator().await;
    eventually("every watch has expired twice", async || {
        (proxy.injected().len() == 2 * WATCHES).then_some(())
    })
    .await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"image": "gateway:1"})).await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;
    // What is deleted comes back, so this watch goes on, too.
    harness
        .api::<Deployment>()
        .delete("vmcp-x", &Default::default())
        .await
        .unwrap();
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    assert!(begun.elapsed() < RECOVERY_TIME, "{:?}", begun.elapsed());
    harness.stop_operator().await;
}

/// The time that the API server asks to wait. More than the operator's own delay after a first failure.
const RETRY_AFTER: Duration = Duration::from_secs(4);

/// As API priority and fairness refuses a request.
fn too_many_requests() -> Response {
    let mut response = Response::new(Body::from("Too many requests, please try again later."));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let seconds = HeaderValue::from(RETRY_AFTER.as_secs());
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}

// A request that is refused with 429 is sent again after the time that the API server asks for, not earlier, and other virtual servers do not wait for
// it. That holds for the first list of a kind, and for a write.
#[requires(api_server)]
#[tokio::test]
async fn retry_after_is_honoured_for_each_request() {
    let mut harness = Harness::without_operator("throttled").await;
    let proxy = FaultProxy::start(&mut harness).await;
    let mut refused = HashMap::<String, u32>::new();
    proxy.inject(move |method, uri| {
        let is_list = uri.path().ends_with("/networkpolicies");
        if !is_list && !is_apply(method, uri, "deployments", "vmcp-x") {
            return None;
        }
        let count = refused.entry(uri.path().to_owned()).or_default();
        *count += 1;
        (*count <= 2).then(too_many_requests)
    });
    harness.start_operator().await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({})).await;
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": "other"},
            "spec": {"groupRef": {"name": "group"}},
        }))
        .await;
    harness.wait_for_object::<Deployment>("vmcp-other").await;
    harness.wait_for_object::<Deployment>("vmcp-x").await;
    harness
        .wait_for_condition("Ready", "False", "DeploymentProgressing")
        .await;

    let (injected, passed) = (proxy.injected(), proxy.passed());
    let when = |requests: &[(Instant, String)], path: &str| -> Vec<Instant> {
        let of_path = requests.iter().filter(|(_, what)| what.ends_with(path));
        of_path.map(|(when, _)| *when).collect()
    };
    for path in ["/networkpolicies", "/deployments/vmcp-x"] {
        let refused = when(&injected, path);
        assert_eq!(refused.len(), 2, "{path}: {injected:?}");
        let accepted = when(&passed, path);
        let last = accepted.iter().find(|accepted| **accepted > refused[1]).unwrap();
        for (refused, next) in [(refused[0], refused[1]), (refused[1], *last)] {
            let pause = next - refused;
            assert!(
                pause >= RETRY_AFTER && pause < RETRY_AFTER + RECOVERY_TIME,
                "{path}: {pause:?}"
            );
        }
    }
    let of_x = when(&injected, "/deployments/vmcp-x");
    let others = when(&passed, "/deployments/vmcp-other");
    assert!(
        others.iter().any(|other| *other < of_x[1]),
        "the other one waited: {passed:?}"
    );
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    assert_eq!(
        server.status.unwrap().observed_generation,
        server.metadata.generation
    );
    harness.stop_operator().await;
}
