//! Leader election.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Client, Config};
use serde_json::json;
use vmcp_external::requires;
use vmcp_operator::lease::{Candidate, LeaseTiming};

use crate::harness::Harness;

/// A lease that expires during a test, but not so soon that a busy machine loses it by accident.
const SHORT: LeaseTiming = LeaseTiming {
    lease_duration: Duration::from_secs(12),
    renew_deadline: Duration::from_secs(10),
    retry_period: RETRY_PERIOD,
    acquire_period: RETRY_PERIOD,
    release_timeout: TIMEOUT,
};

/// A lease that does not expire during a test.
const LONG: LeaseTiming = LeaseTiming {
    lease_duration: Duration::from_secs(3600),
    renew_deadline: Duration::from_secs(3000),
    retry_period: RETRY_PERIOD,
    acquire_period: RETRY_PERIOD,
    release_timeout: TIMEOUT,
};

const RETRY_PERIOD: Duration = Duration::from_millis(200);
/// Time limit for everything that does not wait for a lease to expire.
const TIMEOUT: Duration = Duration::from_secs(60);

fn candidate(harness: &Harness, identity: &str, timing: LeaseTiming) -> Candidate {
    Candidate::new(&harness.client, &harness.namespace, "operator", identity, timing).unwrap()
}

async fn holder(harness: &Harness) -> Option<String> {
    let lease: Lease = harness.wait_for_object("operator").await;
    lease.spec.unwrap().holder_identity
}

// Of two candidates, the leader stays leader while it renews the Lease.
#[requires(api_server)]
#[tokio::test]
async fn leader_keeps_lease_while_it_renews() {
    let harness = Harness::without_operator("election").await;
    let (first, second) = (
        candidate(&harness, "first", SHORT),
        candidate(&harness, "second", SHORT),
    );
    first.acquire(|| {}).await;
    tokio::select! {
        () = second.acquire(|| {}) => panic!("two operators lead"),
        () = first.hold() => panic!("the lease was lost"),
        () = tokio::time::sleep(SHORT.lease_duration + RETRY_PERIOD * 5) => {}
    }
    assert_eq!(holder(&harness).await.as_deref(), Some("first"));
}

// A standby operator is ready, and leads at once when the leader releases the Lease.
#[requires(api_server)]
#[tokio::test]
async fn standby_leads_when_lease_is_released() {
    let harness = Harness::without_operator("handover").await;
    let (first, second) = (
        candidate(&harness, "first", LONG),
        candidate(&harness, "second", LONG),
    );
    first.acquire(|| {}).await;
    let (reached, standing_by) = tokio::sync::oneshot::channel();
    let waiting = second.acquire(move || reached.send(()).unwrap());
    let release = async {
        standing_by.await.unwrap();
        assert_eq!(holder(&harness).await.as_deref(), Some("first"));
        first.release().await;
    };
    let both = async { tokio::join!(waiting, release) };
    tokio::time::timeout(TIMEOUT, both).await.unwrap();
    assert_eq!(holder(&harness).await.as_deref(), Some("second"));
}

#[requires(api_server)]
#[tokio::test]
async fn lease_that_is_not_renewed_expires() {
    let harness = Harness::without_operator("expiry").await;
    let timing = LeaseTiming {
        lease_duration: Duration::from_secs(2),
        ..SHORT
    };
    candidate(&harness, "gone", timing).acquire(|| {}).await;
    let begun = std::time::Instant::now();
    let next = candidate(&harness, "next", timing);
    tokio::time::timeout(TIMEOUT, next.acquire(|| {})).await.unwrap();
    assert!(
        begun.elapsed() >= timing.lease_duration,
        "the lease was taken too early"
    );
    assert_eq!(holder(&harness).await.as_deref(), Some("next"));
}

#[requires(api_server)]
#[tokio::test]
async fn leader_stops_when_lease_is_taken() {
    let harness = Harness::without_operator("taken").await;
    let leader = candidate(&harness, "leader", LONG);
    leader.acquire(|| {}).await;
    harness
        .apply(&json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "operator"},
            "spec": {"holderIdentity": "usurper"},
        }))
        .await;
    tokio::time::timeout(TIMEOUT, leader.hold()).await.unwrap();
}

// Shutdown does not wait for an API server that does not respond.
#[tokio::test]
async fn release_gives_up_on_silent_api_server() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
    let timing = LeaseTiming {
        release_timeout: Duration::from_millis(100),
        ..LONG
    };
    let leader = Candidate::new(&client, "silent", "operator", "leader", timing).unwrap();
    tokio::time::timeout(TIMEOUT, leader.release()).await.unwrap();
}
