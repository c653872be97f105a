//! Isolation of backends: callers of a failing backend get a fast error, and callers of other backends notice nothing.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_crds::config::{BackendConfig, BreakerConfig, ConcurrencyConfig, Duration as ConfigDuration};
use vmcp_crds::status::Breaker;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{Answer, Session};
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);

fn backend(recipe: &mut Recipe) -> &mut BackendConfig {
    &mut recipe.hot().backends[0]
}

fn echo(gateway: &Gateway, session: &Session, backend: &str) -> anyhow::Result<Answer> {
    session.call(gateway.mcp, &format!("{backend}_echo"), &json!({"message": "hi"}))
}

/// The text of a failed call for the model.
fn failure(answer: &Answer) -> anyhow::Result<String> {
    let message = answer.message()?;
    assert_eq!(
        (answer.status, &message["result"]["isError"]),
        (200, &json!(true)),
        "{message}"
    );
    Ok(message["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

fn calls_seen(test_server: &TestServer) -> anyhow::Result<u64> {
    Ok(test_server
        .stats()?
        .requests
        .get("tools/call")
        .copied()
        .unwrap_or_default())
}

/// Waits until `/status` reports this state of the first backend's circuit breaker.
fn reports_breaker(gateway: &Gateway, recipe: &Recipe, expected: Breaker) -> anyhow::Result<()> {
    wait::until(&format!("the breaker is {expected:?}"), PATIENCE, || {
        let breaker = gateway.status(recipe)?.backends[0].breaker;
        anyhow::ensure!(breaker == Some(expected), "{breaker:?}");
        Ok(())
    })
}

fn break_calls(test_server: &TestServer, fault: &Value) -> anyhow::Result<()> {
    let mut rule = fault.clone();
    rule["only_method"] = json!("tools/call");
    test_server.admin("POST", "/faults", &rule)
}

/// While the breaker is open, calls fail fast and do not reach the backend. `/status` reports its state.
#[test]
fn open_breaker_fails_fast_without_call() -> anyhow::Result<()> {
    let (test_server, other) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let mut recipe = Recipe::new(&[("ill", &test_server.url), ("well", &other.url)])?;
    backend(&mut recipe).breaker = BreakerConfig {
        failures: 2,
        open_for: ConfigDuration::from_secs(3600),
    };
    let patient = recipe.start()?;
    backend(&mut recipe).breaker.open_for = ConfigDuration::from_millis(100);
    let curious = recipe.start()?;
    backend(&mut recipe).breaker.failures = 0;
    let without = recipe.start()?;
    let (on_patient, on_curious, on_without) = (
        Session::open(patient.mcp)?,
        Session::open(curious.mcp)?,
        Session::open(without.mcp)?,
    );
    // Tool errors and JSON-RPC errors never open the breaker.
    for _ in 0..4 {
        let wrong = on_patient.call(patient.mcp, "ill_echo", &json!({}))?;
        assert!(!wrong.text().contains("is not asked"), "{}", wrong.text());
    }
    assert_eq!(echo(&patient, &on_patient, "ill")?.tool_text()?, "hi");
    reports_breaker(&patient, &recipe, Breaker::Closed)?;

    break_calls(&test_server, &json!({"status": 500}))?;
    for _ in 0..2 {
        let text = failure(&echo(&patient, &on_patient, "ill")?)?;
        assert!(text.contains("HTTP status 500"), "{text}");
    }
    reports_breaker(&patient, &recipe, Breaker::Open)?;
    let seen = calls_seen(&test_server)?;
    let text = failure(&echo(&patient, &on_patient, "ill")?)?;
    for part in ["ill", "is not asked", "HTTP status 500", "trying again is safe"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let prompt = on_patient.request(
        patient.mcp,
        "prompts/get",
        &json!({"name": "ill_test_simple_prompt"}),
    )?;
    assert_eq!(
        (prompt.status, prompt.error_code()),
        (200, -32603),
        "{}",
        prompt.text()
    );
    assert!(prompt.text().contains("is not asked"), "{}", prompt.text());
    assert_eq!(
        calls_seen(&test_server)?,
        seen,
        "the backend was asked all the same"
    );
    assert_eq!(echo(&patient, &on_patient, "well")?.tool_text()?, "hi");
    // Turned off, every call is sent.
    for number in 1..=6 {
        let text = failure(&echo(&without, &on_without, "ill")?)?;
        assert!(text.contains("HTTP status 500"), "{text}");
        assert_eq!(calls_seen(&test_server)?, seen + number);
    }

    // After a while one call is let through, and closes it.
    for _ in 0..2 {
        failure(&echo(&curious, &on_curious, "ill")?)?;
    }
    reports_breaker(&curious, &recipe, Breaker::HalfOpen)?;
    test_server.admin("DELETE", "/faults", &json!({}))?;
    wait::until("the breaker closes", PATIENCE, || {
        echo(&curious, &on_curious, "ill")?.tool_text()
    })?;
    reports_breaker(&curious, &recipe, Breaker::Closed)?;
    let text = failure(&echo(&patient, &on_patient, "ill")?)?;
    assert!(text.contains("is not asked"), "{text}");
    Ok(())
}

/// A recovered backend closes the breaker before its open time is over.
#[test]
fn recovered_backend_closes_the_breaker_early() -> anyhow::Result<()> {
    let mut test_server = TestServer::start(&[])?;
    let mut recipe = Recipe::new(&[("ill", &test_server.url)])?;
    backend(&mut recipe).breaker = BreakerConfig {
        failures: 1,
        open_for: ConfigDuration::from_secs(3600),
    };
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(echo(&gateway, &session, "ill")?.tool_text()?, "hi");
    test_server.kill()?;
    let text = failure(&echo(&gateway, &session, "ill")?)?;
    assert!(
        text.contains("cannot be reached") || text.contains("ended the connection"),
        "{text}"
    );
    // A failed call triggers a discovery: `refresh` is a minute.
    wait::until("the gateway has looked", PATIENCE, || {
        anyhow::ensure!(gateway.status(&recipe)?.backends[0].error.is_some(), "not yet");
        Ok(())
    })?;
    test_server.restart()?;
    wait::until("it is called again", PATIENCE, || {
        echo(&gateway, &session, "ill")?.tool_text()
    })?;
    Ok(())
}

/// Calls beyond the concurrency limit wait for a permit, or get 503.
#[test]
fn calls_over_backend_limit_wait_or_are_refused() -> anyhow::Result<()> {
    let (test_server, other) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let mut recipe = Recipe::new(&[("busy", &test_server.url), ("well", &other.url)])?;
    let limit = |queue, wait| ConcurrencyConfig {
        limit: 1,
        queue,
        wait,
    };
    for (concurrency, waits) in [
        (limit(0, ConfigDuration::from_secs(20)), false),
        (limit(8, ConfigDuration::from_millis(1)), false),
        (limit(8, ConfigDuration::from_secs(20)), true),
        (ConcurrencyConfig::default(), true),
    ] {
        backend(&mut recipe).concurrency = concurrency.clone();
        let gateway = recipe.start()?;
        let session = Session::open(gateway.mcp)?;
        let before = calls_seen(&test_server)?;
        let (mcp, sleeper) = (gateway.mcp, session.clone());
        let sleeping = std::thread::spawn(move || sleeper.call(mcp, "busy_sleep", &json!({"ms": 2000})));
        wait::until("the call runs", PATIENCE, || {
            anyhow::ensure!(calls_seen(&test_server)? > before, "not yet");
            Ok(())
        })?;
        // Calls of another backend are not affected.
        assert_eq!(echo(&gateway, &session, "well")?.tool_text()?, "hi");
        let second = echo(&gateway, &session, "busy")?;
        if waits {
            assert_eq!(second.tool_text()?, "hi", "{concurrency:?}");
        } else {
            assert_eq!(
                (second.status, second.error_code()),
                (503, -32603),
                "{}",
                second.text()
            );
            assert!(second.header("retry-after").is_some());
            assert!(
                second.text().contains("busy has 1 calls running"),
                "{}",
                second.text()
            );
        }
        // The permit is free when the response, here a stream, is complete.
        sleeping.join().unwrap()?.tool_text()?;
        wait::until("the place is free", PATIENCE, || {
            echo(&gateway, &session, "busy")?.tool_text()
        })?;
    }
    Ok(())
}

/// Sends a call, and does not wait for its answer.
fn begin(gateway: SocketAddr, session: &Session, tool: &str) -> anyhow::Result<TcpStream> {
    static NEXT: AtomicU64 = AtomicU64::new(1_000_000);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let params = json!({"name": tool, "arguments": {"message": "hi"}});
    let body = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string();
    let mut stream = TcpStream::connect(gateway)?;
    stream.write_all(
        format!(
            "POST /mcp HTTP/1.1\r\nhost: {gateway}\r\ncontent-type: application/json\r\naccept: application/json, \
             text/event-stream\r\nmcp-session-id: {}\r\ncontent-length: {}\r\n\r\n{body}",
            session.id,
            body.len()
        )
        .as_bytes(),
    )?;
    Ok(stream)
}

/// Whether nothing has been answered on the connection.
fn is_unanswered(stream: &TcpStream) -> anyhow::Result<bool> {
    stream.set_nonblocking(true)?;
    match stream.peek(&mut [0]) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(false),
    }
}

/// Calls to other backends are not delayed while every call to one backend hangs.
#[test]
fn hanging_backend_delays_no_other_backend() -> anyhow::Result<()> {
    let (test_server, other) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let mut recipe = Recipe::new(&[("ill", &test_server.url), ("well", &other.url)])?;
    // Half of them hang at the backend, and half in its queue.
    backend(&mut recipe).concurrency = ConcurrencyConfig {
        limit: 20,
        queue: 20,
        wait: ConfigDuration::from_secs(60),
    };
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(echo(&gateway, &session, "well")?.tool_text()?, "hi");
    assert_eq!(echo(&gateway, &session, "ill")?.tool_text()?, "hi");
    let before = calls_seen(&test_server)?;
    test_server.admin("POST", "/faults", &json!({"hang": true}))?;
    let hanging: Vec<_> = (0..40)
        .map(|_| begin(gateway.mcp, &session, "ill_echo"))
        .collect::<anyhow::Result<_>>()?;
    wait::until("the calls hang", PATIENCE, || {
        anyhow::ensure!(calls_seen(&test_server)? == before + 20, "not yet");
        Ok(())
    })?;
    for _ in 0..100 {
        assert_eq!(echo(&gateway, &session, "well")?.tool_text()?, "hi");
    }
    let fresh = Session::open(gateway.mcp)?;
    let tools = fresh.names(gateway.mcp, "tools/list")?;
    assert!(tools.contains(&"well_echo".to_owned()) && tools.contains(&"ill_echo".to_owned()));
    assert_eq!(echo(&gateway, &fresh, "well")?.tool_text()?, "hi");
    // Meanwhile none of the other calls had a response.
    for stream in &hanging {
        assert!(is_unanswered(stream)?);
    }
    Ok(())
}

/// The number of pairs of windows, and of calls that each of four clients makes in a window. Both are fixed before the measurement, and every
/// pair counts: a test that measures until the numbers are good proves nothing.
const PAIRS: usize = 100;
const CALLS: usize = 25;

/// The 99th percentile of the latency of the healthy backend in one window.
fn p99(gateway: &Gateway, session: &Session) -> anyhow::Result<Duration> {
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (mcp, session) = (gateway.mcp, session.clone());
            std::thread::spawn(move || -> anyhow::Result<Vec<Duration>> {
                let timed = |_| {
                    let started = Instant::now();
                    let answer = session.call(mcp, "well_echo", &json!({"message": "hi"}))?;
                    assert_eq!(answer.tool_text()?, "hi");
                    Ok(started.elapsed())
                };
                (0..CALLS).map(timed).collect()
            })
        })
        .collect();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.join().unwrap()?);
    }
    times.sort();
    Ok(times[times.len() * 99 / 100])
}

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// Other load of the machine affects both windows of a pair, and the calls to the faulty backend go on in both. So the median of the ratios is
/// near one unless the fault itself slows the healthy backend.
#[test]
fn faulty_backend_does_not_slow_the_others() -> anyhow::Result<()> {
    let (test_server, other) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let recipe = Recipe::new(&[("ill", &test_server.url), ("well", &other.url)])?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    echo(&gateway, &session, "well")?.tool_text()?;
    for (name, fault) in [
        ("hangs", json!({"hang": true})),
        ("is slow", json!({"slow_ms": 500})),
        ("answers with 500", json!({"status": 500})),
    ] {
        let stop = AtomicBool::new(false);
        let ratio = std::thread::scope(|scope| -> anyhow::Result<f64> {
            let calling = scope.spawn(|| -> anyhow::Result<()> {
                let mut begun = std::collections::VecDeque::new();
                while !stop.load(Ordering::Relaxed) {
                    begun.push_back(begin(gateway.mcp, &session, "ill_echo")?);
                    if begun.len() > 50 {
                        begun.pop_front();
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            });
            let mut ratios = Vec::new();
            for pair in 0..PAIRS {
                // Which of the two comes first changes, so that a trend favours neither.
                let (mut calm, mut ill) = (Duration::ZERO, Duration::ZERO);
                for window in 0..2 {
                    test_server.admin("DELETE", "/faults", &json!({}))?;
                    if (pair + window) % 2 == 0 {
                        calm = p99(&gateway, &session)?;
                    } else {
                        break_calls(&test_server, &fault)?;
                        ill = p99(&gateway, &session)?;
                    }
                }
                ratios.push(ill.as_secs_f64() / calm.as_secs_f64());
            }
            stop.store(true, Ordering::Relaxed);
            calling.join().unwrap()?;
            let ratio = median(ratios);
            println!(
                "one backend {name}: p99 of the other {ratio:.2} times as long, {PAIRS} pairs of windows"
            );
            Ok(ratio)
        })?;
        assert!(ratio <= 1.2, "one backend {name}: {ratio:.2} times as long");
        test_server.admin("DELETE", "/faults", &json!({}))?;
    }
    Ok(())
}
