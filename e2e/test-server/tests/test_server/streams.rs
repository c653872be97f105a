//! What reaches a client besides answers, and in which form.

use std::time::Instant;

use crate::support::{Client, Events, TestServer, answer, start, text};
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// The session's own stream, once it is open.
async fn listen(client: &Client) -> Events {
    let mut events = Events::new(client.send(Method::GET, Value::Null).await.unwrap());
    // Its first event has no message: the stream is there.
    assert!(events.next().await.unwrap().message.is_none());
    events
}

async fn post(test_server: &TestServer, path: &str) -> Value {
    test_server.admin(Method::POST, path, Value::Null).await
}

#[tokio::test]
async fn tool_list_change_reaches_every_session() {
    let test_server = start(&[]).await;
    let (mut one, two) = (test_server.session().await, test_server.session().await);
    let (mut first, mut second) = (listen(&one).await, listen(&two).await);

    assert_eq!(
        post(&test_server, "/tools-changed?add=novelty&remove=echo,big").await,
        json!({"notified": 2})
    );
    for events in [&mut first, &mut second] {
        assert_eq!(
            events.message().await.unwrap()["method"],
            "notifications/tools/list_changed"
        );
    }
    let names = one.names("tools/list", "tools").await;
    assert!(names.contains(&"novelty".to_owned()));
    assert!(!names.contains(&"echo".to_owned()));
    assert_eq!(one.call("novelty", json!({})).await, "novelty");
    let response = one.call_raw("echo", json!({"message": ""})).await.unwrap();
    assert_eq!(answer(&text(response).await.unwrap())["error"]["code"], -32602);

    post(&test_server, "/tools-changed?add=echo").await;
    assert_eq!(one.call("echo", json!({"message": "back"})).await, "back");
}

#[tokio::test]
async fn prompts_and_resources_change_as_tools_do() {
    let test_server = start(&[]).await;
    let mut client = test_server.session().await;
    let mut events = listen(&client).await;
    post(&test_server, "/prompts-changed?add=novel_prompt").await;
    post(&test_server, "/resources-changed?add=test://novelty").await;
    assert_eq!(
        events.message().await.unwrap()["method"],
        "notifications/prompts/list_changed"
    );
    assert_eq!(
        events.message().await.unwrap()["method"],
        "notifications/resources/list_changed"
    );
    assert!(
        client
            .names("prompts/list", "prompts")
            .await
            .contains(&"novel_prompt".to_owned())
    );
    let response = client
        .request("resources/read", json!({"uri": "test://novelty"}))
        .await
        .unwrap();
    let result = answer(&text(response).await.unwrap())["result"].take();
    assert_eq!(result["contents"][0]["text"], "test://novelty");
}

#[tokio::test]
async fn update_reaches_subscribers_only() {
    let test_server = start(&[]).await;
    let (mut subscriber, other) = (test_server.session().await, test_server.session().await);
    let uri = "test://watched-resource";
    let update = format!("/resource-updated?uri={uri}");
    let (mut events, _silent) = (listen(&subscriber).await, listen(&other).await);

    let response = subscriber
        .request("resources/subscribe", json!({"uri": uri}))
        .await
        .unwrap();
    drop(text(response).await);
    assert_eq!(post(&test_server, &update).await, json!({"notified": 1}));
    let message = events.message().await.unwrap();
    assert_eq!(message["method"], "notifications/resources/updated");
    assert_eq!(message["params"]["uri"], uri);

    let response = subscriber
        .request("resources/unsubscribe", json!({"uri": uri}))
        .await
        .unwrap();
    drop(text(response).await);
    assert_eq!(post(&test_server, &update).await, json!({"notified": 0}));
}

#[tokio::test]
async fn log_messages_respect_session_log_level() {
    let test_server = start(&[]).await;
    let mut client = test_server.session().await;
    let mut events = listen(&client).await;
    let response = client
        .request("logging/setLevel", json!({"level": "error"}))
        .await
        .unwrap();
    drop(text(response).await);
    assert_eq!(
        post(&test_server, "/log?level=warning&text=no").await,
        json!({"notified": 0})
    );
    assert_eq!(
        post(&test_server, "/log?level=critical&text=yes").await,
        json!({"notified": 1})
    );
    assert_eq!(events.message().await.unwrap()["params"]["data"], "yes");

    let sessions = test_server.admin(Method::GET, "/sessions", Value::Null).await;
    assert_eq!(sessions[0]["id"], client.session());
    assert_eq!(sessions[0]["log_level"], "error");
}

#[tokio::test]
async fn streams_are_counted_while_they_are_open_and_can_be_closed() {
    let test_server = start(&[]).await;
    let client = test_server.session().await;
    let mut events = listen(&client).await;
    assert_eq!(test_server.stats().await["gets_open"], 1);
    assert_eq!(post(&test_server, "/streams/close").await, json!({"closed": 1}));
    assert!(events.next().await.is_none());
    let deadline = Instant::now() + crate::support::PATIENCE;
    while test_server.stats().await["gets_open"] != 0 {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn session_stream_resumes_after_last_event() {
    let test_server = start(&[]).await;
    let mut client = test_server.session().await;
    let mut events = listen(&client).await;
    post(&test_server, "/log?level=info&text=one").await;
    let seen = events.next().await.unwrap();
    assert_eq!(seen.message.unwrap()["params"]["data"], "one");
    post(&test_server, "/streams/close").await;
    assert!(events.next().await.is_none());

    post(&test_server, "/log?level=info&text=two").await;
    client
        .headers
        .insert("last-event-id", seen.id.unwrap().parse().unwrap());
    let mut events = Events::new(client.send(Method::GET, Value::Null).await.unwrap());
    assert_eq!(events.message().await.unwrap()["params"]["data"], "two");
    post(&test_server, "/log?level=info&text=three").await;
    assert_eq!(events.message().await.unwrap()["params"]["data"], "three");

    // The end of the session is the end of its stream, resumed or not.
    client.headers.remove("last-event-id");
    client.send(Method::DELETE, Value::Null).await.unwrap();
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn response_is_fetched_after_lost_connection() {
    let test_server = start(&[]).await;
    let mut client = test_server.session().await;
    let mut events = Events::new(client.call_raw("test_reconnection", json!({})).await.unwrap());
    let primed = events.next().await.unwrap().id.unwrap();
    assert!(events.next().await.is_none());

    client.headers.insert("last-event-id", primed.parse().unwrap());
    // Twice: also after the answer was sent and fetched.
    for _ in 0..2 {
        let mut events = Events::new(client.send(Method::GET, Value::Null).await.unwrap());
        let answer = events.message().await.unwrap();
        assert_eq!(
            answer["result"]["content"][0]["text"],
            "Reconnection test completed successfully"
        );
        assert!(events.next().await.is_none());
    }
}

#[tokio::test]
async fn unknown_event_id_gets_nothing() {
    let test_server = start(&[]).await;
    let mut client = test_server.session().await;
    client
        .headers
        .insert("last-event-id", "0123456789abcdef-3".parse().unwrap());
    let mut events = Events::new(client.send(Method::GET, Value::Null).await.unwrap());
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn answers_are_streams_or_documents_by_choice_and_by_tool() {
    async fn form(client: &mut Client, tool: &str, arguments: Value) -> String {
        let response = client.call_raw(tool, arguments).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let form = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(answer(&text(response).await.unwrap())["result"].is_object());
        form
    }
    let test_server = start(&["--json-response"]).await;
    let mut client = test_server.session().await;
    assert_eq!(
        form(&mut client, "echo", json!({"message": ""})).await,
        "application/json"
    );

    let choice = json!({"json_response": false, "tools": {"counter": true}});
    test_server.admin(Method::PUT, "/framing", choice).await;
    assert_eq!(
        form(&mut client, "echo", json!({"message": ""})).await,
        "text/event-stream"
    );
    assert_eq!(form(&mut client, "counter", json!({})).await, "application/json");
}

#[tokio::test]
async fn call_with_progress_stays_a_stream() {
    let test_server = start(&["--json-response"]).await;
    let mut client = test_server.session().await;
    let params = json!({
        "name": "stream_progress",
        "arguments": {"steps": 2, "ms": 1},
        "_meta": {"progressToken": 7},
    });
    let response = client.request("tools/call", params).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(crate::support::messages(&text(response).await.unwrap()).len(), 3);
}

#[tokio::test]
async fn server_request_uses_session_stream() {
    let test_server = start(&[]).await;
    let client = test_server.session().await;
    let mut events = listen(&client).await;
    let reply = async {
        let question = events.message().await.unwrap();
        assert_eq!(question["method"], "ping");
        let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {}});
        let response = client.send(Method::POST, answer).await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
    };
    let (asked, ()) = tokio::join!(post(&test_server, "/ask?what=ping"), reply);
    assert_eq!(asked, json!([{"session": client.session(), "answer": {}}]));
}

#[tokio::test]
async fn tool_request_uses_stream_of_its_call() {
    let test_server = start(&[]).await;
    let mut client = test_server.client();
    client.initialize_with("test", json!({"elicitation": {}})).await;
    let call = client
        .call_raw("test_elicitation", json!({"message": "Who?"}))
        .await
        .unwrap();
    let mut events = Events::new(call);
    let question = events.message().await.unwrap();
    assert_eq!(question["method"], "elicitation/create");
    assert_eq!(question["params"]["message"], "Who?");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}});
    client.send(Method::POST, answer).await.unwrap();
    let text = events.message().await.unwrap()["result"]["content"][0]["text"].take();
    assert_eq!(text, "User response: action=decline, content=null");
}
