//! Outages of the session store: sessions go on, and no write is reported as done that was not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_crds::config::{Duration as ConfigDuration, OnStoreOutage, SessionState};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);

/// The test server and `N` gateways that share Redis. `change` changes their configuration.
fn start<const N: usize>(change: impl FnOnce(&mut Recipe)) -> anyhow::Result<(Harness<Redis>, [Gateway; N])> {
    let builder = Harness::builder().test_server("fixture", &[]);
    let builder = builder.redis(Redis::start(None)?).configure(change);
    let mut harness = builder.replicas(N).start()?;
    let gateways = harness.take_gateways()?;
    Ok((harness, gateways))
}

fn call(session: &Session, at: std::net::SocketAddr, tool: &str) -> anyhow::Result<u64> {
    Ok(session.call(at, tool, &json!({}))?.tool_text()?.parse()?)
}

fn is_unavailable(answer: &http_client::Answer) -> anyhow::Result<()> {
    anyhow::ensure!(
        (answer.status, answer.error_code()) == (503, -32603) && answer.header("retry-after").is_some(),
        "{answer:?} {}",
        answer.text()
    );
    Ok(())
}

/// Waits until this number of gateways is subscribed.
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

/// Calls a terminated session until the response is 404. Before that it may be 503, when the store replies too late on a busy machine, and
/// nothing else.
fn stays_ended(session: &Session, at: std::net::SocketAddr) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let answer = session.call(at, "fixture_counter", &json!({}))?;
        if answer.error_code() == -32001 {
            return Ok(());
        }
        is_unavailable(&answer)?;
        anyhow::ensure!(began.elapsed() < PATIENCE, "it was not reported as ended");
    }
}

/// Waits until each gateway reports its store as available, or as unavailable.
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

/// Redis hangs, dies and restarts empty, and no session is affected.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn redis_stops_and_comes_back_empty_and_no_session_notices() -> anyhow::Result<()> {
    let mut harness = Harness::replicated(3).await?;
    let at = harness.address();

    tokio::task::spawn_blocking(move || {
        let gateways = harness.take_gateways::<3>()?;
        let test_server = &harness.servers[0];
        let (redis, recipe) = (&mut harness.redis, &harness.recipe);
        all_listen(redis, gateways.len())?;
        // Three sessions: in use all the time, idle, and terminated.
        let (session, idle, ended) = (Session::open(at)?, Session::open(at)?, Session::open(at)?);
        for number in 1..=3 {
            assert_eq!(call(&session, at, "fixture_counter")?, number);
            assert_eq!(call(&idle, at, "fixture_counter")?, number);
            assert_eq!(call(&ended, at, "fixture_counter")?, number);
        }
        assert_eq!(ended.delete(at)?.status, 200);

        // A replica that has not got the termination event when Redis stops would respond with 503. The event has been sent to all
        // subscribers once Redis has replied to a later command.
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
        noticed(recipe, &gateways, false)?;
        for _ in 0..3 {
            let asked = Instant::now();
            is_unavailable(&http_client::initialize(at)?)?;
            is_unavailable(&idle.delete(at)?)?;
            is_unavailable(&session.request(at, "logging/setLevel", &json!({"level": "info"}))?)?;
            assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
            let refused = ended.call(at, "fixture_counter", &json!({}))?;
            assert_eq!(refused.error_code(), -32001, "it was terminated");
        }
        for gateway in &gateways {
            assert_eq!(http_client::get(gateway.admin, "/readyz", &[])?.status, 200);
            assert!(gateway.metric("vmcp_session_store_up", "")? < 0.5);
            // Cached sessions are fresh for up to `maxStaleness`.
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
        noticed(recipe, &gateways, true)?;
        for number in 4..=9 {
            assert_eq!(call(&idle, at, "fixture_counter")?, number);
        }
        for _ in 0..3 {
            stays_ended(&ended, at)?;
        }
        assert_eq!(
            test_server.initializes("http-client")?,
            3,
            "no upstream session was initialized again"
        );
        // Redis has everything again: a new replica serves the sessions.
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

/// Calls of a stateful backend need the store. Other backends are used during the outage.
#[requires(redis)]
#[test]
fn stateful_backend_waits_for_store_stateless_does_not() -> anyhow::Result<()> {
    let harness = Harness::builder()
        .test_server("kept", &[])
        .test_server("disposable", &[])
        .test_server("plain", &["--stateless"])
        .redis(Redis::start(None)?)
        .configure(|recipe| recipe.hot().backends[1].session_state = SessionState::Disposable)
        .replicas(2)
        .start()?;
    let Harness {
        gateways,
        mut redis,
        recipe,
        servers,
        ..
    } = harness;
    let (kept, disposable) = (&servers[0], &servers[1]);
    let at = gateways[0].mcp;
    let session = Session::open(at)?;
    session.call(at, "plain_echo", &json!({"message": "warm"}))?;
    // The other replica caches the session, too.
    session.request(gateways[1].mcp, "ping", &json!({}))?.outcome()?;
    let provisional = |gateway: &Gateway| gateway.metric("vmcp_sessions{", "state=\"provisional\"");
    assert_eq!(provisional(&gateways[0])?, 0.0);

    redis.pause()?;
    noticed(&recipe, &gateways, false)?;
    is_unavailable(&session.call(at, "kept_counter", &json!({}))?)?;
    assert_eq!(kept.initializes("http-client")?, 0, "the call was not sent");
    // Each replica opens its own upstream session, until one of them is bound.
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
    // One is adopted, and the other one is deleted.
    wait::until("one upstream session is left", PATIENCE, || {
        let stats = disposable.stats()?;
        anyhow::ensure!(stats.deletes == 1, "{stats:?}");
        Ok(())
    })?;
    assert_eq!(disposable.initializes("http-client")?, 2);
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

/// A server request during an outage is answered, or rejected if no client can answer it.
#[requires(redis)]
#[test]
fn server_requests_in_outage_are_answered_or_refused() -> anyhow::Result<()> {
    let (harness, gateways) =
        start::<2>(|recipe| recipe.hot().backends[0].session_state = SessionState::Disposable)?;
    let Harness {
        mut redis,
        recipe,
        servers,
        ..
    } = harness;
    let test_server = &servers[0];
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
    // Each gateway has its own upstream session.
    for gateway in &gateways {
        let mut call = ask(gateway, 1)?;
        let (_, asked) = call.await_method("roots/list")?;
        assert_eq!(answer(gateway, &asked)?.status, 202);
        let said = call.message()?.to_string();
        assert!(said.contains("file:///x"), "{said}");
    }
    // Two calls per gateway: one has sent its request before the outage ends, and one sends it afterwards.
    let asking: Vec<(Stream, Value)> = gateways
        .iter()
        .map(|gateway| {
            let mut call = ask(gateway, 2)?;
            let (_, asked) = call.await_method("roots/list")?;
            Ok((call, asked))
        })
        .collect::<anyhow::Result<_>>()?;
    let before = test_server.calls()?;
    test_server.set_faults(&json!({"only_tool": "list_roots", "hold": true}))?;
    let (mut held, at) = (Vec::new(), gateways.each_ref().map(|gateway| gateway.mcp));
    std::thread::scope(|scope| {
        let opening = at.map(|at| {
            let session = &session;
            scope.spawn(move || Stream::call(at, session, &json!(3), "fixture_list_roots", &json!({})))
        });
        wait::until("the calls have reached the backend", PATIENCE, || {
            anyhow::ensure!(test_server.calls()? == before + 2, "not yet");
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
        test_server.clear_faults()?;
        for opened in opening {
            held.push(opened.join().unwrap()?);
        }
        anyhow::Ok(())
    })?;
    // The earlier request is answered in both upstream sessions.
    for (gateway, (mut call, asked)) in gateways.iter().zip(asking) {
        assert_eq!(answer(gateway, &asked)?.status, 202);
        let said = call.message()?.to_string();
        assert!(said.contains("file:///x"), "{said}");
    }
    // A later request in the unbound upstream session gets an error, because no client can be asked.
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
    // The unbound one is deleted once its calls have ended.
    wait::until("one upstream session is left", PATIENCE, || {
        let deletes = test_server.stats()?.deletes;
        anyhow::ensure!(deletes == 1, "{deletes}");
        Ok(())
    })
}

/// A termination that Redis executes after its deadline leaves no upstream session behind.
#[requires(redis)]
#[test]
fn late_termination_leaves_no_upstream_session() -> anyhow::Result<()> {
    let (harness, gateways) = start::<2>(|_| {})?;
    let Harness {
        mut redis,
        recipe,
        servers,
        ..
    } = harness;
    let test_server = &servers[0];
    // Redis executes a cached script even if the client has stopped waiting for it.
    let (first, session) = (Session::open(gateways[0].mcp)?, Session::open(gateways[0].mcp)?);
    assert_eq!(first.delete(gateways[0].mcp)?.status, 200);
    assert_eq!(call(&session, gateways[0].mcp, "fixture_counter")?, 1);
    // Redis does not reply to the termination, and executes it after the pause.
    redis.pause()?;
    is_unavailable(&session.delete(gateways[0].mcp)?)?;
    redis.resume()?;
    noticed(&recipe, &gateways, true)?;
    wait::until("the upstream session is deleted", PATIENCE, || {
        let deletes = test_server.stats()?.deletes;
        anyhow::ensure!(deletes == 1, "{deletes}");
        Ok(())
    })?;
    for gateway in &gateways {
        assert_eq!(session.delete(gateway.mcp)?.status, 404, "it was ended after all");
    }
    Ok(())
}

/// A session that was used during an outage longer than its idle time does not expire afterwards.
#[requires(redis)]
#[test]
fn session_used_in_long_outage_is_not_swept() -> anyhow::Result<()> {
    let ttl = ConfigDuration::from_secs(3);
    let (harness, gateways) = start::<2>(|recipe| recipe.config.session_storage.ttl = ttl)?;
    let Harness {
        mut redis, recipe, ..
    } = harness;
    // The replica that serves it during the outage did not create it.
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
    // Without any request: the replica that served it touches the record before another one claims it as expired.
    wait::until("the store knows that it lives", PATIENCE, || {
        let sets: Vec<String> = redis.command(&["KEYS", "*:sessions"])?;
        let clock: Vec<String> = redis.command(&["TIME"])?;
        let alive: u64 = redis.command(&["ZCOUNT", &sets[0], &format!("{}000", clock[0]), "+inf"])?;
        anyhow::ensure!(alive == 1, "{alive}");
        Ok(())
    })?;
    // The other replica has to load it, and responds with 503 until the store is available for it.
    noticed(&recipe, &gateways, true)?;
    assert_eq!(call(&session, gateways[1].mcp, "fixture_counter")?, count + 1);
    assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*:s:*"])?, records);
    Ok(())
}

/// Sessions are served for the outage grace, and not at all with `onStoreOutage: Refuse`.
#[requires(redis)]
#[test]
fn sessions_are_served_for_outage_grace_only() -> anyhow::Result<()> {
    let grace = ConfigDuration::from_secs(3);
    let (mut harness, [short]) = start(|recipe| recipe.config.session_storage.outage_grace = grace)?;
    let (redis, recipe) = (&mut harness.redis, &mut harness.recipe);
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

/// A binding that Redis executes after its deadline is valid, and its upstream session is kept.
#[requires(redis)]
#[test]
fn late_binding_keeps_its_upstream_session() -> anyhow::Result<()> {
    let (harness, gateways) = start::<2>(|_| {})?;
    let Harness {
        mut redis,
        recipe,
        servers,
        ..
    } = harness;
    let test_server = &servers[0];
    let at = gateways[0].mcp;
    let session = Session::open(at)?;
    let initializes = || anyhow::Ok(test_server.stats()?.requests.get("initialize").copied());
    let before = initializes()?;
    let slow = json!({"only_method": "initialize", "slow_ms": 2000});
    test_server.set_faults(&slow)?;
    let calling = session.clone();
    let call_in_between = std::thread::spawn(move || calling.call(at, "fixture_counter", &json!({})));
    wait::until("the backend gets initialize", PATIENCE, || {
        anyhow::ensure!(initializes()? > before, "not yet");
        Ok(())
    })?;
    // Redis does not reply to the binding, and executes it after the pause.
    redis.pause()?;
    is_unavailable(&call_in_between.join().unwrap()?)?;
    test_server.clear_faults()?;
    redis.resume()?;
    noticed(&recipe, &gateways, true)?;
    for number in [1, 3] {
        assert_eq!(call(&session, at, "fixture_counter")?, number);
        assert_eq!(call(&session, gateways[1].mcp, "fixture_counter")?, number + 1);
    }
    assert_eq!(test_server.initializes("http-client")?, 1);
    assert_eq!(test_server.stats()?.deletes, 0);
    Ok(())
}
