//! The session store does not answer: sessions go on, and nothing is told to have happened that did not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_crds::config::{
    Duration as ConfigDuration, OnStoreOutage, SessionState, SessionStorage, SessionStorageProvider,
};
use vmcp_e2e::balancer::Balancer;
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{self, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::stream::Stream;
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

/// Waits until so many gateways hear what the others do.
fn all_listen(redis: &Redis, gateways: usize) -> anyhow::Result<()> {
    wait::until("all gateways listen", PATIENCE, || {
        let channels: Vec<String> = redis.command(&["PUBSUB", "CHANNELS"])?;
        let [channel] = &channels[..] else {
            anyhow::bail!("{channels:?}")
        };
        let (_, listeners): (String, usize) = redis.command(&["PUBSUB", "NUMSUB", channel])?;
        anyhow::ensure!(listeners == gateways, "{listeners} listen");
        Ok(())
    })
}

/// Asks for a session that was ended until the answer is 404. On the way it may be 503, when the store answers too late on a busy machine,
/// and nothing else.
fn stays_ended(session: &Session, at: std::net::SocketAddr) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let answer = session.call(at, "fixture_counter", &json!({}))?;
        if answer.error_code() == -32001 {
            return Ok(());
        }
        is_unavailable(&answer)?;
        anyhow::ensure!(began.elapsed() < PATIENCE, "nobody says that it has ended");
    }
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
        all_listen(&redis, gateways.len())?;
        // Three sessions: in use all the time, idle, and terminated.
        let (session, idle, ended) = (Session::open(at)?, Session::open(at)?, Session::open(at)?);
        for number in 1..=3 {
            assert_eq!(call(&session, at, "fixture_counter")?, number);
            assert_eq!(call(&idle, at, "fixture_counter")?, number);
            assert_eq!(call(&ended, at, "fixture_counter")?, number);
        }
        assert_eq!(ended.delete(at)?.status, 200);

        // Whoever has not heard of the end when Redis stops says 503. What Redis has to say when it answered the DELETE is on its way
        // to all once it has answered somebody else.
        redis.command::<String>(&["PING"])?;
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
            // What was proved last is served as proved for as long as `maxStaleness`.
            wait::until("a session is served without the store", PATIENCE, || {
                session.request(gateway.mcp, "ping", &json!({}))?.outcome()?;
                let served = gateway.metric("vmcp_sessions_served_without_store_total", "")?;
                anyhow::ensure!(served > 0.0, "none is");
                Ok(())
            })?;
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
            stays_ended(&ended, at)?;
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
        stays_ended(&ended, fresh.mcp)?;
        assert_eq!(session.delete(at)?.status, 200);
        stays_ended(&session, fresh.mcp)?;
        anyhow::Ok(())
    })
    .await?
}

/// A backend whose state counts waits for the store and one without is used meanwhile.
#[test]
fn stateful_backend_waits_for_store_stateless_does_not() -> anyhow::Result<()> {
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
    let provisional = |gateway: &Gateway| gateway.metric("vmcp_sessions{", "state=\"provisional\"");
    assert_eq!(provisional(&gateways[0])?, 0.0);

    redis.pause()?;
    noticed(&recipe, &gateways, false)?;
    is_unavailable(&session.call(at, "kept_counter", &json!({}))?)?;
    assert_eq!(kept.initializes("raw")?, 0, "the call was not sent");
    // Each replica has a session of its own there, until one of them is bound.
    assert_eq!(call(&session, at, "disposable_counter")?, 1);
    assert_eq!(call(&session, at, "disposable_counter")?, 2);
    assert_eq!(provisional(&gateways[0])?, 1.0);
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
    wait::until("a record names each upstream session", PATIENCE, || {
        let left = provisional(&gateways[0])?;
        anyhow::ensure!(left < 0.5, "{left} sessions have one that no record names");
        Ok(())
    })?;
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

/// What a backend asks in an outage is answered and what no client could answer is refused.
#[test]
fn server_requests_in_outage_are_answered_or_refused() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, mut redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let mut recipe = on_redis(&[("fixture", &fixture.url)], &redis)?;
    recipe.config.hot.as_mut().unwrap().backends[0].session_state = SessionState::Disposable;
    let gateways = [recipe.start()?, recipe.start()?];
    let session = Session::open_with(gateways[0].mcp, "2025-11-25", &json!({"roots": {}}))?;
    session.request(gateways[1].mcp, "ping", &json!({}))?.outcome()?;

    redis.pause()?;
    noticed(&recipe, &gateways, false)?;
    let ask = |gateway: &Gateway, id: u64| {
        Stream::call(
            gateway.mcp,
            &session,
            &json!(id),
            "fixture_list_roots",
            &json!({}),
        )
    };
    let answer = |gateway: &Gateway, asked: &Value| {
        let roots = json!({"roots": [{"uri": "file:///x", "name": "x"}]});
        session.post(
            gateway.mcp,
            &json!({"jsonrpc": "2.0", "id": asked["id"], "result": roots}),
        )
    };
    // Each gateway has a session of its own there.
    for gateway in &gateways {
        let mut call = ask(gateway, 1)?;
        let (_, asked) = call.await_method("roots/list")?;
        assert_eq!(answer(gateway, &asked)?.status, 202);
        let said = call.message()?.to_string();
        assert!(said.contains("file:///x"), "{said}");
    }
    // Two calls of which one has asked before the outage ends, and one asks afterwards, in each of the two.
    let asking: Vec<(Stream, Value)> = gateways
        .iter()
        .map(|gateway| {
            let mut call = ask(gateway, 2)?;
            let (_, asked) = call.await_method("roots/list")?;
            Ok((call, asked))
        })
        .collect::<anyhow::Result<_>>()?;
    let calls = || Ok::<_, anyhow::Error>(fixture.stats()?.requests.get("tools/call").copied());
    let before = calls()?;
    fixture.admin(
        "POST",
        "/faults",
        &json!({"only_tool": "list_roots", "hold": true}),
    )?;
    let (mut held, at) = (Vec::new(), gateways.each_ref().map(|gateway| gateway.mcp));
    std::thread::scope(|scope| {
        let opening = at.map(|at| {
            let session = &session;
            scope.spawn(move || Stream::call(at, session, &json!(3), "fixture_list_roots", &json!({})))
        });
        wait::until("the calls have reached the backend", PATIENCE, || {
            anyhow::ensure!(calls()? == before.map(|before| before + 2), "not yet");
            Ok(())
        })?;
        redis.resume()?;
        noticed(&recipe, &gateways, true)?;
        wait::until("both use the one that is bound", PATIENCE, || {
            let counts = [&gateways[0], &gateways[1], &gateways[0]]
                .map(|gateway| call(&session, gateway.mcp, "fixture_counter"));
            let [Ok(first), Ok(second), Ok(third)] = counts else {
                anyhow::bail!("{counts:?}")
            };
            anyhow::ensure!(second == first + 1 && third == second + 1, "two sessions");
            Ok(())
        })?;
        fixture.admin("DELETE", "/faults", &json!({}))?;
        for opened in opening {
            held.push(opened.join().unwrap()?);
        }
        anyhow::Ok(())
    })?;
    // What was asked before is answered in either.
    for (gateway, (mut call, asked)) in gateways.iter().zip(asking) {
        assert_eq!(answer(gateway, &asked)?.status, 202);
        let said = call.message()?.to_string();
        assert!(said.contains("file:///x"), "{said}");
    }
    // What is asked afterwards in the one that was not bound has an answer, too: that nobody can be asked.
    let mut refused = 0;
    for (gateway, mut call) in gateways.iter().zip(held) {
        let (_, message) = call.next_message()?;
        if message["method"] == "roots/list" {
            assert_eq!(answer(gateway, &message)?.status, 202);
            let said = call.message()?.to_string();
            assert!(said.contains("file:///x"), "{said}");
        } else {
            assert!(message.to_string().contains("was replaced"), "{message}");
            refused += 1;
        }
    }
    assert_eq!(refused, 1);
    // It is deleted once its calls have ended.
    wait::until("one upstream session is left", PATIENCE, || {
        let deletes = fixture.stats()?.deletes;
        anyhow::ensure!(deletes == 1, "{deletes}");
        Ok(())
    })
}

/// A deletion that happens after its deadline leaves no upstream session behind.
#[test]
fn late_termination_leaves_no_upstream_session() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, mut redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let recipe = on_redis(&[("fixture", &fixture.url)], &redis)?;
    let gateways = [recipe.start()?, recipe.start()?];
    // A script that Redis knows already is executed also when nobody waits for it any more.
    let (first, session) = (Session::open(gateways[0].mcp)?, Session::open(gateways[0].mcp)?);
    assert_eq!(first.delete(gateways[0].mcp)?.status, 200);
    assert_eq!(call(&session, gateways[0].mcp, "fixture_counter")?, 1);
    // The deletion is sent to a Redis that does not answer, and that does what it was told once it goes on.
    redis.pause()?;
    is_unavailable(&session.delete(gateways[0].mcp)?)?;
    redis.resume()?;
    noticed(&recipe, &gateways, true)?;
    wait::until("the upstream session is deleted", PATIENCE, || {
        let deletes = fixture.stats()?.deletes;
        anyhow::ensure!(deletes == 1, "{deletes}");
        Ok(())
    })?;
    for gateway in &gateways {
        assert_eq!(session.delete(gateway.mcp)?.status, 404, "it was ended after all");
    }
    Ok(())
}

/// A session that was used in an outage longer than its idle time is not swept away afterwards.
#[test]
fn session_used_in_long_outage_is_not_swept() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, mut redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let mut recipe = on_redis(&[("fixture", &fixture.url)], &redis)?;
    recipe.config.session_storage.ttl = ConfigDuration::from_secs(3);
    let gateways = [recipe.start()?, recipe.start()?];
    // The one that has served it meanwhile is not the one that knows best that it is new.
    let session = Session::open(gateways[1].mcp)?;
    let mut count = call(&session, gateways[0].mcp, "fixture_counter")?;
    let records: Vec<String> = redis.command(&["KEYS", "*:s:*"])?;
    redis.pause()?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        count += 1;
        assert_eq!(call(&session, gateways[0].mcp, "fixture_counter")?, count);
    }
    redis.resume()?;
    // Nobody uses it now: whoever has served it tells the store that it was used, before somebody takes it for expired.
    wait::until("the store knows that it lives", PATIENCE, || {
        let sets: Vec<String> = redis.command(&["KEYS", "*:sessions"])?;
        let clock: Vec<String> = redis.command(&["TIME"])?;
        let alive: u64 = redis.command(&["ZCOUNT", &sets[0], &format!("{}000", clock[0]), "+inf"])?;
        anyhow::ensure!(alive == 1, "{alive}");
        Ok(())
    })?;
    // The one that has not served it meanwhile has to ask the store, and says 503 until it has seen that it answers.
    noticed(&recipe, &gateways, true)?;
    assert_eq!(call(&session, gateways[1].mcp, "fixture_counter")?, count + 1);
    assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*:s:*"])?, records);
    Ok(())
}

/// Sessions are served for the grace and not at all where that is refused.
#[test]
fn sessions_are_served_for_outage_grace_only() -> anyhow::Result<()> {
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

/// A binding that happens after its deadline is one and its upstream session is kept.
#[test]
fn late_binding_keeps_its_upstream_session() -> anyhow::Result<()> {
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
