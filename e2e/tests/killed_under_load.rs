//! What happens to sessions when processes die or are replaced while clients call: nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_e2e::load::{Load, Turn, percentile};
use vmcp_e2e::raw::{self, Session};
use vmcp_e2e::replicas::Replicas;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;
use vmcp_peers::process::Signal;

const PATIENCE: Duration = Duration::from_secs(30);

/// Calls the counter of one session, and knows what it has to say.
struct Counting {
    session: Session,
    /// The counts that may be next: a call that failed may have been executed.
    lowest: u64,
    highest: u64,
}

impl Counting {
    fn open(gateway: std::net::SocketAddr) -> anyhow::Result<Self> {
        let session = Session::open(gateway)?;
        Ok(Self {
            session,
            lowest: 1,
            highest: 1,
        })
    }

    /// One call. A count that was never given, or one that skips a call that was answered, is a failure.
    fn call(&mut self, gateway: std::net::SocketAddr) -> anyhow::Result<()> {
        let answer = self.session.call(gateway, "fixture_counter", &json!({}));
        let text = answer.and_then(|answer| {
            ensure!(
                answer.status == 200,
                "status {}: {}",
                answer.status,
                answer.text()
            );
            answer.tool_text()
        });
        match text {
            Ok(text) => {
                let count: u64 = text.parse()?;
                assert!(
                    (self.lowest..=self.highest).contains(&count),
                    "the backend's state is lost: {count}, and not {} to {}",
                    self.lowest,
                    self.highest
                );
                (self.lowest, self.highest) = (count + 1, count + 1);
                Ok(())
            }
            Err(error) => {
                self.highest += 1;
                Err(error)
            }
        }
    }
}

/// All replicas are killed under load and no session and no count is lost.
#[tokio::test(flavor = "multi_thread")]
async fn killing_all_replicas_loses_no_session() -> anyhow::Result<()> {
    const SESSIONS: usize = 50;
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let mut replicas = Replicas::start(3).await?;
    let gateway = replicas.address();
    let counting =
        (0..SESSIONS).map(|_| Counting::open(gateway).map(|counting| Arc::new(Mutex::new(counting))));
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
    replicas.kill_all()?;
    replicas.start_all_anew()?;
    let back = Instant::now();
    load.go_on_for(SESSIONS as u64 * 3)?;
    let report = load.finish();

    // What failed was in flight when they were killed, or sent while nobody was there.
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
    // Nobody shook hands again.
    assert_eq!(replicas.fixture.initializes("raw")?, SESSIONS as u64);
    Ok(())
}

/// The first call on a cold replica costs one look into the store and no handshake.
#[tokio::test(flavor = "multi_thread")]
async fn cold_replica_needs_one_load_and_no_handshake() -> anyhow::Result<()> {
    const SESSIONS: u64 = 200;
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let replicas = Replicas::start(1).await?;
    let warm = replicas.gateways[0].mcp;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let session = Session::open(warm)?;
        assert_eq!(
            session.call(warm, "fixture_counter", &json!({}))?.tool_text()?,
            "1"
        );
        sessions.push(session);
    }

    let cold = replicas.recipe.start()?;
    // Redis counts what a script does too, so each is counted by itself.
    let asked = || -> anyhow::Result<u64> {
        let read = replicas.redis.commands()?.get("hgetall").copied();
        Ok(replicas.redis.scripts()?.max(read.unwrap_or_default()))
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
        replicas.fixture.initializes("raw")?,
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
#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_fails_no_call_and_loses_no_event() -> anyhow::Result<()> {
    /// 200 calls a second in all.
    const SESSIONS: usize = 40;
    const LISTENERS: usize = 6;
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let mut replicas = Replicas::start_with(3, |recipe| {
        recipe.config.drain_delay = vmcp_crds::config::Duration::from_secs(3);
    })
    .await?;
    let gateway = replicas.address();
    let load = Load::start(SESSIONS, Duration::from_millis(200), |_| {
        let mut counting = None;
        Box::new(move |_| match &mut counting {
            Some(counting) => Counting::call(counting, gateway),
            None => Counting::call(counting.insert(Counting::open(gateway)?), gateway),
        }) as Turn
    });
    // Calls that last longer than a replica has to live.
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
        listeners.push(Listener::start(gateway)?);
    }
    wait::until("everybody listens", PATIENCE, || {
        let open = replicas.fixture.stats()?.gets_open;
        // Each gateway holds one for its catalogue.
        let catalogues = replicas.gateways.len() as u64;
        ensure!(open >= LISTENERS as u64 + catalogues, "{open} streams");
        Ok(())
    })?;

    let told = Arc::new(AtomicU64::new(0));
    let telling = {
        let (told, admin) = (Arc::clone(&told), replicas.fixture.admin_address());
        Load::start(1, Duration::from_millis(50), move |_| {
            let told = Arc::clone(&told);
            Box::new(move |turn: u64| {
                let answer = raw::exchange(
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

    for index in 0..replicas.gateways.len() {
        // A new one is ready before an old one goes, as Kubernetes does with maxUnavailable 0.
        let fresh = replicas.recipe.start()?;
        let mut old = std::mem::replace(&mut replicas.gateways[index], fresh);
        let mut both = replicas.addresses();
        both.push(old.mcp);
        replicas.balancer.set_replicas(&both);
        old.signal(Signal::TERM)?;
        wait::until("the old one says that it drains", PATIENCE, || {
            ensure!(raw::get(old.admin, "/readyz", &[])?.status == 503, "still ready");
            Ok(())
        })?;
        // The balancer hears of it late, within the drain delay.
        load.go_on_for(200)?;
        replicas.balancer.set_replicas(&replicas.addresses());
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

/// A client that holds its session's own stream, and opens it again behind the last event whenever it ends.
struct Listener {
    heard: Arc<Mutex<Vec<String>>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<anyhow::Result<()>>,
}

impl Listener {
    fn start(gateway: std::net::SocketAddr) -> anyhow::Result<Self> {
        let session = Session::open(gateway)?;
        session
            .call(gateway, "fixture_echo", &json!({"message": "hi"}))?
            .tool_text()?;
        let (heard, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default());
        let thread = {
            let (heard, stop) = (Arc::clone(&heard), Arc::clone(&stop));
            std::thread::spawn(move || listen(gateway, &session, &heard, &stop))
        };
        Ok(Self { heard, stop, thread })
    }

    /// Each event once, in the order in which they were told.
    fn heard_exactly(self, told: u64) -> anyhow::Result<()> {
        let expected: Vec<_> = (0..told).map(|event| format!("event-{event}")).collect();
        let outcome = wait::until("the last event is heard", PATIENCE, || {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            ensure!(heard.last() == expected.last(), "{:?} is the last", heard.last());
            Ok(())
        });
        self.stop.store(true, Ordering::Relaxed);
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let missing: Vec<_> = expected.iter().filter(|event| !heard.contains(event)).collect();
        outcome.with_context(|| format!("missing: {missing:?}"))?;
        ensure!(
            heard == expected,
            "lost: {missing:?}; {} heard of {told}",
            heard.len()
        );
        drop(self.thread);
        Ok(())
    }
}

fn listen(
    gateway: std::net::SocketAddr,
    session: &Session,
    heard: &Mutex<Vec<String>>,
    stop: &std::sync::atomic::AtomicBool,
) -> anyhow::Result<()> {
    let mut last: Option<String> = None;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = Stream::get(gateway, session, last.as_deref()) else {
            continue;
        };
        if stream.status != 200 {
            continue;
        }
        while let Ok(Some(event)) = stream.next_event() {
            let message = event.message().unwrap_or(Value::Null);
            if message["method"] == "notifications/message"
                && let Some(text) = message["params"]["data"].as_str()
            {
                heard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(text.to_owned());
            }
            last = event.id.or(last);
        }
    }
    Ok(())
}

/// A backend that forgets every session costs one handshake each and no call.
#[tokio::test(flavor = "multi_thread")]
async fn restarted_backend_costs_one_handshake_per_session() -> anyhow::Result<()> {
    const SESSIONS: usize = 30;
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    for style in ["404", "400"] {
        let replicas = Replicas::start(3).await?;
        let gateway = replicas.address();
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|_| Session::open(gateway))
            .collect::<anyhow::Result<_>>()?;
        // A call that runs while its session is forgotten may have been executed, and is not for the gateway to repeat: there is none.
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
        assert_eq!(replicas.fixture.initializes("raw")?, SESSIONS as u64);
        replicas
            .fixture
            .admin("POST", &format!("/sessions/forget?style={style}"), &Value::Null)?;
        calls(5).without_failure().with_context(|| style.to_owned())?;
        assert_eq!(
            replicas.fixture.initializes("raw")?,
            2 * SESSIONS as u64,
            "{style}"
        );
    }
    Ok(())
}
