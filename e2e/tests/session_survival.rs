//! Sessions survive their gateways: real MCP servers behind two gateways that share Redis, a real client, and no affinity. Every gateway is
//! killed. The client's next call in the same session succeeds, and a stateful backend goes on counting.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use vmcp_crds::config::OnStoreOutage;
use vmcp_e2e::balancer::Served;
use vmcp_e2e::client::{self, Client};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;
use vmcp_external::process::Signal;
use vmcp_external::requires;
use vmcp_external::server;

const PASSWORD: &str = "correct horse";

#[requires(redis, npm, python)]
#[tokio::test(flavor = "multi_thread")]
async fn session_survives_kill_of_both_gateways() -> anyhow::Result<()> {
    // Three MCP servers, two of which are third-party, a Redis with a password, and two gateways behind a balancer that changes the replica
    // with every request.
    let (everything, time) = (server::everything()?, server::time()?);
    let mut harness = Harness::builder()
        .test_server("fixture", &[])
        .backend("everything", &everything.url)
        .backend("time", &time.url)
        .redis(Redis::start(Some(PASSWORD))?)
        .replicas(2)
        .start_balanced()
        .await?;
    let balancer = harness.balancer()?.clone();

    // The client sees one server, and calls each of the three.
    let client = Client::connect(&balancer.url()).await?;
    let tools: BTreeSet<String> = client
        .tools()
        .await?
        .into_iter()
        .map(|tool| tool.name.to_string())
        .collect();
    for tool in ["fixture_counter", "everything_echo", "time_get_current_time"] {
        assert!(tools.contains(tool), "{tool} is not among {tools:?}");
    }
    assert_eq!(client.call("fixture_counter", json!({})).await?, "1");
    assert_eq!(client.call("fixture_counter", json!({})).await?, "2");
    assert_eq!(
        client
            .call("everything_echo", json!({"message": "hello"}))
            .await?,
        "Echo: hello"
    );
    assert!(
        client
            .call("time_get_current_time", json!({"timezone": "UTC"}))
            .await?
            .contains("UTC")
    );

    // Both gateways served the session, and the backend saw one client.
    let served: BTreeSet<_> = balancer
        .served()
        .into_iter()
        .filter(|served| served.status == 200)
        .collect_replicas();
    assert_eq!(served, BTreeSet::from_iter(harness.addresses()));
    assert_eq!(harness.server().initializes(client::NAME)?, 1);

    // Both are killed, and two others replace them.
    harness.kill_gateways()?;
    harness.replace_gateways()?;
    let ([one, two], test_server) = (harness.all()?, harness.server());

    // The client noticed nothing: same session, the count goes on, and no upstream session was initialized again.
    assert_eq!(client.call("fixture_counter", json!({})).await?, "3");
    assert_eq!(client.call("fixture_counter", json!({})).await?, "4");
    assert_eq!(
        client
            .call("everything_echo", json!({"message": "again"}))
            .await?,
        "Echo: again"
    );
    assert!(
        client
            .call("time_get_current_time", json!({"timezone": "UTC"}))
            .await?
            .contains("UTC")
    );
    assert_eq!(
        test_server.initializes(client::NAME)?,
        1,
        "an upstream session was initialized again"
    );
    // The client reopens its stream as soon as it breaks, also while no gateway runs. It made no calls then.
    let refused = |served: &Served| served.method == "POST" && served.status >= 500;
    assert!(!balancer.served().iter().any(refused), "{:?}", balancer.served());

    // The end of the session is known everywhere.
    let ids: BTreeSet<_> = balancer
        .served()
        .into_iter()
        .filter_map(|served| served.session)
        .collect();
    assert_eq!(ids.len(), 1, "the client changed its session: {ids:?}");
    let session = Session {
        id: ids.into_iter().next().unwrap(),
    };
    let upstream = test_server.stats()?.deletes;
    assert_eq!(session.delete(one.mcp)?.status, 200);
    for gateway in [one, two] {
        let refused = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
        refused.ensure_session_not_found()?;
        session.delete(gateway.mcp)?.ensure_session_not_found()?;
    }
    // Its upstream session is deleted too.
    wait::until("the upstream session is deleted", Duration::from_secs(5), || {
        anyhow::ensure!(test_server.stats()?.deletes > upstream, "not yet");
        Ok(())
    })
}

/// Sessions in memory end with their process.
#[test]
fn memory_sessions_end_with_process() -> anyhow::Result<()> {
    let mut harness = Harness::builder().test_server("fixture", &[]).start()?;
    let [mut gateway] = harness.take_gateways()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    gateway.kill()?;
    let gateway = harness.recipe.start()?;
    let refused = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
    refused.ensure_session_not_found()
}

/// With `onStoreOutage: Refuse` an outage is answered with 503, and nothing is lost.
#[requires(redis)]
#[test]
fn refused_outage_answers_503_and_loses_nothing() -> anyhow::Result<()> {
    let mut harness = Harness::builder()
        .test_server("fixture", &[])
        .redis(Redis::start(Some(PASSWORD))?)
        .configure(|recipe| recipe.config.session_storage.on_store_outage = OnStoreOutage::Refuse)
        .start()?;
    let [gateway] = harness.take_gateways()?;
    let (session, other) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    assert_eq!(
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );

    harness.redis.pause()?;
    // A fresh cache entry is still used.
    let mut calls = 1;
    wait::until("the session is refused", Duration::from_secs(10), || {
        let answer = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
        if answer.status == 200 {
            calls += 1;
        }
        anyhow::ensure!(answer.status == 503, "{}", answer.text());
        Ok(())
    })?;
    let answers = [
        session.call(gateway.mcp, "fixture_counter", &json!({}))?,
        http_client::initialize(gateway.mcp)?,
        // A termination whose outcome is unknown is not reported as a success.
        other.delete(gateway.mcp)?,
    ];
    for answer in answers {
        assert_eq!(
            (answer.status, answer.error_code()),
            (503, -32603),
            "{}",
            answer.text()
        );
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    // A gateway without its store is live and ready, and reports the outage.
    assert_eq!(http_client::get(gateway.admin, "/livez", &[])?.status, 200);
    assert_eq!(http_client::get(gateway.admin, "/readyz", &[])?.status, 200);
    // An outage is reported after a second.
    wait::until("the outage is reported", Duration::from_secs(10), || {
        anyhow::ensure!(
            !gateway.status(&harness.recipe)?.session_store.available,
            "not yet"
        );
        Ok(())
    })?;
    assert!(gateway.metric("vmcp_session_store_unavailable_total", "")? >= 3.0);

    harness.redis.resume()?;
    let count = wait::until("the session is served again", Duration::from_secs(5), || {
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()
    })?;
    assert_eq!(count, (calls + 1).to_string());
    assert_eq!(
        harness.server().initializes("http-client")?,
        1,
        "nothing was terminated, and no upstream session was initialized again"
    );
    Ok(())
}

/// An upstream session that the backend has lost is reopened within the call.
#[test]
fn lost_upstream_session_is_reopened_within_the_call() -> anyhow::Result<()> {
    let mut harness = Harness::builder().test_server("fixture", &[]).start()?;
    let [gateway] = harness.take_gateways()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    harness.servers[0].restart()?;
    // The restarted test server counts from the beginning, and the client sees a normal response.
    assert_eq!(
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    assert_eq!(
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?,
        "2"
    );
    assert_eq!(
        harness.server().initializes("http-client")?,
        1,
        "one handshake repairs it"
    );
    assert_eq!(
        gateway.metric("vmcp_upstream_repairs_total", "fixture")? as u64,
        1
    );
    Ok(())
}

/// Concurrent first calls use one upstream session, also at two gateways.
#[requires(redis)]
#[test]
fn concurrent_calls_open_one_upstream_session() -> anyhow::Result<()> {
    let builder = Harness::builder().test_server("fixture", &[]);
    let harness = builder.redis(Redis::start(Some(PASSWORD))?).replicas(2).start()?;
    let (gateways, test_server) = (harness.all::<2>()?, harness.server());
    let session = Session::open(gateways[0].mcp)?;
    let calls: Vec<_> = (0..8)
        .map(|call| {
            let (session, gateway) = (session.clone(), gateways[call % 2].mcp);
            std::thread::spawn(move || session.call(gateway, "fixture_counter", &json!({}))?.tool_text())
        })
        .collect();
    let mut counts = Vec::new();
    for call in calls {
        counts.push(call.join().unwrap()?.parse::<u64>()?);
    }
    counts.sort_unstable();
    assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7, 8]);
    // Each gateway may have opened one. The loser deletes its own.
    let opened = test_server.initializes("http-client")?;
    assert!((1..=2).contains(&opened), "{opened} handshakes");
    wait::until(
        "the loser's upstream session is deleted",
        Duration::from_secs(5),
        || {
            let stats = test_server.stats()?;
            anyhow::ensure!(stats.deletes == opened - 1, "{stats:?}");
            Ok(())
        },
    )
}

/// After SIGTERM a running call finishes, and its session stays.
#[test]
fn sigterm_lets_running_call_finish() -> anyhow::Result<()> {
    let drain_delay = vmcp_crds::config::Duration::from_secs(3);
    let builder = Harness::builder().test_server("fixture", &[]);
    let builder = builder.configure(|recipe| recipe.config.drain_delay = drain_delay);
    let mut harness = builder.start()?;
    let ([mut gateway], test_server) = (harness.take_gateways()?, harness.server());
    let session = Session::open(gateway.mcp)?;
    let mcp = gateway.mcp;
    let calling = session.clone();
    let call = std::thread::spawn(move || calling.call(mcp, "fixture_sleep", &json!({"ms": 5000})));
    wait::until("the call has reached the backend", Duration::from_secs(5), || {
        anyhow::ensure!(test_server.initializes("http-client")? == 1, "not yet");
        Ok(())
    })?;
    gateway.signal(Signal::TERM)?;
    // The balancer learns of the end first.
    wait::until("the gateway says that it drains", Duration::from_secs(3), || {
        let ready = http_client::get(gateway.admin, "/readyz", &[])?;
        anyhow::ensure!(
            ready.status == 503 && ready.text().contains("draining"),
            "{}",
            ready.text()
        );
        Ok(())
    })?;
    call.join().unwrap()?.tool_text()?;
    assert!(gateway.wait_until_ended(Duration::from_secs(20))?);
    // Sessions outlive the process: only the upstream session of its catalog was deleted.
    let stats = test_server.stats()?;
    assert_eq!((stats.deletes, stats.sessions.len()), (1, 1), "{stats:?}");
    Ok(())
}

/// The replicas that served.
trait Replicas {
    fn collect_replicas(self) -> BTreeSet<std::net::SocketAddr>;
}

impl<I: Iterator<Item = Served>> Replicas for I {
    fn collect_replicas(self) -> BTreeSet<std::net::SocketAddr> {
        self.map(|served| served.replica).collect()
    }
}
