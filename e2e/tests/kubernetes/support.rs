//! What the tests on a cluster share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use vmcp_cluster::{Cluster, Options, image};
use vmcp_e2e::test_server::Stats;
use vmcp_e2e::{http_client, wait};

/// The advertised name of the tool that counts the calls of a session.
pub(crate) const COUNTER: &str = "counter_counter";

/// Time until replaced pods are gone.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// Time between two looks at the pods.
const POLL: Duration = Duration::from_millis(250);

/// The root of the repository.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Lets one test at a time have a cluster: two would be too slow for the time limits of the tests.
pub(crate) fn exclusive() -> MutexGuard<'static, ()> {
    static CLUSTER: Mutex<()> = Mutex::new(());
    CLUSTER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `story` on a cluster of its own that has the images of this workspace, of debug programs, and those that `more` writes to a folder.
pub(crate) fn on_cluster(
    more: &[fn(&Path) -> anyhow::Result<PathBuf>],
    story: impl FnOnce(&Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _exclusive = exclusive();
    let images = tempfile::tempdir()?;
    let mut archives = image::ours(images.path(), image::Profile::Dev)?;
    for write in more {
        archives.push(write(images.path())?);
    }
    let cluster = Cluster::up(&Options::default())?;
    for archive in archives {
        cluster.load_image(&archive)?;
    }
    with_state(&cluster, story(&cluster))?;
    cluster.down()
}

/// Adds the state of the cluster to an error.
pub(crate) fn with_state<T>(cluster: &Cluster, result: anyhow::Result<T>) -> anyhow::Result<T> {
    result.map_err(|error| {
        let state = "kubectl get vmcp -o yaml; kubectl get pods -A -o wide; kubectl get events -A | tail -40; \
                     kubectl logs -n vmcp-system -l app.kubernetes.io/name=vmcp-operator --tail=30 || true; \
                     kubectl logs -l app.kubernetes.io/managed-by=vmcp-operator --tail=30 || true";
        let state = shell(cluster, state).unwrap_or_else(|none| format!("{none:#}"));
        anyhow::anyhow!("{error:#}\n{state}")
    })
}

/// Runs a line of shell in the cluster's network, from the workspace's root.
pub(crate) fn shell(cluster: &Cluster, line: &str) -> anyhow::Result<String> {
    let started = Instant::now();
    let output = cluster
        .command("sh")
        .args(["-euc", line])
        .current_dir(workspace())
        .output()?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("$ {line}   # {:.1} s\n{out}", started.elapsed().as_secs_f32());
    if !output.status.success() {
        bail!("{line}: {}\n{out}{err}", output.status);
    }
    Ok(out.into_owned())
}

pub(crate) fn get(cluster: &Cluster, object: &str, path: &str) -> anyhow::Result<String> {
    cluster.kubectl(["get", object, "-o", &format!("jsonpath={path}")])
}

pub(crate) fn condition(cluster: &Cluster, server: &str, kind: &str) -> anyhow::Result<String> {
    get(
        cluster,
        &format!("vmcp/{server}"),
        &format!("{{.status.conditions[?(@.type==\"{kind}\")].status}}"),
    )
}

/// The gateway pods of a virtual server, also those that are ending.
pub(crate) fn pod_list(cluster: &Cluster, server: &str) -> anyhow::Result<Vec<Value>> {
    pods_of(cluster, &format!("vmcp/{server}"))
}

/// The pods of an object that has a selector in its status, also those that are ending.
pub(crate) fn pods_of(cluster: &Cluster, object: &str) -> anyhow::Result<Vec<Value>> {
    let selector = get(cluster, object, "{.status.selector}")?;
    let list = cluster.kubectl(["get", "pods", "-l", &selector, "-o", "json"])?;
    let mut list: Value = serde_json::from_str(&list)?;
    match list["items"].take() {
        Value::Array(pods) => Ok(pods),
        other => bail!("no list: {other}"),
    }
}

pub(crate) fn is_ending(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

/// The names and addresses of the gateway pods of a virtual server that are not ending.
pub(crate) fn pods(cluster: &Cluster, server: &str) -> anyhow::Result<Vec<(String, SocketAddr)>> {
    let pods = pod_list(cluster, server)?;
    let pods = pods.iter().filter(|pod| !is_ending(pod)).map(|pod| {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let address = pod["status"]["podIP"].as_str().context("no address yet")?;
        Ok((name.to_owned(), format!("{address}:4483").parse()?))
    });
    pods.collect()
}

/// Waits until the virtual server is ready with `count` pods, and those that it replaces are gone. Returns the names of the pods with what
/// is at `pointer` in them, in the order of the names.
pub(crate) fn settled(
    cluster: &Cluster,
    server: &str,
    count: usize,
    pointer: &str,
) -> anyhow::Result<BTreeMap<String, String>> {
    let object = format!("vmcp/{server}");
    // It does not believe a condition that is older than the spec.
    cluster.kubectl(["wait", "--for=condition=Ready", &object, "--timeout=120s"])?;
    let pods = wait::until("the old pods are gone", SETTLE_LIMIT, || {
        std::thread::sleep(POLL);
        let pods = pod_list(cluster, server)?;
        ensure!(
            pods.len() == count && !pods.iter().any(is_ending),
            "{:?}",
            pods.iter()
                .map(|pod| &pod["metadata"]["name"])
                .collect::<Vec<_>>()
        );
        let status = get(cluster, &object, "{.status.replicas}")?;
        ensure!(status.parse() == Ok(count), "status.replicas is {status:?}");
        Ok(pods)
    })?;
    cluster.kubectl(["wait", "--for=condition=Ready", &object, "--timeout=60s"])?;
    let value = |pod: &Value| {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let value = pod.pointer(pointer).and_then(Value::as_str);
        Ok((name.to_owned(), value.unwrap_or_default().to_owned()))
    };
    pods.iter().map(value).collect()
}

/// Installs the charts in the folder `charts` as the README says, or upgrades to them, with these values of the operator's chart.
pub(crate) fn install_charts(cluster: &Cluster, charts: &Path, values: &[&str]) -> anyhow::Result<()> {
    let chart = |name: &str| charts.join(name).to_string_lossy().into_owned();
    let upgrade = ["upgrade", "--install", "--reset-values"];
    cluster.helm(upgrade.iter().chain(&["vmcp-crds", &chart("vmcp-crds")]))?;
    let operator = chart("vmcp-operator");
    let mut arguments = vec![
        "vmcp-operator",
        &operator,
        "--namespace",
        "vmcp-system",
        "--create-namespace",
    ];
    for value in values {
        arguments.extend(["--set", value]);
    }
    cluster.helm(upgrade.iter().chain(&arguments))?;
    let namespace = ["-n", "vmcp-system"];
    let rollout = ["rollout", "status", "deployment/vmcp-operator", "--timeout=120s"];
    cluster.kubectl(rollout.iter().chain(&namespace))?;
    // An operator that ends may still lead.
    wait::until("the old operators are gone", SETTLE_LIMIT, || {
        std::thread::sleep(POLL);
        let pods = [
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/name=vmcp-operator",
            "-o",
            "name",
        ];
        let pods = cluster.kubectl(pods.iter().chain(&namespace))?;
        ensure!(pods.lines().count() == 2, "{pods}");
        Ok(())
    })
}

/// Applies the quick start of the README with another backend `counter`, which the operator does not run.
pub(crate) fn apply_quick_start(cluster: &Cluster) -> anyhow::Result<()> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes");
    let quick_start = workspace().join("examples/quickstart");
    for file in [
        quick_start.join("redis.yaml"),
        tests.join("counter.yaml"),
        quick_start.join("vmcp.yaml"),
    ] {
        let text = std::fs::read_to_string(file)?;
        let documents = text
            .split("\n---\n")
            .filter(|document| !document.contains("\nkind: MCPServer\n"));
        cluster.apply(&documents.collect::<Vec<_>>().join("\n---\n"))?;
    }
    for deployment in ["deployment/redis", "deployment/counter"] {
        cluster.kubectl(["rollout", "status", deployment, "--timeout=60s"])?;
    }
    settled(cluster, "demo", 2, "").map(drop)
}

/// Changes the spec of the virtual server `demo`.
pub(crate) fn patch_demo(cluster: &Cluster, spec: &Value) -> anyhow::Result<()> {
    let patch = json!({"spec": spec}).to_string();
    cluster
        .kubectl(["patch", "vmcp/demo", "--type=merge", "-p", &patch])
        .map(drop)
}

/// The statistics of the MCP server `counter`.
pub(crate) fn stats(counter: SocketAddr) -> anyhow::Result<Stats> {
    Ok(serde_json::from_slice(
        &http_client::get(counter, "/stats", &[])?.body,
    )?)
}

pub(crate) fn address(cluster: &Cluster, service: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let ip = get(cluster, &format!("service/{service}"), "{.spec.clusterIP}")?;
    Ok(SocketAddr::new(ip.parse()?, port))
}

/// Waits until the Service sends to pods that answer, and only to those: each node learns of a change of the pods up to a second later
/// than the API server, and until then a client is sent to pods that are gone.
pub(crate) fn answers(service: SocketAddr) -> anyhow::Result<()> {
    wait::until("the Service answers", Duration::from_secs(20), || {
        for _ in 0..10 {
            let answer = http_client::exchange(service, "DELETE", "/mcp", &[], b"")?;
            anyhow::ensure!(answer.status == 400, "{answer:?}");
        }
        Ok(())
    })
}
