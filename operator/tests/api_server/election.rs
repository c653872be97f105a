//! Of several operators, one works.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Client, Config};
use serde_json::json;
use vmcp_operator::lease::{Candidate, Timing};

use crate::world::World;

/// A lease that runs out while a test waits, with a leader that is not soon taken for dead on a busy machine.
const SHORT: Timing = Timing {
    duration: Duration::from_secs(12),
    deadline: Duration::from_secs(10),
    pause: PAUSE,
    release: LIMIT,
};

/// A lease that does not run out while a test waits.
const LONG: Timing = Timing {
    duration: Duration::from_secs(3600),
    deadline: Duration::from_secs(3000),
    pause: PAUSE,
    release: LIMIT,
};

const PAUSE: Duration = Duration::from_millis(200);
/// How long anything may take that does not wait for a lease to run out.
const LIMIT: Duration = Duration::from_secs(60);

fn candidate(world: &World, identity: &str, timing: Timing) -> Candidate {
    Candidate::new(&world.client, &world.namespace, "operator", identity, timing).unwrap()
}

async fn holder(world: &World) -> Option<String> {
    let lease: Lease = world.child("operator").await;
    lease.spec.unwrap().holder_identity
}

#[tokio::test]
async fn one_of_two_leads_for_as_long_as_it_renews_the_lease() {
    let Some(world) = World::without_operator("election").await else {
        return;
    };
    let (first, second) = (
        candidate(&world, "first", SHORT),
        candidate(&world, "second", SHORT),
    );
    first.acquire(|| {}).await;
    tokio::select! {
        () = second.acquire(|| {}) => panic!("two operators lead"),
        () = first.hold() => panic!("the lease was lost"),
        () = tokio::time::sleep(SHORT.duration + PAUSE * 5) => {}
    }
    assert_eq!(holder(&world).await.as_deref(), Some("first"));
}

#[tokio::test]
async fn one_that_stands_by_is_ready_and_leads_at_once_when_the_lease_is_given_back() {
    let Some(world) = World::without_operator("handover").await else {
        return;
    };
    let (first, second) = (
        candidate(&world, "first", LONG),
        candidate(&world, "second", LONG),
    );
    first.acquire(|| {}).await;
    let (reached, standing_by) = tokio::sync::oneshot::channel();
    let waiting = second.acquire(move || reached.send(()).unwrap());
    let hands_over = async {
        standing_by.await.unwrap();
        assert_eq!(holder(&world).await.as_deref(), Some("first"));
        first.release().await;
    };
    let both = async { tokio::join!(waiting, hands_over) };
    tokio::time::timeout(LIMIT, both).await.unwrap();
    assert_eq!(holder(&world).await.as_deref(), Some("second"));
}

#[tokio::test]
async fn a_lease_that_nobody_renews_runs_out() {
    let Some(world) = World::without_operator("expiry").await else {
        return;
    };
    let timing = Timing {
        duration: Duration::from_secs(2),
        ..SHORT
    };
    candidate(&world, "gone", timing).acquire(|| {}).await;
    let begun = std::time::Instant::now();
    let next = candidate(&world, "next", timing);
    tokio::time::timeout(LIMIT, next.acquire(|| {})).await.unwrap();
    assert!(begun.elapsed() >= timing.duration, "it was taken too early");
    assert_eq!(holder(&world).await.as_deref(), Some("next"));
}

#[tokio::test]
async fn a_leader_whose_lease_is_taken_stops() {
    let Some(world) = World::without_operator("taken").await else {
        return;
    };
    let leader = candidate(&world, "leader", LONG);
    leader.acquire(|| {}).await;
    world
        .apply(&json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "operator"},
            "spec": {"holderIdentity": "usurper"},
        }))
        .await;
    tokio::time::timeout(LIMIT, leader.hold()).await.unwrap();
}

#[tokio::test]
async fn an_operator_that_ends_does_not_wait_for_an_api_server_that_does_not_answer() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
    let timing = Timing {
        release: Duration::from_millis(100),
        ..LONG
    };
    let leader = Candidate::new(&client, "silent", "operator", "leader", timing).unwrap();
    tokio::time::timeout(LIMIT, leader.release()).await.unwrap();
}
