//! Redis hangs, dies, is slow or loses its data while clients call over three replicas without affinity.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use vmcp_crds::config::SessionState;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::load::{Load, Turn, percentile};
use vmcp_e2e::proxy::{Fault, Proxy};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(15);
const SESSIONS: usize = 20;
/// How long Redis is unavailable.
const OUTAGE: Duration = Duration::from_secs(30);

/// Sessions that call a counter and an echo in turns. A count with a gap or a repeat is a failure, and so is a wrong echo.
fn counting(gateway: SocketAddr, sessions: &[Session], every: Duration, tool: &'static str) -> Load {
    Load::start(sessions.len(), every, |worker| {
        let session = sessions[worker].clone();
        let mut count = 1;
        Box::new(move |turn: u64| {
            if turn.is_multiple_of(3) {
                let nonce = format!("{worker} at turn {turn}");
                let echoed = session
                    .call(gateway, "fixture_echo", &json!({"message": nonce}))?
                    .tool_text()?;
                ensure!(echoed == nonce, "{echoed} instead of {nonce}");
                return Ok(());
            }
            if turn % 3 == 1 {
                let listed = session.request(gateway, "tools/list", &json!({}))?;
                ensure!(listed.status == 200, "{} {}", listed.status, listed.text());
                return Ok(());
            }
            count += 1;
            let text = session.call(gateway, tool, &json!({}))?.tool_text()?;
            ensure!(text == count.to_string(), "{text} instead of {count}");
            Ok(())
        }) as Turn
    })
}

/// Sessions whose count is 1, which every replica knows.
fn sessions(harness: &Harness<Redis>) -> anyhow::Result<Vec<Session>> {
    let open = |_| {
        let session = Session::open(harness.address())?;
        let text = session
            .call(harness.address(), "fixture_counter", &json!({}))?
            .tool_text()?;
        ensure!(text == "1", "{text}");
        Ok(session)
    };
    (0..SESSIONS).map(open).collect()
}

fn refused_for_now(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.error_code()),
        (503, -32603),
        "{}",
        answer.text()
    );
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

/// The sessions at the test server that belong to clients.
fn upstream(test_server: &TestServer) -> anyhow::Result<usize> {
    let sessions = test_server.admin_answer("GET", "/sessions", &Value::Null)?;
    let sessions = sessions.as_array().cloned().unwrap_or_default();
    Ok(sessions
        .iter()
        .filter(|session| session["client"]["name"] == "http-client")
        .count())
}

/// The settings of a durable Redis: every write is on disk before the reply.
const DURABLE: [&str; 2] = ["appendonly yes", "appendfsync always"];

#[derive(Clone, Copy)]
enum Away {
    Stopped,
    Killed,
}

async fn away_for_half_a_minute(away: Away) -> anyhow::Result<()> {
    let mut harness = Harness::builder()
        .test_server("fixture", &[])
        .test_server("disposable", &[])
        .redis(Redis::start_with(None, &DURABLE)?)
        .configure(|recipe| recipe.hot().backends[1].session_state = SessionState::Disposable)
        .replicas(3)
        .start_balanced()
        .await?;
    let gateway = harness.address();
    let sessions = sessions(&harness)?;
    let other = Session::open(gateway)?;
    let load = counting(gateway, &sessions, Duration::from_millis(100), "fixture_counter");
    load.go_on_for(SESSIONS as u64 * 6)?;

    match away {
        Away::Stopped => harness.redis.pause()?,
        Away::Killed => harness.redis.kill()?,
    }
    let began = Instant::now();
    // Writes that must not be lost are rejected at once.
    for mcp in harness.addresses() {
        for answer in [http_client::initialize(mcp)?, other.delete(mcp)?] {
            refused_for_now(&answer);
        }
    }
    let asked = Instant::now();
    refused_for_now(&http_client::initialize(gateway)?);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());

    // The old replicas cache the bindings. A new one does not guess them.
    let late = harness.recipe.start_without_store()?;
    refused_for_now(&sessions[0].call(late.mcp, "fixture_counter", &json!({}))?);
    // A session is served by its id alone once the outage is detected.
    let echoed = wait::until("the outage is known there", PATIENCE, || {
        let answer = sessions[0].call(late.mcp, "disposable_echo", &json!({"message": "hello"}))?;
        answer.tool_text()
    })?;
    assert_eq!(echoed, "hello");
    // A backend without bindings: every replica opens provisional upstream sessions.
    for (session, mcp) in sessions.iter().zip(harness.addresses().into_iter().cycle()) {
        let echoed = session.call(mcp, "disposable_echo", &json!({"message": "hello"}))?;
        assert_eq!(echoed.tool_text()?, "hello");
    }
    for replica in &harness.gateways {
        assert_eq!(http_client::get(replica.admin, "/readyz", &[])?.status, 200);
        assert!(!replica.status(&harness.recipe)?.session_store.available);
    }
    while began.elapsed() < OUTAGE {
        load.go_on_for(SESSIONS as u64)?;
    }

    match away {
        Away::Stopped => harness.redis.resume()?,
        Away::Killed => harness.redis.start_again()?,
    }
    let back = Instant::now();
    for mcp in harness.addresses() {
        wait::until("initialize works again", Duration::from_secs(2), || {
            let answer = http_client::initialize(mcp)?;
            ensure!(
                answer.status == 200,
                "{} after {:?}",
                answer.text(),
                back.elapsed()
            );
            Ok(())
        })?;
    }
    load.go_on_for(SESSIONS as u64 * 6)?;
    load.finish().without_failure()?;
    assert_eq!(other.delete(gateway)?.status, 200);
    // The late replica knows them now.
    let echoed = sessions[0].call(late.mcp, "fixture_echo", &json!({"message": "hello"}))?;
    assert_eq!(echoed.tool_text()?, "hello");
    assert_eq!(
        harness.server().initializes("http-client")?,
        SESSIONS as u64,
        "a session shook hands again"
    );
    wait::until(
        "provisional upstream sessions are adopted or deleted",
        PATIENCE,
        || {
            let (open, bound) = (upstream(&harness.servers[1])?, SESSIONS);
            ensure!(open <= bound, "{open} are open for {bound} sessions");
            Ok(())
        },
    )
}

/// Redis stops for half a minute and no call fails and no count jumps.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn redis_pause_of_30_s_fails_no_call() -> anyhow::Result<()> {
    away_for_half_a_minute(Away::Stopped).await
}

/// Redis is killed for half a minute and no call fails and no count jumps.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn redis_restart_after_30_s_fails_no_call() -> anyhow::Result<()> {
    away_for_half_a_minute(Away::Killed).await
}

/// Redis restarts empty under load, and everything is restored.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn empty_redis_under_load_is_restored() -> anyhow::Result<()> {
    let mut harness = Harness::replicated(3).await?;
    let gateway = harness.address();
    let sessions = sessions(&harness)?;
    let ended = Session::open(gateway)?;
    assert_eq!(ended.delete(gateway)?.status, 200);
    let load = counting(gateway, &sessions, Duration::from_millis(100), "fixture_counter");
    load.go_on_for(SESSIONS as u64 * 6)?;

    harness.redis.kill()?;
    harness.redis.start_again()?;
    load.go_on_for(SESSIONS as u64 * 12)?;
    load.finish().without_failure()?;
    assert_eq!(
        harness.server().initializes("http-client")?,
        SESSIONS as u64,
        "a session shook hands again"
    );
    for mcp in harness.addresses() {
        let refused = ended.call(mcp, "fixture_echo", &json!({"message": "hello"}))?;
        assert_eq!(refused.status, 404, "{}", refused.text());
    }
    // A new replica finds everything in the store.
    wait::until("the records are back", PATIENCE, || {
        let records: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
        ensure!(records.len() >= SESSIONS, "{} records", records.len());
        Ok(())
    })?;
    let late = harness.recipe.start()?;
    for session in &sessions {
        let echoed = session.call(late.mcp, "fixture_echo", &json!({"message": "hello"}))?;
        assert_eq!(echoed.tool_text()?, "hello");
    }
    assert_eq!(
        harness.server().initializes("http-client")?,
        SESSIONS as u64,
        "a session shook hands again"
    );
    Ok(())
}

/// Redis and all replicas lose everything, and no session is lost.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn empty_redis_and_new_replicas_lose_no_session() -> anyhow::Result<()> {
    let mut harness = Harness::replicated(3).await?;
    let before = sessions(&harness)?;
    harness.redis.kill()?;
    harness.kill_gateways()?;
    harness.redis.start_again()?;
    harness.replace_gateways()?;
    let gateway = harness.address();
    // The backend's state is lost with the bindings. The sessions are not. All of them call at once.
    let report = Load::run(3, before.len(), Duration::ZERO, |worker| {
        let session = before[worker].clone();
        Box::new(move |turn: u64| {
            let text = session
                .call(gateway, "fixture_counter", &json!({}))?
                .tool_text()?;
            ensure!(text == (turn + 1).to_string(), "{text} at turn {turn}");
            Ok(())
        }) as Turn
    });
    report.without_failure()?;
    // A session that is terminated now stays terminated on all replicas.
    assert_eq!(before[0].delete(gateway)?.status, 200);
    for mcp in harness.addresses() {
        let refused = before[0].call(mcp, "fixture_counter", &json!({}))?;
        assert_eq!(refused.status, 404, "{}", refused.text());
    }
    Ok(())
}

/// A slow Redis does not slow calls of cached sessions.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn slow_redis_does_not_slow_known_sessions() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let proxy = Proxy::start(redis.address).await?;
    let harness = Harness::builder()
        .test_server("fixture", &[])
        .redis(redis)
        .configure(|recipe| recipe.config.session_storage.address = Some(proxy.address.to_string()))
        .replicas(3)
        .start_balanced()
        .await?;
    let gateway = harness.address();
    let sessions = sessions(&harness)?;
    let calls = |turns| {
        let sessions = sessions.clone();
        Load::run(turns, SESSIONS, Duration::from_millis(200), move |worker| {
            let session = sessions[worker].clone();
            Box::new(move |turn: u64| {
                let nonce = format!("{worker} at turn {turn}");
                let echoed = session
                    .call(gateway, "fixture_echo", &json!({"message": nonce}))?
                    .tool_text()?;
                ensure!(echoed == nonce, "{echoed}");
                Ok(())
            }) as Turn
        })
    };
    let usual = calls(10);
    usual.without_failure()?;
    for late in [100, 1000, 10_000] {
        let late = Duration::from_millis(late);
        proxy.set(Fault {
            late,
            ..Fault::default()
        });
        let report = calls(25);
        proxy.set(Fault::default());
        report.without_failure()?;
        // The machine may have become busier meanwhile.
        let behind = calls(10);
        behind.without_failure()?;
        let (median, around) = (
            report.percentile(0.5),
            usual.percentile(0.5).max(behind.percentile(0.5)),
        );
        assert!(
            median < around * 2 + Duration::from_millis(20),
            "{median:?} with Redis {late:?} late, {around:?} before and afterwards"
        );
    }
    // Connections break repeatedly.
    for _ in 0..5 {
        proxy.cut();
        calls(3).without_failure()?;
    }
    Ok(())
}

/// A termination is known on all replicas within a tenth of a second.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn termination_reaches_all_replicas_within_100_ms() -> anyhow::Result<()> {
    const ENDED: usize = 200;
    let harness = Harness::replicated(3).await?;
    let addresses = harness.addresses();
    let mut took = Vec::new();
    for _ in 0..ENDED {
        let session = Session::open(harness.address())?;
        for mcp in &addresses {
            session
                .call(*mcp, "fixture_echo", &json!({"message": "hello"}))?
                .tool_text()?;
        }
        assert_eq!(session.delete(addresses[0])?.status, 200);
        let ended = Instant::now();
        for mcp in &addresses[1..] {
            wait::until("it is refused", PATIENCE, || {
                let answer = session.request(*mcp, "ping", &json!({}))?;
                ensure!(answer.status == 404, "{}", answer.status);
                Ok(())
            })?;
            took.push(ended.elapsed());
        }
        assert_eq!(session.delete(addresses[0])?.status, 404);
    }
    let slowest = percentile(took, 0.99);
    assert!(slowest < Duration::from_millis(100), "{slowest:?}");
    // Their upstream sessions are deleted.
    wait::until("no upstream session is left", PATIENCE, || {
        let open = upstream(harness.server())?;
        ensure!(open == 0, "{open} are open");
        Ok(())
    })
}

/// Without an event, a termination is known within `maxStaleness`.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn termination_is_known_within_max_staleness() -> anyhow::Result<()> {
    let mut harness = Harness::replicated(1).await?;
    let proxy = Proxy::start(harness.redis.address).await?;
    harness.recipe.config.session_storage.address = Some(proxy.address.to_string());
    let deaf = harness.recipe.start()?;
    let mut told = Vec::new();
    for _ in 0..5 {
        let session = Session::open(harness.address())?;
        // Its connections were cut a moment ago.
        wait::until("it is served there", PATIENCE, || {
            session
                .call(deaf.mcp, "fixture_echo", &json!({"message": "hello"}))?
                .tool_text()
        })?;
        proxy.set(Fault {
            late: Duration::from_secs(20),
            subscribers_only: true,
        });
        assert_eq!(session.delete(harness.gateways[0].mcp)?.status, 200);
        let ended = Instant::now();
        wait::until("it is refused", Duration::from_secs(3), || {
            let answer = session.request(deaf.mcp, "ping", &json!({}))?;
            ensure!(answer.status == 404, "{}", answer.status);
            Ok(())
        })?;
        told.push(ended.elapsed());
        proxy.set(Fault::default());
        proxy.cut();
    }
    // A quarter of a second for the request itself on a busy machine; the rest is the promise.
    let longest = told.iter().max().copied().unwrap_or_default();
    assert!(longest < Duration::from_millis(2250), "{told:?}");
    Ok(())
}

/// After the outage grace no session is served, and none is lost.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn outage_grace_ends_service_without_loss() -> anyhow::Result<()> {
    let grace = vmcp_crds::config::Duration::from_secs(3);
    let mut harness = Harness::builder()
        .test_server("fixture", &[])
        .redis(Redis::start(None)?)
        .configure(|recipe| recipe.config.session_storage.outage_grace = grace)
        .start_balanced()
        .await?;
    let gateway = harness.address();
    let session = Session::open(gateway)?;
    assert_eq!(
        session
            .call(gateway, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    harness.redis.pause()?;
    assert_eq!(
        session
            .call(gateway, "fixture_counter", &json!({}))?
            .tool_text()?,
        "2"
    );
    wait::until("the grace is over", PATIENCE, || {
        let answer = session.request(gateway, "ping", &json!({}))?;
        ensure!(answer.status == 503, "{}", answer.status);
        refused_for_now(&answer);
        Ok(())
    })?;
    harness.redis.resume()?;
    let count = wait::until("it is served again", PATIENCE, || {
        session.call(gateway, "fixture_counter", &json!({}))?.tool_text()
    })?;
    assert_eq!(count, "3");
    Ok(())
}
