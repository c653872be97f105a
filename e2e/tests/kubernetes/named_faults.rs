//! Whatever fails in the cluster, `kubectl describe` of the virtual server names it within half a minute.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_cluster::{Cluster, image};
use vmcp_e2e::wait;
use vmcp_external::requires;

use crate::support::{
    apply_quick_start, condition, get, install_charts, on_cluster, patch_demo, settled, workspace,
};

/// Time in which a fault must be named.
const LIMIT: Duration = Duration::from_secs(30);
/// Determines the order of the faults.
const SEED: u64 = 17;

type Step = fn(&Cluster) -> anyhow::Result<()>;

/// A fault that a cluster can have.
struct Fault {
    what: &'static str,
    inject: Step,
    /// What `kubectl describe` must say.
    words: &'static [&'static str],
    heal: Step,
}

/// The faults that can be healed.
static FAULTS: [Fault; 7] = [
    Fault {
        what: "an image that cannot be pulled",
        inject: |cluster| patch_demo(cluster, &json!({"image": "127.0.0.1:1/gateway:missing"})),
        words: &[
            "PodNotRunning",
            "container gateway: ErrImagePull: ",
            "127.0.0.1:1/gateway:missing",
            "look at `kubectl describe pod vmcp-demo-",
        ],
        heal: |cluster| patch_demo(cluster, &json!({"image": null})),
    },
    Fault {
        what: "a container that ends again and again",
        // The test server knows no argument of the gateway.
        inject: |cluster| patch_demo(cluster, &json!({"image": "vmcp.dev/test-server:dev"})),
        words: &[
            "PodNotRunning",
            "container gateway: ended with exit code 2 (Error)",
            "look at `kubectl logs vmcp-demo-",
        ],
        heal: |cluster| patch_demo(cluster, &json!({"image": null})),
    },
    Fault {
        what: "Redis has stopped",
        inject: |cluster| run(cluster, &["scale", "deployment/redis", "--replicas=0"]),
        words: &["SessionStoreUnavailable", "cannot use Redis: "],
        heal: |cluster| {
            run(cluster, &["scale", "deployment/redis", "--replicas=1"])?;
            run(
                cluster,
                &["rollout", "status", "deployment/redis", "--timeout=60s"],
            )?;
            wait::until("the gateways reach Redis", LIMIT, || {
                let status = condition(cluster, "demo", "SessionStorageReady")?;
                ensure!(status == "True", "{status}");
                Ok(())
            })
        },
    },
    Fault {
        what: "a Secret was deleted",
        inject: |cluster| run(cluster, &["delete", "secret", "redis"]),
        words: &["SecretNotFound", "names Secret redis, which does not exist"],
        heal: |cluster| {
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"},
                "stringData": {"password": "change-me"},
            });
            cluster.apply(&secret.to_string())
        },
    },
    Fault {
        what: "a right was taken away",
        inject: |cluster| {
            change_rights(cluster, |verbs| verbs.retain(|verb| verb != "patch"))?;
            patch_demo(cluster, &json!({"instructions": "Without the right."}))
        },
        words: &[
            "ApplyRefused",
            "cannot patch resource \"configmaps\"",
            "tries again within 30 seconds",
        ],
        heal: |cluster| change_rights(cluster, |verbs| verbs.push(json!("patch"))),
    },
    Fault {
        what: "a webhook does not answer",
        inject: |cluster| {
            cluster.apply(&webhook().to_string())?;
            patch_demo(
                cluster,
                &json!({"service": {"annotations": {"example.com/a": "b"}}}),
            )
        },
        words: &["ApplyFailed", "cannot apply Service", "down.example.com"],
        heal: |cluster| run(cluster, &["delete", "validatingwebhookconfiguration", "down"]),
    },
    Fault {
        what: "a quota allows no more pods",
        inject: |cluster| {
            let quota = json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-more-pods"},
                "spec": {"hard": {"pods": "1"}},
            });
            cluster.apply(&quota.to_string())?;
            wait::until("the quota is enforced", LIMIT, || {
                let hard = get(cluster, "resourcequota/no-more-pods", "{.status.hard.pods}")?;
                ensure!(hard == "1", "{hard:?}");
                Ok(())
            })?;
            let pod = settled(cluster, "demo", 2, "")?.into_keys().next();
            run(
                cluster,
                &["delete", "pod", &pod.context("no pod")?, "--wait=false"],
            )
        },
        words: &[
            "PodCreationFailed",
            "exceeded quota: no-more-pods",
            "look at `kubectl describe replicaset vmcp-demo-",
        ],
        heal: |cluster| run(cluster, &["delete", "resourcequota", "no-more-pods"]),
    },
];

/// Each fault is named within 30 seconds, in an order that is random and the same each time, and the virtual server is ready again when it is healed.
#[requires(cluster, redis)]
#[test]
fn each_fault_is_named_by_kubectl_describe() -> anyhow::Result<()> {
    on_cluster(&[image::redis], story)
}

fn story(cluster: &Cluster) -> anyhow::Result<()> {
    install_charts(cluster, &workspace().join("charts"), &[])?;
    apply_quick_start(cluster)?;
    for fault in shuffled() {
        println!("# {}", fault.what);
        (fault.inject)(cluster)?;
        is_named(cluster, fault.what, fault.words)?;
        (fault.heal)(cluster)?;
        settled(cluster, "demo", 2, "").with_context(|| format!("after {}", fault.what))?;
    }
    lost_node_is_named(cluster)
}

/// The last fault, because a node does not come back. The pods move when it is removed from the cluster.
fn lost_node_is_named(cluster: &Cluster) -> anyhow::Result<()> {
    // Without Redis, the loss of the node would be two faults.
    let redis = get(
        cluster,
        "pods",
        "{.items[?(@.metadata.labels.app==\"redis\")].spec.nodeName}",
    )?;
    let (number, node) = if redis == "node1" {
        (2, "node2")
    } else {
        (1, "node1")
    };
    let pods_of_node = [
        "get",
        "pods",
        "--selector=app.kubernetes.io/instance=demo",
        &format!("--field-selector=spec.nodeName={node}"),
        "--output=name",
    ];
    if cluster.kubectl(pods_of_node)?.is_empty() {
        run(cluster, &["cordon", &redis])?;
        let pod = settled(cluster, "demo", 2, "")?.into_keys().next();
        run(
            cluster,
            &["delete", "pod", &pod.context("no pod")?, "--wait=false"],
        )?;
        settled(cluster, "demo", 2, "")?;
        run(cluster, &["uncordon", &redis])?;
    }
    let what = format!("{node} is lost");
    println!("# {what}");
    cluster.kill_node(number)?;
    is_named(cluster, &what, &[&format!("node {node} ")])?;
    run(cluster, &["delete", "node", node])?;
    settled(cluster, "demo", 2, "").with_context(|| what).map(drop)
}

/// The faults in the order that follows from [`SEED`] (Fisher and Yates, with a linear congruential generator).
fn shuffled() -> Vec<&'static Fault> {
    let mut faults: Vec<&Fault> = FAULTS.iter().collect();
    let mut state = SEED;
    for last in (1..faults.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        faults.swap(last, (state >> 33) as usize % (last + 1));
    }
    faults
}

fn is_named(cluster: &Cluster, what: &str, words: &[&str]) -> anyhow::Result<()> {
    let started = Instant::now();
    wait::until(what, LIMIT, || {
        std::thread::sleep(Duration::from_millis(250));
        let text = cluster.kubectl(["describe", "vmcp/demo"])?;
        let missing: Vec<_> = words.iter().filter(|words| !text.contains(**words)).collect();
        ensure!(missing.is_empty(), "{missing:?} are not in {text}");
        Ok(())
    })?;
    println!("# {what}: named after {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}

fn run(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<()> {
    cluster.kubectl(arguments).map(drop)
}

/// Changes what the operator may do with ConfigMaps.
fn change_rights(cluster: &Cluster, change: fn(&mut Vec<Value>)) -> anyhow::Result<()> {
    let role = cluster.kubectl(["get", "clusterrole/vmcp-operator", "-o", "json"])?;
    let mut role: Value = serde_json::from_str(&role)?;
    let rules = role["rules"].as_array_mut().context("no rules")?;
    let rule = rules
        .iter_mut()
        .find(|rule| rule["resources"] == json!(["configmaps"]))
        .context("no rule for ConfigMaps")?;
    change(rule["verbs"].as_array_mut().context("no verbs")?);
    let patch = json!({"rules": role["rules"]}).to_string();
    run(
        cluster,
        &["patch", "clusterrole/vmcp-operator", "--type=merge", "-p", &patch],
    )
}

/// A webhook that the API server must ask before it writes a Service of the namespace, and that does not answer.
fn webhook() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "down"},
        "webhooks": [{
            "name": "down.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://127.0.0.1:1/"}, "failurePolicy": "Fail",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["services"], "operations": ["*"], "scope": "*",
            }],
        }],
    })
}
