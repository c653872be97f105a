//! A draining gateway serves its running calls as before: the end of a session ends them, and they keep their session from expiring.

use std::time::Duration;

use serde_json::json;
use vmcp_crds::config;
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;
use vmcp_external::process::Signal;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);

/// Two gateways that share Redis. The first one drains while it serves a call, and accepts no connections.
struct Drain {
    harness: Harness<Redis>,
    session: Session,
    call: std::thread::JoinHandle<anyhow::Result<Answer>>,
    draining: Gateway,
    other: Gateway,
}

impl Drain {
    /// Sessions expire after `ttl` without use, the call takes `ms`, and the signal `end` makes the first gateway drain.
    fn start(ttl: Duration, ms: u64, end: Signal) -> anyhow::Result<Self> {
        let ttl = config::Duration::from_millis(u64::try_from(ttl.as_millis())?);
        let mut harness = Harness::builder()
            .test_server("fixture", &["--json-response"])
            .redis(Redis::start(None)?)
            .configure(|recipe| recipe.config.session_storage.ttl = ttl)
            .replicas(2)
            .start()?;
        let [mut draining, other] = harness.take_gateways()?;
        let at = draining.mcp;
        let session = Session::open(at)?;
        let calling = session.clone();
        let call = std::thread::spawn(move || calling.call(at, "fixture_sleep", &json!({"ms": ms})));
        wait::until("the call has reached the backend", PATIENCE, || {
            let calls = harness.server().calls()?;
            anyhow::ensure!(calls == 1, "{calls}");
            Ok(())
        })?;
        draining.signal(end)?;
        wait::until("no connection is accepted", PATIENCE, || {
            let accepted = std::net::TcpStream::connect(at).is_ok();
            anyhow::ensure!(!accepted, "it accepts");
            Ok(())
        })?;
        Ok(Self {
            harness,
            session,
            call,
            draining,
            other,
        })
    }
}

/// A termination on another replica ends the call of a draining gateway.
#[requires(redis)]
#[test]
fn session_ended_elsewhere_ends_call_while_draining() -> anyhow::Result<()> {
    let mut drain = Drain::start(Duration::from_secs(600), 60_000, Signal::TERM)?;
    assert_eq!(drain.session.delete(drain.other.mcp)?.status, 200);
    let answer = drain.call.join().unwrap()?;
    answer.ensure_session_not_found()?;
    assert!(drain.draining.wait_until_ended(PATIENCE)?, "nothing else runs");
    wait::until("the upstream session is deleted", PATIENCE, || {
        // The gateway that has ended deletes the session of its catalog.
        let deletes = drain.harness.server().stats()?.deletes;
        anyhow::ensure!(deletes == 2, "{deletes}");
        Ok(())
    })
}

/// A call that runs longer than the idle time in a draining gateway keeps its session.
#[requires(redis)]
#[test]
fn long_call_while_draining_keeps_its_session() -> anyhow::Result<()> {
    let mut drain = Drain::start(Duration::from_secs(3), 9_000, Signal::TERM)?;
    assert_eq!(drain.call.join().unwrap()?.tool_text()?, "slept 9000 ms");
    let after = drain
        .session
        .call(drain.other.mcp, "fixture_counter", &json!({}))?;
    assert_eq!(after.tool_text()?, "1", "{}", after.text());
    assert!(drain.draining.wait_until_ended(PATIENCE)?);
    Ok(())
}

/// A gateway that loses its terminal drains, and its admin port responds until the end.
#[requires(redis)]
#[test]
fn lost_terminal_drains_and_admin_port_stays_up() -> anyhow::Result<()> {
    let mut drain = Drain::start(Duration::from_secs(600), 3_000, Signal::HUP)?;
    let admin = drain.draining.admin;
    let ready = http_client::get(admin, "/readyz", &[])?;
    assert_eq!((ready.status, &*ready.text()), (503, "not ready: draining\n"));
    assert_eq!(http_client::get(admin, "/livez", &[])?.status, 200);
    let metrics = http_client::get(admin, "/metrics", &[])?.text();
    assert!(
        metrics.contains("vmcp_backend_requests_in_flight{backend=\"fixture\"} 1\n"),
        "{metrics}"
    );
    assert_eq!(drain.call.join().unwrap()?.tool_text()?, "slept 3000 ms");
    assert!(drain.draining.wait_until_ended(PATIENCE)?);
    assert!(std::net::TcpStream::connect(admin).is_err());
    Ok(())
}
