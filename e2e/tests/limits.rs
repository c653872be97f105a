//! A request beyond a limit is rejected with an error that names the limit. Other requests are not affected. Every limit can be reloaded.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::mount::Mount;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

const LIMIT: Duration = Duration::from_secs(20);

/// A gateway in front of a test server, with limits that change while it runs.
struct Limited {
    server: TestServer,
    mount: Mount,
    harness: Harness,
}

impl Limited {
    fn start(limits: &str) -> anyhow::Result<Self> {
        let server = TestServer::start(&[])?;
        let mount = Mount::new(&hot(&server, limits))?;
        let builder = Harness::builder().without_session_keys();
        let builder = builder.configure(|recipe| {
            recipe.config.hot = None;
            recipe.config.hot_file = Some(mount.file());
        });
        let harness = builder.start()?;
        Ok(Self {
            server,
            mount,
            harness,
        })
    }

    fn set(&self, limits: &str) -> anyhow::Result<()> {
        self.mount.put(&hot(&self.server, limits))
    }

    fn open(&self) -> anyhow::Result<Session> {
        Session::open(self.harness.address())
    }

    fn ping(&self, session: &Session) -> anyhow::Result<Answer> {
        session.request(self.harness.address(), "ping", &json!({}))
    }

    /// A call that runs for as long as the value is kept.
    fn running(&self, session: &Session) -> anyhow::Result<Stream> {
        let arguments = json!({"ms": 60_000});
        Stream::call(
            self.harness.address(),
            session,
            &json!("running"),
            "fixture_sleep",
            &arguments,
        )
    }

    /// A request whose body lacks its last byte. The gateway has read and keeps the other `bytes`.
    fn unfinished_body(&self, session: &Session, bytes: u32) -> anyhow::Result<TcpStream> {
        let mcp = self.harness.address();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: {mcp}\r\nmcp-session-id: {}\r\ncontent-length: {}\r\n\
             content-type: application/json\r\naccept: application/json, text/event-stream\r\n\r\n",
            session.id,
            bytes + 1
        );
        // The gateway refuses it while catalogs or earlier bodies take the room.
        wait::until("the gateway keeps an unfinished body", LIMIT, || {
            let mut unfinished = TcpStream::connect(mcp)?;
            unfinished.write_all(head.as_bytes())?;
            unfinished.write_all(&vec![b' '; bytes as usize])?;
            unfinished.set_nonblocking(true)?;
            wait::until("the bytes are read", LIMIT, || {
                let is_answered = unfinished.peek(&mut [0]).is_ok();
                let kept = self.harness.gateway().metric("vmcp_buffered_bytes", "")?;
                anyhow::ensure!(is_answered || kept >= f64::from(bytes), "{kept} bytes are kept");
                Ok(())
            })?;
            anyhow::ensure!(unfinished.peek(&mut [0]).is_err(), "it is refused");
            Ok(unfinished)
        })
    }

    fn wait_until_served(&self, session: &Session) -> anyhow::Result<()> {
        wait::until("requests are served", LIMIT, || {
            let answer = self.ping(session)?;
            anyhow::ensure!(answer.status == 200, "{}", answer.text());
            Ok(())
        })
    }
}

fn hot(server: &TestServer, limits: &str) -> String {
    format!(
        "backends: [{{name: fixture, url: '{}'}}]\nlimits: {limits}\n",
        server.url
    )
}

/// Checks that the request was rejected with 503, an error that names the limit, and the request's id if it was read.
fn is_refused(answer: &Answer, id: &Value, what: &str) -> anyhow::Result<()> {
    let message = answer.message()?;
    let text = message["error"]["message"].as_str().unwrap_or_default();
    anyhow::ensure!(
        answer.status == 503
            && answer.header("retry-after").is_some()
            && message["error"]["code"] == -32603
            && message["id"] == *id
            && text.contains(what),
        "{answer:?}"
    );
    Ok(())
}

/// A body may be as large as `requestBytes`.
#[test]
fn body_size_limit_is_configurable() -> anyhow::Result<()> {
    let limited = Limited::start("{requestBytes: 2048}")?;
    let session = limited.open()?;
    let send = |bytes: usize| {
        session.request(
            limited.harness.address(),
            "ping",
            &json!({"x": "x".repeat(bytes)}),
        )
    };
    assert_eq!(send(1000)?.status, 200);
    let refused = send(3000)?;
    assert_eq!((refused.status, refused.error_code()), (413, -32600));
    assert!(refused.text().contains("2048 bytes"), "{}", refused.text());
    // A body without a content length.
    let mut stream = TcpStream::connect(limited.harness.address())?;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nmcp-session-id: {}\r\ntransfer-encoding: chunked\r\n\
         content-type: application/json\r\naccept: application/json, text/event-stream\r\n\r\n",
        limited.harness.address(),
        session.id
    );
    stream.write_all(head.as_bytes())?;
    for _ in 0..3 {
        stream.write_all(format!("400\r\n{}\r\n", " ".repeat(1024)).as_bytes())?;
    }
    stream.write_all(b"0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    limited.set("{requestBytes: 8192}")?;
    wait::until("the limit is raised", LIMIT, || {
        anyhow::ensure!(send(3000)?.status == 200, "not yet");
        Ok(())
    })?;
    assert_eq!(send(9000)?.status, 413);
    Ok(())
}

/// No message without a session needs a large body, so such a body is not read.
#[test]
fn body_without_session_has_small_limit() -> anyhow::Result<()> {
    let limited = Limited::start("{requestBytes: 2000000}")?;
    let mcp = limited.harness.address();
    let session = limited.open()?;
    assert_eq!(
        session
            .request(mcp, "ping", &json!({"x": "x".repeat(100_000)}))?
            .status,
        200
    );
    let wide: serde_json::Map<_, _> = (0..40_000).map(|key| (format!("key-{key}"), json!({}))).collect();
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": wide, "clientInfo": {"name": "a", "version": "1"}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
    ];
    let refused = http_client::exchange(mcp, "POST", "/mcp", &headers, body.as_bytes())?;
    assert_eq!((refused.status, refused.error_code()), (413, -32600));
    let text = refused.text();
    assert!(
        text.contains("larger than 65536 bytes, which is the most without the header Mcp-Session-Id"),
        "{text}"
    );
    let foreign = [headers[0], headers[1], ("mcp-session-id", "x")];
    let refused = http_client::exchange(mcp, "POST", "/mcp", &foreign, body.as_bytes())?;
    assert_eq!((refused.status, refused.error_code()), (404, -32001));
    Ok(())
}

/// All bodies together are limited by `requestBytesInFlight`. Small bodies always pass.
#[test]
fn total_body_bytes_are_limited_except_small_bodies() -> anyhow::Result<()> {
    let (little, more) = (
        "{requestBytes: 200000, requestBytesInFlight: 200000}",
        "{requestBytes: 200000, requestBytesInFlight: 400000}",
    );
    let limited = Limited::start(little)?;
    let session = limited.open()?;
    let mcp = limited.harness.address();
    let large = || session.request(mcp, "ping", &json!({"x": "x".repeat(100_000)}));
    let refused = || {
        wait::until("there is no room", LIMIT, || {
            let answer = large()?;
            anyhow::ensure!(answer.status == 503, "{answer:?}");
            Ok(answer)
        })
    };
    let taken = || {
        wait::until("there is room", LIMIT, || {
            let answer = large()?;
            anyhow::ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        })
    };
    assert_eq!(large()?.status, 200);
    let unfinished = limited.unfinished_body(&session, 150_000)?;
    is_refused(&refused()?, &Value::Null, "as many bytes")?;
    assert_eq!(limited.ping(&session)?.status, 200, "a small one needs no room");

    limited.set(more)?;
    taken()?;
    limited.set(little)?;
    refused()?;
    drop(unfinished);
    taken()
}

/// The limit for all buffered bytes also applies to bodies.
#[test]
fn buffered_bytes_bound_bodies() -> anyhow::Result<()> {
    let limits = |buffered: u32| {
        format!("{{requestBytes: 1000000, requestBytesInFlight: 4000000, bufferedBytes: {buffered}}}")
    };
    let limited = Limited::start(&limits(1_048_576))?;
    let session = limited.open()?;
    let mcp = limited.harness.address();
    let unfinished = limited.unfinished_body(&session, 900_000)?;
    let status_is = |expected: u16| {
        wait::until("the budget is as configured", LIMIT, || {
            let answer = session.request(mcp, "ping", &json!({"x": "x".repeat(300_000)}))?;
            anyhow::ensure!(answer.status == expected, "{answer:?}");
            Ok(())
        })
    };
    status_is(503)?;
    limited.set(&limits(4_000_000))?;
    status_is(200)?;
    drop(unfinished);
    Ok(())
}

/// A client that opens too many sessions is rejected before it uses up the common rate.
#[test]
fn session_rate_is_limited_per_client() -> anyhow::Result<()> {
    let limited = Limited::start("{initializesPerSecondPerPrincipal: 2}")?;
    let mcp = limited.harness.address();
    let refused = wait::until("the rate is exceeded", LIMIT, || {
        let answer = http_client::initialize(mcp)?;
        anyhow::ensure!(answer.status == 503, "{answer:?}");
        Ok(answer)
    })?;
    is_refused(&refused, &json!(1), "You open too many sessions")?;
    limited.set("{initializesPerSecondPerPrincipal: 100000}")?;
    wait::until("the rate is raised", LIMIT, || {
        for _ in 0..10 {
            let answer = http_client::initialize(mcp)?;
            anyhow::ensure!(answer.status == 200, "{answer:?}");
        }
        Ok(())
    })
}

/// Requests beyond the limit are refused and cancellations are not.
#[test]
fn requests_over_limit_are_refused_not_cancellations() -> anyhow::Result<()> {
    let limited = Limited::start("{requestsInFlight: 1}")?;
    let (session, other) = (limited.open()?, limited.open()?);
    let running = limited.running(&session)?;
    is_refused(&limited.ping(&other)?, &json!(7), "as many requests")?;
    // A large request is rejected before it is read, so its id is unknown.
    let large = other.request(
        limited.harness.address(),
        "ping",
        &json!({"x": "x".repeat(100_000)}),
    )?;
    is_refused(&large, &Value::Null, "as many requests")?;
    // Cancellations, responses, streams and DELETE do not count.
    let cancelled =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "x"}});
    assert_eq!(other.post(limited.harness.address(), &cancelled)?.status, 202);
    let own_stream = Stream::get(limited.harness.address(), &other, None)?;
    assert_eq!(own_stream.status, 200);
    assert_eq!(other.delete(limited.harness.address())?.status, 200);

    // The response counts as in flight until its client disconnects.
    running.abandon()?;
    limited.wait_until_served(&session)?;

    let _running = limited.running(&session)?;
    limited.set("{requestsInFlight: 2}")?;
    limited.wait_until_served(&session)
}

/// A session with too many requests in flight is rejected. Other sessions are not affected.
#[test]
fn requests_in_flight_are_limited_per_session() -> anyhow::Result<()> {
    let limited = Limited::start("{requestsInFlightPerSession: 1}")?;
    let (session, other) = (limited.open()?, limited.open()?);
    let running = limited.running(&session)?;
    is_refused(&limited.ping(&session)?, &json!(7), "session")?;
    assert_eq!(limited.ping(&other)?.status, 200);
    running.abandon()?;
    limited.wait_until_served(&session)?;

    let _running = limited.running(&session)?;
    limited.set("{requestsInFlightPerSession: 2}")?;
    limited.wait_until_served(&session)
}

/// The total rate of new sessions is limited.
#[test]
fn session_rate_is_limited() -> anyhow::Result<()> {
    let limited = Limited::start("{initializesPerSecond: 5}")?;
    let mcp = limited.harness.address();
    // Five at once, and then at most five per second.
    let (began, mut opened) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(2) {
        let answer = http_client::initialize(mcp)?;
        if answer.status == 200 {
            opened += 1;
        } else {
            is_refused(&answer, &json!(1), "Too many sessions are being opened")?;
            anyhow::ensure!(opened >= 5, "refused after {opened}");
        }
        let most = 5 + (began.elapsed().as_secs_f64() * 5.0) as u32;
        anyhow::ensure!(opened <= most, "{opened} were opened in {:?}", began.elapsed());
    }
    let opened = wait::until("the next second has come", LIMIT, || {
        let answer = http_client::initialize(mcp)?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(answer)
    })?;
    // Existing sessions are not slowed down.
    let session = Session {
        id: opened.header("mcp-session-id").unwrap_or_default().to_owned(),
    };
    for _ in 0..5 {
        assert_eq!(limited.ping(&session)?.status, 200);
    }
    limited.set("{initializesPerSecond: 100000}")?;
    wait::until("the rate is raised", LIMIT, || {
        for _ in 0..10 {
            let answer = http_client::initialize(mcp)?;
            anyhow::ensure!(answer.status == 200, "{answer:?}");
        }
        Ok(())
    })
}

/// The number of sessions is limited as configured.
#[test]
fn session_count_limit_is_configurable() -> anyhow::Result<()> {
    let limited = Limited::start("{sessions: 2}")?;
    let mcp = limited.harness.address();
    let (first, second) = (limited.open()?, limited.open()?);
    is_refused(
        &http_client::initialize(mcp)?,
        &json!(1),
        "The server has as many sessions",
    )?;
    assert_eq!(first.delete(mcp)?.status, 200);
    limited.open()?;
    assert_eq!(limited.ping(&second)?.status, 200);
    limited.set("{sessions: 100, sessionsPerPrincipal: 3}")?;
    wait::until("the limit is raised", LIMIT, || limited.open())?;
    is_refused(&http_client::initialize(mcp)?, &json!(1), "as one client may")?;
    assert_eq!(limited.ping(&second)?.status, 200);
    Ok(())
}

/// How many changes are made, and timed.
const CHANGES: usize = 9;

/// A limit and the log level change within a second of their file.
#[test]
fn limits_and_log_level_reload_within_a_second() -> anyhow::Result<()> {
    let limited = Limited::start("{requestBytes: 2048}")?;
    let session = limited.open()?;
    let status = || {
        let params = json!({"x": "x".repeat(3000)});
        anyhow::Ok(
            session
                .request(limited.harness.address(), "ping", &params)?
                .status,
        )
    };
    let lines_of_requests = || {
        let log = limited.harness.gateway().log()?;
        anyhow::Ok(log.lines().filter(|line| line.contains("\"DEBUG\"")).count())
    };
    assert_eq!(lines_of_requests()?, 0);
    // All of them count. The median is asked for, because a busy machine delays one or another.
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let (bytes, level, expected) = if change % 2 == 0 {
            (8192, "debug", 200)
        } else {
            (2048, "info", 413)
        };
        let started = Instant::now();
        limited.set(&format!("{{requestBytes: {bytes}}}\nlogLevel: {level}"))?;
        wait::until("the limit is changed", LIMIT, || {
            anyhow::ensure!(status()? == expected, "not yet");
            Ok(())
        })?;
        if level == "debug" {
            wait::until("requests are logged", LIMIT, || {
                let before = lines_of_requests()?;
                limited.ping(&session)?;
                anyhow::ensure!(lines_of_requests()? > before, "not yet");
                Ok(())
            })?;
        }
        times.push(started.elapsed());
    }
    times.sort();
    assert!(times[CHANGES / 2] < Duration::from_secs(1), "{times:?}");
    Ok(())
}
