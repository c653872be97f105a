//! The session cache: a warm call does not use the store, and a change on another replica is known at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use vmcp_crds::config::Duration as ConfigDuration;
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);

/// Three gateways that share Redis. Each may use cached session state for as long as `max_staleness`.
fn start(max_staleness: Duration) -> anyhow::Result<Harness<Redis>> {
    let max_staleness = ConfigDuration::from_millis(u64::try_from(max_staleness.as_millis())?);
    Harness::builder()
        .test_server("fixture", &[])
        .redis(Redis::start(None)?)
        .configure(|recipe| recipe.config.session_storage.max_staleness = max_staleness)
        .replicas(3)
        .start()
}

/// Lets the backend send `text` until it arrives on `stream`: a message is lost if no stream is open for it.
fn await_log(harness: &Harness<Redis>, stream: &mut Stream, text: &str) -> anyhow::Result<()> {
    let has_arrived = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait::until("the message arrives", PATIENCE, || {
                harness.server().log(text)?;
                anyhow::ensure!(has_arrived.load(Ordering::Relaxed), "not yet");
                Ok(())
            })
        });
        let (_, message) = stream.await_method("notifications/message")?;
        has_arrived.store(true, Ordering::Relaxed);
        anyhow::ensure!(message.to_string().contains(text), "{message}");
        Ok(())
    })
}

fn count(session: &Session, gateway: &Gateway) -> anyhow::Result<u64> {
    let text = session
        .call(gateway.mcp, "fixture_counter", &json!({}))?
        .tool_text()?;
    Ok(text.parse()?)
}

#[requires(redis)]
#[test]
fn warm_call_sends_no_redis_command() -> anyhow::Result<()> {
    // Long, so that cache entries stay fresh on a busy machine.
    let harness = start(Duration::from_secs(60))?;
    let session = Session::open(harness.gateways[0].mcp)?;
    let mut expected = 0;
    for gateway in &harness.gateways {
        expected += 1;
        assert_eq!(count(&session, gateway)?, expected);
    }
    let before = harness.redis.scripts()?;
    for _ in 0..20 {
        for gateway in &harness.gateways {
            expected += 1;
            assert_eq!(count(&session, gateway)?, expected);
        }
    }
    assert_eq!(harness.redis.scripts()?, before);
    assert_eq!(harness.server().initializes("http-client")?, 1);
    Ok(())
}

/// A new session is in the cache of every replica before its first request there.
#[requires(redis)]
#[test]
fn new_session_is_cached_on_every_replica() -> anyhow::Result<()> {
    let harness = start(Duration::from_secs(60))?;
    let [one, two, _] = harness.all()?;
    let session = Session::open(one.mcp)?;
    assert_eq!(count(&session, one)?, 1);
    // The events of the first session were published before those of this one.
    let marker = Session::open(one.mcp)?;
    assert_eq!(count(&marker, two)?, 1);
    let before = harness.redis.scripts()?;
    assert_eq!(count(&session, two)?, 2);
    assert_eq!(harness.redis.scripts()?, before);
    Ok(())
}

/// With `maxStaleness: 0` every request loads the record.
#[requires(redis)]
#[test]
fn zero_staleness_loads_on_every_request() -> anyhow::Result<()> {
    let harness = start(Duration::ZERO)?;
    let session = Session::open(harness.gateways[0].mcp)?;
    count(&session, &harness.gateways[0])?;
    let before = harness.redis.scripts()?;
    for _ in 0..5 {
        count(&session, &harness.gateways[0])?;
    }
    assert!(harness.redis.scripts()? >= before + 5);
    Ok(())
}

#[requires(redis)]
#[test]
fn termination_ends_session_on_all_replicas() -> anyhow::Result<()> {
    // Only an event can end the calls on the other replicas.
    let harness = start(Duration::from_secs(120))?;
    let [one, two, three] = harness.all()?;
    let session = Session::open(one.mcp)?;
    for gateway in &harness.gateways {
        count(&session, gateway)?;
    }
    let mut own = Stream::get(three.mcp, &session, None)?;
    assert_eq!(own.status, 200);
    let (calling, at) = (session.clone(), two.mcp);
    let whole = std::thread::spawn(move || calling.call(at, "fixture_sleep", &json!({"ms": 60_000})));
    let mut streamed = Stream::call(
        one.mcp,
        &session,
        &json!("streamed"),
        "fixture_sleep",
        &json!({"ms": 60_000}),
    )?;
    wait::until("both calls have reached the backend", PATIENCE, || {
        let calls = harness.server().calls()?;
        anyhow::ensure!(calls >= 5, "{calls}");
        Ok(())
    })?;

    let ended = Instant::now();
    assert_eq!(session.delete(one.mcp)?.status, 200);
    let answer = whole.join().unwrap()?;
    assert_eq!(answer.error_code(), -32001, "{}", answer.text());
    let rest = streamed.rest()?;
    assert!(rest.contains("-32001") && rest.contains("\"streamed\""), "{rest}");
    own.rest()?;
    for gateway in &harness.gateways {
        wait::until("it is refused", PATIENCE, || {
            let refused = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
            anyhow::ensure!(refused.error_code() == -32001, "{}", refused.text());
            Ok(())
        })?;
    }
    assert!(ended.elapsed() < PATIENCE, "{:?}", ended.elapsed());
    Ok(())
}

/// A termination on one replica aborts a large response on another.
#[requires(redis)]
#[test]
fn termination_elsewhere_aborts_large_response() -> anyhow::Result<()> {
    const BYTES: usize = 96 << 20;
    let mut harness = start(Duration::from_secs(120))?;
    harness.servers[0].restart_with(&["--json-response"])?;
    let [one, two, _] = harness.all()?;
    let session = Session::open(one.mcp)?;
    count(&session, two)?;
    // The client does not read yet, so most of the response is still at the backend.
    let params = json!({"name": "fixture_big", "arguments": {"bytes": BYTES}});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let mut large = Stream::post(two.mcp, &session, &call)?;
    assert_eq!((large.status, &*large.content_type), (200, "application/json"));
    assert_eq!(session.delete(one.mcp)?.status, 200);
    wait::until("the other knows", PATIENCE, || {
        let refused = session.request(two.mcp, "ping", &json!({}))?;
        anyhow::ensure!(refused.status == 404, "{}", refused.status);
        Ok(())
    })?;
    let whole = large.rest().is_ok();
    assert!(!whole, "it looks as if it were complete");
    wait::until("the call is over", PATIENCE, || {
        let running = two.metric("vmcp_sessions{", "state=\"calling\"")?;
        anyhow::ensure!(running < 0.5, "{running}");
        Ok(())
    })
}

#[requires(redis)]
#[test]
fn lookup_during_termination_never_revives_session() -> anyhow::Result<()> {
    // Every request loads the record, so that it may meet the termination at any step.
    let harness = start(Duration::ZERO)?;
    let [first, others @ ..] = harness.all::<3>()?;
    let mut served = 0;
    for _ in 0..100 {
        let session = Session::open(first.mcp)?;
        let ended = AtomicBool::new(false);
        served += std::thread::scope(|scope| -> anyhow::Result<usize> {
            let asking: Vec<_> = others
                .iter()
                .map(|gateway| {
                    let (session, ended) = (&session, &ended);
                    scope.spawn(move || -> anyhow::Result<usize> {
                        let mut served = 0;
                        loop {
                            let was_over = ended.load(Ordering::SeqCst);
                            let status = session.request(gateway.mcp, "ping", &json!({}))?.status;
                            match status {
                                200 if !was_over => served += 1,
                                404 if was_over => return Ok(served),
                                404 => {}
                                other => anyhow::bail!("{other}, the end answered: {was_over}"),
                            }
                        }
                    })
                })
                .collect();
            let deleted = session.delete(first.mcp)?.status;
            ended.store(true, Ordering::SeqCst);
            anyhow::ensure!(deleted < 300, "{deleted}");
            let mut served = 0;
            for asking in asking {
                served += asking.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
            }
            Ok(served)
        })?;
        for gateway in &harness.gateways {
            anyhow::ensure!(session.delete(gateway.mcp)?.status == 404, "it is back");
        }
    }
    anyhow::ensure!(served > 0, "no request came before an end");
    let records: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
    assert!(records.is_empty(), "{records:?}");
    Ok(())
}

/// An unknown event of a newer gateway makes this one load the record again.
#[requires(redis)]
#[test]
fn unknown_event_of_newer_gateway_forces_reload() -> anyhow::Result<()> {
    let harness = start(Duration::from_secs(120))?;
    let gateway = &harness.gateways[0];
    let (named, unnamed) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    for session in [&named, &unnamed] {
        assert_eq!(count(session, gateway)?, 1);
    }
    let keys: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
    let (prefix, _) = keys[0].split_once(":s:").context("no record")?;
    let channel = format!("{prefix}:events");
    let publish = |message: &str| harness.redis.command::<u64>(&["PUBLISH", &channel, message]);
    let write = |key: &str, from: &str, to: &str| {
        harness
            .redis
            .change_field(key, "fixed", |fixed| fixed.replacen(from, to, 1))
    };
    let refuses = |session: &Session| {
        wait::until("it is not served", PATIENCE, || {
            let answer = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
            anyhow::ensure!(answer.status == 503, "{} {}", answer.status, answer.text());
            Ok(())
        })
    };

    // Each names a session; one of them is the first's.
    for key in &keys {
        write(key, "1 ", "9 ")?;
    }
    for key in &keys {
        let name = key.rsplit(':').next().unwrap_or_default();
        publish(&json!(["record", name, "0", ["fixed", "9"]]).to_string())?;
    }
    refuses(&named)?;
    refuses(&unnamed)?;
    for key in &keys {
        write(key, "9 ", "1 ")?;
    }
    for session in [&named, &unnamed] {
        assert!(count(session, gateway)? > 1);
    }
    // An event without a session may concern every session.
    for key in &keys {
        write(key, "1 ", "9 ")?;
    }
    publish(r#"{"version": 2}"#)?;
    refuses(&named)?;
    refuses(&unnamed)
}

/// Of two session streams on two replicas the newer one gets the messages.
#[requires(redis)]
#[test]
fn newer_stream_on_other_replica_wins() -> anyhow::Result<()> {
    let harness = start(Duration::from_secs(120))?;
    let [one, two, three] = harness.all()?;
    let session = Session::open(one.mcp)?;
    count(&session, one)?;
    let gets = |gets: u64| {
        wait::until("the backend is heard", PATIENCE, || {
            let open = harness.server().stats()?.gets_open;
            // Each gateway also has a stream for its catalog.
            anyhow::ensure!(open == 3 + gets, "{open}");
            Ok(())
        })
    };
    let mut older = Stream::get(one.mcp, &session, None)?;
    gets(1)?;
    let mut newer = Stream::get(two.mcp, &session, None)?;
    older.rest()?;
    gets(1)?;
    await_log(&harness, &mut newer, "first")?;
    // And back to the first process.
    let mut newest = Stream::get(one.mcp, &session, None)?;
    newer.rest()?;
    gets(1)?;
    await_log(&harness, &mut newest, "second")?;
    assert_eq!(session.delete(three.mcp)?.status, 200);
    newest.rest()?;
    gets(0)
}

/// A session stream also gets messages of a backend that another replica binds.
#[requires(redis)]
#[test]
fn stream_gets_events_of_binding_by_other_replica() -> anyhow::Result<()> {
    let harness = start(Duration::from_secs(120))?;
    let [one, two, _] = harness.all()?;
    let session = Session::open(one.mcp)?;
    let mut own = Stream::get(one.mcp, &session, None)?;
    count(&session, two)?;
    wait::until("the backend is heard", PATIENCE, || {
        let open = harness.server().stats()?.gets_open;
        anyhow::ensure!(open == 4, "{open}");
        Ok(())
    })?;
    await_log(&harness, &mut own, "heard")
}

/// The session cache has a limit in bytes, however large the clients' capabilities are. An evicted session is loaded again.
#[requires(redis)]
#[test]
fn session_cache_size_is_limited() -> anyhow::Result<()> {
    const MIB: f64 = 1024.0 * 1024.0;
    // An eighth is for sessions.
    let harness = Harness::builder()
        .redis(Redis::start(None)?)
        .configure(|recipe| recipe.hot().limits.buffered_bytes = Some(16 << 20))
        .start()?;
    let gateway = harness.gateway();
    let before = gateway.metric("vmcp_buffered_bytes", "")?;
    let heavy = json!({"experimental": {"x": {"y": "y".repeat(15_000)}}});
    let sessions = (0..400).map(|_| Session::open_with(gateway.mcp, "2025-11-25", &heavy));
    let sessions: Vec<_> = sessions.collect::<anyhow::Result<_>>()?;
    let buffered = gateway.metric("vmcp_buffered_bytes", "")? - before;
    assert!((MIB..2.2 * MIB).contains(&buffered), "{buffered}");
    for session in [&sessions[0], &sessions[399]] {
        let answer = session.request(gateway.mcp, "ping", &json!({}))?;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    Ok(())
}
