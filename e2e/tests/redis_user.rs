//! Gateways work as the Redis user that docs/redis.md prints: Redis never denies them a command, a key or a channel.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use vmcp_crds::config::{Duration as ConfigDuration, SessionStorage, SessionStorageProvider};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{self, Session};
use vmcp_e2e::redis::{Redis, documented_user};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis whose only user for gateways is the documented one, also behind a restart.
fn redis() -> anyhow::Result<Redis> {
    Redis::start_with(None, &[&documented_user::setting()?])
}

fn recipe(fixture: &Fixture, redis: &Redis) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        username: Some(documented_user::NAME.to_owned()),
        ttl: ConfigDuration::from_secs(5),
        ..SessionStorage::default()
    };
    // A limit below that of the virtual server, so that the sessions of principals are counted.
    recipe
        .config
        .hot
        .get_or_insert_default()
        .limits
        .sessions_per_principal = Some(100);
    recipe.password = Some(documented_user::PASSWORD.to_owned());
    Ok(recipe)
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

/// What Redis has denied, in its own words.
fn denied(redis: &Redis) -> anyhow::Result<Vec<String>> {
    let entries: Vec<redis::Value> = redis.command(&["ACL", "LOG"])?;
    Ok(entries.iter().map(|entry| format!("{entry:?}")).collect())
}

/// Sessions on two replicas: settings, a stream, an end on the other replica, an idle one that expires.
fn use_sessions(one: &Gateway, two: &Gateway, fixture: &Fixture) -> anyhow::Result<Session> {
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
        let deletes = fixture.stats()?.deletes;
        ensure!(deletes >= 2, "{deletes} sessions are deleted at the backend");
        Ok(())
    })?;
    Ok(session)
}

/// Sessions, an outage in which Redis is silent, and a restart that loses all data, on two replicas and one that is new.
#[test]
fn documented_user_is_denied_nothing() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, mut redis) = (Fixture::start(&[])?, redis()?);
    let recipe = recipe(&fixture, &redis)?;
    let (one, two) = (recipe.start()?, recipe.start()?);
    let session = use_sessions(&one, &two, &fixture)?;

    redis.pause()?;
    serves(&one, &recipe, false)?;
    let counted = count(&session, &one)?;
    ensure!(raw::initialize(one.mcp)?.status == 503);
    redis.resume()?;
    for gateway in [&one, &two] {
        serves(gateway, &recipe, true)?;
    }
    ensure!(count(&session, &two)? == counted + 1);
    ensure!(denied(&redis)?.is_empty(), "{:?}", denied(&redis)?);

    // What Redis has denied is forgotten with its data; so that was asked before.
    redis.kill()?;
    redis.start_again()?;
    for gateway in [&one, &two] {
        serves(gateway, &recipe, true)?;
    }
    let fresh = recipe.start()?;
    for (gateway, number) in [&one, &two, &fresh].into_iter().zip(counted + 2..) {
        ensure!(count(&session, gateway)? == number, "the session was lost");
    }
    ensure!(session.delete(fresh.mcp)?.status == 200);
    ensure!(denied(&redis)?.is_empty(), "{:?}", denied(&redis)?);
    for gateway in [&one, &two, &fresh] {
        let log = gateway.log()?;
        ensure!(!log.contains("NOPERM"), "{log}");
    }
    // The user is what the gateways were: another is refused.
    let users: String = redis.command(&["CLIENT", "LIST"])?;
    ensure!(users.contains("user=gateway"), "{users}");
    Ok(())
}
