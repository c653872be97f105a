//! Hand-over of the leadership between processes of the operator, with the time limits of the program.

use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value as Json, json};
use vmcp_external::process::{Process, Signal};
use vmcp_external::requires;
use vmcp_operator::lease::LeaseTiming;

use crate::fake_gateway::FakeGateway;
use crate::harness::{Harness, RULES, eventually, server};
use crate::hot_config::rendered_hash;
use crate::process::{admin_address, request};
use crate::requests::accesses_of;

/// The promised time of a hand-over when the leader is told to stop.
const HANDOVER_TIME: Duration = Duration::from_secs(2);

/// Gives `user` the rights of an operator in the namespace, and to its Lease.
async fn grant(harness: &Harness, user: &str) {
    let group = "rbac.authorization.k8s.io";
    let mut rules: Json = serde_yaml::from_str(RULES).unwrap();
    let lease = json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]});
    rules.as_array_mut().unwrap().push(lease);
    harness
        .apply(&json!({
            "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": "leading-operator"}, "rules": rules,
        }))
        .await;
    harness
        .apply(&json!({
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": user},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "leading-operator"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        }))
        .await;
}

/// Starts a process of the operator with this identity, which is also its user, and waits until it leads or stands by.
async fn start(harness: &Harness, identity: &str) -> Process {
    let user = user_of(harness, identity);
    grant(harness, &user).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"));
    command
        .args(["--watch-namespaces", &harness.namespace, "--lease-name", "vmcp"])
        .args(["--admin-listen", "127.0.0.1:0", "--log-format", "json"])
        .env("KUBECONFIG", server().kubeconfig_as(&user).unwrap())
        .env("POD_NAMESPACE", &harness.namespace)
        .env("POD_NAME", identity);
    let operator = Process::start("operator", &command).unwrap();
    eventually("it is ready", async || {
        let address = admin_address(&operator)?;
        let (head, _) = request(&address, "readyz").await;
        head.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
    operator
}

fn user_of(harness: &Harness, identity: &str) -> String {
    format!("{identity}-of-{}", harness.namespace)
}

/// Waits until `identity` holds the Lease, and returns how long it took.
async fn wait_for_holder(harness: &Harness, identity: &str) -> Duration {
    let begun = Instant::now();
    let is_holder = |lease: &Lease| {
        let holder = lease.spec.as_ref()?.holder_identity.as_deref();
        (holder == Some(identity)).then_some(())
    };
    harness
        .wait_for(&format!("{identity} leads"), "vmcp", is_holder)
        .await;
    begun.elapsed()
}

/// Waits until the operator has applied the gateway image `image`.
async fn wait_for_image(harness: &Harness, image: &str) {
    let has_image = |deployment: &Deployment| {
        let pod = deployment.spec.template.spec.as_ref()?;
        (pod.containers[0].image.as_deref() == Some(image)).then_some(())
    };
    harness
        .wait_for(&format!("{image} is applied"), "vmcp-x", has_image)
        .await;
}

/// A pod whose admin port accepts connections and never answers, so that a reconcile is always waiting for it.
async fn roll_out_silent_pod(harness: &Harness) {
    let gateway = FakeGateway::start(&harness.status_token().await, &rendered_hash(harness).await).await;
    gateway.fall_silent();
    harness.roll_out(&[&gateway]).await;
    harness
        .wait_for_condition("Ready", "False", "GatewayUnreachable")
        .await;
}

// After SIGTERM another process leads within 2 s, although the leader is in the middle of a reconcile that waits for a silent pod. Three times in a row.
#[requires(api_server)]
#[tokio::test]
async fn sigterm_hands_over_within_two_seconds() {
    let harness = Harness::without_operator("sigterm").await;
    let mut leader = start(&harness, "operator-0").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"image": "gateway:0"})).await;
    wait_for_image(&harness, "gateway:0").await;
    roll_out_silent_pod(&harness).await;
    for number in 1..=3 {
        let identity = format!("operator-{number}");
        let standby = start(&harness, &identity).await;
        leader.signal(Signal::TERM).unwrap();
        let elapsed = wait_for_holder(&harness, &identity).await;
        assert!(elapsed < HANDOVER_TIME, "{elapsed:?}");
        let status = eventually("the old leader ends", async || leader.ended().unwrap()).await;
        assert!(status.success(), "{status}");
        let image = format!("gateway:{number}");
        harness.apply_server(json!({"image": image})).await;
        wait_for_image(&harness, &image).await;
        leader = standby;
    }
}

// After SIGKILL another process leads when the Lease has expired: not earlier, and no later than it can notice.
#[requires(api_server)]
#[tokio::test]
async fn sigkill_hands_over_when_lease_expires() {
    let harness = Harness::without_operator("sigkill").await;
    let mut leader = start(&harness, "operator-0").await;
    wait_for_holder(&harness, "operator-0").await;
    let _standby = start(&harness, "operator-1").await;
    let timing = LeaseTiming::default();
    // The standby has to see a renewal, or its own start counts.
    tokio::time::sleep(2 * timing.retry_period).await;
    leader.kill().unwrap();
    let elapsed = wait_for_holder(&harness, "operator-1").await;
    // The last renewal was up to one period before; the standby sees it, and the expiry, up to one period late.
    assert!(
        elapsed > timing.lease_duration - timing.retry_period - Duration::from_secs(1),
        "{elapsed:?}"
    );
    assert!(
        elapsed < timing.lease_duration + 2 * timing.acquire_period + Duration::from_secs(1),
        "{elapsed:?}"
    );
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"image": "gateway:1"})).await;
    wait_for_image(&harness, "gateway:1").await;
}

// A leader that is paused for longer than the Lease lasts writes nothing when it goes on, although its virtual server was changed in the meantime.
#[requires(api_server)]
#[tokio::test]
async fn paused_leader_writes_nothing_after_its_lease() {
    let harness = Harness::without_operator("paused").await;
    let mut leader = start(&harness, "operator-0").await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(json!({"image": "gateway:1"})).await;
    wait_for_image(&harness, "gateway:1").await;
    roll_out_silent_pod(&harness).await;
    let _standby = start(&harness, "operator-1").await;
    leader.signal(Signal::STOP).unwrap();
    wait_for_holder(&harness, "operator-1").await;
    harness.apply_server(json!({"image": "gateway:2"})).await;
    wait_for_image(&harness, "gateway:2").await;

    let user = user_of(&harness, "operator-0");
    let writes = || {
        let all = accesses_of(server(), &user, &harness.namespace);
        all.into_iter()
            .filter(crate::requests::Access::is_write)
            .collect::<Vec<_>>()
    };
    let before = writes();
    leader.signal(Signal::CONT).unwrap();
    let status = eventually("the old leader ends", async || leader.ended().unwrap()).await;
    assert!(!status.success(), "{status}");
    let after = writes();
    assert_eq!(after.len(), before.len(), "{after:?}");
}
