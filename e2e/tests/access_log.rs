//! The access log: failed requests always, other requests as configured, and never a secret.

use std::time::Duration;

use serde_json::{Value, json};
use vmcp_crds::config::LogLevel;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(10);

fn lines(gateway: &Gateway, message: &str) -> anyhow::Result<Vec<Value>> {
    let log = gateway.log()?;
    let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(lines.filter(|line: &Value| line["message"] == message).collect())
}

/// Waits for the line of the request with that id.
fn line(gateway: &Gateway, id: &str) -> anyhow::Result<Value> {
    wait::until("the line is written", PATIENCE, || {
        let lines = lines(gateway, "request served")?;
        let found = lines.into_iter().find(|line| line["request_id"] == id);
        found.ok_or_else(|| anyhow::anyhow!("no line with {id}"))
    })
}

/// Calls `echo` with `message`, as the request `id`.
fn echo(gateway: &Gateway, session: &Session, id: &str, message: &str) -> anyhow::Result<Answer> {
    let params = json!({"name": "a_echo", "arguments": {"message": message}});
    let headers = [("mcp-session-id", &*session.id), ("x-request-id", id)];
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    http_client::post(gateway.mcp, &headers, &call)
}

/// A failed request is logged with its id, its backend and no secret.
#[test]
fn failed_request_is_logged_with_backend_and_no_secret() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let gateway = Recipe::new(&[("a", &test_server.url)])?.start()?;
    let session = Session::open(gateway.mcp)?;
    let good = echo(&gateway, &session, "good-1", "s3cret")?;
    assert_eq!(good.tool_text()?, "s3cret");
    assert_eq!(
        good.header("x-request-id"),
        Some("good-1"),
        "the proxy's id is kept"
    );
    test_server.admin(
        "POST",
        "/faults",
        &json!({"status": 500, "only_method": "tools/call"}),
    )?;
    let bad = echo(&gateway, &session, "bad-1", "s3cret")?;
    assert_eq!(bad.header("x-request-id"), Some("bad-1"));
    let told = line(&gateway, "bad-1")?;
    for (field, value) in [
        ("level", json!("WARN")),
        ("method", json!("tools/call")),
        ("status", json!(200)),
        ("outcome", json!("failed")),
        ("backend", json!("a")),
        ("error", json!("answered with HTTP status 500")),
    ] {
        assert_eq!(told[field], value, "{told}");
    }
    assert!(told["duration_ms"].is_u64());
    // One session has one tag, which is not its id.
    echo(&gateway, &session, "bad-2", "s3cret")?;
    let other = Session::open(gateway.mcp)?;
    echo(&gateway, &other, "bad-3", "s3cret")?;
    assert_eq!(told["session"], line(&gateway, "bad-2")?["session"]);
    assert_ne!(told["session"], line(&gateway, "bad-3")?["session"]);
    // A rejected request is logged, too. Successful requests are not.
    let refused = http_client::post(gateway.mcp, &[("x-request-id", "refused-1")], &json!([]))?;
    assert_eq!(refused.status, 400);
    assert_eq!(line(&gateway, "refused-1")?["outcome"], "rejected");
    assert!(
        lines(&gateway, "request served")?
            .iter()
            .all(|line| line["request_id"] != "good-1")
    );
    let log = gateway.log()?;
    // Texts of backends are in response bodies.
    for secret in ["s3cret", "asked to fail", &session.id, &other.id] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    Ok(())
}

/// A request id that is unsafe in a log is replaced, and every response has an id.
#[test]
fn unloggable_request_id_is_replaced() -> anyhow::Result<()> {
    let gateway = Recipe::new(&[])?.start()?;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let mut ids = Vec::new();
    for brought in ["a b", "\"quoted\"", &"x".repeat(200)] {
        let answer = http_client::post(gateway.mcp, &[("x-request-id", brought)], &ping)?;
        ids.push(answer.header("x-request-id").unwrap().to_owned());
    }
    for path in ["/mcp", "/nowhere"] {
        let answer = http_client::get(gateway.mcp, path, &[])?;
        ids.push(answer.header("x-request-id").unwrap().to_owned());
    }
    assert!(ids.iter().all(|id| id.len() == 16), "{ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    Ok(())
}

/// Successful requests are logged according to the sample rate and the log level.
#[test]
fn successful_requests_are_logged_as_configured() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let mut recipe = Recipe::new(&[("a", &test_server.url)])?;
    let hot = |recipe: &mut Recipe, sample: f64, level| {
        let hot = recipe.hot();
        hot.access_log.sample = serde_json::from_value(json!(sample)).unwrap();
        hot.log_level = level;
    };
    for (sample, level, logged) in [
        (0.0, LogLevel::Info, None),
        (1.0, LogLevel::Info, Some("INFO")),
        (0.0, LogLevel::Debug, Some("DEBUG")),
        (1.0, LogLevel::Warn, None),
    ] {
        hot(&mut recipe, sample, level);
        let gateway = recipe.start()?;
        let session = Session::open(gateway.mcp)?;
        for number in 0..5 {
            echo(&gateway, &session, &format!("good-{number}"), "hi")?.tool_text()?;
        }
        // The line of the failed request follows theirs.
        test_server.admin(
            "POST",
            "/faults",
            &json!({"status": 500, "only_method": "tools/call"}),
        )?;
        echo(&gateway, &session, "bad", "hi")?;
        test_server.admin("DELETE", "/faults", &json!({}))?;
        line(&gateway, "bad")?;
        let found = lines(&gateway, "request served")?;
        let good: Vec<_> = found
            .iter()
            .filter(|line| {
                line["request_id"]
                    .as_str()
                    .unwrap_or_default()
                    .starts_with("good-")
            })
            .collect();
        assert_eq!(
            good.len(),
            if logged.is_some() { 5 } else { 0 },
            "{sample} {level:?}"
        );
        assert!(
            good.iter()
                .all(|line| Some(line["level"].as_str().unwrap()) == logged)
        );
    }
    Ok(())
}

/// The log reports an outage of the store when it begins and when it ends.
#[requires(redis)]
#[test]
fn store_outage_is_logged_at_begin_and_end() -> anyhow::Result<()> {
    let mut harness = Harness::builder().redis(Redis::start(None)?).start()?;
    let [gateway] = harness.take_gateways()?;
    assert_eq!(http_client::initialize(gateway.mcp)?.status, 200);
    harness.redis.kill()?;
    for _ in 0..20 {
        assert_eq!(http_client::initialize(gateway.mcp)?.status, 503);
    }
    harness.redis.start_again()?;
    wait::until("the store is back", PATIENCE, || {
        let answer = http_client::initialize(gateway.mcp)?;
        anyhow::ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    })?;
    assert_eq!(lines(&gateway, "session store unavailable")?.len(), 1);
    assert_eq!(lines(&gateway, "session store available again")?.len(), 1);
    Ok(())
}
