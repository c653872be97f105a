//! Liveness, readiness and shutdown of the process.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;
use vmcp_crds::config::Duration as ConfigDuration;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::{ports, wait};
use vmcp_external::process::Signal;

const PATIENCE: Duration = Duration::from_secs(20);

/// The gateway is ready after the first discovery of each backend, or when a discovery takes too long.
#[test]
fn ready_after_first_discovery_or_its_timeout() -> anyhow::Result<()> {
    // A server that accepts and never answers.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("http://{}/mcp", silent.local_addr()?);
    let test_server = TestServer::start(&[])?;
    let recipe = Recipe::new(&[("silent", &url), ("fixture", &test_server.url)])?;
    let started = Instant::now();
    let mut gateway = recipe.start_unready(ports::free()?)?;
    let admin = gateway.admin;
    wait::until("it names what it waits for", PATIENCE, || {
        let ready = http_client::get(admin, "/readyz", &[])?;
        anyhow::ensure!(
            ready.status == 503
                && ready
                    .text()
                    .contains("not ready: the first discovery of backend silent\n"),
            "{}",
            ready.text()
        );
        Ok(())
    })?;
    assert_eq!(
        http_client::get(admin, "/livez", &[])?.status,
        200,
        "it lives all the while"
    );
    // A request that arrives meanwhile is served.
    assert_eq!(http_client::initialize(gateway.mcp)?.status, 200);
    gateway.wait_until_ready()?;
    assert!(started.elapsed() >= Duration::from_secs(3));
    // Once all backends have responded, readiness does not wait for the limit.
    let recipe = Recipe::new(&[("fixture", &test_server.url)])?;
    let gateway = recipe.start()?;
    let tools = Session::open(gateway.mcp)?.names(gateway.mcp, "tools/list")?;
    assert!(
        tools.contains(&"fixture_echo".to_owned()),
        "ready before it knew the backend"
    );
    Ok(())
}

/// A late backend does not make the gateway unready, and no backend makes it not live.
#[test]
fn backends_never_affect_readiness_later_or_liveness() -> anyhow::Result<()> {
    let mut test_server = TestServer::start(&[])?;
    let gateway = Recipe::new(&[("a", &test_server.url)])?.start()?;
    test_server.kill()?;
    let session = Session::open(gateway.mcp)?;
    session.call(gateway.mcp, "a_echo", &json!({"message": "hi"}))?;
    for path in ["/livez", "/readyz"] {
        assert_eq!(http_client::get(gateway.admin, path, &[])?.status, 200, "{path}");
    }
    Ok(())
}

/// The head of the response to a client that would keep the connection open.
fn head_of_an_answer(gateway: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(gateway)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("DELETE /mcp HTTP/1.1\r\nhost: {gateway}\r\ncontent-length: 0\r\n\r\n").as_bytes(),
    )?;
    let mut head = [0; 1024];
    let length = stream.read(&mut head)?;
    Ok(String::from_utf8_lossy(&head[..length]).to_ascii_lowercase())
}

/// After the drain delay the gateway waits at most for the longest allowed call and 5 s.
#[test]
fn drain_waits_for_longest_call_plus_5_s() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    // Both have a request whose body stays incomplete for the whole test.
    let start = |call: ConfigDuration| {
        let mut recipe = Recipe::new(&[("a", &test_server.url)])?;
        recipe.config.drain_delay = ConfigDuration::from_secs(1);
        let backend = &mut recipe.hot().backends[0];
        backend.timeouts.call = call;
        let gateway = recipe.start()?;
        let mut request = TcpStream::connect(gateway.mcp)?;
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\n\r\n{{",
            gateway.mcp
        );
        request.write_all(head.as_bytes())?;
        wait::until("the request has begun", PATIENCE, || {
            let running = gateway.metric("vmcp_requests_in_flight", "")?;
            anyhow::ensure!(running > 0.5, "{running} requests run");
            Ok(())
        })?;
        anyhow::Ok((gateway, request))
    };
    let (mut brief, _one) = start(ConfigDuration::from_secs(1))?;
    let (mut patient, _other) = start(ConfigDuration::from_secs(3600))?;
    let told = Instant::now();
    patient.signal(Signal::TERM)?;
    brief.signal(Signal::TERM)?;
    assert!(brief.wait_until_ended(PATIENCE)?);
    // The delay, the call, and 5 s.
    assert!(told.elapsed() >= Duration::from_secs(7), "{:?}", told.elapsed());
    assert!(
        patient.wait_until_ended(Duration::ZERO).is_err(),
        "it has not waited for its longest call"
    );
    Ok(())
}

/// A draining gateway serves requests with `connection: close`, and then closes its listener.
#[test]
fn draining_serves_with_connection_close() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let mut recipe = Recipe::new(&[("a", &test_server.url)])?;
    recipe.config.drain_delay = ConfigDuration::from_secs(3);
    let mut gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let mcp = gateway.mcp;
    let echo = || session.call(mcp, "a_echo", &json!({"message": "hi"}));
    assert_eq!(echo()?.tool_text()?, "hi");
    assert!(!head_of_an_answer(mcp)?.contains("connection: close"));
    let told = Instant::now();
    gateway.signal(Signal::TERM)?;
    wait::until("answers ask to be left", PATIENCE, || {
        let head = head_of_an_answer(mcp)?;
        anyhow::ensure!(head.contains("connection: close"), "{head}");
        Ok(())
    })?;
    let served = echo();
    // Unless the machine was too busy to ask in time.
    if told.elapsed() < Duration::from_secs(3) {
        assert_eq!(served?.tool_text()?, "hi", "it still serves");
    }
    assert!(gateway.wait_until_ended(PATIENCE)?);
    assert!(told.elapsed() >= Duration::from_secs(3), "{:?}", told.elapsed());
    assert!(TcpStream::connect(mcp).is_err(), "somebody listens");
    Ok(())
}
