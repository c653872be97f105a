//! The upstream sessions of an ended session are deleted, and a hanging backend does not delay deletions at others.

use std::time::Duration;

use serde_json::json;
use vmcp_crds::config;
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

/// How many sessions end at once.
const MANY: usize = 150;
/// By then everything is deleted at the good backend. Each deletion at the other one takes 5 s.
const SOON: Duration = Duration::from_secs(8);

/// The backends `hung`, which never answers a DELETE, and `good`. The tests start the gateway.
fn start() -> anyhow::Result<Harness> {
    let builder = Harness::builder()
        .test_server("hung", &[])
        .test_server("good", &[]);
    let harness = builder.replicas(0).start()?;
    hung(&harness).set_faults(&json!({"hang": true, "only_method": "DELETE"}))?;
    Ok(harness)
}

fn hung(harness: &Harness) -> &TestServer {
    &harness.servers[0]
}

fn good(harness: &Harness) -> &TestServer {
    &harness.servers[1]
}

/// Opens `count` sessions, each with an upstream session at both backends.
fn open(gateway: &Gateway, count: usize) -> anyhow::Result<Vec<Session>> {
    let open = |_| {
        let session = Session::open(gateway.mcp)?;
        for tool in ["hung_echo", "good_echo"] {
            session
                .call(gateway.mcp, tool, &json!({"message": "x"}))?
                .tool_text()?;
        }
        Ok(session)
    };
    (0..count).map(open).collect()
}

/// Waits until the good backend has no session but that of the gateway's catalog.
fn wait_until_deleted(good: &TestServer, limit: Duration) -> anyhow::Result<()> {
    wait::until("the good backend's sessions are deleted", limit, || {
        let left = good.stats()?.sessions.len();
        anyhow::ensure!(left == 1, "{left} are left");
        Ok(())
    })
}

/// A hanging backend does not delay deletions of terminated sessions at other backends.
#[test]
fn hanging_backend_does_not_delay_other_deletions() -> anyhow::Result<()> {
    let harness = start()?;
    let gateway = harness.recipe.start()?;
    let sessions = open(&gateway, MANY)?;
    assert_eq!(hung(&harness).stats()?.sessions.len(), MANY + 1);
    for session in &sessions {
        assert!(session.delete(gateway.mcp)?.status < 300);
    }
    wait_until_deleted(good(&harness), SOON)
}

/// A hanging backend does not delay deletions of expired sessions at other backends.
#[test]
fn hanging_backend_does_not_delay_expiry_at_others() -> anyhow::Result<()> {
    let mut harness = start()?;
    // Long enough that the first lives until the last is open.
    let ttl = 10;
    harness.recipe.config.session_storage.ttl = config::Duration::from_secs(ttl);
    let gateway = harness.recipe.start()?;
    drop(open(&gateway, MANY)?);
    assert_eq!(good(&harness).stats()?.sessions.len(), MANY + 1);
    wait::until(
        "the first sessions expire",
        Duration::from_secs(2 * ttl + 10),
        || {
            anyhow::ensure!(good(&harness).stats()?.deletes > 0, "not yet");
            Ok(())
        },
    )?;
    // What was used last expires later, and sweeps are about as far apart as sessions live.
    wait_until_deleted(good(&harness), SOON + Duration::from_secs(ttl * 3 / 2))
}

/// A hanging backend does not delay deletions of sessions that expire later.
#[test]
fn hanging_backend_does_not_delay_later_expiry() -> anyhow::Result<()> {
    let mut harness = start()?;
    let ttl = 4;
    harness.recipe.config.session_storage.ttl = config::Duration::from_secs(ttl);
    let gateway = harness.recipe.start()?;
    let late = open(&gateway, 3)?;
    // Three times as many as are deleted at a time: they take at least 10 s.
    drop(open(&gateway, 48)?);
    wait::until("the first expire", Duration::from_secs(6 * ttl), || {
        for session in &late {
            session.call(gateway.mcp, "good_echo", &json!({"message": "x"}))?;
        }
        anyhow::ensure!(good(&harness).stats()?.deletes >= 48, "not yet");
        Ok(())
    })?;
    // They expire after `ttl`, and sweeps are at most 1.2 times as far apart.
    wait_until_deleted(good(&harness), Duration::from_secs(12))
}
