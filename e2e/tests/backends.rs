//! What a backend may do, and how it is talked to: each field of its configuration flipped, in front of a real server.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_crds::config::{BackendConfig, Duration as Span};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{Answer, Session};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(15);
/// Longer than any test may take.
const FOR_EVER: u64 = 600_000;

/// A gateway in front of the backend `fixture`, which is configured as `configure` says.
fn gateway(url: &str, configure: impl FnOnce(&mut BackendConfig)) -> anyhow::Result<(Recipe, Gateway)> {
    let mut recipe = Recipe::new(&[("fixture", url)])?;
    if let Some(hot) = &mut recipe.config.hot {
        configure(&mut hot.backends[0]);
    }
    let gateway = recipe.start()?;
    Ok((recipe, gateway))
}

fn faults(fixture: &Fixture, rule: &Value) -> anyhow::Result<()> {
    fixture.admin("POST", "/faults", rule)
}

/// The text of a tool's result that says `isError`.
fn tool_error(answer: &Answer) -> anyhow::Result<String> {
    let message = answer.message()?;
    assert_eq!(message["result"]["isError"], true, "{message}");
    let text = message["result"]["content"][0]["text"].as_str();
    Ok(text.unwrap_or_default().to_owned())
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

#[test]
fn a_call_ends_at_its_deadline_with_an_error_for_its_id_and_the_backend_is_told() -> anyhow::Result<()> {
    for arguments in [&["--json-response"][..], &[]] {
        let fixture = Fixture::start(arguments)?;
        let (_recipe, gateway) = gateway(&fixture.url, |backend| {
            backend.timeouts.call = Span::from_secs(1);
        })?;
        let session = Session::open(gateway.mcp)?;
        let answer = session.call_as(7, gateway.mcp, "fixture_sleep", &json!({"ms": FOR_EVER}))?;
        assert_eq!(answer.message()?["id"], 7);
        let text = tool_error(&answer)?;
        assert_says(
            &text,
            &["fixture", "did not answer within 1 s", "may have been executed"],
        );
        wait::until("the backend is told of the cancellation", PATIENCE, || {
            anyhow::ensure!(fixture.stats()?.cancelled == 1, "{:?}", fixture.stats()?);
            Ok(())
        })?;
        // The session is as good as before.
        let echo = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
        assert_eq!(echo.tool_text()?, "hi");
        assert_eq!(fixture.initializes("raw")?, 1);
    }
    Ok(())
}

#[test]
fn a_tool_may_have_a_deadline_of_its_own() -> anyhow::Result<()> {
    let fixture = Fixture::start(&[])?;
    let (_recipe, gateway) = gateway(&fixture.url, |backend| {
        backend.timeouts.call = Span::from_secs(1);
        let deadlines = [("sleep", 3600), ("stream_*", 1)];
        backend.tools.deadlines = deadlines
            .map(|(tool, secs)| (tool.to_owned(), Span::from_secs(secs)))
            .into();
    })?;
    let session = Session::open(gateway.mcp)?;
    let slept = session.call(gateway.mcp, "fixture_sleep", &json!({"ms": 2500}))?;
    assert_eq!(slept.tool_text()?, "slept 2500 ms");
    let steps = json!({"steps": 1, "ms": FOR_EVER});
    let cut = session.call(gateway.mcp, "fixture_stream_progress", &steps)?;
    assert_says(&tool_error(&cut)?, &["within 1 s"]);
    Ok(())
}

#[test]
fn progress_begins_the_deadline_anew_when_it_may() -> anyhow::Result<()> {
    let fixture = Fixture::start(&[])?;
    for extend in [false, true] {
        let (_recipe, gateway) = gateway(&fixture.url, |backend| {
            backend.timeouts.call = Span::from_secs(2);
            backend.timeouts.extend_on_progress = extend;
        })?;
        let session = Session::open(gateway.mcp)?;
        let steps = json!({"steps": 10, "ms": 400});
        let mut stream = Stream::call(
            gateway.mcp,
            &session,
            &json!(1),
            "fixture_stream_progress",
            &steps,
        )?;
        let mut progress = 0;
        let answer = loop {
            let message = stream.message()?;
            if message["id"] == 1 {
                break message;
            }
            assert_eq!(message["method"], "notifications/progress");
            progress += 1;
        };
        let failed = answer["result"]["isError"] == true;
        assert_eq!(failed, !extend, "extend_on_progress: {extend}: {answer}");
        assert_eq!(progress == 10, extend, "{progress} reports of progress");
    }
    Ok(())
}

#[test]
fn a_backend_that_is_silent_where_it_should_speak_is_given_up() -> anyhow::Result<()> {
    let fixture = Fixture::start(&["--json-response"])?;
    let (_recipe, gateway) = gateway(&fixture.url, |backend| {
        backend.timeouts.first_byte = Some(Span::from_millis(700));
        backend.timeouts.idle = Span::from_millis(400);
    })?;
    let session = Session::open(gateway.mcp)?;
    for (fault, expected) in [
        ("hang", "did not answer within 0.7 s"),
        (
            "sse_without_end",
            "paused for more than 0.4 s in the middle of its answer",
        ),
    ] {
        faults(&fixture, &json!({fault: true, "only_method": "tools/call"}))?;
        let answer = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
        assert_says(
            &tool_error(&answer)?,
            &["fixture", expected, "may have been executed"],
        );
    }
    Ok(())
}

#[test]
fn a_backend_to_which_no_connection_is_made_in_time_is_given_up() -> anyhow::Result<()> {
    // A server that accepts, and never says a word of TLS.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("https://{}/mcp", silent.local_addr()?);
    let (_recipe, gateway) = gateway(&url, |backend| {
        backend.timeouts.connect = Span::from_millis(300);
    })?;
    let session = Session::open(gateway.mcp)?;
    let started = Instant::now();
    let answer = session.call(gateway.mcp, "fixture_echo", &json!({"message": "hi"}))?;
    assert_says(
        &tool_error(&answer)?,
        &[
            "fixture",
            "cannot be reached",
            "no connection within 0.3 s",
            "not executed",
        ],
    );
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    Ok(())
}
