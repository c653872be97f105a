//! Sessions survive the deletion of all gateway pods on a real Kubernetes with two nodes: charts installed by helm, the quick start of the
//! README, and a real client through the Service.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use vmcp_cluster::{Cluster, image};
use vmcp_crds::session_key::{CURRENT, SessionKey};
use vmcp_e2e::client::{self, Client};
use vmcp_e2e::{http_client, wait};
use vmcp_external::requires;

use crate::support::{address, answers, condition, get, on_cluster, pods, pods_of, shell, stats, workspace};

/// The commands of the README's quick start on a cluster: the first shell block below its heading that names helm.
fn quick_start() -> anyhow::Result<Vec<String>> {
    let readme = std::fs::read_to_string(workspace().join("README.md"))?;
    let block = readme
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let block = block.into_iter().find(|block| block.contains("helm install"));
    let block = block.context("the README has no block of commands with helm install")?;
    Ok(block
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect())
}

/// The README's command that deletes all pods.
fn deletion() -> anyhow::Result<String> {
    let readme = std::fs::read_to_string(workspace().join("README.md"))?;
    let mut commands = readme
        .split('`')
        .filter(|text| text.starts_with("kubectl delete pod"));
    commands
        .next()
        .map(str::to_owned)
        .context("the README deletes no pods")
}

/// How many calls of tools each pod has answered.
fn calls(pods: &[(String, SocketAddr)]) -> anyhow::Result<Vec<u64>> {
    let calls = |(_, address): &(String, SocketAddr)| {
        let metrics = http_client::get(SocketAddr::new(address.ip(), 9483), "/metrics", &[])?.text();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("vmcp_requests_total{method=\"tools/call\""));
        Ok(line
            .and_then(|line| line.rsplit(' ').next())
            .map_or(Ok(0), str::parse)?)
    };
    pods.iter().map(calls).collect()
}

/// Calls until every pod has answered one, which a Service that spreads connections does soon.
async fn call_until_all_have_served(url: &str, pods: &[(String, SocketAddr)]) -> anyhow::Result<Vec<String>> {
    let mut counts = Vec::new();
    for _ in 0..50 {
        // A Service spreads connections, and a client keeps its own: each call comes from a client of its own.
        let client = Client::connect(url).await?;
        counts.push(client.call("counter_counter", json!({})).await?);
        client.close().await?;
        if calls(pods)?.into_iter().all(|calls| calls > 0) {
            return Ok(counts);
        }
    }
    bail!("after 50 calls only some pods have served: {:?}", calls(pods)?)
}

/// The admin address of the server `counter`, which has one pod.
fn counter_admin(cluster: &Cluster) -> anyhow::Result<SocketAddr> {
    let pods = pods_of(cluster, "mcps/counter")?;
    let address = pods.first().and_then(|pod| pod["status"]["podIP"].as_str());
    Ok(format!("{}:8081", address.context("no pod has an address")?).parse()?)
}

/// All gateway pods are deleted, and the client's session goes on.
#[requires(cluster, redis, npm)]
#[test]
fn session_survives_deletion_of_all_gateway_pods() -> anyhow::Result<()> {
    on_cluster(&[image::redis, image::everything], quick_start_and_story)
}

fn quick_start_and_story(cluster: &Cluster) -> anyhow::Result<()> {
    for line in quick_start()? {
        shell(cluster, &line)?;
    }
    let tested = shell(cluster, "helm test vmcp-operator --namespace vmcp-system --logs")?;
    anyhow::ensure!(tested.contains("an operator is active"), "{tested}");
    // From here on this thread is in the network namespace of the cluster.
    cluster.network().within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(story(cluster))
    })?
}

async fn story(cluster: &Cluster) -> anyhow::Result<()> {
    let service = address(cluster, "vmcp-demo", 4483)?;
    let url = format!("http://{service}/mcp");
    cluster.kubectl(["wait", "--for=condition=Ready", "mcps", "--all", "--timeout=120s"])?;
    let counter = counter_admin(cluster)?;
    assert_eq!(condition(cluster, "demo", "SessionStorageWarning")?, "False");

    answers(service)?;

    // A client through the Service: one session, both servers, both pods.
    let client = Client::connect(&url).await?;
    // The servers may still be starting; each is offered as soon as it answers.
    let started = Instant::now();
    loop {
        let tools = client
            .tools()
            .await?
            .into_iter()
            .map(|tool| tool.name.to_string());
        let tools: BTreeSet<_> = tools.collect();
        if ["counter_counter", "everything_echo"]
            .iter()
            .all(|tool| tools.contains(*tool))
        {
            break;
        }
        anyhow::ensure!(
            started.elapsed() < Duration::from_secs(60),
            "only {tools:?} are offered"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.call("counter_counter", json!({})).await?, "1");
    assert_eq!(
        client
            .call("everything_echo", json!({"message": "hello"}))
            .await?,
        "Echo: hello"
    );
    let before = pods(cluster, "demo")?;
    assert_eq!(before.len(), 2, "{before:?}");
    call_until_all_have_served(&url, &before).await?;
    assert_eq!(client.call("counter_counter", json!({})).await?, "2");
    let initializes = stats(counter)?.initializes.get(client::NAME).copied();

    // Another session with a connection per request, so that each request may reach either pod.
    let session = http_client::Session::open(service)?;
    assert_eq!(
        session
            .call(service, "counter_counter", &json!({}))?
            .tool_text()?,
        "1"
    );

    // All gateway pods are deleted at once, as the README says it, and others take their place.
    shell(cluster, &deletion()?)?;
    cluster.kubectl(["wait", "--for=condition=Ready", "vmcp/demo", "--timeout=60s"])?;
    let after = wait::until("two other pods", Duration::from_secs(60), || {
        let pods = pods(cluster, "demo")?;
        let all_new = pods.len() == 2 && pods.iter().all(|pod| !before.contains(pod));
        anyhow::ensure!(all_new, "{pods:?}");
        for (_, address) in &pods {
            anyhow::ensure!(
                http_client::get(SocketAddr::new(address.ip(), 9483), "/readyz", &[])?.status == 200
            );
        }
        Ok(pods)
    })?;

    answers(service)?;

    // The clients noticed nothing: same sessions, the counts go on, and no upstream session was initialized again.
    assert_eq!(client.call("counter_counter", json!({})).await?, "3");
    assert_eq!(
        client
            .call("everything_echo", json!({"message": "again"}))
            .await?,
        "Echo: again"
    );
    for expected in ["2", "3", "4", "5"] {
        let answer = session.call(service, "counter_counter", &json!({}))?;
        assert_eq!(answer.tool_text()?, expected);
    }
    let again = stats(counter)?.initializes;
    assert_eq!(
        again.get(client::NAME).copied(),
        initializes,
        "a restored session shook hands again"
    );
    assert_eq!(
        again.get("http-client").copied(),
        Some(1),
        "a restored session shook hands again"
    );

    // A termination at one pod is known to the other.
    assert_eq!(session.delete(after[0].1)?.status, 200);
    let refused = session.call(after[1].1, "counter_counter", &json!({}))?;
    refused.ensure_session_not_found()?;

    a_change_of_backends_reaches_running_pods(cluster, &after)?;
    a_secret_value_reaches_running_pods(cluster)?;
    in_memory_sessions_end_with_their_pod(cluster)
}

/// A change of backends reaches every running gateway in under 2 s, without a restart.
fn a_change_of_backends_reaches_running_pods(
    cluster: &Cluster,
    pods: &[(String, SocketAddr)],
) -> anyhow::Result<()> {
    let key = get(
        cluster,
        "secret/vmcp-demo-session-keys",
        &format!("{{.data.{CURRENT}}}"),
    )?;
    let key = SessionKey::parse(&String::from_utf8(base64(&key)?)?)?;
    let authorization = format!("Bearer {}", key.status_token("default", "demo"));
    let backends = |address: SocketAddr| -> anyhow::Result<Vec<String>> {
        let admin = SocketAddr::new(address.ip(), 9483);
        let status = http_client::get(admin, "/status", &[("authorization", &authorization)])?;
        let status: vmcp_crds::status::GatewayStatus = serde_json::from_slice(&status.body)?;
        Ok(status.backends.into_iter().map(|backend| backend.name).collect())
    };
    let entry = json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "MCPServerEntry",
        "metadata": {"name": "another", "namespace": "default"},
        "spec": {"groupRef": {"name": "tools"}, "url": "http://mcp-counter:8080/mcp"},
    });
    cluster.apply(&entry.to_string())?;
    let started = Instant::now();
    wait::until("every pod knows the new backend", Duration::from_secs(2), || {
        for (_, address) in pods {
            let known = backends(*address)?;
            anyhow::ensure!(known.iter().any(|name| name == "another"), "{known:?}");
        }
        Ok(())
    })?;
    println!(
        "a change of backends reached both pods in {:.2} s",
        started.elapsed().as_secs_f32()
    );
    // The same pods, and no container of them was restarted.
    let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let restarts = cluster.kubectl(["get", "pods", "-o", restarts])?;
    assert!(
        restarts.split_whitespace().all(|count| count == "0"),
        "a container was restarted: {restarts}"
    );
    let now: BTreeSet<_> = self::pods(cluster, "demo")?.into_iter().collect();
    assert_eq!(now, pods.iter().cloned().collect(), "pods were replaced");
    Ok(())
}

/// A backend is served as soon as the Secret of its header exists, and every running pod sends a changed value in under 2 s.
fn a_secret_value_reaches_running_pods(cluster: &Cluster) -> anyhow::Result<()> {
    let entry = json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "MCPServerEntry",
        "metadata": {"name": "guarded", "namespace": "default"},
        "spec": {
            "groupRef": {"name": "tools"}, "url": "http://mcp-counter:8080/mcp",
            "headers": {"X-Token": {"secretKeyRef": {"name": "guarded", "key": "token"}}},
        },
    });
    cluster.apply(&entry.to_string())?;
    wait::until("the missing Secret is reported", Duration::from_secs(60), || {
        let message = get(
            cluster,
            "vmcp/demo",
            "{.status.conditions[?(@.type==\"SecretsResolved\")].message}",
        )?;
        anyhow::ensure!(
            message.contains("names Secret guarded, which does not exist"),
            "{message}"
        );
        Ok(())
    })?;
    // The reference is new, so the pods are replaced.
    cluster.kubectl(["rollout", "status", "deployment/vmcp-demo", "--timeout=120s"])?;
    cluster.kubectl(["wait", "--for=condition=Ready", "vmcp/demo", "--timeout=60s"])?;
    let running = wait::until("only new pods", Duration::from_secs(60), || {
        let pods = pods(cluster, "demo")?;
        anyhow::ensure!(pods.len() == 2, "{pods:?}");
        Ok(pods)
    })?;
    for value in ["one", "two"] {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "guarded", "namespace": "default"},
            "stringData": {"token": value},
        });
        cluster.apply(&secret.to_string())?;
        let started = Instant::now();
        wait::until("every pod sends the value", Duration::from_secs(10), || {
            for (_, address) in &running {
                let session = http_client::Session::open(*address)?;
                let answer = session
                    .call(*address, "guarded_whoami", &json!({}))?
                    .tool_text()?;
                let answer: Value = serde_json::from_str(&answer)?;
                anyhow::ensure!(answer["headers"]["x-token"] == value, "{answer}");
            }
            Ok(())
        })?;
        println!(
            "the value reached both pods in {:.2} s",
            started.elapsed().as_secs_f32()
        );
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
    }
    assert_eq!(pods(cluster, "demo")?, running, "pods were replaced");
    assert_eq!(condition(cluster, "demo", "SecretsResolved")?, "True");
    Ok(())
}

/// With `provider: memory` the session ends with its pod, the client gets 404, and the resource has a warning.
fn in_memory_sessions_end_with_their_pod(cluster: &Cluster) -> anyhow::Result<()> {
    let server = json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "VirtualMCPServer",
        "metadata": {"name": "memory", "namespace": "default"},
        "spec": {"groupRef": {"name": "tools"}, "replicas": 2, "sessionStorage": {"provider": "memory"}},
    });
    cluster.apply(&server.to_string())?;
    cluster.kubectl(["wait", "--for=condition=Ready", "vmcp/memory", "--timeout=60s"])?;
    assert_eq!(condition(cluster, "memory", "SessionStorageWarning")?, "True");
    let before = pods(cluster, "memory")?;
    let session = http_client::Session::open(before[0].1)?;
    assert_eq!(
        session
            .call(before[0].1, "counter_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    cluster.kubectl([&["delete", "pod", "--now"][..], &names].concat())?;
    let service = address(cluster, "vmcp-memory", 4483)?;
    answers(service)?;
    let refused = wait::until("other pods answer", Duration::from_secs(60), || {
        let answer = session.call(service, "counter_counter", &json!({}))?;
        anyhow::ensure!(answer.status != 200, "the old pod still answers");
        Ok(answer)
    })?;
    refused.ensure_session_not_found()
}

fn base64(text: &str) -> anyhow::Result<Vec<u8>> {
    use k8s_openapi::ByteString;
    let ByteString(bytes) = serde_json::from_value(json!(text))?;
    Ok(bytes)
}
