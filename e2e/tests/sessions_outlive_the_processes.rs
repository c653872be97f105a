//! The product's main job, on real input: real MCP servers behind two gateways that share a Redis, a real client in front, and no
//! affinity. Every gateway is killed; the client's next call on the same session succeeds, and a stateful backend goes on counting.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use vmcp_crds::config::{OnStoreOutage, SessionStorage, SessionStorageProvider};
use vmcp_e2e::balancer::{Balancer, Served};
use vmcp_e2e::client::{self, Client};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::raw;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;
use vmcp_peers::process::Signal;
use vmcp_peers::server;

const PASSWORD: &str = "correct horse";

/// Gateways that share `redis`.
fn on_redis(backends: &[(&str, &str)], redis: &Redis) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::new(backends)?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        ..SessionStorage::default()
    };
    recipe.password = Some(PASSWORD.to_owned());
    Ok(recipe)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_gateways_are_killed_and_the_session_goes_on() -> anyhow::Result<()> {
    if ["redis", "npm", "python"].into_iter().any(vmcp_peers::left_out) {
        return Ok(());
    }
    // Three MCP servers, two of which nobody here wrote, and a Redis with a password.
    let (fixture, everything, time) = (Fixture::start(&[])?, server::everything()?, server::time()?);
    let redis = Redis::start(Some(PASSWORD))?;
    let backends = [
        ("fixture", &*fixture.url),
        ("everything", &everything.url),
        ("time", &time.url),
    ];
    let recipe = on_redis(&backends, &redis)?;

    // Two gateways behind a balancer that changes the replica with every request.
    let (mut one, mut two) = (recipe.start()?, recipe.start()?);
    let balancer = Balancer::start(&[one.mcp, two.mcp]).await?;

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
    assert_eq!(served, BTreeSet::from([one.mcp, two.mcp]));
    assert_eq!(fixture.initializes(client::NAME)?, 1);

    // Both are killed without a goodbye, and two others take their place.
    one.kill()?;
    two.kill()?;
    let (one, two) = (recipe.start()?, recipe.start()?);
    balancer.set_replicas(&[one.mcp, two.mcp]);

    // The client has noticed nothing: same session, the count goes on, and nobody shook hands again.
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
        fixture.initializes(client::NAME)?,
        1,
        "a restored session shook hands again"
    );
    // The stream on which the client listens is opened again as soon as it breaks, also while nobody is there; calls were not made then.
    let refused = |served: &Served| served.method == "POST" && served.status >= 500;
    assert!(!balancer.served().iter().any(refused), "{:?}", balancer.served());

    // The end of the session is known everywhere.
    let ids: BTreeSet<_> = balancer
        .served()
        .into_iter()
        .filter_map(|served| served.session)
        .collect();
    assert_eq!(ids.len(), 1, "the client changed its session: {ids:?}");
    let session = raw::Session {
        id: ids.into_iter().next().unwrap(),
    };
    let upstream = fixture.stats()?.deletes;
    assert_eq!(session.delete(one.mcp)?.status, 200);
    for gateway in [&one, &two] {
        let refused = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
        assert_eq!(
            (refused.status, refused.error_code()),
            (404, -32001),
            "{}",
            refused.text()
        );
        let again = session.delete(gateway.mcp)?;
        assert_eq!(
            (again.status, again.error_code()),
            (404, -32001),
            "{}",
            again.text()
        );
    }
    // Its upstream session is deleted too.
    wait::until("the upstream session is deleted", Duration::from_secs(5), || {
        anyhow::ensure!(fixture.stats()?.deletes > upstream, "not yet");
        Ok(())
    })
}

#[test]
fn sessions_in_memory_end_with_the_process() -> anyhow::Result<()> {
    let fixture = Fixture::start(&[])?;
    let recipe = Recipe::new(&[("fixture", &fixture.url)])?;
    let mut gateway = recipe.start()?;
    let session = raw::Session::open(gateway.mcp)?;
    assert_eq!(
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    gateway.kill()?;
    let gateway = recipe.start()?;
    let refused = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
    assert_eq!(
        (refused.status, refused.error_code()),
        (404, -32001),
        "{}",
        refused.text()
    );
    Ok(())
}

/// Where outages are refused the answer is 503 and afterwards nothing is lost.
#[test]
fn refused_outage_answers_503_and_loses_nothing() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let fixture = Fixture::start(&[])?;
    let mut redis = Redis::start(Some(PASSWORD))?;
    let mut recipe = on_redis(&[("fixture", &fixture.url)], &redis)?;
    recipe.config.session_storage.on_store_outage = OnStoreOutage::Refuse;
    let gateway = recipe.start()?;
    let (session, other) = (raw::Session::open(gateway.mcp)?, raw::Session::open(gateway.mcp)?);
    assert_eq!(
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );

    redis.pause()?;
    // What was proved a moment ago still counts.
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
        raw::initialize(gateway.mcp)?,
        // A termination that may not have happened is no success either.
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
    // A gateway without its store is alive, and says what is wrong.
    assert_eq!(raw::get(gateway.admin, "/livez", &[])?.status, 200);
    assert_eq!(raw::get(gateway.admin, "/readyz", &[])?.status, 200);
    assert!(!gateway.status(&recipe)?.session_store.available);
    assert!(gateway.metric("vmcp_session_store_unavailable_total", "")? >= 3.0);

    redis.resume()?;
    let count = wait::until("the session is served again", Duration::from_secs(5), || {
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()
    })?;
    assert_eq!(count, (calls + 1).to_string());
    assert_eq!(
        fixture.initializes("raw")?,
        1,
        "nothing was terminated, and nobody shook hands again"
    );
    Ok(())
}

/// A backend that forgot its sessions is repaired inside the call.
#[test]
fn lost_upstream_session_is_reopened_within_the_call() -> anyhow::Result<()> {
    let mut fixture = Fixture::start(&[])?;
    let recipe = Recipe::new(&[("fixture", &fixture.url)])?;
    let gateway = recipe.start()?;
    let session = raw::Session::open(gateway.mcp)?;
    assert_eq!(
        session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    fixture.restart()?;
    // The fixture counts from the beginning, because it forgot; the client sees a normal answer.
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
    assert_eq!(fixture.initializes("raw")?, 1, "one handshake repairs it");
    assert_eq!(
        gateway.metric("vmcp_upstream_repairs_total", "fixture")? as u64,
        1
    );
    Ok(())
}

#[test]
fn calls_that_arrive_together_open_one_upstream_session() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let fixture = Fixture::start(&[])?;
    let redis = Redis::start(Some(PASSWORD))?;
    let recipe = on_redis(&[("fixture", &fixture.url)], &redis)?;
    let gateways = [recipe.start()?, recipe.start()?];
    let session = raw::Session::open(gateways[0].mcp)?;
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
    // Each of the two may have opened one; the loser deleted its own.
    let opened = fixture.initializes("raw")?;
    assert!((1..=2).contains(&opened), "{opened} handshakes");
    wait::until(
        "the loser's upstream session is deleted",
        Duration::from_secs(5),
        || {
            let stats = fixture.stats()?;
            anyhow::ensure!(stats.deletes == opened - 1, "{stats:?}");
            Ok(())
        },
    )
}

#[test]
fn a_gateway_that_is_told_to_end_finishes_what_it_is_doing() -> anyhow::Result<()> {
    let fixture = Fixture::start(&[])?;
    let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
    recipe.config.drain_delay = vmcp_crds::config::Duration::from_secs(3);
    let mut gateway = recipe.start()?;
    let session = raw::Session::open(gateway.mcp)?;
    let mcp = gateway.mcp;
    let calling = session.clone();
    let call = std::thread::spawn(move || calling.call(mcp, "fixture_sleep", &json!({"ms": 5000})));
    wait::until("the call has reached the backend", Duration::from_secs(5), || {
        anyhow::ensure!(fixture.initializes("raw")? == 1, "not yet");
        Ok(())
    })?;
    gateway.signal(Signal::TERM)?;
    // The balancer learns of the end first.
    wait::until("the gateway says that it drains", Duration::from_secs(3), || {
        let ready = raw::get(gateway.admin, "/readyz", &[])?;
        anyhow::ensure!(
            ready.status == 503 && ready.text().contains("draining"),
            "{}",
            ready.text()
        );
        Ok(())
    })?;
    call.join().unwrap()?.tool_text()?;
    assert!(gateway.wait_until_ended(Duration::from_secs(20))?);
    // Sessions outlive the process: nothing upstream was deleted but the session of its own, in which it looked at the lists.
    let stats = fixture.stats()?;
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
