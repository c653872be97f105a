//! A gateway that drains serves the calls that are running as if it did not: what ends their session ends them, and they are use of it.

use std::time::Duration;

use serde_json::json;
use vmcp_crds::config::{self, SessionStorage, SessionStorageProvider};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{self, Answer, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;
use vmcp_peers::process::Signal;

const PATIENCE: Duration = Duration::from_secs(20);

/// Two gateways that share a Redis, and a call that runs in the first, which drains and accepts nothing any more.
struct World {
    _redis: Redis,
    fixture: Fixture,
    session: Session,
    call: std::thread::JoinHandle<anyhow::Result<Answer>>,
    draining: Gateway,
    other: Gateway,
}

impl World {
    /// Sessions live for `ttl` without use, the call takes `ms`, and `end` makes the first gateway drain.
    fn new(ttl: Duration, ms: u64, end: Signal) -> anyhow::Result<Option<Self>> {
        if vmcp_peers::left_out("redis") {
            return Ok(None);
        }
        let (fixture, redis) = (Fixture::start(&["--json-response"])?, Redis::start(None)?);
        let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
        recipe.config.session_storage = SessionStorage {
            provider: SessionStorageProvider::Redis,
            address: Some(redis.address.to_string()),
            ttl: config::Duration::from_millis(u64::try_from(ttl.as_millis())?),
            ..SessionStorage::default()
        };
        let (mut draining, other) = (recipe.start()?, recipe.start()?);
        let at = draining.mcp;
        let session = Session::open(at)?;
        let calling = session.clone();
        let call = std::thread::spawn(move || calling.call(at, "fixture_sleep", &json!({"ms": ms})));
        wait::until("the call has reached the backend", PATIENCE, || {
            let calls = fixture.stats()?.requests.get("tools/call").copied();
            anyhow::ensure!(calls == Some(1), "{calls:?}");
            Ok(())
        })?;
        draining.signal(end)?;
        wait::until("nothing is accepted any more", PATIENCE, || {
            let accepted = std::net::TcpStream::connect(at).is_ok();
            anyhow::ensure!(!accepted, "it accepts");
            Ok(())
        })?;
        Ok(Some(Self {
            _redis: redis,
            fixture,
            session,
            call,
            draining,
            other,
        }))
    }
}

/// A session that is ended elsewhere ends the call of a gateway that drains.
#[test]
fn session_ended_elsewhere_ends_call_while_draining() -> anyhow::Result<()> {
    let Some(mut world) = World::new(Duration::from_secs(600), 60_000, Signal::TERM)? else {
        return Ok(());
    };
    assert_eq!(world.session.delete(world.other.mcp)?.status, 200);
    let answer = world.call.join().unwrap()?;
    answer.ensure_session_not_found()?;
    assert!(world.draining.wait_until_ended(PATIENCE)?, "nothing else runs");
    wait::until("the upstream session is deleted", PATIENCE, || {
        // The catalogue of the one that has ended deletes its own.
        let deletes = world.fixture.stats()?.deletes;
        anyhow::ensure!(deletes == 2, "{deletes}");
        Ok(())
    })
}

/// A call that outlives the idle time in a gateway that drains keeps its session.
#[test]
fn long_call_while_draining_keeps_its_session() -> anyhow::Result<()> {
    let Some(mut world) = World::new(Duration::from_secs(3), 9_000, Signal::TERM)? else {
        return Ok(());
    };
    assert_eq!(world.call.join().unwrap()?.tool_text()?, "slept 9000 ms");
    let after = world
        .session
        .call(world.other.mcp, "fixture_counter", &json!({}))?;
    assert_eq!(after.tool_text()?, "1", "{}", after.text());
    assert!(world.draining.wait_until_ended(PATIENCE)?);
    Ok(())
}

/// A gateway whose terminal is gone drains and its admin port tells of it to the end.
#[test]
fn lost_terminal_drains_and_admin_port_stays_up() -> anyhow::Result<()> {
    let Some(mut world) = World::new(Duration::from_secs(600), 3_000, Signal::HUP)? else {
        return Ok(());
    };
    let admin = world.draining.admin;
    let ready = raw::get(admin, "/readyz", &[])?;
    assert_eq!((ready.status, &*ready.text()), (503, "not ready: draining\n"));
    assert_eq!(raw::get(admin, "/livez", &[])?.status, 200);
    let metrics = raw::get(admin, "/metrics", &[])?.text();
    assert!(
        metrics.contains("vmcp_backend_requests_in_flight{backend=\"fixture\"} 1\n"),
        "{metrics}"
    );
    assert_eq!(world.call.join().unwrap()?.tool_text()?, "slept 3000 ms");
    assert!(world.draining.wait_until_ended(PATIENCE)?);
    assert!(std::net::TcpStream::connect(admin).is_err());
    Ok(())
}
