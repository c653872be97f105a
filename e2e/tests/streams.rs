//! What a backend says before it answers, and what it says when nobody has asked: it reaches the client on the right stream, and the
//! client's answers reach the backend, whichever process they come to.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use vmcp_crds::config::{SessionStorage, SessionStorageProvider};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::Session;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(15);

/// A backend, and gateways in front of it.
struct World {
    fixture: Fixture,
    recipe: Recipe,
    _redis: Option<Redis>,
}

impl World {
    fn alone() -> anyhow::Result<(Self, Gateway)> {
        let fixture = Fixture::start(&[])?;
        let recipe = Recipe::new(&[("fixture", &fixture.url)])?;
        let gateway = recipe.start()?;
        let world = Self {
            fixture,
            recipe,
            _redis: None,
        };
        Ok((world, gateway))
    }

    /// Two gateways that share a Redis, and nothing else.
    fn shared() -> anyhow::Result<Option<(Self, Gateway, Gateway)>> {
        if vmcp_peers::left_out("redis") {
            return Ok(None);
        }
        let fixture = Fixture::start(&[])?;
        let redis = Redis::start(None)?;
        let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
        recipe.config.session_storage = SessionStorage {
            provider: SessionStorageProvider::Redis,
            address: Some(redis.address.to_string()),
            ..SessionStorage::default()
        };
        let (one, two) = (recipe.start()?, recipe.start()?);
        let world = Self {
            fixture,
            recipe,
            _redis: Some(redis),
        };
        Ok(Some((world, one, two)))
    }

    /// What the fixture knows of the only session that is not the gateways' own.
    fn upstream(&self) -> anyhow::Result<Value> {
        let sessions = self.fixture.admin_answer("GET", "/sessions", &Value::Null)?;
        let sessions = sessions.as_array().cloned().unwrap_or_default();
        let ours = sessions
            .into_iter()
            .rev()
            .find(|session| session["client"]["name"] == "raw");
        ours.context("the client has no session at the fixture")
    }

    fn log(&self, text: &str) -> anyhow::Result<()> {
        let path = format!("/log?level=error&text={text}");
        self.fixture.admin("POST", &path, &Value::Null)
    }

    /// Waits until the fixture has so many streams open beside those of the gateways' catalogues.
    fn wait_for_gets(&self, gets: u64, gateways: u64) -> anyhow::Result<()> {
        wait::until("streams at the fixture", PATIENCE, || {
            let open = self.fixture.stats()?.gets_open;
            anyhow::ensure!(open == gets + gateways, "{open} are open");
            Ok(())
        })
    }
}

/// The session's own stream, once the session is bound and the backend is heard.
fn listen(world: &World, gateway: &Gateway, session: &Session, gateways: u64) -> anyhow::Result<Stream> {
    let bound = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
    assert_eq!(bound.tool_text()?, "hi");
    let stream = Stream::get(gateway.mcp, session, None)?;
    assert_eq!((stream.status, &*stream.content_type), (200, "text/event-stream"));
    world.wait_for_gets(1, gateways)?;
    Ok(stream)
}

/// Answers a backend's request at `gateway`.
fn answer(
    gateway: SocketAddr,
    session: &Session,
    asked: &Value,
    result: &Value,
) -> anyhow::Result<vmcp_e2e::raw::Answer> {
    session.post(
        gateway,
        &json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}),
    )
}

/// Another text of the same form.
fn forged(genuine: &str) -> String {
    let other = if &genuine[10..11] == "A" { "B" } else { "A" };
    format!("{}{other}{}", &genuine[..10], &genuine[11..])
}

fn log_text(message: &Value) -> &str {
    message["params"]["data"].as_str().unwrap_or_default()
}

/// Progress comes on the stream of its call in order before the answer.
#[test]
fn progress_arrives_in_order_before_the_response() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = listen(&world, &gateway, &session, 1)?;
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
    // Two calls at once: neither gets what is the other's.
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

/// What a tool asks the client is answered through another gateway.
#[test]
fn server_request_is_answered_through_another_gateway() -> anyhow::Result<()> {
    let Some((_world, one, two)) = World::shared()? else {
        return Ok(());
    };
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
        // The id says where the answer belongs: the other gateway has never heard of the call.
        let accepted = answer(two.mcp, &session, &asked, &result)?;
        assert_eq!((accepted.status, accepted.text()), (202, String::new()));
        let text = call.message()?["result"]["content"][0]["text"].to_string();
        assert!(text.contains(expected), "{tool}: {text}");
    }
    Ok(())
}

#[test]
fn an_error_of_the_client_is_an_answer_too() -> anyhow::Result<()> {
    let (_world, gateway) = World::alone()?;
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

#[test]
fn a_cancellation_reaches_the_backend_through_another_gateway() -> anyhow::Result<()> {
    let Some((world, one, two)) = World::shared()? else {
        return Ok(());
    };
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
        anyhow::ensure!(world.fixture.stats()?.cancelled > 0, "not yet");
        Ok(())
    })?;
    drop(call);
    Ok(())
}

#[test]
fn a_changed_root_reaches_every_backend_that_the_session_uses() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
    let session = Session::open_with(
        gateway.mcp,
        "2025-11-25",
        &json!({"roots": {"listChanged": true}}),
    )?;
    session.call(gateway.mcp, "fixture_echo", &json!({"message": ""}))?;
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    assert_eq!(session.post(gateway.mcp, &changed)?.status, 202);
    wait::until("the backend is told", PATIENCE, || {
        let seen = world.fixture.stats()?.requests;
        seen.get("notifications/roots/list_changed")
            .copied()
            .context("not yet")
    })?;
    Ok(())
}

#[test]
fn the_own_stream_brings_logs_updates_and_requests() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
    let session = Session::open_with(gateway.mcp, "2025-11-25", &json!({"roots": {}}))?;
    let mut own = listen(&world, &gateway, &session, 1)?;

    let uri = "test://watched-resource";
    let subscribe =
        json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": uri}});
    assert_eq!(
        session.post(gateway.mcp, &subscribe)?.message()?["result"],
        json!({})
    );
    assert_eq!(world.upstream()?["subscriptions"], json!([uri]));
    world
        .fixture
        .admin("POST", &format!("/resource-updated?uri={uri}"), &Value::Null)?;
    let (_, updated) = own.await_method("notifications/resources/updated")?;
    assert_eq!(updated["params"]["uri"], uri);

    let level =
        json!({"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "warning"}});
    assert_eq!(session.post(gateway.mcp, &level)?.message()?["result"], json!({}));
    assert_eq!(world.upstream()?["log_level"], "warning");
    world
        .fixture
        .admin("POST", "/log?level=info&text=unheard", &Value::Null)?;
    world.log("heard")?;
    let (_, logged) = own.await_method("notifications/message")?;
    assert_eq!(log_text(&logged), "heard");

    let upstream = world.upstream()?["id"].as_str().unwrap_or_default().to_owned();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let path = format!("/ask?what=roots&id={upstream}");
            world.fixture.admin_answer("POST", &path, &Value::Null)
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
    assert_eq!(world.upstream()?["subscriptions"], json!([]));

    // The end of the session is the end of its stream, here and at the backend.
    assert_eq!(session.delete(gateway.mcp)?.status, 200);
    while own.next_event()?.is_some() {}
    world.wait_for_gets(0, 1)?;
    Ok(())
}

#[test]
fn a_backend_that_is_used_later_is_heard_too() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = Stream::get(gateway.mcp, &session, None)?;
    assert_eq!(
        world.fixture.initializes("raw")?,
        0,
        "a stream alone opens no session"
    );
    session.call(gateway.mcp, "fixture_echo", &json!({"message": ""}))?;
    world.wait_for_gets(1, 1)?;
    world.log("late")?;
    assert_eq!(log_text(&own.await_method("notifications/message")?.1), "late");
    // Nobody is listened to for a client that is not there.
    own.abandon()?;
    world.wait_for_gets(0, 1)?;
    Ok(())
}

#[test]
fn what_a_backend_says_in_its_first_call_is_heard() -> anyhow::Result<()> {
    let (_world, gateway) = World::alone()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = Stream::get(gateway.mcp, &session, None)?;
    // This backend sends its logs on the session's own stream, and opens its session only for this call.
    session.call(gateway.mcp, "fixture_test_tool_with_logging", &json!({}))?;
    for _ in 0..3 {
        own.await_method("notifications/message")?;
    }
    Ok(())
}

/// The own stream goes on through another gateway behind the last event.
#[test]
fn session_stream_resumes_on_another_gateway() -> anyhow::Result<()> {
    let Some((world, one, two)) = World::shared()? else {
        return Ok(());
    };
    let session = Session::open(one.mcp)?;
    let mut own = listen(&world, &one, &session, 2)?;
    world.log("first")?;
    let (event, _) = own.await_method("notifications/message")?;
    let last = event.id.context("the event has no id")?;
    own.abandon()?;
    world.wait_for_gets(0, 2)?;
    world.log("missed")?;
    let mut own = Stream::get(two.mcp, &session, Some(&last))?;
    assert_eq!(log_text(&own.await_method("notifications/message")?.1), "missed");
    world.log("next")?;
    assert_eq!(log_text(&own.await_method("notifications/message")?.1), "next");
    Ok(())
}

/// A broken stream of the backend is opened again behind the last event.
#[test]
fn broken_backend_stream_resumes_after_last_event() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = listen(&world, &gateway, &session, 1)?;
    for reset in ["false", "true"] {
        world.log("before")?;
        assert_eq!(log_text(&own.await_method("notifications/message")?.1), "before");
        world
            .fixture
            .admin("POST", &format!("/streams/close?reset={reset}"), &Value::Null)?;
        world.log("meanwhile")?;
        assert_eq!(
            log_text(&own.await_method("notifications/message")?.1),
            "meanwhile"
        );
    }
    Ok(())
}

/// An answer is fetched through another gateway after the connection was lost.
#[test]
fn lost_response_is_fetched_from_another_gateway() -> anyhow::Result<()> {
    let Some((_world, mut one, two)) = World::shared()? else {
        return Ok(());
    };
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
fn broken_backend_stream_is_invisible_to_the_client() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
    let session = Session::open(gateway.mcp)?;
    // The backend closes the connection in the middle of the call, and wants to be asked again.
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
        world.fixture.admin("POST", "/faults", &rule)?;
        let echo = session.call(gateway.mcp, "fixture_echo", &json!({"message": fault}))?;
        assert_eq!(echo.tool_text()?, fault);
    }
    Ok(())
}

/// A call whose stream cannot be resumed ends with an error for its id.
#[test]
fn unresumable_call_ends_with_an_error_for_its_id() -> anyhow::Result<()> {
    let Some((world, mut one, two)) = World::shared()? else {
        return Ok(());
    };
    let session = Session::open(one.mcp)?;
    let no_ids = json!({"no_event_ids": true, "only_method": "tools/call"});
    world.fixture.admin("POST", "/faults", &no_ids)?;
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

#[test]
fn an_answer_that_nobody_asked_for_is_refused() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
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
        (&session, json!(1)),
        (&session, json!(null)),
        // It is another session's.
        (&other, json!(genuine)),
    ] {
        let refused = answer(gateway.mcp, who, &json!({"id": id}), &roots)?;
        assert_eq!((refused.status, refused.error_code()), (400, -32600), "{id}");
    }
    // An answer that the backend cannot take now is the client's to send again.
    let down = json!({"status": 503, "only_method": "response"});
    world.fixture.admin("POST", "/faults", &down)?;
    let later = answer(gateway.mcp, &session, &asked, &roots)?;
    assert_eq!((later.status, later.header("retry-after")), (503, Some("1")));
    world.fixture.admin("DELETE", "/faults", &Value::Null)?;
    assert_eq!(answer(gateway.mcp, &session, &asked, &roots)?.status, 202);
    assert_eq!(call.message()?["id"], 1);

    // The backend forgets its session, and another takes its place: what was asked in the first is nobody's any more.
    let mut call = Stream::call(gateway.mcp, &session, &json!(2), "fixture_list_roots", &json!({}))?;
    let (_, asked) = call.await_method("roots/list")?;
    world
        .fixture
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

#[test]
fn ids_of_the_gateways_own_are_not_for_clients() -> anyhow::Result<()> {
    let (_world, gateway) = World::alone()?;
    let session = Session::open(gateway.mcp)?;
    let ping = json!({"jsonrpc": "2.0", "id": "vmcp:1", "method": "ping"});
    let refused = session.post(gateway.mcp, &ping)?;
    assert_eq!((refused.status, refused.error_code()), (400, -32600));
    assert_eq!(refused.message()?["id"], "vmcp:1");
    Ok(())
}

#[test]
fn of_two_own_streams_the_newest_wins_and_nothing_is_lost() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
    let session = Session::open(gateway.mcp)?;
    let mut first = listen(&world, &gateway, &session, 1)?;
    world.log("one")?;
    assert_eq!(log_text(&first.await_method("notifications/message")?.1), "one");
    let mut second = Stream::get(gateway.mcp, &session, None)?;
    assert_eq!(second.status, 200);
    while first.next_event()?.is_some() {}
    world.log("two")?;
    assert_eq!(log_text(&second.await_method("notifications/message")?.1), "two");
    assert_eq!(world.fixture.stats()?.gets_open, 2);
    Ok(())
}

#[test]
fn a_backend_that_has_the_stream_open_elsewhere_is_asked_again() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
    let session = Session::open(gateway.mcp)?;
    let busy = json!({"status": 409, "only_method": "GET", "times": 2});
    session.call(gateway.mcp, "fixture_echo", &json!({"message": ""}))?;
    world.wait_for_gets(0, 1)?;
    world.fixture.admin("POST", "/faults", &busy)?;
    let mut own = Stream::get(gateway.mcp, &session, None)?;
    world.wait_for_gets(1, 1)?;
    world.log("at-last")?;
    assert_eq!(log_text(&own.await_method("notifications/message")?.1), "at-last");
    Ok(())
}

#[test]
fn a_changed_list_is_told_once_it_can_be_asked_for() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
    world.wait_for_gets(0, 1)?;
    let session = Session::open(gateway.mcp)?;
    let listed = |tool: &str| {
        let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
        let tools = session.post(gateway.mcp, &list)?.message()?;
        let tools = tools["result"]["tools"].as_array().cloned().unwrap_or_default();
        anyhow::Ok(tools.iter().any(|known| known["name"] == tool))
    };
    // Without any client that listens.
    world
        .fixture
        .admin("POST", "/tools-changed?add=novelty", &Value::Null)?;
    wait::until("the list changes", PATIENCE, || {
        anyhow::ensure!(listed("fixture_novelty")?, "it does not");
        Ok(())
    })?;
    // And with one, which hears it from the gateway, once, when the list is the new one; the backend says it in the client's
    // session too.
    let mut own = listen(&world, &gateway, &session, 1)?;
    world
        .fixture
        .admin("POST", "/tools-changed?remove=novelty", &Value::Null)?;
    own.await_method("notifications/tools/list_changed")?;
    assert!(!listed("fixture_novelty")?);
    world.log("mark")?;
    let (_, next) = own.next_message()?;
    assert_eq!(log_text(&next), "mark", "{next}");
    Ok(())
}

/// What the client has set is notified to a session that replaces a lost one.
#[test]
fn client_settings_reach_a_reopened_session() -> anyhow::Result<()> {
    let Some((world, one, two)) = World::shared()? else {
        return Ok(());
    };
    let session = Session::open(one.mcp)?;
    // The level is set before there is any session at the backend.
    let level =
        json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "critical"}});
    assert_eq!(session.post(one.mcp, &level)?.message()?["result"], json!({}));
    let uri = "test://watched-resource";
    let subscribe =
        json!({"jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": {"uri": uri}});
    assert_eq!(session.post(two.mcp, &subscribe)?.message()?["result"], json!({}));
    let before = world.upstream()?;
    assert_eq!(
        (&before["log_level"], &before["subscriptions"]),
        (&json!("critical"), &json!([uri]))
    );
    world
        .fixture
        .admin("POST", "/sessions/forget?style=404", &Value::Null)?;
    session.call(one.mcp, "fixture_echo", &json!({"message": ""}))?;
    let after = world.upstream()?;
    assert_ne!(before["id"], after["id"]);
    assert_eq!(
        (&after["log_level"], &after["subscriptions"]),
        (&json!("critical"), &json!([uri]))
    );
    Ok(())
}

/// A client that only listens goes on hearing when the backend has lost its session.
#[test]
fn listening_client_survives_lost_upstream_session() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = listen(&world, &gateway, &session, 1)?;
    world
        .fixture
        .admin("POST", "/sessions/forget?style=404", &Value::Null)?;
    wait::until("the session is opened anew", PATIENCE, || {
        let opened = world.fixture.initializes("raw")?;
        anyhow::ensure!(opened == 2, "{opened}");
        Ok(())
    })?;
    world.wait_for_gets(1, 1)?;
    world.log("again")?;
    assert_eq!(log_text(&own.await_method("notifications/message")?.1), "again");
    Ok(())
}

/// What is wrong, the headers, and the status and code that answer it.
type Mistake<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, i64);

#[test]
fn what_is_wrong_with_a_get_has_its_status() -> anyhow::Result<()> {
    let (_world, gateway) = World::alone()?;
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
        let answer = vmcp_e2e::raw::exchange(gateway.mcp, "GET", "/mcp", headers, b"")?;
        assert_eq!(
            (answer.status, answer.error_code()),
            (*status, *code),
            "{what}: {}",
            answer.text()
        );
    }
    Ok(())
}

#[test]
fn only_clients_of_the_newest_revision_get_events_without_data() -> anyhow::Result<()> {
    let (world, gateway) = World::alone()?;
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
        world.wait_for_gets(1, 1)?;
        world.log("x")?;
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
        world.wait_for_gets(0, 1)?;
    }
    Ok(())
}

/// When the gateway drains a listening client is notified to come back elsewhere.
#[test]
fn draining_asks_listening_client_to_reconnect() -> anyhow::Result<()> {
    let (world, mut gateway) = World::alone()?;
    let session = Session::open(gateway.mcp)?;
    let mut own = listen(&world, &gateway, &session, 1)?;
    gateway.signal(vmcp_peers::process::Signal::TERM)?;
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
    assert_eq!(world.recipe.config.name, "vmcp");
    Ok(())
}
