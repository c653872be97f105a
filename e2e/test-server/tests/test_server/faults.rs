//! Each fault, and that it ends.

use std::error::Error as _;
use std::time::{Duration, Instant};

use crate::support::{Client, Events, TestServer, answer, messages, start, text};
use http::{Method, StatusCode};
use serde_json::{Value, json};

async fn test_server() -> (TestServer, Client) {
    let test_server = start(&[]).await;
    let client = test_server.session().await;
    (test_server, client)
}

/// The fault is gone, and the session as good as before.
async fn works(client: &mut Client) {
    assert_eq!(client.call("echo", json!({"message": "well"})).await, "well");
}

fn is_reset(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        || error.source().is_some_and(is_reset)
}

#[tokio::test]
async fn forgotten_session_gets_404_or_400() {
    for (style, code) in [("404", -32001), ("400", -32000)] {
        let (test_server, mut client) = test_server().await;
        test_server
            .fault(json!({"forget_sessions": style, "times": 1}))
            .await;
        for _ in 0..2 {
            let response = client.call_raw("counter", json!({})).await.unwrap();
            assert_eq!(response.status().as_str(), style);
            assert_eq!(answer(&text(response).await.unwrap())["error"]["code"], code);
        }
        let stats = test_server.stats().await;
        assert_eq!(
            (&stats["sessions_open"], &stats["calls"]),
            (&json!(0), &json!({}))
        );
        works(&mut test_server.session().await).await;
    }
}

#[tokio::test]
async fn all_sessions_can_be_forgotten_at_once() {
    let (test_server, mut one) = test_server().await;
    let mut two = test_server.session().await;
    let forgotten = test_server
        .admin(Method::POST, "/sessions/forget?style=400", Value::Null)
        .await;
    assert_eq!(forgotten, json!({"forgotten": 2}));
    for client in [&mut one, &mut two] {
        let response = client.call_raw("counter", json!({})).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let message = answer(&text(response).await.unwrap())["error"]["message"].take();
        assert_eq!(message, "Bad Request: No valid session ID provided");
    }
}

#[tokio::test]
async fn session_of_earlier_process_gets_configured_status() {
    for style in ["404", "400"] {
        let test_server = start(&["--unknown-session", style]).await;
        let mut client = test_server.client();
        client
            .headers
            .insert("mcp-session-id", "of-an-earlier-process".parse().unwrap());
        let response = client.call_raw("counter", json!({})).await.unwrap();
        assert_eq!(response.status().as_str(), style);
    }
}

#[tokio::test]
async fn slow_answers_late() {
    let (test_server, mut client) = test_server().await;
    let mut other = test_server.session().await;
    test_server
        .fault(json!({"slow_ms": 500, "only_tool": "echo"}))
        .await;
    let before = Instant::now();
    let slow = async {
        works(&mut client).await;
        Instant::now()
    };
    let quick = async {
        other.call("counter", json!({})).await;
        Instant::now()
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert!(slow - before >= Duration::from_millis(500));
    assert!(quick < slow);
}

#[tokio::test]
async fn hang_never_answers_until_it_is_cleared() {
    let (test_server, mut client) = test_server().await;
    test_server.fault(json!({"hang": true})).await;
    let call = client.call_raw("counter", json!({}));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), call)
            .await
            .is_err()
    );
    test_server.admin(Method::DELETE, "/faults", Value::Null).await;
    assert_eq!(
        test_server.admin(Method::GET, "/faults", Value::Null).await,
        json!([])
    );
    works(&mut client).await;
    assert_eq!(test_server.stats().await["calls"], json!({"echo": 1}));
}

#[tokio::test]
async fn status_fault_sends_retry_after() {
    let (test_server, mut client) = test_server().await;
    test_server
        .fault(json!({"status": 503, "retry_after": 7, "times": 1}))
        .await;
    let response = client.call_raw("echo", json!({"message": ""})).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "7");
    works(&mut client).await;
}

#[tokio::test]
async fn reset_before_headers_sends_no_response() {
    let (test_server, mut client) = test_server().await;
    test_server
        .fault(json!({"reset": "before_headers", "times": 1}))
        .await;
    let error = client.call_raw("counter", json!({})).await.unwrap_err();
    assert!(is_reset(&error), "{:?}", error.source());
    assert_eq!(test_server.stats().await["calls"], json!({}));
    works(&mut client).await;
}

#[tokio::test]
async fn fault_after_call_executes_the_call() {
    for fault in [json!({"reset": "before_headers"}), json!({"status": 502})] {
        let (test_server, mut client) = test_server().await;
        let mut rule = fault.clone();
        rule["after_call"] = json!(true);
        rule["times"] = json!(1);
        test_server.fault(rule).await;
        let failed = client.call_raw("counter", json!({})).await;
        assert!(failed.is_err() || failed.unwrap().status() == StatusCode::BAD_GATEWAY);
        assert_eq!(client.call("counter", json!({})).await, "2", "{fault}");
    }
}

#[tokio::test]
async fn reset_after_headers_breaks_the_body() {
    let (test_server, mut client) = test_server().await;
    test_server
        .fault(json!({"reset": "after_headers", "times": 1}))
        .await;
    let response = client.call_raw("counter", json!({})).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(is_reset(&text(response).await.unwrap_err()));
    assert_eq!(client.call("counter", json!({})).await, "2");
}

#[tokio::test]
async fn second_get_gets_409_while_first_is_open() {
    let (test_server, client) = test_server().await;
    let first = client.send(Method::GET, Value::Null).await.unwrap();
    let second = client.send(Method::GET, Value::Null).await.unwrap();
    assert_eq!(second.status(), StatusCode::OK);
    assert_eq!(test_server.stats().await["gets_open"], 2);
    drop(second);

    test_server.fault(json!({"second_get": "409"})).await;
    let refused = client.send(Method::GET, Value::Null).await.unwrap();
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    let other = test_server
        .session()
        .await
        .send(Method::GET, Value::Null)
        .await
        .unwrap();
    assert_eq!(other.status(), StatusCode::OK);

    drop(first);
    let deadline = Instant::now() + crate::support::PATIENCE;
    while client.send(Method::GET, Value::Null).await.unwrap().status() == StatusCode::CONFLICT {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn redirect_names_other_url() {
    let (test_server, mut client) = test_server().await;
    test_server
        .fault(json!({"redirect": "http://elsewhere.example/mcp", "times": 1}))
        .await;
    let response = client.call_raw("counter", json!({})).await.unwrap();
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(response.headers()["location"], "http://elsewhere.example/mcp");
    works(&mut client).await;
}

#[tokio::test]
async fn invalid_json_is_sent_as_json() {
    let (test_server, mut client) = test_server().await;
    test_server.fault(json!({"not_json": true, "times": 1})).await;
    let response = client.call_raw("counter", json!({})).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert!(serde_json::from_str::<Value>(&text(response).await.unwrap()).is_err());
    works(&mut client).await;
}

#[tokio::test]
async fn wrong_content_type_has_correct_body() {
    let (test_server, mut client) = test_server().await;
    test_server
        .fault(json!({"wrong_content_type": true, "times": 1}))
        .await;
    let response = client.call_raw("counter", json!({})).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/html");
    assert_eq!(
        answer(&text(response).await.unwrap())["result"]["content"][0]["text"],
        "1"
    );
    works(&mut client).await;
}

/// The faults of answers work on both framings.
async fn framings() -> Vec<(TestServer, Client, &'static str)> {
    let mut framings = Vec::new();
    for framing in ["stream", "document"] {
        let (test_server, client) = test_server().await;
        let json = json!({"json_response": framing == "document"});
        test_server.admin(Method::PUT, "/framing", json).await;
        framings.push((test_server, client, framing));
    }
    framings
}

#[tokio::test]
async fn truncated_response_breaks_off() {
    for (test_server, mut client, framing) in framings().await {
        test_server.fault(json!({"truncate": true, "times": 1})).await;
        let response = client.call_raw("big", json!({"bytes": 1000})).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(text(response).await.is_err(), "{framing}");
        works(&mut client).await;
    }
}

#[tokio::test]
async fn wrong_id_differs_from_request_id() {
    for (test_server, mut client, framing) in framings().await {
        test_server.fault(json!({"wrong_id": true, "times": 1})).await;
        let response = client.call_raw("counter", json!({})).await.unwrap();
        let answer = answer(&text(response).await.unwrap());
        assert_eq!(answer["id"], "an id that nobody asked with", "{framing}");
        assert_eq!(answer["result"]["content"][0]["text"], "1");
        works(&mut client).await;
    }
}

#[tokio::test]
async fn two_answers_sends_response_twice() {
    for (test_server, mut client, framing) in framings().await {
        test_server.fault(json!({"two_answers": true, "times": 1})).await;
        let response = client.call_raw("counter", json!({})).await.unwrap();
        let body = text(response).await.unwrap();
        assert_eq!(body.matches("\"result\"").count(), 2, "{framing}");
        assert_eq!(test_server.stats().await["calls"]["counter"], 1);
        works(&mut client).await;
    }
}

#[tokio::test]
async fn stream_without_end_stays_open_after_response() {
    let (test_server, mut client) = test_server().await;
    test_server
        .fault(json!({"sse_without_end": true, "times": 1}))
        .await;
    let mut events = Events::new(client.call_raw("counter", json!({})).await.unwrap());
    assert_eq!(
        events.message().await.unwrap()["result"]["content"][0]["text"],
        "1"
    );
    assert!(
        tokio::time::timeout(Duration::from_millis(200), events.next())
            .await
            .is_err()
    );
    works(&mut client).await;
}

#[tokio::test]
async fn stream_without_response_ends_normally() {
    for (test_server, mut client, framing) in framings().await {
        test_server
            .fault(json!({"sse_without_answer": true, "times": 1}))
            .await;
        let response = client.call_raw("counter", json!({})).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(messages(&text(response).await.unwrap()).is_empty(), "{framing}");
        assert_eq!(client.call("counter", json!({})).await, "2");
    }
}

#[tokio::test]
async fn rules_are_for_one_method_and_several_hold_at_once() {
    let (test_server, mut client) = test_server().await;
    test_server
        .fault(json!([
            {"status": 500, "only_method": "tools/list"},
            {"status": 502, "only_method": "GET"},
        ]))
        .await;
    works(&mut client).await;
    assert_eq!(
        client
            .request("tools/list", json!({}))
            .await
            .unwrap()
            .status()
            .as_u16(),
        500
    );
    assert_eq!(
        client
            .send(Method::GET, Value::Null)
            .await
            .unwrap()
            .status()
            .as_u16(),
        502
    );
}
