//! Sessions survive the death and the replacement of processes under load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_e2e::counting_session::CountingSession;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::listener::Listener;
use vmcp_e2e::load::{Load, Turn, percentile};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;
use vmcp_external::process::Signal;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(30);
const COUNTER: &str = "fixture_counter";

/// All replicas are killed under load and no session and no count is lost.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn killing_all_replicas_loses_no_session() -> anyhow::Result<()> {
    const SESSIONS: usize = 50;
    let mut harness = Harness::replicated(3).await?;
    let gateway = harness.address();
    let counting = (0..SESSIONS)
        .map(|_| CountingSession::open(gateway, COUNTER).map(|counting| Arc::new(Mutex::new(counting))));
    let counting: Vec<_> = counting.collect::<anyhow::Result<_>>()?;
    let load = Load::start(SESSIONS, Duration::from_millis(250), |worker| {
        let counting = Arc::clone(&counting[worker]);
        Box::new(move |_| {
            counting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .call(gateway)
        }) as Turn
    });
    load.go_on_for(SESSIONS as u64 * 3)?;

    let killed = Instant::now();
    harness.kill_gateways()?;
    harness.replace_gateways()?;
    let back = Instant::now();
    load.go_on_for(SESSIONS as u64 * 3)?;
    let report = load.finish();

    // The failed calls were in flight when the gateways were killed, or were sent while no gateway ran.
    for failure in report.failures() {
        assert!(
            failure.began < back && failure.began + failure.took > killed,
            "failed without a reason: {failure:?}"
        );
        let why = failure.failure.as_deref().unwrap_or_default();
        assert!(
            why.contains("status 502") || why.contains("not a chunk"),
            "{failure:?}"
        );
    }
    // No session was initialized again.
    assert_eq!(harness.server().initializes("http-client")?, SESSIONS as u64);
    Ok(())
}

/// The first call on a cold replica costs one load from the store and no handshake.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn cold_replica_needs_one_load_and_no_handshake() -> anyhow::Result<()> {
    const SESSIONS: u64 = 200;
    let harness = Harness::replicated(1).await?;
    let warm = harness.gateways[0].mcp;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let session = Session::open(warm)?;
        assert_eq!(
            session.call(warm, "fixture_counter", &json!({}))?.tool_text()?,
            "1"
        );
        sessions.push(session);
    }

    let cold = harness.recipe.start()?;
    // Redis also counts the commands in scripts, so scripts are counted separately.
    let asked = || -> anyhow::Result<u64> {
        let read = harness.redis.commands()?.get("hgetall").copied();
        Ok(harness.redis.scripts()?.max(read.unwrap_or_default()))
    };
    let before = asked()?;
    let timed = |session: &Session, count: &str| -> anyhow::Result<Duration> {
        let began = Instant::now();
        let text = session
            .call(cold.mcp, "fixture_counter", &json!({}))?
            .tool_text()?;
        ensure!(text == count, "{text} instead of {count}");
        Ok(began.elapsed())
    };
    let restored = sessions
        .iter()
        .map(|session| timed(session, "2"))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let asked = asked()? - before;
    let known = sessions
        .iter()
        .map(|session| timed(session, "3"))
        .collect::<anyhow::Result<Vec<_>>>()?;

    assert_eq!(
        harness.server().initializes("http-client")?,
        SESSIONS,
        "a restored session shook hands again"
    );
    assert!(
        asked <= SESSIONS + SESSIONS / 50,
        "{asked} commands for {SESSIONS} first calls"
    );
    let (restored, known) = (percentile(restored, 0.5), percentile(known, 0.5));
    assert!(
        restored <= known + Duration::from_millis(5),
        "the first call takes {restored:?}, a later one {known:?}"
    );
    Ok(())
}

/// A rolling restart under load fails no call and loses no event.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_fails_no_call_and_loses_no_event() -> anyhow::Result<()> {
    /// 200 calls a second in all.
    const SESSIONS: usize = 40;
    const LISTENERS: usize = 6;
    let builder = Harness::builder().test_server("fixture", &[]);
    let builder = builder.redis(Redis::start(None)?).replicas(3);
    let drain_delay = vmcp_crds::config::Duration::from_secs(3);
    let builder = builder.configure(|recipe| recipe.config.drain_delay = drain_delay);
    let mut harness = builder.start_balanced().await?;
    let gateway = harness.address();
    let load = Load::start(SESSIONS, Duration::from_millis(200), |_| {
        let mut counting = None;
        Box::new(move |_| match &mut counting {
            Some(counting) => CountingSession::call(counting, gateway),
            None => CountingSession::call(counting.insert(CountingSession::open(gateway, COUNTER)?), gateway),
        }) as Turn
    });
    // Calls that last longer than the rest of a replica's life.
    let long = Load::start(4, Duration::ZERO, |_| {
        let session = Session::open(gateway);
        let mut session = Some(session);
        Box::new(move |_| {
            let opened = session.take().context("no session")??;
            let text = opened
                .call(gateway, "fixture_sleep", &json!({"ms": 20_000}))?
                .tool_text();
            session = Some(Ok(opened));
            text.map(drop)
        }) as Turn
    });
    let mut listeners = Vec::new();
    for _ in 0..LISTENERS {
        let session = Session::open(gateway)?;
        session
            .call(gateway, "fixture_echo", &json!({"message": "hi"}))?
            .tool_text()?;
        listeners.push(Listener::start(gateway, session));
    }
    wait::until("everybody listens", PATIENCE, || {
        let open = harness.server().stats()?.gets_open;
        // Each gateway has one for its catalog.
        let catalogs = harness.gateways.len() as u64;
        ensure!(open >= LISTENERS as u64 + catalogs, "{open} streams");
        Ok(())
    })?;

    let told = Arc::new(AtomicU64::new(0));
    let telling = {
        let (told, admin) = (Arc::clone(&told), harness.server().admin_address());
        Load::start(1, Duration::from_millis(50), move |_| {
            let told = Arc::clone(&told);
            Box::new(move |turn: u64| {
                let answer = http_client::exchange(
                    admin,
                    "POST",
                    &format!("/log?level=error&text=event-{turn}"),
                    &[],
                    b"",
                )?;
                ensure!(answer.status < 300, "{}", answer.text());
                told.store(turn + 1, Ordering::Relaxed);
                Ok(())
            }) as Turn
        })
    };

    for index in 0..harness.gateways.len() {
        // A new gateway is ready before an old one ends, as in Kubernetes with maxUnavailable 0.
        let fresh = harness.recipe.start()?;
        let mut old = std::mem::replace(&mut harness.gateways[index], fresh);
        let mut both = harness.addresses();
        both.push(old.mcp);
        harness.balancer()?.set_replicas(&both);
        old.signal(Signal::TERM)?;
        wait::until("the old one says that it drains", PATIENCE, || {
            ensure!(
                http_client::get(old.admin, "/readyz", &[])?.status == 503,
                "still ready"
            );
            Ok(())
        })?;
        // The balancer learns of it late, within the drain delay.
        load.go_on_for(200)?;
        harness.balancer()?.set_replicas(&harness.addresses());
        assert!(old.wait_until_ended(Duration::from_secs(60))?, "{}", old.log()?);
    }
    load.go_on_for(200)?;
    telling.finish().without_failure()?;
    let told = told.load(Ordering::Relaxed);
    for listener in listeners {
        listener.heard_exactly(told)?;
    }
    load.finish().without_failure()?;
    long.finish().without_failure()
}

/// A backend that loses all sessions costs one handshake per session, and no call.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn restarted_backend_costs_one_handshake_per_session() -> anyhow::Result<()> {
    const SESSIONS: usize = 30;
    for style in ["404", "400"] {
        let harness = Harness::replicated(3).await?;
        let gateway = harness.address();
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|_| Session::open(gateway))
            .collect::<anyhow::Result<_>>()?;
        // A call that runs while its session is lost may have been executed, so the gateway must not repeat it: there is no such call here.
        let calls = |turns| {
            Load::run(turns, SESSIONS, Duration::from_millis(20), |worker| {
                let session = sessions[worker].clone();
                Box::new(move |turn: u64| {
                    let nonce = format!("{worker} at turn {turn}");
                    let text = session
                        .call(gateway, "fixture_echo", &json!({"message": nonce}))?
                        .tool_text()?;
                    ensure!(text == nonce, "{text}");
                    Ok(())
                }) as Turn
            })
        };
        calls(3).without_failure()?;
        assert_eq!(harness.server().initializes("http-client")?, SESSIONS as u64);
        harness
            .server()
            .admin("POST", &format!("/sessions/forget?style={style}"), &Value::Null)?;
        calls(5).without_failure().with_context(|| style.to_owned())?;
        assert_eq!(
            harness.server().initializes("http-client")?,
            2 * SESSIONS as u64,
            "{style}"
        );
    }
    Ok(())
}
