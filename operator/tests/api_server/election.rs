//! Of several operators, one works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;
use vmcp_operator::lease::{Candidate, Timing};

use crate::world::World;

const TIMING: Timing = Timing {
    duration: Duration::from_secs(2),
    deadline: Duration::from_millis(1500),
    pause: Duration::from_millis(200),
};

fn candidate(world: &World, identity: &str) -> Candidate {
    Candidate::new(&world.client, &world.namespace, "operator", identity, TIMING)
}

async fn holder(world: &World) -> Option<String> {
    let lease: Lease = world.child("operator").await;
    lease.spec.unwrap().holder_identity
}

#[tokio::test]
async fn one_of_two_leads_and_the_other_follows_at_once_when_it_gives_the_lease_back() {
    let Some(world) = World::without_operator("election").await else {
        return;
    };
    let (first, second) = (candidate(&world, "first"), candidate(&world, "second"));
    first.acquire(|| {}).await;
    assert_eq!(holder(&world).await.as_deref(), Some("first"));
    let reached = Arc::new(AtomicBool::new(false));
    let count = reached.clone();
    let waiting = second.acquire(move || count.store(true, Ordering::Relaxed));
    tokio::pin!(waiting);
    tokio::select! {
        () = &mut waiting => panic!("two operators lead"),
        () = first.hold() => panic!("the lease was lost"),
        () = tokio::time::sleep(TIMING.duration * 2) => {}
    }
    assert!(reached.load(Ordering::Relaxed), "one that stands by is ready");
    first.release().await;
    tokio::time::timeout(Duration::from_secs(1), waiting)
        .await
        .unwrap();
    assert_eq!(holder(&world).await.as_deref(), Some("second"));
}

#[tokio::test]
async fn a_lease_that_nobody_renews_runs_out() {
    let Some(world) = World::without_operator("expiry").await else {
        return;
    };
    candidate(&world, "gone").acquire(|| {}).await;
    let begun = std::time::Instant::now();
    candidate(&world, "next").acquire(|| {}).await;
    assert!(begun.elapsed() >= TIMING.duration, "it was taken too early");
    assert_eq!(holder(&world).await.as_deref(), Some("next"));
}

#[tokio::test]
async fn a_leader_whose_lease_is_taken_stops() {
    let Some(world) = World::without_operator("taken").await else {
        return;
    };
    let leader = candidate(&world, "leader");
    leader.acquire(|| {}).await;
    world
        .apply(&json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "operator"},
            "spec": {"holderIdentity": "usurper"},
        }))
        .await;
    tokio::time::timeout(Duration::from_secs(2), leader.hold())
        .await
        .unwrap();
}
