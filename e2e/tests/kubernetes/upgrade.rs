//! Upgrades from the previous commit, and the way back, with pods.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use vmcp_cluster::{Cluster, Options, image};
use vmcp_e2e::wait;
use vmcp_external::previous_commit::PreviousCommit;
use vmcp_external::requires;

use crate::support::{
    apply_quick_start, exclusive, get, install_charts, patch_demo, settled, with_state, workspace,
};
use crate::traffic::Traffic;

/// Where a pod has the image of the gateway.
const IMAGE: &str = "/spec/containers/0/image";
const THIS: &str = "vmcp.dev/gateway:dev";
const PREVIOUS: &str = "vmcp.dev/gateway:previous";

/// An older gateway reads the files of a newer operator, and a newer gateway those of an older operator. Gateways of both serve the same sessions,
/// and no call fails on the way.
#[requires(cluster, previous_commit, redis)]
#[test]
fn upgrade_from_previous_commit_fails_no_call() -> anyhow::Result<()> {
    let previous = PreviousCommit::install()?;
    let _exclusive = exclusive();
    let images = tempfile::tempdir()?;
    let mut archives = image::ours(images.path(), image::Profile::Dev)?;
    archives.extend(image::previous(images.path(), &previous)?);
    archives.push(image::redis(images.path())?);
    let cluster = Cluster::up(&Options::default())?;
    for archive in archives {
        cluster.load_image(&archive)?;
    }
    with_state(&cluster, story(&cluster, &previous))?;
    cluster.down()
}

fn story(cluster: &Cluster, previous: &PreviousCommit) -> anyhow::Result<()> {
    let tags = ["image.tag=previous", "gatewayImage.tag=previous"];
    install_charts(cluster, &previous.charts(), &tags)?;
    apply_quick_start(cluster)?;
    use_settings(cluster)?;
    running(cluster, PREVIOUS)?;
    cluster.network().within(|| {
        let traffic = Traffic::start(cluster)?;
        traffic.during("previous operator, this gateway", || {
            patch_demo(cluster, &json!({"image": THIS}))?;
            running(cluster, THIS)
        })?;
        traffic.during("previous operator, gateway back to the previous", || {
            patch_demo(cluster, &json!({"image": PREVIOUS}))?;
            running(cluster, PREVIOUS)
        })?;
        traffic.during("this operator, previous gateway", || {
            install_charts(cluster, &workspace().join("charts"), &[])?;
            reads_new_files(cluster)
        })?;
        traffic.during("this operator, this gateway", || {
            patch_demo(cluster, &json!({"image": null}))?;
            running(cluster, concat!("vmcp.dev/gateway:", env!("CARGO_PKG_VERSION")))
        })?;
        traffic.finish()
    })?
}

/// Waits until the virtual server is ready, with pods of this image alone.
fn running(cluster: &Cluster, image: &str) -> anyhow::Result<()> {
    let pods = settled(cluster, "demo", 2, IMAGE)?;
    ensure!(pods.values().all(|other| other == image), "{pods:?}");
    Ok(())
}

/// The previous gateway takes a hot file of this operator while it runs, and starts with a start-up file of this operator.
fn reads_new_files(cluster: &Cluster) -> anyhow::Result<()> {
    patch_demo(cluster, &json!({"instructions": "Count again."}))?;
    running(cluster, PREVIOUS)?;
    let startup = || get(cluster, "configmap", "{.items[*].metadata.name}");
    let before = startup()?;
    patch_demo(cluster, &json!({"sessionStorage": {"ttl": "25m"}}))?;
    wait::until("another start-up file", Duration::from_secs(30), || {
        ensure!(startup()? != before, "{before}");
        Ok(())
    })?;
    running(cluster, PREVIOUS)
}

/// Sets many fields of the files to values that are not their defaults, because those at their defaults are not written. A new field belongs
/// here one commit after it was added: the previous commit does not know it.
fn use_settings(cluster: &Cluster) -> anyhow::Result<()> {
    let entry = json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "MCPServerEntry",
        "metadata": {"name": "counter"},
        "spec": {
            "groupRef": {"name": "tools"},
            "url": "http://counter:8080/mcp",
            "breaker": {"failures": 7, "openFor": "5s"},
            "concurrency": {"limit": 300, "queue": 50, "wait": "2s"},
            "headers": {"X-Region": {"value": "eu-west-1"}},
            "health": {"interval": "5s", "timeout": "2s", "unhealthyAfter": 4},
            "maxAnswerBytes": 1_048_576,
            "passHeaders": ["X-Tenant"],
            "timeouts": {"call": "90s"},
            "tools": {
                "deadlines": {"sleep": "30s"}, "deny": ["big"], "overrides": {"echo": {"description": "Says it again."}},
            },
        },
    });
    cluster.apply(&entry.to_string())?;
    patch_demo(
        cluster,
        &json!({
            "instructions": "Count.",
            "serverInfo": {"name": "demo", "title": "Demo", "version": "1"},
            "aggregation": {"failureMode": "hide", "names": "strict", "pageSize": 500, "refresh": "30s"},
            "allowedOrigins": ["https://app.example.com"],
            "limits": {
                "initializesPerSecond": 900, "requestBytes": 1_048_576, "requestsInFlight": 1000,
                "requestsInFlightPerSession": 100, "sessions": 5000,
            },
            "streamCallsAfter": "20s",
            "operational": {
                "accessLog": {"sample": 0.01}, "drainDelay": "6s", "idleTimeout": "80s",
                "timeouts": {"call": "1m", "connect": "3s", "idle": "50s"},
            },
            "sessionStorage": {"keyPrefix": "demo:", "ttl": "20m"},
        }),
    )
}
