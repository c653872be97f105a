//! When the process says that it lives and that it is ready, and how it ends.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;
use vmcp_crds::config::Duration as ConfigDuration;
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::raw::{self, Session};
use vmcp_e2e::{ports, wait};
use vmcp_peers::process::Signal;

const PATIENCE: Duration = Duration::from_secs(20);

/// It is ready after the first discovery of each backend or when that takes too long.
#[test]
fn ready_after_first_discovery_or_its_timeout() -> anyhow::Result<()> {
    // A server that accepts and never answers.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("http://{}/mcp", silent.local_addr()?);
    let fixture = Fixture::start(&[])?;
    let recipe = Recipe::new(&[("silent", &url), ("fixture", &fixture.url)])?;
    let started = Instant::now();
    let mut gateway = recipe.start_unready(ports::free()?)?;
    let admin = gateway.admin;
    wait::until("it names what it waits for", PATIENCE, || {
        let ready = raw::get(admin, "/readyz", &[])?;
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
        raw::get(admin, "/livez", &[])?.status,
        200,
        "it lives all the while"
    );
    // Whoever comes all the same is served.
    assert_eq!(raw::initialize(gateway.mcp)?.status, 200);
    gateway.wait_until_ready()?;
    assert!(started.elapsed() >= Duration::from_secs(3));
    // With all backends heard nobody waits for patience to end.
    let recipe = Recipe::new(&[("fixture", &fixture.url)])?;
    let gateway = recipe.start()?;
    let tools = Session::open(gateway.mcp)?.names(gateway.mcp, "tools/list")?;
    assert!(
        tools.contains(&"fixture_echo".to_owned()),
        "ready before it knew the backend"
    );
    Ok(())
}

/// A backend that comes later does not make it unready and none ever makes it dead.
#[test]
fn backends_never_affect_readiness_later_or_liveness() -> anyhow::Result<()> {
    let mut fixture = Fixture::start(&[])?;
    let gateway = Recipe::new(&[("a", &fixture.url)])?.start()?;
    fixture.kill()?;
    let session = Session::open(gateway.mcp)?;
    session.call(gateway.mcp, "a_echo", &json!({"message": "hi"}))?;
    for path in ["/livez", "/readyz"] {
        assert_eq!(raw::get(gateway.admin, path, &[])?.status, 200, "{path}");
    }
    Ok(())
}

/// The head of an answer to somebody who would keep the connection open.
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

/// After the drain it waits for the longest call that is allowed and 5 s and not longer.
#[test]
fn drain_waits_for_longest_call_plus_5_s() -> anyhow::Result<()> {
    let fixture = Fixture::start(&[])?;
    // Both have a request whose body takes longer to be given up than the test waits.
    let start = |call: ConfigDuration| {
        let mut recipe = Recipe::new(&[("a", &fixture.url)])?;
        recipe.config.drain_delay = ConfigDuration::from_secs(1);
        let backend = &mut recipe.config.hot.get_or_insert_default().backends[0];
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

/// While it drains it serves and asks to be left and then the listener is closed.
#[test]
fn draining_serves_with_connection_close() -> anyhow::Result<()> {
    let fixture = Fixture::start(&[])?;
    let mut recipe = Recipe::new(&[("a", &fixture.url)])?;
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
    // Unless this machine was too busy to ask in time.
    if told.elapsed() < Duration::from_secs(3) {
        assert_eq!(served?.tool_text()?, "hi", "it still serves");
    }
    assert!(gateway.wait_until_ended(PATIENCE)?);
    assert!(told.elapsed() >= Duration::from_secs(3), "{:?}", told.elapsed());
    assert!(TcpStream::connect(mcp).is_err(), "somebody listens");
    Ok(())
}
