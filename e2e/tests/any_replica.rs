//! Three gateways, one Redis, no affinity: every gateway gives the same response.

use std::collections::HashMap;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{Answer, Session};
use vmcp_e2e::load::{Load, Turn};
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(10);

/// The earlier responses, by request: framing and body.
type Known = Arc<Mutex<HashMap<String, (String, String)>>>;

/// Checks that a request gets the same response as before, byte for byte and in the same framing.
fn same(known: &Known, question: &str, answer: &Answer) -> anyhow::Result<()> {
    ensure!(
        answer.status == 200,
        "{question}: {} {}",
        answer.status,
        answer.text()
    );
    let framing = answer.header("content-type").unwrap_or_default().to_owned();
    let body = answer.outcome()?.get().to_owned();
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let first = known
        .entry(question.to_owned())
        .or_insert_with(|| (framing.clone(), body.clone()));
    ensure!(
        *first == (framing, body),
        "{question}: {} differs from {first:?}",
        answer.text()
    );
    Ok(())
}

/// Ten thousand requests of fifty sessions get the same responses from every replica.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn all_replicas_give_equal_responses() -> anyhow::Result<()> {
    const SESSIONS: usize = 50;
    const TURNS: u64 = 200;
    let harness = Harness::replicated(3).await?;
    let gateway = harness.address();
    let known = Known::default();
    let report = Load::run(TURNS, SESSIONS, Duration::ZERO, |worker| {
        let known = Arc::clone(&known);
        let revision = ["2025-03-26", "2025-06-18", "2025-11-25"][worker % 3];
        let capabilities =
            json!({"roots": {"listChanged": worker % 2 == 0}, "experimental": {"worker": {"n": worker}}});
        let mut session = None;
        let mut count = 0;
        Box::new(move |turn: u64| {
            let session = match &session {
                Some(session) => session,
                None => session.insert(Session::open_with(gateway, revision, &capabilities)?),
            };
            let request = |method: &str, params: &Value| -> anyhow::Result<Answer> {
                let question = json!({"jsonrpc": "2.0", "id": turn, "method": method, "params": params});
                let headers = [
                    ("mcp-session-id", &*session.id),
                    ("mcp-protocol-version", revision),
                ];
                vmcp_e2e::http_client::post(gateway, &headers, &question)
            };
            let uniform = |method: &str, params: Value| -> anyhow::Result<()> {
                same(
                    &known,
                    &format!("{revision} {method} {params}"),
                    &request(method, &params)?,
                )
            };
            let tool = |name: &str, arguments: Value| -> anyhow::Result<String> {
                request("tools/call", &json!({"name": name, "arguments": arguments}))?.tool_text()
            };
            match turn % 12 {
                0 => uniform("tools/list", json!({})),
                1 => {
                    let nonce = format!("{worker} at turn {turn}");
                    let echoed = tool("fixture_echo", json!({"message": nonce}))?;
                    ensure!(echoed == nonce, "{echoed}");
                    Ok(())
                }
                2 => uniform("resources/list", json!({})),
                3 => uniform("resources/read", json!({"uri": "test://static-text"})),
                4 => {
                    count += 1;
                    let counted = tool("fixture_counter", json!({}))?;
                    ensure!(counted == count.to_string(), "{counted} instead of {count}");
                    Ok(())
                }
                5 => uniform("resources/templates/list", json!({})),
                6 => uniform("prompts/list", json!({})),
                7 => uniform(
                    "prompts/get",
                    json!({"name": "fixture_test_prompt_with_arguments", "arguments": {"arg1": "a", "arg2": "b"}}),
                ),
                8 => uniform(
                    "completion/complete",
                    json!({
                        "ref": {"type": "ref/prompt", "name": "fixture_test_prompt_with_arguments"},
                        "argument": {"name": "arg1", "value": "par"},
                    }),
                ),
                9 => uniform(
                    "logging/setLevel",
                    json!({"level": if worker % 2 == 0 { "error" } else { "debug" }}),
                ),
                10 => uniform("resources/subscribe", json!({"uri": "test://watched-resource"})),
                _ => {
                    // The negotiated revision and the client's capabilities reach the backend unchanged through every replica.
                    let seen: Value = serde_json::from_str(&tool("fixture_whoami", json!({}))?)?;
                    ensure!(
                        seen["client_capabilities"]["experimental"]["worker"]["n"] == json!(worker),
                        "{seen}"
                    );
                    ensure!(seen["client_info"]["name"] == "http-client", "{seen}");
                    Ok(())
                }
            }
        }) as Turn
    });
    report.without_failure()?;

    // Every replica served its share. Each session has one upstream session, which has the session's settings.
    let mut shares: HashMap<_, u64> = HashMap::new();
    for served in harness.balancer()?.served() {
        *shares.entry(served.replica).or_default() += 1;
    }
    assert!(
        shares.len() == 3 && shares.values().all(|share| *share > 3000),
        "{shares:?}"
    );
    let sessions = harness.server().admin_answer("GET", "/sessions", &Value::Null)?;
    let sessions = sessions.as_array().context("no list of sessions")?;
    let ours: Vec<_> = sessions
        .iter()
        .filter(|session| session["client"]["name"] == "http-client")
        .collect();
    assert_eq!(ours.len(), SESSIONS);
    for session in ours {
        let worker = session["capabilities"]["experimental"]["worker"]["n"]
            .as_u64()
            .context("no number")?;
        let level = if worker % 2 == 0 { "error" } else { "debug" };
        assert_eq!(session["log_level"], level, "{session}");
        assert_eq!(
            session["subscriptions"],
            json!(["test://watched-resource"]),
            "{session}"
        );
        assert_eq!(
            session["count"],
            TURNS / 12 + u64::from(TURNS % 12 > 4),
            "{session}"
        );
    }
    Ok(())
}

/// Simultaneous first calls at three replicas use one upstream session.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_first_calls_share_one_upstream_session() -> anyhow::Result<()> {
    const SESSIONS: u64 = 40;
    let harness = Harness::replicated(3).await?;
    for _ in 0..SESSIONS {
        let session = Session::open(harness.address())?;
        let together = Arc::new(Barrier::new(3));
        let calls = harness.addresses().into_iter().map(|gateway| {
            let (session, together) = (session.clone(), Arc::clone(&together));
            std::thread::spawn(move || {
                together.wait();
                session.call(gateway, "fixture_counter", &json!({}))?.tool_text()
            })
        });
        let calls: Vec<_> = calls.collect();
        let mut counts = Vec::new();
        for call in calls {
            counts.push(call.join().unwrap()?);
        }
        counts.sort_unstable();
        assert_eq!(counts, ["1", "2", "3"]);
    }
    // Replicas that lost the race have deleted the upstream sessions that they opened.
    wait::until("one upstream session is left of each", PATIENCE, || {
        let stats = harness.server().stats()?;
        let opened = stats.initializes.get("http-client").copied().unwrap_or_default();
        ensure!(
            opened - stats.deletes == SESSIONS,
            "{opened} opened, {} deleted",
            stats.deletes
        );
        Ok(())
    })
}
