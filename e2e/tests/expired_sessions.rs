//! An expired session leaves nothing behind at the backends and in the store.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use vmcp_crds::config;
use vmcp_e2e::harness::{Builder, Harness};
use vmcp_e2e::http_client;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

/// The longest wait for an expected event.
const LIMIT: Duration = Duration::from_secs(30);

/// Two gateways whose sessions expire after two seconds.
fn two_gateways<'a>() -> Builder<'a> {
    Harness::builder()
        .test_server("fixture", &[])
        .configure(|recipe| recipe.config.session_storage.ttl = config::Duration::from_secs(2))
        .replicas(2)
}

fn open_at(test_server: &TestServer) -> anyhow::Result<BTreeSet<String>> {
    Ok(test_server.stats()?.sessions.into_iter().collect())
}

/// Opens two sessions and uses one of them. The upstream session of the other one is deleted. A replica does that alone where they share a store.
fn idle_session_ends<R>(harness: &mut Harness<R>, is_store_shared: bool) -> anyhow::Result<()> {
    let [mut first, second] = harness.take_gateways()?;
    let test_server = harness.server();
    let before = open_at(test_server)?;
    let unused = http_client::Session::open(first.mcp)?;
    assert_eq!(
        unused
            .call(first.mcp, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    let of_unused: BTreeSet<String> = open_at(test_server)?.difference(&before).cloned().collect();
    assert_eq!(of_unused.len(), 1, "{of_unused:?}");
    // With memory each gateway ends its own sessions. With Redis any gateway ends them.
    let survivor = if is_store_shared {
        first.kill()?;
        &second
    } else {
        &first
    };
    let used = http_client::Session::open(survivor.mcp)?;
    let mut count = 0;
    wait::until("the upstream session is deleted", LIMIT, || {
        count += 1;
        let counted = used
            .call(survivor.mcp, "fixture_counter", &json!({}))?
            .tool_text()?;
        assert_eq!(counted, count.to_string(), "use keeps a session and its state");
        anyhow::ensure!(open_at(test_server)?.is_disjoint(&of_unused), "it is there");
        Ok(())
    })?;
    let refused = unused.call(survivor.mcp, "fixture_counter", &json!({}))?;
    assert_eq!(refused.status, 404);
    Ok(())
}

/// The upstream sessions of an idle session are deleted by any replica.
#[requires(redis)]
#[test]
fn any_replica_deletes_upstreams_of_idle_session() -> anyhow::Result<()> {
    let mut harness = two_gateways().redis(Redis::start(None)?).start()?;
    idle_session_ends(&mut harness, true)?;
    // Only the used session is left.
    let records: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
    assert_eq!(records.len(), 1, "{records:?}");
    Ok(())
}

/// The upstream sessions of an idle session in memory are deleted.
#[test]
fn memory_store_deletes_upstreams_of_idle_session() -> anyhow::Result<()> {
    idle_session_ends(&mut two_gateways().start()?, false)
}

/// A session whose record a newer gateway wrote gets 503. Other sessions work.
#[requires(redis)]
#[test]
fn session_of_newer_gateway_gets_503() -> anyhow::Result<()> {
    let mut harness = Harness::builder().redis(Redis::start(None)?).start()?;
    let [first] = harness.take_gateways()?;
    let (redis, recipe) = (&harness.redis, &harness.recipe);
    let strange = http_client::Session::open(first.mcp)?;
    let keys: Vec<String> = redis.command(&["KEYS", "*:s:*"])?;
    redis.change_field(&keys[0], "fixed", |fixed| fixed.replacen("1 ", "2 ", 1))?;
    // A new replica has to load the record.
    let gateway = recipe.start()?;
    let session = http_client::Session::open(gateway.mcp)?;
    let answer = strange.request(gateway.mcp, "ping", &json!({}))?;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(strange.delete(gateway.mcp)?.status, 503);
    let status = gateway.status(recipe)?;
    assert!(status.session_store.available, "{status:?}");
    assert_eq!(session.request(gateway.mcp, "ping", &json!({}))?.status, 200);
    assert_eq!(redis.command::<u32>(&["EXISTS", &keys[0]])?, 1);
    Ok(())
}
