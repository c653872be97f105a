//! What a test reads off the test server when nothing is wrong.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, answer, messages, start, text};
use http::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn echo_returns_message_as_text_and_structure() {
    let test_server = start(&[]).await;
    let mut client = test_server.session().await;
    let response = client
        .call_raw("echo", json!({"message": "a nonce"}))
        .await
        .unwrap();
    let result = answer(&text(response).await.unwrap())["result"].take();
    assert_eq!(result["content"][0], json!({"type": "text", "text": "a nonce"}));
    assert_eq!(result["structuredContent"], json!({"message": "a nonce"}));
}

#[tokio::test]
async fn counter_belongs_to_the_session() {
    let test_server = start(&[]).await;
    let (mut one, mut two) = (test_server.session().await, test_server.session().await);
    assert_eq!(one.call("counter", json!({})).await, "1");
    assert_eq!(one.call("counter", json!({})).await, "2");
    assert_eq!(two.call("counter", json!({})).await, "1");
    assert_eq!(one.call("counter", json!({})).await, "3");
}

/// A stateless test server gives no session and counts for all clients.
#[tokio::test]
async fn stateless_fixture_has_one_counter_for_all_clients() {
    let test_server = start(&["--stateless"]).await;
    let (mut one, mut two) = (test_server.session().await, test_server.session().await);
    assert!(one.headers.is_empty());
    assert_eq!(one.call("counter", json!({})).await, "1");
    assert_eq!(two.call("counter", json!({})).await, "2");
}

#[tokio::test]
async fn whoami_returns_headers_session_and_client() {
    let test_server = start(&["--name", "left"]).await;
    let mut client = test_server.session().await;
    client.headers.insert("X-Tenant", "blue".parse().unwrap());
    let seen: Value = serde_json::from_str(&client.call("whoami", json!({})).await).unwrap();
    assert_eq!(seen["name"], "left");
    assert_eq!(seen["headers"]["x-tenant"], "blue");
    assert_eq!(seen["session"], client.session());
    assert_eq!(seen["client_info"]["name"], "test");
}

#[tokio::test]
async fn big_is_as_big_as_asked_and_sleep_as_long() {
    let test_server = start(&[]).await;
    let mut client = test_server.session().await;
    assert_eq!(client.call("big", json!({"bytes": 300_000})).await.len(), 300_000);
    let before = Instant::now();
    client.call("sleep", json!({"ms": 100})).await;
    assert!(before.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn progress_is_sent_before_result_if_token_was_given() {
    let test_server = start(&[]).await;
    let mut client = test_server.session().await;
    let params = json!({
        "name": "stream_progress",
        "arguments": {"steps": 3, "ms": 1},
        "_meta": {"progressToken": "p"},
    });
    let body = text(client.request("tools/call", params).await.unwrap())
        .await
        .unwrap();
    let messages = messages(&body);
    let steps: Vec<&Value> = messages
        .iter()
        .map(|message| &message["params"]["progress"])
        .collect();
    assert_eq!(steps, [&json!(1.0), &json!(2.0), &json!(3.0), &Value::Null]);
    assert_eq!(messages[3]["result"]["content"][0]["text"], "3 steps");
}

#[tokio::test]
async fn cancelled_call_is_counted() {
    let test_server = start(&[]).await;
    let mut client = test_server.session().await;
    let canceller = client.clone();
    let call = tokio::time::timeout(Duration::from_secs(5), async {
        let response = client.call_raw("sleep", json!({"ms": 60_000})).await.unwrap();
        text(response).await.unwrap()
    });
    let cancel = async {
        while test_server.stats().await["calls"]["sleep"] != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let params = json!({"requestId": 2});
        let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
        canceller.send(Method::POST, body).await.unwrap();
    };
    let (body, ()) = tokio::join!(call, cancel);
    assert!(messages(&body.unwrap()).is_empty());
    assert_eq!(client.call("echo", json!({"message": "on"})).await, "on");
    let deadline = Instant::now() + PATIENCE;
    while test_server.stats().await["cancelled"] != 1 {
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn stats_count_received_requests() {
    let test_server = start(&[]).await;
    let mut client = test_server.client();
    client.initialize("alice").await;
    test_server.client().initialize("bob").await;
    client.call("echo", json!({"message": ""})).await;

    let stats = test_server.stats().await;
    assert_eq!(stats["initializes"], json!({"alice": 1, "bob": 1}));
    assert_eq!(stats["initializes_total"], 2);
    assert_eq!(stats["sessions_open"], 2);
    assert!(
        stats["sessions"]
            .as_array()
            .unwrap()
            .contains(&json!(client.session()))
    );
    assert_eq!(stats["calls"], json!({"echo": 1}));
    assert_eq!(stats["gets_open"], 0);
    assert_eq!(stats["deletes"], 0);

    assert_eq!(
        client.send(Method::DELETE, Value::Null).await.unwrap().status(),
        StatusCode::ACCEPTED
    );
    assert_eq!(
        client.send(Method::DELETE, Value::Null).await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
    let stats = test_server.stats().await;
    assert_eq!(
        (&stats["deletes"], &stats["sessions_open"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(stats["requests"]["DELETE"], 2);

    test_server.admin(Method::POST, "/reset-stats", Value::Null).await;
    let stats = test_server.stats().await;
    assert_eq!(
        (&stats["initializes_total"], &stats["sessions_open"]),
        (&json!(0), &json!(1))
    );
}

#[tokio::test]
async fn lists_come_in_pages_and_as_long_as_asked() {
    let test_server = start(&["--extra-tools", "30", "--page-size", "20"]).await;
    let mut client = test_server.session().await;
    let (mut names, mut cursor, mut pages) = (Vec::new(), json!({}), 0);
    loop {
        let response = client.request("tools/list", cursor).await.unwrap();
        let result = answer(&text(response).await.unwrap())["result"].take();
        let tools = result["tools"].as_array().unwrap().clone();
        names.extend(tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()));
        pages += 1;
        match result.get("nextCursor") {
            Some(next) => cursor = json!({"cursor": next}),
            None => break,
        }
    }
    assert!(names.contains(&"extra_0030".to_owned()));
    assert_eq!(pages, names.len().div_ceil(20));
    assert_eq!(client.call("extra_0030", json!({})).await, "extra_0030");
}

#[tokio::test]
async fn hosts_are_checked_only_when_asked() {
    let foreign = async |args: &[&str]| {
        let test_server = start(args).await;
        let mut client = test_server.client();
        client
            .headers
            .insert("host", "fixture.default.svc".parse().unwrap());
        client.request("ping", json!({})).await.unwrap().status()
    };
    assert_eq!(foreign(&["--check-host"]).await, StatusCode::FORBIDDEN);
    // Not refused for its host, but for the session that it does not have.
    assert_eq!(foreign(&[]).await, StatusCode::BAD_REQUEST);
    assert_eq!(
        foreign(&["--allowed-hosts", "a,fixture.default.svc"]).await,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn sigterm_ends_server_at_once_during_call() {
    let mut test_server = start(&[]).await;
    let mut client = test_server.session().await;
    let hanging = client.call_raw("sleep", json!({"ms": 60_000})).await.unwrap();
    let pid = test_server.child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let status = tokio::time::timeout(Duration::from_secs(2), test_server.child.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success());
    drop(hanging);
}
