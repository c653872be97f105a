//! Groups whose members are found by reference or by label, and their status.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::DeleteParams;
use serde_json::{Value as Json, json};
use vmcp_crds::condition::find;
use vmcp_crds::config::HotConfig;
use vmcp_crds::v1alpha1::{MCPGroup, MCPServerEntry};
use vmcp_external::requires;

use crate::harness::Harness;

async fn apply_group(harness: &Harness, name: &str, spec: Json) {
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPGroup", "metadata": {"name": name}, "spec": spec,
        }))
        .await;
}

async fn apply_entry(harness: &Harness, name: &str, labels: Json, mut spec: Json) {
    spec["url"] = json!(format!("http://{name}:8000/mcp"));
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": name, "labels": labels},
            "spec": spec,
        }))
        .await;
}

async fn apply_server(harness: &Harness, name: &str, group: &str) {
    harness
        .apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": name},
            "spec": {"groupRef": {"name": group}},
        }))
        .await;
}

/// Waits until the gateways of a virtual server get exactly these backends.
async fn wait_for_backends(harness: &Harness, server: &str, expected: &[&str]) {
    let has = |hot: &ConfigMap| {
        let hot = HotConfig::parse(&hot.data.as_ref()?["backends.yaml"], "hot".as_ref()).ok()?;
        let names: Vec<&str> = hot.backends.iter().map(|backend| backend.name.as_str()).collect();
        (names == expected).then_some(())
    };
    let what = format!("{server} has the backends {expected:?}");
    harness
        .wait_for(&what, &format!("vmcp-{server}-backends"), has)
        .await;
}

/// Waits until a group has a condition `Ready` with this reason, and these members.
async fn wait_for_members(harness: &Harness, name: &str, reason: &str, members: &[&str]) -> MCPGroup {
    let has = |group: &MCPGroup| {
        let status = group.status.as_ref()?;
        let names: Vec<&str> = status.members.iter().map(|member| member.name.as_str()).collect();
        let is_current = status.observed_generation == group.metadata.generation
            && status.member_count == i32::try_from(members.len()).ok();
        let ready = find(&status.conditions, "Ready")?;
        (is_current && names == members && ready.reason == reason).then(|| group.clone())
    };
    let what = format!("{name} is {reason} with {members:?}");
    harness.wait_for(&what, name, has).await
}

// An entry is in every group whose selector matches its labels. When its labels change, the gateways of the old and of the new group
// take the change.
#[requires(api_server)]
#[tokio::test]
async fn label_change_moves_entry_between_groups() {
    let harness = Harness::start("groups").await;
    let of_team = |team: &str| json!({"selector": {"matchLabels": {"team": team}}});
    apply_group(&harness, "a", of_team("a")).await;
    apply_group(&harness, "b", of_team("b")).await;
    let every =
        json!({"selector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]}});
    apply_group(&harness, "both", every).await;
    apply_entry(&harness, "time", json!({"team": "a"}), json!({})).await;
    apply_entry(&harness, "named", json!({}), json!({"groupRef": {"name": "b"}})).await;
    apply_entry(&harness, "alone", json!({}), json!({})).await;
    for group in ["a", "b", "both"] {
        apply_server(&harness, group, group).await;
    }
    wait_for_backends(&harness, "a", &["time"]).await;
    wait_for_backends(&harness, "b", &["named"]).await;
    wait_for_backends(&harness, "both", &["time"]).await;
    wait_for_members(&harness, "a", "MembersFound", &["time"]).await;
    wait_for_members(&harness, "b", "MembersFound", &["named"]).await;

    apply_entry(&harness, "time", json!({"team": "b"}), json!({})).await;
    wait_for_backends(&harness, "a", &[]).await;
    wait_for_backends(&harness, "b", &["named", "time"]).await;
    wait_for_backends(&harness, "both", &["time"]).await;
    wait_for_members(&harness, "a", "NoMembers", &[]).await;
    wait_for_members(&harness, "b", "MembersFound", &["named", "time"]).await;

    apply_group(&harness, "a", json!({"selector": {}})).await;
    wait_for_backends(&harness, "a", &["alone", "named", "time"]).await;
    let entries = harness.api::<MCPServerEntry>();
    entries.delete("named", &DeleteParams::default()).await.unwrap();
    wait_for_members(&harness, "a", "MembersFound", &["alone", "time"]).await;
}

// The status of a group names the members that are left out, and why. It is not written again while nothing changes.
#[requires(api_server)]
#[tokio::test]
async fn group_status_says_who_is_left_out() {
    let harness = Harness::start("group-status").await;
    apply_group(&harness, "group", json!({})).await;
    wait_for_members(&harness, "group", "NoMembers", &[]).await;
    harness.apply_member("time").await;
    apply_entry(
        &harness,
        "odd",
        json!({}),
        json!({"groupRef": {"name": "group"}, "prefix": "x_"}),
    )
    .await;
    wait_for_members(&harness, "group", "MembersFound", &["odd", "time"]).await;
    harness
        .apply_server(json!({"aggregation": {"strategy": "none"}}))
        .await;
    let problem = |group: &MCPGroup| group.status.as_ref()?.members.first()?.problem.clone();
    let problem = harness
        .wait_for("the problem is in the status", "group", problem)
        .await;
    assert!(
        problem.starts_with("left out by VirtualMCPServer x: spec.prefix: "),
        "{problem}"
    );
    let group = wait_for_members(&harness, "group", "MembersFound", &["odd", "time"]).await;
    let ready = group.status.unwrap().conditions.remove(0);
    assert_eq!(ready.message, "members: 2, left out: 1 (odd)");

    harness.settle().await;
    let (writes, versions) = (harness.write_count(), harness.versions().await);
    for _ in 0..3 {
        harness.reconcile().await;
    }
    assert_eq!(harness.write_count(), writes, "requests that write");
    assert_eq!(harness.versions().await, versions, "objects that changed");

    // A missing Secret leaves a member out, too, until it exists.
    let headers = json!({"X-Token": {"secretKeyRef": {"name": "token", "key": "t"}}});
    let time = json!({"groupRef": {"name": "group"}, "headers": headers});
    apply_entry(&harness, "time", json!({}), time).await;
    let group = wait_for_members(&harness, "group", "NoUsableMember", &["odd", "time"]).await;
    let problem = group.status.unwrap().members[1].problem.clone().unwrap();
    assert!(
        problem.starts_with(
            "left out by VirtualMCPServer x: spec.headers.X-Token.secretKeyRef names Secret token"
        ),
        "{problem}"
    );
    let token = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}, "stringData": {"t": "x"}});
    harness.apply(&token).await;
    wait_for_members(&harness, "group", "MembersFound", &["odd", "time"]).await;

    let entries = harness.api::<MCPServerEntry>();
    entries.delete("time", &DeleteParams::default()).await.unwrap();
    wait_for_members(&harness, "group", "NoUsableMember", &["odd"]).await;
}
