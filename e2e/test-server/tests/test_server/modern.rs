//! Clients of the 2026-07-28 revision: every request stands for itself.

use http::{Method, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::support::{Client, Events, answer, start, text};

/// Sends a request with the metadata and the headers that the revision wants.
async fn request(
    client: &mut Client,
    method: &str,
    name: Option<&str>,
    mut params: Value,
) -> http::Response<Incoming> {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    });
    client
        .headers
        .insert("mcp-protocol-version", "2026-07-28".parse().unwrap());
    client.headers.insert("mcp-method", method.parse().unwrap());
    client.headers.remove("mcp-name");
    if let Some(name) = name {
        client.headers.insert("mcp-name", name.parse().unwrap());
    }
    client.request(method, params).await.unwrap()
}

async fn result(client: &mut Client, tool: &str, params: Value) -> Value {
    let response = request(client, "tools/call", Some(tool), params).await;
    assert_eq!(response.status(), StatusCode::OK);
    answer(&text(response).await.unwrap())["result"].take()
}

#[tokio::test]
async fn call_needs_and_opens_no_session() {
    let test_server = start(&[]).await;
    let mut client = test_server.client();
    let params = json!({"name": "echo", "arguments": {"message": "modern"}});
    let result = result(&mut client, "echo", params).await;
    assert_eq!(result["content"][0]["text"], "modern");
    assert_eq!(result["resultType"], "complete");
    let stats = test_server.stats().await;
    assert_eq!(
        (&stats["initializes_total"], &stats["sessions_open"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(stats["calls"], json!({"echo": 1}));
}

#[tokio::test]
async fn session_id_is_ignored() {
    let test_server = start(&[]).await;
    let mut client = test_server.client();
    client
        .headers
        .insert("mcp-session-id", "never-heard-of".parse().unwrap());
    let params = json!({"name": "echo", "arguments": {"message": "still"}});
    assert_eq!(
        result(&mut client, "echo", params).await["content"][0]["text"],
        "still"
    );
}

#[tokio::test]
async fn tool_requires_input_and_is_called_again() {
    let test_server = start(&[]).await;
    let mut client = test_server.client();
    let tool = "test_input_required_result_request_state";
    let first = result(&mut client, tool, json!({"name": tool})).await;
    assert_eq!(first["resultType"], "input_required");
    assert_eq!(first["inputRequests"]["confirm"]["method"], "elicitation/create");

    let mut again = json!({
        "name": tool,
        "inputResponses": {"confirm": {"action": "accept", "content": {"ok": true}}},
        "requestState": first["requestState"],
    });
    let second = result(&mut client, tool, again.clone()).await;
    assert_eq!(second["content"][0]["text"], "state-ok");

    again["requestState"] = json!("made up");
    let refused = request(&mut client, "tools/call", Some(tool), again).await;
    assert_eq!(answer(&text(refused).await.unwrap())["error"]["code"], -32602);
}

#[tokio::test]
async fn listener_gets_requested_notifications() {
    let test_server = start(&[]).await;
    let mut client = test_server.client();
    let params = json!({"notifications": {"toolsListChanged": true}});
    let mut events = Events::new(request(&mut client, "subscriptions/listen", None, params).await);
    let acknowledged = events.message().await.unwrap();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    // The test server acknowledges just before it listens.
    while test_server
        .admin(Method::POST, "/tools-changed", Value::Null)
        .await["notified"]
        != 1
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        events.message().await.unwrap()["method"],
        "notifications/tools/list_changed"
    );
}
