//! The session store does not answer: sessions go on, and nothing is told to have happened that did not.

use std::time::{Duration, Instant};

use serde_json::json;
use vmcp_crds::config::{
    Duration as ConfigDuration, OnStoreOutage, SessionState, SessionStorage, SessionStorageProvider,
};
use vmcp_e2e::balancer::Balancer;
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{self, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);

fn on_redis(backends: &[(&str, &str)], redis: &Redis) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::new(backends)?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        ..SessionStorage::default()
    };
    Ok(recipe)
}

fn call(session: &Session, at: std::net::SocketAddr, tool: &str) -> anyhow::Result<u64> {
    Ok(session.call(at, tool, &json!({}))?.tool_text()?.parse()?)
}

fn is_unavailable(answer: &raw::Answer) -> anyhow::Result<()> {
    anyhow::ensure!(
        (answer.status, answer.error_code()) == (503, -32603) && answer.header("retry-after").is_some(),
        "{answer:?} {}",
        answer.text()
    );
    Ok(())
}

/// Waits until each gateway has noticed that its store is there, or is not.
fn noticed(recipe: &Recipe, gateways: &[Gateway], available: bool) -> anyhow::Result<()> {
    for gateway in gateways {
        wait::until("the gateway has noticed", PATIENCE, || {
            let status = gateway.status(recipe)?.session_store;
            anyhow::ensure!(status.available == available, "{status:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_stops_and_comes_back_empty_and_no_session_notices() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, mut redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let recipe = on_redis(&[("fixture", &fixture.url)], &redis)?;
    let gateways = [recipe.start()?, recipe.start()?, recipe.start()?];
    let balancer = Balancer::start(&[gateways[0].mcp, gateways[1].mcp, gateways[2].mcp]).await?;
    let at = balancer.address;

    tokio::task::spawn_blocking(move || {
        // Three sessions: in use all the time, idle, and terminated.
        let (session, idle, ended) = (Session::open(at)?, Session::open(at)?, Session::open(at)?);
        for number in 1..=3 {
            assert_eq!(call(&session, at, "fixture_counter")?, number);
            assert_eq!(call(&idle, at, "fixture_counter")?, number);
            assert_eq!(call(&ended, at, "fixture_counter")?, number);
        }
        assert_eq!(ended.delete(at)?.status, 200);

        redis.pause()?;
        for number in 4..=33 {
            assert_eq!(call(&session, at, "fixture_counter")?, number);
            session.request(at, "tools/list", &json!({}))?.outcome()?;
            assert_eq!(
                session.request(at, "ping", &json!({}))?.message()?["result"],
                json!({})
            );
        }
        noticed(&recipe, &gateways, false)?;
        for _ in 0..3 {
            let asked = Instant::now();
            is_unavailable(&raw::initialize(at)?)?;
            is_unavailable(&idle.delete(at)?)?;
            is_unavailable(&session.request(at, "logging/setLevel", &json!({"level": "info"}))?)?;
            assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
            let refused = ended.call(at, "fixture_counter", &json!({}))?;
            assert_eq!(refused.error_code(), -32001, "it was terminated");
        }
        for gateway in &gateways {
            assert_eq!(raw::get(gateway.admin, "/readyz", &[])?.status, 200);
            assert!(gateway.metric("vmcp_session_store_up", "")? < 0.5);
            assert!(gateway.metric("vmcp_sessions_served_without_store_total", "")? > 0.0);
        }

        redis.kill()?;
        for number in 34..=63 {
            assert_eq!(call(&session, at, "fixture_counter")?, number);
        }
        redis.start_again()?;
        for number in 64..=123 {
            assert_eq!(call(&session, at, "fixture_counter")?, number);
        }
        noticed(&recipe, &gateways, true)?;
        for number in 4..=9 {
            assert_eq!(call(&idle, at, "fixture_counter")?, number);
        }
        for _ in 0..3 {
            let refused = ended.call(at, "fixture_counter", &json!({}))?;
            assert_eq!(refused.error_code(), -32001, "it stays terminated");
        }
        assert_eq!(
            fixture.initializes("raw")?,
            3,
            "nobody shook hands with the backend again"
        );
        // What is there now is what Redis knows: a replica that knows nothing serves it.
        let fresh = recipe.start()?;
        assert_eq!(call(&session, fresh.mcp, "fixture_counter")?, 124);
        assert_eq!(call(&idle, fresh.mcp, "fixture_counter")?, 10);
        let refused = ended.call(fresh.mcp, "fixture_counter", &json!({}))?;
        assert_eq!(refused.error_code(), -32001, "the new replica knows it, too");
        assert_eq!(session.delete(at)?.status, 200);
        let refused = session.call(fresh.mcp, "fixture_counter", &json!({}))?;
        assert_eq!(refused.error_code(), -32001);
        anyhow::Ok(())
    })
    .await?
}

#[test]
fn a_backend_whose_state_counts_waits_for_the_store_and_one_without_is_used_meanwhile() -> anyhow::Result<()>
{
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (kept, disposable, plain) = (
        Fixture::start(&[])?,
        Fixture::start(&[])?,
        Fixture::start(&["--stateless"])?,
    );
    let mut redis = Redis::start(None)?;
    let backends = [
        ("kept", &*kept.url),
        ("disposable", &*disposable.url),
        ("plain", &*plain.url),
    ];
    let mut recipe = on_redis(&backends, &redis)?;
    for backend in &mut recipe.config.hot.as_mut().unwrap().backends {
        if backend.name == "disposable" {
            backend.session_state = SessionState::Disposable;
        }
    }
    let gateways = [recipe.start()?, recipe.start()?];
    let at = gateways[0].mcp;
    let session = Session::open(at)?;
    session.call(at, "plain_echo", &json!({"message": "warm"}))?;
    // The other replica knows the session, too.
    session.request(gateways[1].mcp, "ping", &json!({}))?.outcome()?;

    redis.pause()?;
    noticed(&recipe, &gateways, false)?;
    is_unavailable(&session.call(at, "kept_counter", &json!({}))?)?;
    assert_eq!(kept.initializes("raw")?, 0, "the call was not sent");
    // Each replica has a session of its own there, until one of them is bound.
    assert_eq!(call(&session, at, "disposable_counter")?, 1);
    assert_eq!(call(&session, at, "disposable_counter")?, 2);
    assert_eq!(call(&session, gateways[1].mcp, "disposable_counter")?, 1);
    for gateway in &gateways {
        session
            .call(gateway.mcp, "plain_echo", &json!({"message": "hello"}))?
            .tool_text()?;
    }

    redis.resume()?;
    noticed(&recipe, &gateways, true)?;
    // One is adopted, the other deleted: none is left at the backend.
    wait::until("one upstream session is left", PATIENCE, || {
        let stats = disposable.stats()?;
        anyhow::ensure!(stats.deletes == 1, "{stats:?}");
        Ok(())
    })?;
    assert_eq!(disposable.initializes("raw")?, 2);
    let count = call(&session, at, "disposable_counter")?;
    assert!(count == 3 || count == 2, "{count}");
    assert_eq!(
        call(&session, gateways[1].mcp, "disposable_counter")?,
        count + 1,
        "both use the one that was adopted"
    );
    assert_eq!(call(&session, at, "kept_counter")?, 1);
    Ok(())
}

#[test]
fn sessions_are_served_for_the_grace_and_not_at_all_where_that_is_refused() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, mut redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let mut recipe = on_redis(&[("fixture", &fixture.url)], &redis)?;
    recipe.config.session_storage.outage_grace = ConfigDuration::from_secs(3);
    let short = recipe.start()?;
    recipe.config.session_storage.outage_grace = ConfigDuration::from_secs(600);
    recipe.config.session_storage.on_store_outage = OnStoreOutage::Refuse;
    let refusing = recipe.start()?;
    let session = Session::open(short.mcp)?;
    assert_eq!(call(&session, short.mcp, "fixture_counter")?, 1);
    assert_eq!(call(&session, refusing.mcp, "fixture_counter")?, 2);

    redis.pause()?;
    wait::until("it refuses", PATIENCE, || {
        is_unavailable(&session.call(refusing.mcp, "fixture_counter", &json!({}))?)
    })?;
    let mut served = 0;
    wait::until("the grace is over", PATIENCE, || {
        let answer = session.call(short.mcp, "fixture_counter", &json!({}))?;
        if answer.status == 200 {
            served += 1;
        }
        is_unavailable(&answer)
    })?;
    assert!(served > 0, "it is served for a while");
    redis.resume()?;
    for gateway in [&short, &refusing] {
        wait::until("it is served again", PATIENCE, || {
            call(&session, gateway.mcp, "fixture_counter")
        })?;
    }
    Ok(())
}

#[test]
fn a_binding_that_happens_after_its_deadline_is_one_and_its_upstream_session_is_kept() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, mut redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let recipe = on_redis(&[("fixture", &fixture.url)], &redis)?;
    let gateways = [recipe.start()?, recipe.start()?];
    let at = gateways[0].mcp;
    let session = Session::open(at)?;
    let initializes = || anyhow::Ok(fixture.stats()?.requests.get("initialize").copied());
    let before = initializes()?;
    let slow = json!({"only_method": "initialize", "slow_ms": 2000});
    fixture.admin("POST", "/faults", &slow)?;
    let calling = session.clone();
    let call_in_between = std::thread::spawn(move || calling.call(at, "fixture_counter", &json!({})));
    wait::until("the backend is greeted", PATIENCE, || {
        anyhow::ensure!(initializes()? > before, "not yet");
        Ok(())
    })?;
    // The binding is sent to a Redis that does not answer, and that does what it was told once it goes on.
    redis.pause()?;
    is_unavailable(&call_in_between.join().unwrap()?)?;
    fixture.admin("DELETE", "/faults", &json!({}))?;
    redis.resume()?;
    noticed(&recipe, &gateways, true)?;
    for number in [1, 3] {
        assert_eq!(call(&session, at, "fixture_counter")?, number);
        assert_eq!(call(&session, gateways[1].mcp, "fixture_counter")?, number + 1);
    }
    assert_eq!(fixture.initializes("raw")?, 1);
    assert_eq!(fixture.stats()?.deletes, 0);
    Ok(())
}
