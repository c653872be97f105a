//! What a process remembers of sessions: a warm call asks nobody, and what another process does is known at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use vmcp_crds::config::{Duration as ConfigDuration, SessionStorage, SessionStorageProvider};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::Session;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);

/// Three gateways that share a Redis, and a backend that counts. What they remember counts for as long as `max_staleness`.
struct World {
    fixture: Fixture,
    redis: Redis,
    gateways: [Gateway; 3],
}

impl World {
    fn new(max_staleness: Duration) -> anyhow::Result<Option<Self>> {
        if vmcp_peers::left_out("redis") {
            return Ok(None);
        }
        let (fixture, redis) = (Fixture::start(&[])?, Redis::start(None)?);
        let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
        recipe.config.session_storage = SessionStorage {
            provider: SessionStorageProvider::Redis,
            address: Some(redis.address.to_string()),
            max_staleness: ConfigDuration::from_millis(u64::try_from(max_staleness.as_millis())?),
            ..SessionStorage::default()
        };
        let gateways = [recipe.start()?, recipe.start()?, recipe.start()?];
        Ok(Some(Self {
            fixture,
            redis,
            gateways,
        }))
    }

    /// Has the backend say `text`, again and again, until it comes on `stream`: what it says while nobody listens is lost.
    fn is_heard(&self, stream: &mut Stream, text: &str) -> anyhow::Result<()> {
        let (heard, path) = (AtomicBool::new(false), format!("/log?level=error&text={text}"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait::until("it is heard", PATIENCE, || {
                    self.fixture.admin("POST", &path, &Value::Null)?;
                    anyhow::ensure!(heard.load(Ordering::Relaxed), "not yet");
                    Ok(())
                })
            });
            let (_, message) = stream.await_method("notifications/message")?;
            heard.store(true, Ordering::Relaxed);
            anyhow::ensure!(message.to_string().contains(text), "{message}");
            Ok(())
        })
    }

    fn scripts(&self) -> anyhow::Result<u64> {
        let commands = self.redis.commands()?;
        let count = |name| commands.get(name).copied().unwrap_or_default();
        Ok(count("eval") + count("evalsha"))
    }
}

fn count(session: &Session, gateway: &Gateway) -> anyhow::Result<u64> {
    let text = session
        .call(gateway.mcp, "fixture_counter", &json!({}))?
        .tool_text()?;
    Ok(text.parse()?)
}

#[test]
fn a_warm_call_makes_no_redis_command_whichever_process_gets_it() -> anyhow::Result<()> {
    // Long, so that a busy machine does not make a process doubt what it knows.
    let Some(world) = World::new(Duration::from_secs(60))? else {
        return Ok(());
    };
    let session = Session::open(world.gateways[0].mcp)?;
    let mut expected = 0;
    for gateway in &world.gateways {
        expected += 1;
        assert_eq!(count(&session, gateway)?, expected);
    }
    let before = world.scripts()?;
    for _ in 0..20 {
        for gateway in &world.gateways {
            expected += 1;
            assert_eq!(count(&session, gateway)?, expected);
        }
    }
    assert_eq!(world.scripts()?, before);
    assert_eq!(world.fixture.initializes("raw")?, 1);
    Ok(())
}

#[test]
fn a_process_knows_a_session_that_it_has_never_served() -> anyhow::Result<()> {
    let Some(world) = World::new(Duration::from_secs(60))? else {
        return Ok(());
    };
    let [one, two, _] = &world.gateways;
    let session = Session::open(one.mcp)?;
    assert_eq!(count(&session, one)?, 1);
    // The changes of the first session have been told before those of this one.
    let marker = Session::open(one.mcp)?;
    assert_eq!(count(&marker, two)?, 1);
    let before = world.scripts()?;
    assert_eq!(count(&session, two)?, 2);
    assert_eq!(world.scripts()?, before);
    Ok(())
}

#[test]
fn without_staleness_every_request_asks() -> anyhow::Result<()> {
    let Some(world) = World::new(Duration::ZERO)? else {
        return Ok(());
    };
    let session = Session::open(world.gateways[0].mcp)?;
    count(&session, &world.gateways[0])?;
    let before = world.scripts()?;
    for _ in 0..5 {
        count(&session, &world.gateways[0])?;
    }
    assert!(world.scripts()? >= before + 5);
    Ok(())
}

#[test]
fn what_ends_on_one_process_ends_on_all() -> anyhow::Result<()> {
    // Only what one process tells the other can end what is going on there.
    let Some(world) = World::new(Duration::from_secs(120))? else {
        return Ok(());
    };
    let [one, two, three] = &world.gateways;
    let session = Session::open(one.mcp)?;
    for gateway in &world.gateways {
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
        let calls = world.fixture.stats()?.requests.get("tools/call").copied();
        anyhow::ensure!(calls >= Some(5), "{calls:?}");
        Ok(())
    })?;

    let ended = Instant::now();
    assert_eq!(session.delete(one.mcp)?.status, 200);
    let answer = whole.join().unwrap()?;
    assert_eq!(answer.error_code(), -32001, "{}", answer.text());
    let rest = streamed.rest()?;
    assert!(rest.contains("-32001") && rest.contains("\"streamed\""), "{rest}");
    own.rest()?;
    for gateway in &world.gateways {
        wait::until("it is refused", PATIENCE, || {
            let refused = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
            anyhow::ensure!(refused.error_code() == -32001, "{}", refused.text());
            Ok(())
        })?;
    }
    assert!(ended.elapsed() < PATIENCE, "{:?}", ended.elapsed());
    Ok(())
}

/// What ends on one process breaks a large answer off that another passes on.
#[test]
fn termination_elsewhere_aborts_large_response() -> anyhow::Result<()> {
    const BYTES: usize = 96 << 20;
    let Some(mut world) = World::new(Duration::from_secs(120))? else {
        return Ok(());
    };
    world.fixture.restart_with(&["--json-response"])?;
    let [one, two, _] = &world.gateways;
    let session = Session::open(one.mcp)?;
    count(&session, two)?;
    // The client reads nothing for now, so that most of the answer is still at the backend.
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

#[test]
fn a_look_that_meets_the_end_of_a_session_never_brings_it_back() -> anyhow::Result<()> {
    // Everything is looked up, so that each request may meet the end anywhere on its way.
    let Some(world) = World::new(Duration::ZERO)? else {
        return Ok(());
    };
    let [first, others @ ..] = &world.gateways;
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
        for gateway in &world.gateways {
            anyhow::ensure!(session.delete(gateway.mcp)?.status == 404, "it is back");
        }
    }
    anyhow::ensure!(served > 0, "no request came before an end");
    let records: Vec<String> = world.redis.command(&["KEYS", "*:s:*"])?;
    assert!(records.is_empty(), "{records:?}");
    Ok(())
}

/// What a newer gateway tells makes this one ask and what that writes is not served from memory.
#[test]
fn unknown_event_of_newer_gateway_forces_reload() -> anyhow::Result<()> {
    let Some(world) = World::new(Duration::from_secs(120))? else {
        return Ok(());
    };
    let gateway = &world.gateways[0];
    let (named, unnamed) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    for session in [&named, &unnamed] {
        assert_eq!(count(session, gateway)?, 1);
    }
    let keys: Vec<String> = world.redis.command(&["KEYS", "*:s:*"])?;
    let (prefix, _) = keys[0].split_once(":s:").context("no record")?;
    let channel = format!("{prefix}:events");
    let publish = |message: &str| world.redis.command::<u64>(&["PUBLISH", &channel, message]);
    let write = |key: &str, from: &str, to: &str| {
        world
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
    // One that names nobody may be about anybody.
    for key in &keys {
        write(key, "1 ", "9 ")?;
    }
    publish(r#"{"version": 2}"#)?;
    refuses(&named)?;
    refuses(&unnamed)
}

#[test]
fn of_two_streams_on_two_processes_the_newer_is_heard() -> anyhow::Result<()> {
    let Some(world) = World::new(Duration::from_secs(120))? else {
        return Ok(());
    };
    let [one, two, three] = &world.gateways;
    let session = Session::open(one.mcp)?;
    count(&session, one)?;
    let gets = |gets: u64| {
        wait::until("the backend is heard", PATIENCE, || {
            let open = world.fixture.stats()?.gets_open;
            // Each gateway hears it for its catalogue, too.
            anyhow::ensure!(open == 3 + gets, "{open}");
            Ok(())
        })
    };
    let mut older = Stream::get(one.mcp, &session, None)?;
    gets(1)?;
    let mut newer = Stream::get(two.mcp, &session, None)?;
    older.rest()?;
    gets(1)?;
    world.is_heard(&mut newer, "first")?;
    // And back to the first process.
    let mut newest = Stream::get(one.mcp, &session, None)?;
    newer.rest()?;
    gets(1)?;
    world.is_heard(&mut newest, "second")?;
    assert_eq!(session.delete(three.mcp)?.status, 200);
    newest.rest()?;
    gets(0)
}

#[test]
fn a_stream_hears_a_backend_that_another_process_binds() -> anyhow::Result<()> {
    let Some(world) = World::new(Duration::from_secs(120))? else {
        return Ok(());
    };
    let [one, two, _] = &world.gateways;
    let session = Session::open(one.mcp)?;
    let mut own = Stream::get(one.mcp, &session, None)?;
    count(&session, two)?;
    wait::until("the backend is heard", PATIENCE, || {
        let open = world.fixture.stats()?.gets_open;
        anyhow::ensure!(open == 4, "{open}");
        Ok(())
    })?;
    world.is_heard(&mut own, "heard")
}

/// What a process remembers of sessions in Redis has so many bytes, however much their clients say of themselves; what it forgets it
/// reads again.
#[test]
fn remembered_sessions_have_so_many_bytes() -> anyhow::Result<()> {
    const MIB: f64 = 1024.0 * 1024.0;
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let redis = Redis::start(None)?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        ..SessionStorage::default()
    };
    // An eighth is for sessions.
    recipe.config.hot.get_or_insert_default().limits.buffered_bytes = Some(16 << 20);
    let gateway = recipe.start()?;
    let before = gateway.metric("vmcp_buffered_bytes", "")?;
    let heavy = json!({"experimental": {"x": "y".repeat(15_000)}});
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
