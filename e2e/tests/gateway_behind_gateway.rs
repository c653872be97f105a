//! A gateway behind a gateway: the outer one sends nothing that the inner one reserves.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_crds::config::Duration as Span;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

const LIMIT: Duration = Duration::from_secs(15);

/// Lists, calls, progress, server requests, log levels, subscriptions and probes pass through two gateways in a row.
#[test]
fn gateway_behind_gateway_serves_everything() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let inner_gateway = Recipe::new(&[("fixture", &test_server.url)])?.start()?;
    let mut recipe = Recipe::new(&[("inner", &format!("http://{}/mcp", inner_gateway.mcp))])?;
    let hot = recipe.hot();
    hot.backends[0].health.interval = Span::from_secs(1);
    let outer = recipe.start()?;

    let capabilities = json!({"roots": {"listChanged": true}});
    let session = Session::open_with(outer.mcp, "2025-11-25", &capabilities)?;
    let names = session.names(outer.mcp, "tools/list")?;
    ensure!(names.iter().any(|name| name == "inner_fixture_echo"), "{names:?}");
    let echo = session.call(outer.mcp, "inner_fixture_echo", &json!({"message": "hi"}))?;
    assert_eq!(echo.tool_text()?, "hi");

    let steps = json!({"steps": 3, "ms": 10});
    let mut stream = Stream::call(
        outer.mcp,
        &session,
        &json!("a"),
        "inner_fixture_stream_progress",
        &steps,
    )?;
    for _ in 0..3 {
        stream.await_method("notifications/progress")?;
    }
    stream.rest()?;

    let mut call = Stream::call(
        outer.mcp,
        &session,
        &json!("b"),
        "inner_fixture_list_roots",
        &json!({}),
    )?;
    let (_, asked) = call.await_method("roots/list")?;
    let roots = json!({"roots": [{"uri": "file:///nonce"}]});
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": roots});
    assert_eq!(session.post(outer.mcp, &answer)?.status, 202);
    let result = loop {
        let message = call.message()?;
        if message["id"] == "b" {
            break message;
        }
    };
    ensure!(result.to_string().contains("file:///nonce"), "{result}");

    let requests: [(&str, Value); 2] = [
        ("logging/setLevel", json!({"level": "debug"})),
        ("resources/subscribe", json!({"uri": "test://watched-resource"})),
    ];
    for (method, params) in requests {
        let answer = session.request(outer.mcp, method, &params)?;
        ensure!(answer.error_code() == 0, "{method}: {}", answer.text());
    }

    wait::until("the inner gateway is probed and well", LIMIT, || {
        let status = outer.status(&recipe)?;
        let inner = status.backends.first().context("no backend")?;
        ensure!(inner.error.is_none() && inner.tools > 0, "{inner:?}");
        let pings = inner_gateway.metric("vmcp_requests_total", "method=\"ping\",status=\"200\"")?;
        ensure!(pings > 0.5, "no probe was answered");
        Ok(())
    })?;
    let handshakes = outer.metric("vmcp_upstream_handshakes_total", "")?;
    assert!(
        (handshakes - 2.0).abs() < 0.1,
        "no session was lost: {handshakes}"
    );
    Ok(())
}
