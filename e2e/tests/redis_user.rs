//! Gateways work as the Redis user that docs/redis.md prints: Redis never denies them a command, a key or a channel.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use vmcp_crds::config::Duration as ConfigDuration;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::redis::{Redis, documented_user};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);

/// Two gateways that are the documented user of Redis, which has no other user for gateways, also after a restart.
fn start() -> anyhow::Result<Harness<Redis>> {
    Harness::builder()
        .test_server("fixture", &[])
        .redis(Redis::start_with(None, &[&documented_user::setting()?])?)
        .configure(|recipe| {
            recipe.config.session_storage.username = Some(documented_user::NAME.to_owned());
            recipe.config.session_storage.ttl = ConfigDuration::from_secs(5);
            // A limit below that of the virtual server, so that the sessions of principals are counted.
            recipe.hot().limits.sessions_per_principal = Some(100);
            recipe.password = Some(documented_user::PASSWORD.to_owned());
        })
        .replicas(2)
        .start()
}

fn count(session: &Session, gateway: &Gateway) -> anyhow::Result<u64> {
    let answer = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
    Ok(answer.tool_text()?.parse()?)
}

fn serves(gateway: &Gateway, recipe: &Recipe, available: bool) -> anyhow::Result<()> {
    wait::until("the gateway has noticed", PATIENCE, || {
        let status = gateway.status(recipe)?.session_store;
        ensure!(status.available == available, "{status:?}");
        Ok(())
    })
}

/// The ACL log of Redis.
fn denied(redis: &Redis) -> anyhow::Result<Vec<String>> {
    let entries: Vec<redis::Value> = redis.command(&["ACL", "LOG"])?;
    Ok(entries.iter().map(|entry| format!("{entry:?}")).collect())
}

/// Uses sessions on two replicas: settings, a stream, a termination on the other replica, and an expiry.
fn use_sessions(one: &Gateway, two: &Gateway, test_server: &TestServer) -> anyhow::Result<Session> {
    let session = Session::open(one.mcp)?;
    let (ended, idle) = (Session::open(one.mcp)?, Session::open(two.mcp)?);
    ensure!(count(&session, one)? == 1 && count(&session, two)? == 2);
    ensure!(count(&ended, one)? == 1 && count(&ended, two)? == 2 && count(&idle, one)? == 1);
    for (method, params) in [
        ("logging/setLevel", json!({"level": "error"})),
        ("resources/subscribe", json!({"uri": "test://watched-resource"})),
        ("resources/unsubscribe", json!({"uri": "test://watched-resource"})),
    ] {
        let answer = session.request(one.mcp, method, &params)?;
        ensure!(answer.error_code() == 0, "{method}: {}", answer.text());
    }
    let mut stream = Stream::get(one.mcp, &ended, None)?;
    ensure!(ended.delete(two.mcp)?.status == 200);
    while stream.next_event()?.is_some() {}
    wait::until("the other replica knows that it has ended", PATIENCE, || {
        ended
            .request(one.mcp, "ping", &json!({}))?
            .ensure_session_not_found()
    })?;
    wait::until("the idle session's upstream session is deleted", PATIENCE, || {
        count(&session, one)?;
        let deletes = test_server.stats()?.deletes;
        ensure!(deletes >= 2, "{deletes} sessions are deleted at the backend");
        Ok(())
    })?;
    Ok(session)
}

/// Sessions, an outage in which Redis is silent, and a restart that loses all data, on two replicas and one that is new.
#[requires(redis)]
#[test]
fn documented_user_is_denied_nothing() -> anyhow::Result<()> {
    let mut harness = start()?;
    let [one, two] = harness.take_gateways()?;
    let session = use_sessions(&one, &two, harness.server())?;
    let Harness { redis, recipe, .. } = &mut harness;

    redis.pause()?;
    serves(&one, recipe, false)?;
    let counted = count(&session, &one)?;
    ensure!(http_client::initialize(one.mcp)?.status == 503);
    redis.resume()?;
    for gateway in [&one, &two] {
        serves(gateway, recipe, true)?;
    }
    ensure!(count(&session, &two)? == counted + 1);
    ensure!(denied(redis)?.is_empty(), "{:?}", denied(redis)?);

    // The ACL log is lost with the process, so it was read before.
    redis.kill()?;
    redis.start_again()?;
    for gateway in [&one, &two] {
        serves(gateway, recipe, true)?;
    }
    let fresh = recipe.start()?;
    for (gateway, number) in [&one, &two, &fresh].into_iter().zip(counted + 2..) {
        ensure!(count(&session, gateway)? == number, "the session was lost");
    }
    ensure!(session.delete(fresh.mcp)?.status == 200);
    ensure!(denied(redis)?.is_empty(), "{:?}", denied(redis)?);
    for gateway in [&one, &two, &fresh] {
        let log = gateway.log()?;
        ensure!(!log.contains("NOPERM"), "{log}");
    }
    // The gateways are connected as this user.
    let users: String = redis.command(&["CLIENT", "LIST"])?;
    ensure!(users.contains("user=gateway"), "{users}");
    Ok(())
}
