//! Health probes: how the gateway reports a failing backend, and what clients see.

use std::time::Duration;

use serde_json::json;
use vmcp_crds::config::{Duration as ConfigDuration, FailureMode, HealthConfig};
use vmcp_crds::status::{BackendState, BackendStatus, Health};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with this health configuration, which hides an unavailable backend.
fn looking_after(test_server: &TestServer, health: HealthConfig) -> anyhow::Result<(Recipe, Gateway)> {
    let mut recipe = Recipe::new(&[("a", &test_server.url)])?;
    let hot = recipe.hot();
    hot.aggregation.failure_mode = FailureMode::Hide;
    hot.backends[0].health = health;
    let gateway = recipe.start()?;
    Ok((recipe, gateway))
}

fn quick() -> HealthConfig {
    HealthConfig {
        interval: ConfigDuration::from_millis(200),
        timeout: ConfigDuration::from_millis(500),
        unhealthy_after: 3,
    }
}

fn status((recipe, gateway): &(Recipe, Gateway)) -> anyhow::Result<BackendStatus> {
    Ok(gateway.status(recipe)?.backends[0].clone())
}

fn wait_for(gateway: &(Recipe, Gateway), health: Health) -> anyhow::Result<BackendStatus> {
    wait::until(health.as_str(), PATIENCE, || {
        let status = status(gateway)?;
        anyhow::ensure!(status.health == health, "{status:?}");
        Ok(status)
    })
}

fn pings(test_server: &TestServer) -> anyhow::Result<u64> {
    Ok(test_server
        .stats()?
        .requests
        .get("ping")
        .copied()
        .unwrap_or_default())
}

fn is_listed((_, gateway): &(Recipe, Gateway), session: &Session) -> anyhow::Result<bool> {
    let names = session.names(gateway.mcp, "tools/list")?;
    Ok(names.contains(&"a_echo".to_owned()))
}

/// Waits until the tools of the backend are listed, or are not. The lists are merged after the status has changed.
fn wait_until_listed(gateway: &(Recipe, Gateway), session: &Session, expected: bool) -> anyhow::Result<()> {
    wait::until("the lists follow the status", PATIENCE, || {
        anyhow::ensure!(is_listed(gateway, session)? == expected, "they do not");
        Ok(())
    })
}

const LISTS: [&str; 4] = [
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
];

/// Checks that the next three messages are `list_changed` of the three kinds.
fn of_every_kind_is_told(stream: &mut Stream) -> anyhow::Result<()> {
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(
            stream.message()?["method"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    told.sort();
    let kinds = ["prompts", "resources", "tools"];
    assert_eq!(
        told,
        kinds.map(|kind| format!("notifications/{kind}/list_changed"))
    );
    Ok(())
}

/// A backend that dies and comes back leaves the lists of open sessions and returns.
#[test]
fn dead_backend_leaves_lists_and_returns() -> anyhow::Result<()> {
    let mut test_server = TestServer::start(&[])?;
    let gateway = looking_after(&test_server, quick())?;
    // `refresh` is a minute, so only probes can notice it.
    wait_for(&gateway, Health::Healthy)?;
    let session = Session::open(gateway.1.mcp)?;
    let mut stream = Stream::get(gateway.1.mcp, &session, None)?;
    let other = Session::open(gateway.1.mcp)?;
    assert!(is_listed(&gateway, &session)?);
    test_server.kill()?;
    let dead = wait_for(&gateway, Health::Unavailable)?;
    assert_eq!(dead.state, BackendState::Failing);
    assert!(dead.error.unwrap_or_default().contains("cannot be reached"));
    of_every_kind_is_told(&mut stream)?;
    assert!(!is_listed(&gateway, &session)?);
    for kind in LISTS {
        let left = other.names(gateway.1.mcp, kind)?;
        assert!(left.is_empty(), "{kind}: {left:?}");
    }
    test_server.restart()?;
    let back = wait_for(&gateway, Health::Healthy)?;
    assert_eq!((back.state, back.error), (BackendState::Ready, None));
    of_every_kind_is_told(&mut stream)?;
    assert!(is_listed(&gateway, &session)?);
    for kind in LISTS {
        assert!(!other.names(gateway.1.mcp, kind)?.is_empty(), "{kind}");
    }
    let echo = session.call(gateway.1.mcp, "a_echo", &json!({"message": "hi"}))?;
    assert_eq!(echo.tool_text()?, "hi");
    Ok(())
}

/// A hanging backend is detected within the configured time.
#[test]
fn hanging_backend_is_noticed_in_configured_time() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let strict = looking_after(&test_server, quick())?;
    let lenient = looking_after(
        &test_server,
        HealthConfig {
            unhealthy_after: 100_000,
            ..quick()
        },
    )?;
    let patient = looking_after(
        &test_server,
        HealthConfig {
            timeout: ConfigDuration::from_secs(60),
            ..quick()
        },
    )?;
    let rare = looking_after(
        &test_server,
        HealthConfig {
            interval: ConfigDuration::from_secs(3600),
            ..quick()
        },
    )?;
    for gateway in [&strict, &lenient, &patient, &rare] {
        wait_for(gateway, Health::Healthy)?;
    }
    let session = Session::open(strict.1.mcp)?;
    let on_lenient = Session::open(lenient.1.mcp)?;
    // Lists and calls are answered meanwhile: this backend hangs for probes only.
    test_server.admin("POST", "/faults", &json!({"hang": true, "only_method": "ping"}))?;
    let hung = wait_for(&strict, Health::Unavailable)?;
    assert!(
        hung.error
            .unwrap_or_default()
            .contains("did not answer within 0.5 s")
    );
    wait_until_listed(&strict, &session, false)?;
    let degraded = wait_for(&lenient, Health::Degraded)?;
    assert_eq!(degraded.state, BackendState::Ready, "a failure or two may pass");
    assert!(is_listed(&lenient, &on_lenient)?);
    assert_eq!(status(&patient)?.health, Health::Healthy);
    assert_eq!(status(&rare)?.health, Health::Healthy);
    // The breaker ignores failures of probes.
    let echo = session.call(strict.1.mcp, "a_echo", &json!({"message": "hi"}))?;
    assert_eq!(echo.tool_text()?, "hi");
    test_server.admin("DELETE", "/faults", &json!({}))?;
    wait_for(&strict, Health::Healthy)?;
    wait_for(&lenient, Health::Healthy)?;
    wait_until_listed(&strict, &session, true)?;
    // Only the gateway that probes rarely is left: it sends no ping.
    for gateway in [strict, lenient, patient] {
        drop(gateway);
    }
    let before = pings(&test_server)?;
    let session = Session::open(rare.1.mcp)?;
    for _ in 0..20 {
        session.names(rare.1.mcp, "tools/list")?;
    }
    assert_eq!(pings(&test_server)?, before);
    Ok(())
}

/// A backend that rejects a probe is alive.
#[test]
fn rejected_probe_counts_as_alive() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let first_failure_counts = HealthConfig {
        unhealthy_after: 1,
        ..quick()
    };
    let gateway = looking_after(&test_server, first_failure_counts.clone())?;
    wait_for(&gateway, Health::Healthy)?;
    let before = pings(&test_server)?;
    test_server.admin("POST", "/faults", &json!({"status": 401, "only_method": "ping"}))?;
    wait::until("some probes are refused", PATIENCE, || {
        anyhow::ensure!(pings(&test_server)? > before + 3, "not yet");
        Ok(())
    })?;
    assert_eq!(status(&gateway)?.health, Health::Healthy);
    // A backend that rejects every request is alive, too, but its lists are unknown.
    test_server.admin("POST", "/faults", &json!({"status": 401}))?;
    let other = looking_after(&test_server, first_failure_counts)?;
    let refusing = wait_for(&other, Health::Degraded)?;
    assert_eq!(refusing.state, BackendState::Failing);
    assert!(refusing.error.unwrap_or_default().contains("HTTP status 401"));
    // Every other failure is a failed probe.
    test_server.admin("POST", "/faults", &json!({"status": 500}))?;
    wait_for(&gateway, Health::Unavailable)?;
    Ok(())
}
