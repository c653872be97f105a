//! Redis stops, is killed, is slow, or comes back empty, while clients call over three replicas without affinity.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use vmcp_crds::config::{BackendConfig, SessionState};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::load::{Load, Turn, percentile};
use vmcp_e2e::proxy::{Fault, Proxy};
use vmcp_e2e::raw::{self, Answer, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::replicas::Replicas;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(15);
const SESSIONS: usize = 20;
/// How long Redis is away.
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
fn sessions(replicas: &Replicas) -> anyhow::Result<Vec<Session>> {
    let open = |_| {
        let session = Session::open(replicas.address())?;
        let text = session
            .call(replicas.address(), "fixture_counter", &json!({}))?
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

/// The sessions at the fixture that belong to clients.
fn upstream(fixture: &Fixture) -> anyhow::Result<usize> {
    let sessions = fixture.admin_answer("GET", "/sessions", &Value::Null)?;
    let sessions = sessions.as_array().cloned().unwrap_or_default();
    Ok(sessions
        .iter()
        .filter(|session| session["client"]["name"] == "raw")
        .count())
}

/// Redis as it is in a cluster that keeps its data: every write is on disk before it is answered.
const DURABLE: [&str; 2] = ["appendonly yes", "appendfsync always"];

#[derive(Clone, Copy)]
enum Away {
    Stopped,
    Killed,
}

async fn away_for_half_a_minute(away: Away) -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let disposable = Fixture::start(&[])?;
    let mut replicas = Replicas::start_on(Redis::start_with(None, &DURABLE)?, 3, |recipe| {
        let mut backend = BackendConfig {
            name: "disposable".to_owned(),
            url: disposable.url.clone(),
            ..BackendConfig::default()
        };
        backend.session_state = SessionState::Disposable;
        if let Some(hot) = &mut recipe.config.hot {
            hot.backends.push(backend);
        }
    })
    .await?;
    let gateway = replicas.address();
    let sessions = sessions(&replicas)?;
    let other = Session::open(gateway)?;
    let load = counting(gateway, &sessions, Duration::from_millis(100), "fixture_counter");
    load.go_on_for(SESSIONS as u64 * 6)?;

    match away {
        Away::Stopped => replicas.redis.pause()?,
        Away::Killed => replicas.redis.kill()?,
    }
    let began = Instant::now();
    // What may not be lost is refused at once.
    for mcp in replicas.addresses() {
        for answer in [raw::initialize(mcp)?, other.delete(mcp)?] {
            refused_for_now(&answer);
        }
    }
    let asked = Instant::now();
    refused_for_now(&raw::initialize(gateway)?);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());

    // The state that counts is known to the replicas that were there; one that comes now does not guess it.
    let late = replicas.recipe.start()?;
    refused_for_now(&sessions[0].call(late.mcp, "fixture_counter", &json!({}))?);
    // By its id alone a session is served once the outage is known to be one.
    let echoed = wait::until("the outage is known there", PATIENCE, || {
        let answer = sessions[0].call(late.mcp, "disposable_echo", &json!({"message": "hello"}))?;
        answer.tool_text()
    })?;
    assert_eq!(echoed, "hello");
    // A backend that no session was bound to before: provisional sessions, on every replica.
    for (session, mcp) in sessions.iter().zip(replicas.addresses().into_iter().cycle()) {
        let echoed = session.call(mcp, "disposable_echo", &json!({"message": "hello"}))?;
        assert_eq!(echoed.tool_text()?, "hello");
    }
    for replica in &replicas.gateways {
        assert_eq!(raw::get(replica.admin, "/readyz", &[])?.status, 200);
        assert!(!replica.status(&replicas.recipe)?.session_store.available);
    }
    while began.elapsed() < OUTAGE {
        load.go_on_for(SESSIONS as u64)?;
    }

    match away {
        Away::Stopped => replicas.redis.resume()?,
        Away::Killed => replicas.redis.start_again()?,
    }
    let back = Instant::now();
    for mcp in replicas.addresses() {
        wait::until("initialize works again", Duration::from_secs(2), || {
            let answer = raw::initialize(mcp)?;
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
    // The one that came late knows them now.
    let echoed = sessions[0].call(late.mcp, "fixture_echo", &json!({"message": "hello"}))?;
    assert_eq!(echoed.tool_text()?, "hello");
    assert_eq!(
        replicas.fixture.initializes("raw")?,
        SESSIONS as u64,
        "a session shook hands again"
    );
    wait::until(
        "provisional upstream sessions are adopted or deleted",
        PATIENCE,
        || {
            let (open, bound) = (upstream(&disposable)?, SESSIONS);
            ensure!(open <= bound, "{open} are open for {bound} sessions");
            Ok(())
        },
    )
}

/// Redis stops for half a minute and no call fails and no count jumps.
#[tokio::test(flavor = "multi_thread")]
async fn redis_pause_of_30_s_fails_no_call() -> anyhow::Result<()> {
    away_for_half_a_minute(Away::Stopped).await
}

/// Redis is killed for half a minute and no call fails and no count jumps.
#[tokio::test(flavor = "multi_thread")]
async fn redis_restart_after_30_s_fails_no_call() -> anyhow::Result<()> {
    away_for_half_a_minute(Away::Killed).await
}

/// Redis comes back empty under load and everything is as it was.
#[tokio::test(flavor = "multi_thread")]
async fn empty_redis_under_load_is_restored() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let mut replicas = Replicas::start(3).await?;
    let gateway = replicas.address();
    let sessions = sessions(&replicas)?;
    let ended = Session::open(gateway)?;
    assert_eq!(ended.delete(gateway)?.status, 200);
    let load = counting(gateway, &sessions, Duration::from_millis(100), "fixture_counter");
    load.go_on_for(SESSIONS as u64 * 6)?;

    replicas.redis.kill()?;
    replicas.redis.start_again()?;
    load.go_on_for(SESSIONS as u64 * 12)?;
    load.finish().without_failure()?;
    assert_eq!(
        replicas.fixture.initializes("raw")?,
        SESSIONS as u64,
        "a session shook hands again"
    );
    for mcp in replicas.addresses() {
        let refused = ended.call(mcp, "fixture_echo", &json!({"message": "hello"}))?;
        assert_eq!(refused.status, 404, "{}", refused.text());
    }
    // A replica that knew nothing finds it all in the store.
    wait::until("the records are back", PATIENCE, || {
        let records: Vec<String> = replicas.redis.command(&["KEYS", "*:s:*"])?;
        ensure!(records.len() >= SESSIONS, "{} records", records.len());
        Ok(())
    })?;
    let late = replicas.recipe.start()?;
    for session in &sessions {
        let echoed = session.call(late.mcp, "fixture_echo", &json!({"message": "hello"}))?;
        assert_eq!(echoed.tool_text()?, "hello");
    }
    assert_eq!(
        replicas.fixture.initializes("raw")?,
        SESSIONS as u64,
        "a session shook hands again"
    );
    Ok(())
}

/// Redis comes back empty and no replica is left that knew the sessions and no session is lost.
#[tokio::test(flavor = "multi_thread")]
async fn empty_redis_and_new_replicas_lose_no_session() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let mut replicas = Replicas::start(3).await?;
    let before = sessions(&replicas)?;
    replicas.redis.kill()?;
    replicas.kill_all()?;
    replicas.redis.start_again()?;
    replicas.start_all_anew()?;
    let gateway = replicas.address();
    // The backend's state went with the bindings; the sessions did not. All of them come at once.
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
    // One that ends now stays ended, for everybody.
    assert_eq!(before[0].delete(gateway)?.status, 200);
    for mcp in replicas.addresses() {
        let refused = before[0].call(mcp, "fixture_counter", &json!({}))?;
        assert_eq!(refused.status, 404, "{}", refused.text());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_redis_is_not_felt_by_sessions_that_are_known() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let redis = Redis::start(None)?;
    let proxy = Proxy::start(redis.address).await?;
    let replicas = Replicas::start_on(redis, 3, |recipe| {
        recipe.config.session_storage.address = Some(proxy.address.to_string());
    })
    .await?;
    let gateway = replicas.address();
    let sessions = sessions(&replicas)?;
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
    // It comes and goes.
    for _ in 0..5 {
        proxy.cut();
        calls(3).without_failure()?;
    }
    Ok(())
}

/// The end of a session is known everywhere within a tenth of a second.
#[tokio::test(flavor = "multi_thread")]
async fn termination_reaches_all_replicas_within_100_ms() -> anyhow::Result<()> {
    const ENDED: usize = 200;
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let replicas = Replicas::start(3).await?;
    let addresses = replicas.addresses();
    let mut took = Vec::new();
    for _ in 0..ENDED {
        let session = Session::open(replicas.address())?;
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
        let open = upstream(&replicas.fixture)?;
        ensure!(open == 0, "{open} are open");
        Ok(())
    })
}

/// The end of a session is known within max staleness also without an event.
#[tokio::test(flavor = "multi_thread")]
async fn termination_is_known_within_max_staleness() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let mut replicas = Replicas::start(1).await?;
    let proxy = Proxy::start(replicas.redis.address).await?;
    replicas.recipe.config.session_storage.address = Some(proxy.address.to_string());
    let deaf = replicas.recipe.start()?;
    let mut told = Vec::new();
    for _ in 0..5 {
        let session = Session::open(replicas.address())?;
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
        assert_eq!(session.delete(replicas.gateways[0].mcp)?.status, 200);
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

/// After the grace nothing is served any more and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn outage_grace_ends_service_without_loss() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let mut replicas = Replicas::start_with(1, |recipe| {
        recipe.config.session_storage.outage_grace = vmcp_crds::config::Duration::from_secs(3);
    })
    .await?;
    let gateway = replicas.address();
    let session = Session::open(gateway)?;
    assert_eq!(
        session
            .call(gateway, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    replicas.redis.pause()?;
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
    replicas.redis.resume()?;
    let count = wait::until("it is served again", PATIENCE, || {
        session.call(gateway, "fixture_counter", &json!({}))?.tool_text()
    })?;
    assert_eq!(count, "3");
    Ok(())
}
