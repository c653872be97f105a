//! Requests for a session that is not cached while the store does not respond.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use vmcp_crds::config::{Duration as ConfigDuration, SessionState};
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{Answer, Session};
use vmcp_e2e::proxy::{Fault, Proxy};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);

/// The backends `kept`, whose session state must not be lost, and `disposable`, and Redis. The tests start the gateways.
fn start() -> anyhow::Result<Harness<Redis>> {
    Harness::builder()
        .test_server("kept", &[])
        .test_server("disposable", &[])
        .redis(Redis::start(None)?)
        .configure(|recipe| recipe.hot().backends[1].session_state = SessionState::Disposable)
        .replicas(0)
        .start()
}

/// The number of calls that have reached a backend.
fn calls(harness: &Harness<Redis>) -> anyhow::Result<u64> {
    harness.servers.iter().map(TestServer::calls).sum()
}

fn echo(session: &Session, gateway: &Gateway, backend: &str) -> anyhow::Result<Answer> {
    session.call(
        gateway.mcp,
        &format!("{backend}_echo"),
        &json!({"message": "hello"}),
    )
}

fn is_unavailable(answer: &Answer) -> anyhow::Result<()> {
    ensure!(
        (answer.status, answer.error_code()) == (503, -32603) && answer.header("retry-after").is_some(),
        "{answer:?} {}",
        answer.text()
    );
    Ok(())
}

/// A single late reply is not an outage: a terminated session is not served after it.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn ended_session_is_not_served_after_late_reply() -> anyhow::Result<()> {
    let harness = start()?;
    let proxy = Proxy::start(harness.redis.address).await?;
    tokio::task::spawn_blocking(move || {
        let first = harness.recipe.start()?;
        let session = Session::open(first.mcp)?;
        assert_eq!(echo(&session, &first, "disposable")?.status, 200);
        assert_eq!(session.delete(first.mcp)?.status, 200);
        let mut recipe = harness.recipe;
        recipe.config.session_storage.address = Some(proxy.address.to_string());
        // Its cache does not have the session.
        let second = recipe.start()?;
        wait::until("its store answers", PATIENCE, || {
            let status = second.status(&recipe)?.session_store;
            ensure!(status.available, "{status:?}");
            Ok(())
        })?;
        let disposable = &harness.servers[1];
        let before = disposable.calls()?;
        for _ in 0..5 {
            proxy.set(Fault {
                late: Duration::from_millis(400),
                ..Fault::default()
            });
            let answer = echo(&session, &second, "disposable")?;
            proxy.set(Fault::default());
            is_unavailable(&answer)?;
            wait::until("it is gone", PATIENCE, || {
                let answer = echo(&session, &second, "disposable")?;
                ensure!(answer.status == 404, "{answer:?}");
                Ok(())
            })?;
        }
        ensure!(disposable.calls()? == before, "the tool was executed");
        Ok(())
    })
    .await?
}

/// In a detected outage a session is served by its id alone at backends whose state can be lost, until the end that the id names.
#[requires(redis)]
#[test]
fn session_known_by_its_id_is_served_within_its_end() -> anyhow::Result<()> {
    let mut harness = start()?;
    let lifetime = Duration::from_secs(12);
    let storage = &mut harness.recipe.config.session_storage;
    storage.ttl = ConfigDuration::from_secs(lifetime.as_secs());
    storage.max_lifetime = ConfigDuration::from_secs(lifetime.as_secs());
    let mut first = harness.recipe.start()?;
    let opened = Instant::now();
    let session = Session::open(first.mcp)?;
    first.kill()?;
    harness.redis.kill()?;
    let second = harness.recipe.start_without_store()?;
    wait::until("the outage is known", PATIENCE, || {
        let answer = echo(&session, &second, "disposable")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    })?;
    ensure!(
        opened.elapsed() < lifetime,
        "the machine is too slow for this test"
    );
    session.request(second.mcp, "tools/list", &json!({}))?.outcome()?;
    let before = calls(&harness)?;
    is_unavailable(&echo(&session, &second, "kept")?)?;
    assert_eq!(calls(&harness)?, before, "what could be lost was not begun");
    // The id and the clock that it is compared with have a resolution of seconds.
    let over = lifetime + Duration::from_secs(1);
    std::thread::sleep(over.saturating_sub(opened.elapsed()));
    let before = calls(&harness)?;
    for backend in ["disposable", "kept"] {
        is_unavailable(&echo(&session, &second, backend)?)?;
    }
    is_unavailable(&session.request(second.mcp, "tools/list", &json!({}))?)?;
    assert_eq!(calls(&harness)?, before);
    Ok(())
}
