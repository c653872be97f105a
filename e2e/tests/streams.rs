//! Notifications and requests of backends reach the client on the right stream, and the client's responses reach the backend through every
//! replica.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(15);

fn one_gateway() -> anyhow::Result<(Harness, Gateway)> {
    let mut harness = Harness::builder().test_server("fixture", &[]).start()?;
    let [gateway] = harness.take_gateways()?;
    Ok((harness, gateway))
}

/// Two gateways that share Redis and nothing else.
fn two_gateways() -> anyhow::Result<(Harness<Redis>, Gateway, Gateway)> {
    let builder = Harness::builder().test_server("fixture", &[]);
    let mut harness = builder.redis(Redis::start(None)?).replicas(2).start()?;
    let [one, two] = harness.take_gateways()?;
    Ok((harness, one, two))
}

/// Waits until the test server has `gets` open GET streams, beside one of the catalog of each gateway.
fn wait_for_gets<R>(harness: &Harness<R>, gets: u64, gateways: u64) -> anyhow::Result<()> {
    wait::until("streams at the test server", PATIENCE, || {
        let open = harness.server().stats()?.gets_open;
        anyhow::ensure!(open == gets + gateways, "{open} are open");
        Ok(())
    })
}

/// Opens the GET stream of a session, and waits until the upstream stream is open.
fn listen<R>(
    harness: &Harness<R>,
    gateway: &Gateway,
    session: &Session,
    gateways: u64,
) -> anyhow::Result<Stream> {
    let bound = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
    assert_eq!(bound.tool_text()?, "hi");
    let stream = Stream::get(gateway.mcp, session, None)?;
    assert_eq!((stream.status, &*stream.content_type), (200, "text/event-stream"));
    wait_for_gets(harness, 1, gateways)?;
    Ok(stream)
}

/// Answers a backend's request at `gateway`.
fn answer(
    gateway: SocketAddr,
    session: &Session,
    asked: &Value,
    result: &Value,
) -> anyhow::Result<vmcp_e2e::http_client::Answer> {
    session.post(
        gateway,
        &json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}),
    )
}

/// A forged text of the same form.
fn forged(genuine: &str) -> String {
    let other = if &genuine[10..11] == "A" { "B" } else { "A" };
    format!("{}{other}{}", &genuine[..10], &genuine[11..])
}

fn log_text(message: &Value) -> &str {
    message["params"]["data"].as_str().unwrap_or_default()
}

/// Progress arrives on the stream of its call, in order and before the response.
#[test]
fn progress_arrives_in_order_before_the_response() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = listen(&harness, &gateway, &session, 1)?;
    let steps = |id: i64| {
        let arguments = json!({"steps": 3, "ms": 5});
        Stream::call(
            gateway.mcp,
            &session,
            &json!(id),
            "fixture_stream_progress",
            &arguments,
        )
    };
    // Two concurrent calls: neither gets messages of the other.
    let (mut one, mut two) = (steps(1)?, steps(2)?);
    for (id, stream) in [(1, &mut one), (2, &mut two)] {
        for step in 1..=3 {
            let message = stream.message()?;
            assert_eq!(message["method"], "notifications/progress", "{message}");
            assert_eq!(message["params"]["progressToken"], format!("of {id}"));
            assert_eq!(message["params"]["progress"].as_f64(), Some(f64::from(step)));
        }
        let answer = stream.message()?;
        assert_eq!(answer["id"], id);
        assert_eq!(answer["result"]["content"][0]["text"], "3 steps");
        assert_eq!(stream.next_event()?, None);
    }
    // This backend sends its logs on the session's own stream, whatever the call.
    session.call(gateway.mcp, "fixture_test_tool_with_logging", &json!({}))?;
    for _ in 0..3 {
        let message = own.message()?;
        assert_eq!(message["method"], "notifications/message", "{message}");
    }
    Ok(())
}

/// The client responds to a server request through another gateway.
#[requires(redis)]
#[test]
fn server_request_is_answered_through_another_gateway() -> anyhow::Result<()> {
    let (_harness, one, two) = two_gateways()?;
    let capabilities =
        json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {"listChanged": true}});
    let session = Session::open_with(one.mcp, "2025-11-25", &capabilities)?;
    let cases = [
        (
            "fixture_test_elicitation",
            json!({"message": "Who?"}),
            "elicitation/create",
            json!({"action": "accept", "content": {"username": "u", "email": "e"}}),
            "action=accept",
        ),
        (
            "fixture_test_sampling",
            json!({"prompt": "Say it"}),
            "sampling/createMessage",
            json!({"role": "assistant", "content": {"type": "text", "text": "said"}, "model": "m"}),
            "LLM response: said",
        ),
        (
            "fixture_list_roots",
            json!({}),
            "roots/list",
            json!({"roots": [{"uri": "file:///x", "name": "x"}]}),
            "file:///x",
        ),
    ];
    for (number, (tool, arguments, method, result, expected)) in cases.into_iter().enumerate() {
        let mut call = Stream::call(one.mcp, &session, &json!(number), tool, &arguments)?;
        let (_, asked) = call.await_method(method)?;
        let id = asked["id"].as_str().context("the id is not ours")?;
        assert!(id.starts_with("vmcp:"), "{id}");
        // The request id names the gateway of the call: the other gateway does not know the call.
        let accepted = answer(two.mcp, &session, &asked, &result)?;
        assert_eq!((accepted.status, accepted.text()), (202, String::new()));
        let text = call.message()?["result"]["content"][0]["text"].to_string();
        assert!(text.contains(expected), "{tool}: {text}");
    }
    Ok(())
}

/// An error of the client is a valid response to a server request.
#[test]
fn client_error_answers_server_request() -> anyhow::Result<()> {
    let (_harness, gateway) = one_gateway()?;
    let session = Session::open_with(gateway.mcp, "2025-11-25", &json!({"roots": {}}))?;
    let mut call = Stream::call(gateway.mcp, &session, &json!(1), "fixture_list_roots", &json!({}))?;
    let (_, asked) = call.await_method("roots/list")?;
    let error = json!({"code": -32000, "message": "not today"});
    let refused = session.post(
        gateway.mcp,
        &json!({"jsonrpc": "2.0", "id": asked["id"], "error": error}),
    )?;
    assert_eq!(refused.status, 202);
    assert!(call.message()?.to_string().contains("not today"));
    Ok(())
}

/// A cancellation reaches the backend through another gateway.
#[requires(redis)]
#[test]
fn cancellation_reaches_backend_via_other_gateway() -> anyhow::Result<()> {
    let (harness, one, two) = two_gateways()?;
    let session = Session::open(one.mcp)?;
    let call = Stream::call(
        one.mcp,
        &session,
        &json!("long"),
        "fixture_sleep",
        &json!({"ms": 60_000}),
    )?;
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "long"}});
    wait::until("the cancellation arrives", PATIENCE, || {
        assert_eq!(session.post(two.mcp, &cancel)?.status, 202);
        anyhow::ensure!(harness.server().stats()?.cancelled > 0, "not yet");
        Ok(())
    })?;
    drop(call);
    Ok(())
}

/// A change of the client's roots reaches every backend of the session.
#[test]
fn roots_change_reaches_backends_of_session() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    let session = Session::open_with(
        gateway.mcp,
        "2025-11-25",
        &json!({"roots": {"listChanged": true}}),
    )?;
    session.call(gateway.mcp, "fixture_echo", &json!({"message": ""}))?;
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    assert_eq!(session.post(gateway.mcp, &changed)?.status, 202);
    wait::until("the backend is told", PATIENCE, || {
        let seen = harness.server().stats()?.requests;
        seen.get("notifications/roots/list_changed")
            .copied()
            .context("not yet")
    })?;
    Ok(())
}

/// The session stream carries log messages, resource updates and server requests.
#[test]
fn session_stream_carries_logs_updates_and_requests() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    let session = Session::open_with(gateway.mcp, "2025-11-25", &json!({"roots": {}}))?;
    let mut own = listen(&harness, &gateway, &session, 1)?;

    let uri = "test://watched-resource";
    let subscribe =
        json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": uri}});
    assert_eq!(
        session.post(gateway.mcp, &subscribe)?.message()?["result"],
        json!({})
    );
    assert_eq!(harness.server().client_session()?["subscriptions"], json!([uri]));
    harness
        .server()
        .admin("POST", &format!("/resource-updated?uri={uri}"), &Value::Null)?;
    let (_, updated) = own.await_method("notifications/resources/updated")?;
    assert_eq!(updated["params"]["uri"], uri);

    let level =
        json!({"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "warning"}});
    assert_eq!(session.post(gateway.mcp, &level)?.message()?["result"], json!({}));
    assert_eq!(harness.server().client_session()?["log_level"], "warning");
    harness
        .server()
        .admin("POST", "/log?level=info&text=unheard", &Value::Null)?;
    harness.server().log("heard")?;
    let (_, logged) = own.await_method("notifications/message")?;
    assert_eq!(log_text(&logged), "heard");

    let upstream = harness.server().client_session()?["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let path = format!("/ask?what=roots&id={upstream}");
            harness.server().admin_answer("POST", &path, &Value::Null)
        });
        let (_, asked) = own.await_method("roots/list")?;
        let accepted = answer(
            gateway.mcp,
            &session,
            &asked,
            &json!({"roots": [{"uri": "file:///r"}]}),
        )?;
        assert_eq!(accepted.status, 202);
        let answered = asking
            .join()
            .map_err(|_| anyhow::anyhow!("the admin port was not asked"))??;
        assert!(answered.to_string().contains("file:///r"), "{answered}");
        anyhow::Ok(())
    })?;

    let unsubscribe =
        json!({"jsonrpc": "2.0", "id": 3, "method": "resources/unsubscribe", "params": {"uri": uri}});
    assert_eq!(
        session.post(gateway.mcp, &unsubscribe)?.message()?["result"],
        json!({})
    );
    assert_eq!(harness.server().client_session()?["subscriptions"], json!([]));

    // The end of the session is the end of its stream, here and at the backend.
    assert_eq!(session.delete(gateway.mcp)?.status, 200);
    while own.next_event()?.is_some() {}
    wait_for_gets(&harness, 0, 1)?;
    Ok(())
}

/// An open session stream also carries messages of a backend that is bound later.
#[test]
fn backend_bound_later_joins_session_stream() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = Stream::get(gateway.mcp, &session, None)?;
    assert_eq!(
        harness.server().initializes("http-client")?,
        0,
        "a stream alone opens no session"
    );
    session.call(gateway.mcp, "fixture_echo", &json!({"message": ""}))?;
    wait_for_gets(&harness, 1, 1)?;
    harness.server().log("late")?;
    assert_eq!(log_text(&own.await_method("notifications/message")?.1), "late");
    // The gateway opens no upstream stream for a client without a stream.
    own.abandon()?;
    wait_for_gets(&harness, 0, 1)?;
    Ok(())
}

/// A message that a backend sends during the first call is delivered.
#[test]
fn message_during_first_call_is_delivered() -> anyhow::Result<()> {
    let (_harness, gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = Stream::get(gateway.mcp, &session, None)?;
    // This backend sends its logs on the session's own stream, and opens its session only for this call.
    session.call(gateway.mcp, "fixture_test_tool_with_logging", &json!({}))?;
    for _ in 0..3 {
        own.await_method("notifications/message")?;
    }
    Ok(())
}

/// The session stream is resumed after the last event through another gateway.
#[requires(redis)]
#[test]
fn session_stream_resumes_on_another_gateway() -> anyhow::Result<()> {
    let (harness, one, two) = two_gateways()?;
    let session = Session::open(one.mcp)?;
    let mut own = listen(&harness, &one, &session, 2)?;
    harness.server().log("first")?;
    let (event, _) = own.await_method("notifications/message")?;
    let last = event.id.context("the event has no id")?;
    own.abandon()?;
    wait_for_gets(&harness, 0, 2)?;
    harness.server().log("missed")?;
    let mut own = Stream::get(two.mcp, &session, Some(&last))?;
    assert_eq!(log_text(&own.await_method("notifications/message")?.1), "missed");
    harness.server().log("next")?;
    assert_eq!(log_text(&own.await_method("notifications/message")?.1), "next");
    Ok(())
}

/// A broken stream of the backend is resumed after the last event.
#[test]
fn broken_backend_stream_resumes_after_last_event() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = listen(&harness, &gateway, &session, 1)?;
    for reset in ["false", "true"] {
        harness.server().log("before")?;
        assert_eq!(log_text(&own.await_method("notifications/message")?.1), "before");
        harness
            .server()
            .admin("POST", &format!("/streams/close?reset={reset}"), &Value::Null)?;
        harness.server().log("meanwhile")?;
        assert_eq!(
            log_text(&own.await_method("notifications/message")?.1),
            "meanwhile"
        );
    }
    Ok(())
}

/// After a lost connection the response is fetched through another gateway.
#[requires(redis)]
#[test]
fn lost_response_is_fetched_from_another_gateway() -> anyhow::Result<()> {
    let (_harness, mut one, two) = two_gateways()?;
    let session = Session::open(one.mcp)?;
    let arguments = json!({"steps": 4, "ms": 100});
    let mut call = Stream::call(
        one.mcp,
        &session,
        &json!("c"),
        "fixture_stream_progress",
        &arguments,
    )?;
    let (event, message) = call.next_message()?;
    assert_eq!(message["params"]["progress"].as_f64(), Some(1.0));
    let last = event.id.context("the event has no id")?;
    one.kill()?;

    let mut rest = Stream::get(two.mcp, &session, Some(&last))?;
    for step in 2..=4 {
        let message = rest.message()?;
        assert_eq!(
            message["params"]["progress"].as_f64(),
            Some(f64::from(step)),
            "{message}"
        );
    }
    let (event, answer) = rest.next_message()?;
    assert_eq!(
        (&answer["id"], &answer["result"]["content"][0]["text"]),
        (&json!("c"), &json!("4 steps"))
    );
    assert_eq!(
        event.id, None,
        "who loses the answer resumes in front of it, and gets it again"
    );
    assert_eq!(rest.next_event()?, None);
    Ok(())
}

/// A stream that the backend breaks is resumed without the client noticing.
#[test]
fn broken_backend_stream_is_hidden_from_client() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    // The backend closes the connection during the call, and the stream has to be resumed.
    let mut call = Stream::call(
        gateway.mcp,
        &session,
        &json!(1),
        "fixture_test_reconnection",
        &json!({}),
    )?;
    let text = call.message()?["result"]["content"][0]["text"].to_string();
    assert!(text.contains("Reconnection test completed"), "{text}");
    for fault in ["truncate", "sse_without_answer"] {
        let rule = json!({fault: true, "only_tool": "echo", "times": 1});
        harness.server().set_faults(&rule)?;
        let echo = session.call(gateway.mcp, "fixture_echo", &json!({"message": fault}))?;
        assert_eq!(echo.tool_text()?, fault);
    }
    Ok(())
}

/// A call whose stream cannot be resumed ends with an error for its id.
#[requires(redis)]
#[test]
fn unresumable_call_ends_with_error_for_its_id() -> anyhow::Result<()> {
    let (harness, mut one, two) = two_gateways()?;
    let session = Session::open(one.mcp)?;
    let no_ids = json!({"no_event_ids": true, "only_method": "tools/call"});
    harness.server().set_faults(&no_ids)?;
    let arguments = json!({"ms": 60_000});
    let mut call = Stream::call(one.mcp, &session, &json!("x"), "fixture_sleep", &arguments)?;
    let primed = call.next_event()?.context("no priming event")?;
    assert_eq!(primed.data.as_deref(), Some(""));
    let last = primed.id.context("the priming event has no id")?;
    one.kill()?;
    let mut rest = Stream::get(two.mcp, &session, Some(&last))?;
    let message = rest.message()?;
    assert_eq!(
        (&message["id"], &message["error"]["code"]),
        (&json!("x"), &json!(-32603))
    );
    assert!(message.to_string().contains("backend fixture"), "{message}");
    assert_eq!(rest.next_event()?, None);
    Ok(())
}

/// A client response with an id of the gateway that belongs to no server request of the session is rejected. One with another id is ignored,
/// as by the official SDKs.
#[test]
fn unsolicited_client_response_is_rejected() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    let capabilities = json!({"roots": {}});
    let session = Session::open_with(gateway.mcp, "2025-11-25", &capabilities)?;
    let other = Session::open_with(gateway.mcp, "2025-11-25", &capabilities)?;
    let mut call = Stream::call(gateway.mcp, &session, &json!(1), "fixture_list_roots", &json!({}))?;
    let (_, asked) = call.await_method("roots/list")?;
    let genuine = asked["id"].as_str().context("no id")?.to_owned();
    let roots = json!({"roots": []});
    for (who, id) in [
        (&session, json!(forged(&genuine))),
        (&session, json!("vmcp:rAAAA")),
        (&session, json!("vmcp:0123456789abcdef")),
        // It is another session's.
        (&other, json!(genuine)),
    ] {
        let refused = answer(gateway.mcp, who, &json!({"id": id}), &roots)?;
        assert_eq!((refused.status, refused.error_code()), (400, -32600), "{id}");
    }
    let ignored = answer(gateway.mcp, &session, &json!({"id": 1}), &roots)?;
    assert_eq!(ignored.status, 202, "{}", ignored.text());
    // A response that the backend cannot accept now has to be sent again by the client.
    let down = json!({"status": 503, "only_method": "response"});
    harness.server().set_faults(&down)?;
    let later = answer(gateway.mcp, &session, &asked, &roots)?;
    assert_eq!((later.status, later.header("retry-after")), (503, Some("1")));
    harness.server().clear_faults()?;
    assert_eq!(answer(gateway.mcp, &session, &asked, &roots)?.status, 202);
    assert_eq!(call.message()?["id"], 1);

    // The backend loses its session and another one replaces it: the request of the first session is invalid now.
    let mut call = Stream::call(gateway.mcp, &session, &json!(2), "fixture_list_roots", &json!({}))?;
    let (_, asked) = call.await_method("roots/list")?;
    harness
        .server()
        .admin("POST", "/sessions/forget?style=404", &Value::Null)?;
    let echo = session.call(gateway.mcp, "fixture_echo", &json!({"message": "repaired"}))?;
    assert_eq!(echo.tool_text()?, "repaired");
    let refused = answer(gateway.mcp, &session, &asked, &roots)?;
    assert_eq!((refused.status, refused.error_code()), (400, -32600));
    assert!(refused.text().contains("replaced"), "{}", refused.text());
    let lost = call.message()?;
    assert_eq!(
        (&lost["id"], &lost["result"]["isError"]),
        (&json!(2), &json!(true)),
        "{lost}"
    );
    Ok(())
}

/// A client cannot use request ids that the gateway made for itself.
#[test]
fn gateway_request_ids_are_rejected_from_clients() -> anyhow::Result<()> {
    let (_harness, gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    let ping = json!({"jsonrpc": "2.0", "id": "vmcp:1", "method": "ping"});
    let refused = session.post(gateway.mcp, &ping)?;
    assert_eq!((refused.status, refused.error_code()), (400, -32600));
    assert_eq!(refused.message()?["id"], "vmcp:1");
    Ok(())
}

/// Of two session streams the newer one wins, and no message is lost.
#[test]
fn newer_session_stream_wins_without_loss() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    let mut first = listen(&harness, &gateway, &session, 1)?;
    harness.server().log("one")?;
    assert_eq!(log_text(&first.await_method("notifications/message")?.1), "one");
    let mut second = Stream::get(gateway.mcp, &session, None)?;
    assert_eq!(second.status, 200);
    while first.next_event()?.is_some() {}
    harness.server().log("two")?;
    assert_eq!(log_text(&second.await_method("notifications/message")?.1), "two");
    assert_eq!(harness.server().stats()?.gets_open, 2);
    Ok(())
}

/// The gateway retries the upstream stream if the backend still has another one open.
#[test]
fn stream_refused_with_409_is_retried() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    let busy = json!({"status": 409, "only_method": "GET", "times": 2});
    session.call(gateway.mcp, "fixture_echo", &json!({"message": ""}))?;
    wait_for_gets(&harness, 0, 1)?;
    harness.server().set_faults(&busy)?;
    let mut own = Stream::get(gateway.mcp, &session, None)?;
    wait_for_gets(&harness, 1, 1)?;
    harness.server().log("at-last")?;
    assert_eq!(log_text(&own.await_method("notifications/message")?.1), "at-last");
    Ok(())
}

/// `list_changed` is sent when the new list is available.
#[test]
fn list_changed_is_sent_after_discovery() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    wait_for_gets(&harness, 0, 1)?;
    let session = Session::open(gateway.mcp)?;
    let listed = |tool: &str| {
        let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
        let tools = session.post(gateway.mcp, &list)?.message()?;
        let tools = tools["result"]["tools"].as_array().cloned().unwrap_or_default();
        anyhow::Ok(tools.iter().any(|known| known["name"] == tool))
    };
    // Without any client that listens.
    harness
        .server()
        .admin("POST", "/tools-changed?add=novelty", &Value::Null)?;
    wait::until("the list changes", PATIENCE, || {
        anyhow::ensure!(listed("fixture_novelty")?, "it does not");
        Ok(())
    })?;
    // With a listening client, which gets one notification from the gateway once the new list is known. The backend also notifies the
    // client's upstream session.
    let mut own = listen(&harness, &gateway, &session, 1)?;
    harness
        .server()
        .admin("POST", "/tools-changed?remove=novelty", &Value::Null)?;
    own.await_method("notifications/tools/list_changed")?;
    assert!(!listed("fixture_novelty")?);
    harness.server().log("mark")?;
    let (_, next) = own.next_message()?;
    assert_eq!(log_text(&next), "mark", "{next}");
    Ok(())
}

/// The client's settings are applied to a reopened upstream session.
#[requires(redis)]
#[test]
fn client_settings_reach_a_reopened_session() -> anyhow::Result<()> {
    let (harness, one, two) = two_gateways()?;
    let session = Session::open(one.mcp)?;
    // The level is set before there is any session at the backend.
    let level =
        json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "critical"}});
    assert_eq!(session.post(one.mcp, &level)?.message()?["result"], json!({}));
    let uri = "test://watched-resource";
    let subscribe =
        json!({"jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": {"uri": uri}});
    assert_eq!(session.post(two.mcp, &subscribe)?.message()?["result"], json!({}));
    let before = harness.server().client_session()?;
    assert_eq!(
        (&before["log_level"], &before["subscriptions"]),
        (&json!("critical"), &json!([uri]))
    );
    harness
        .server()
        .admin("POST", "/sessions/forget?style=404", &Value::Null)?;
    session.call(one.mcp, "fixture_echo", &json!({"message": ""}))?;
    let after = harness.server().client_session()?;
    assert_ne!(before["id"], after["id"]);
    assert_eq!(
        (&after["log_level"], &after["subscriptions"]),
        (&json!("critical"), &json!([uri]))
    );
    Ok(())
}

/// A listening client keeps getting messages after the backend has lost its session.
#[test]
fn listening_client_survives_lost_upstream_session() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = listen(&harness, &gateway, &session, 1)?;
    harness
        .server()
        .admin("POST", "/sessions/forget?style=404", &Value::Null)?;
    wait::until("the session is opened anew", PATIENCE, || {
        let opened = harness.server().initializes("http-client")?;
        anyhow::ensure!(opened == 2, "{opened}");
        Ok(())
    })?;
    wait_for_gets(&harness, 1, 1)?;
    harness.server().log("again")?;
    assert_eq!(log_text(&own.await_method("notifications/message")?.1), "again");
    Ok(())
}

/// What is wrong, the headers, and the status and code that answer it.
type Mistake<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, i64);

/// Every invalid GET has its own status.
#[test]
fn invalid_get_has_specific_status() -> anyhow::Result<()> {
    let (_harness, gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    let sse = ("accept", "text/event-stream");
    let id = ("mcp-session-id", &*session.id);
    let forged = forged(&session.id);
    let cases: &[Mistake<'_>] = &[
        (
            "accepts JSON only",
            &[("accept", "application/json"), id],
            406,
            -32600,
        ),
        ("accepts nothing", &[id], 406, -32600),
        ("no session", &[sse], 400, -32600),
        (
            "a forged session",
            &[sse, ("mcp-session-id", &forged)],
            404,
            -32001,
        ),
        (
            "an unknown revision",
            &[sse, id, ("mcp-protocol-version", "1900-01-01")],
            400,
            -32600,
        ),
        (
            "an event of nobody",
            &[sse, id, ("last-event-id", "7")],
            400,
            -32600,
        ),
        (
            "a forged event",
            &[sse, id, ("last-event-id", "v1.AAAAAAAAAAAAAAAAAAAAAAAAAAAA")],
            400,
            -32600,
        ),
    ];
    for (what, headers, status, code) in cases {
        let answer = vmcp_e2e::http_client::exchange(gateway.mcp, "GET", "/mcp", headers, b"")?;
        assert_eq!(
            (answer.status, answer.error_code()),
            (*status, *code),
            "{what}: {}",
            answer.text()
        );
    }
    Ok(())
}

/// Only clients of the newest revision get events without data.
#[test]
fn events_without_data_need_newest_revision() -> anyhow::Result<()> {
    let (harness, gateway) = one_gateway()?;
    for (revision, primed) in [("2025-06-18", false), ("2025-11-25", true)] {
        let session = Session::open_with(gateway.mcp, revision, &json!({}))?;
        let mut call = Stream::call(
            gateway.mcp,
            &session,
            &json!(1),
            "fixture_test_tool_with_logging",
            &json!({}),
        )?;
        let mut own = Stream::get(gateway.mcp, &session, None)?;
        wait_for_gets(&harness, 1, 1)?;
        harness.server().log("x")?;
        for (stream, last) in [(&mut call, "result"), (&mut own, "method")] {
            let mut events = Vec::new();
            loop {
                let event = stream.next_event()?.context("the stream ended")?;
                let done = event.message().is_some_and(|message| !message[last].is_null());
                events.push(event);
                if done {
                    break;
                }
            }
            let first = &events[0];
            assert_eq!(first.data.as_deref() == Some(""), primed, "{revision}: {first:?}");
            assert_eq!(
                (first.retry.is_some(), first.retry.is_some() && first.id.is_some()),
                (primed, primed)
            );
            assert!(primed || events.iter().all(|event| event.message().is_some()));
        }
        own.abandon()?;
        wait_for_gets(&harness, 0, 1)?;
    }
    Ok(())
}

/// The stream of a listening client ends when the gateway drains, so that it reconnects to another one.
#[test]
fn draining_asks_listening_client_to_reconnect() -> anyhow::Result<()> {
    let (harness, mut gateway) = one_gateway()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = listen(&harness, &gateway, &session, 1)?;
    gateway.signal(vmcp_external::process::Signal::TERM)?;
    let mut last = None;
    while let Some(event) = own.next_event()? {
        last = Some(event);
    }
    let farewell = last.context("no farewell")?;
    assert!(
        farewell.retry.is_some() && farewell.data.is_none(),
        "{farewell:?}"
    );
    assert!(gateway.wait_until_ended(PATIENCE)?);
    assert_eq!(harness.recipe.config.name, "vmcp");
    Ok(())
}
