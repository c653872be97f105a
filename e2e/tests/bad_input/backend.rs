//! Faults of a backend.

use anyhow::ensure;
use serde_json::{Value, json};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::wait;

use crate::gateways::{Gateways, LIMIT, error_of};

/// One fault, and the response of a call that meets it.
struct Row {
    fault: &'static str,
    rule: Value,
    /// The framing of the responses; `None` for both.
    json: Option<bool>,
    /// Whether prompts are not tested, because they have no deadline of their own.
    tool_only: bool,
    outcome: Outcome,
}

enum Outcome {
    /// The normal response.
    Answer,
    /// An error with one of these texts, and whether it says that a retry is safe.
    Failure(&'static [&'static str], bool),
}

use Outcome::{Answer, Failure};

/// The tool with the fault. All other tools of the backend work.
pub(crate) const TOOL: &str = "test_simple_text";
const PROMPT: &str = "test_simple_prompt";

fn rows() -> Vec<Row> {
    let both = |fault, rule, outcome| Row {
        fault,
        rule,
        json: None,
        tool_only: false,
        outcome,
    };
    let framed = |fault, rule, json, outcome| Row {
        fault,
        rule,
        json: Some(json),
        tool_only: false,
        outcome,
    };
    let status = |code: u16| json!({"status": code});
    vec![
        both(
            "no JSON",
            json!({"not_json": true}),
            Failure(&["not JSON"], false),
        ),
        framed(
            "half of the answer, in JSON",
            json!({"truncate": true}),
            true,
            Failure(&["ended the connection before its answer was complete"], false),
        ),
        framed(
            "half of the answer, in events",
            json!({"truncate": true, "no_event_ids": true}),
            false,
            Failure(&["ended the connection before its answer was complete"], false),
        ),
        framed(
            "garbage before a stream's end",
            json!({"sse_before_answer": "data: {\"jsonrpc\":\n\n", "sse_without_answer": true, "no_event_ids": true}),
            false,
            Failure(&["not JSON"], false),
        ),
        framed(
            "garbage before the answer",
            json!({"sse_before_answer": "data: nonsense\n\ndata: [1]\n\ndata: 1\n\n"}),
            false,
            Answer,
        ),
        framed(
            "an event that is no message",
            json!({"sse_before_answer": "event: ping\ndata: {\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":1,\"message\":\"ping\"}}\n\n"}),
            false,
            Answer,
        ),
        framed(
            "an answer to another request, in JSON",
            json!({"wrong_id": true}),
            true,
            Failure(&["answers another request"], false),
        ),
        framed(
            "an answer to another request, in events",
            json!({"wrong_id": true, "sse_without_end": true}),
            false,
            Failure(&["answers another request"], false),
        ),
        framed(
            "two answers, in JSON",
            json!({"two_answers": true}),
            true,
            Failure(&["trailing characters"], false),
        ),
        framed(
            "two answers, in events",
            json!({"two_answers": true}),
            false,
            Answer,
        ),
        framed(
            "a stream without an end",
            json!({"sse_without_end": true}),
            false,
            Answer,
        ),
        framed(
            "a stream without the answer",
            json!({"sse_without_answer": true, "no_event_ids": true}),
            false,
            Failure(&["the stream ended"], false),
        ),
        both(
            "a line of 200 MiB",
            json!({"endless_line": 200 << 20}),
            Failure(&["larger than 16777216 bytes"], false),
        ),
        both(
            "another content type",
            json!({"wrong_content_type": true}),
            Failure(&["content type"], false),
        ),
        both(
            "a redirect to another host",
            json!({"redirect": "http://127.0.0.1:9/mcp"}),
            Failure(&["redirects to http://127.0.0.1"], true),
        ),
        both(
            "a reset before the head",
            json!({"reset": "before_headers"}),
            Failure(&["ended the connection before its answer was complete"], false),
        ),
        both(
            "a reset behind the head",
            json!({"reset": "after_headers", "no_event_ids": true}),
            Failure(&["ended the connection before its answer was complete"], false),
        ),
        Row {
            tool_only: true,
            ..both(
                "silence",
                json!({"hang": true}),
                Failure(&["did not answer within"], false),
            )
        },
        both("401", status(401), Failure(&["HTTP status 401"], true)),
        both("403", status(403), Failure(&["HTTP status 403"], true)),
        both(
            "429 with Retry-After",
            json!({"status": 429, "retry_after": 7}),
            Failure(&["HTTP status 429 and asks to be left alone for 7 s"], true),
        ),
        both(
            "429 with Retry-After as a date",
            json!({"status": 429, "retry_after": "Sun, 31 Dec 2084 23:59:59 GMT"}),
            Failure(&["HTTP status 429 and asks to be left alone for "], true),
        ),
        both(
            "429 with a Retry-After that is none",
            json!({"status": 429, "retry_after": "soon"}),
            Failure(&["HTTP status 429: The test server was asked"], true),
        ),
        both(
            "429 alone",
            status(429),
            Failure(&["HTTP status 429: The test server was asked"], true),
        ),
        both("500", status(500), Failure(&["HTTP status 500"], false)),
        both("502", status(502), Failure(&["HTTP status 502"], false)),
        both("503", status(503), Failure(&["HTTP status 503"], true)),
        both("418", status(418), Failure(&["HTTP status 418"], false)),
    ]
}

/// Malformed responses that arrive completely and in time, and the error for each. The stream of such a response stays open.
const NO_ANSWERS: [(&str, &str); 16] = [
    (r#"{"id":$id,"result":{}}"#, r#"no "jsonrpc":"2.0""#),
    (
        r#"{"jsonrpc":"1.0","id":$id,"result":{}}"#,
        r#"no "jsonrpc":"2.0""#,
    ),
    (
        r#"{"jsonrpc":"2.0","id":$id,"error":"boom"}"#,
        "error is not an object",
    ),
    (
        r#"{"jsonrpc":"2.0","id":$id,"error":{"code":"x","message":"x"}}"#,
        "error is not an object",
    ),
    (
        r#"{"jsonrpc":"2.0","id":$id,"result":null}"#,
        "result is not an object",
    ),
    (
        r#"{"jsonrpc":"2.0","id":$id,"result":"x"}"#,
        "result is not an object",
    ),
    (
        r#"{"jsonrpc":"2.0","id":$id,"result":[1]}"#,
        "result is not an object",
    ),
    (
        r#"{"jsonrpc":"2.0","id":$id,"result":{},"error":{"code":1,"message":"x"}}"#,
        r#"either a "result" or an "error""#,
    ),
    (
        r#"{"jsonrpc":"2.0","id":$id,"result":{},"result":{}}"#,
        "duplicate field `result`",
    ),
    (
        r#"{"jsonrpc":"2.0","id":$id,"id":$id,"result":{}}"#,
        "duplicate field `id`",
    ),
    (
        r#"{"jsonrpc":"2.0","id":$id}"#,
        r#"either a "result" or an "error""#,
    ),
    (
        r#"{"jsonrpc":"2.0","result":{}}"#,
        r#"needs a "method" or an "id""#,
    ),
    (
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what is that?"}}"#,
        "id is null, for the backend could not tell the request's: what is that?",
    ),
    (
        r#"{"jsonrpc":"2.0","id":{"of":$id},"result":{}}"#,
        "answers another request",
    ),
    (
        r#"{"jsonrpc":"2.0","id":"x$id","result":{}}"#,
        "answers another request",
    ),
    (
        r#"{"jsonrpc":"2.0","id":8,"result":{}}"#,
        "answers another request",
    ),
];

fn no_answers(json: bool) -> impl Iterator<Item = Row> {
    NO_ANSWERS.iter().map(move |(answer, says)| Row {
        fault: answer,
        rule: json!({"answer": answer, "sse_without_end": !json}),
        json: None,
        tool_only: false,
        outcome: Failure(std::slice::from_ref(says), false),
    })
}

/// Checks every row with a new session, in each of its framings, with a tool and a prompt.
pub(crate) fn check_all(gateways: &Gateways) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for json in [true, false] {
        gateways
            .bad()
            .admin("PUT", "/framing", &json!({"json_response": json}))?;
        for row in rows()
            .into_iter()
            .chain(no_answers(json))
            .filter(|row| row.json.is_none_or(|only| only == json))
        {
            if let Err(error) = check(gateways, &row) {
                wrong.push(format!("{}, JSON framing {json}: {error:#}", row.fault));
            }
            gateways.bad().clear_faults()?;
        }
    }
    for check in [in_the_handshake, in_a_list] {
        if let Err(error) = check(gateways) {
            wrong.push(format!("{error:#}"));
        }
        gateways.bad().clear_faults()?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn check(gateways: &Gateways, row: &Row) -> anyhow::Result<()> {
    let session = gateways.open()?;
    let rule = |only: Value| {
        let mut rule = row.rule.clone();
        rule.as_object_mut()
            .into_iter()
            .for_each(|rule| rule.extend(only.as_object().cloned().unwrap_or_default()));
        rule
    };
    let rules = json!([
        rule(json!({"only_tool": TOOL})),
        rule(json!({"only_method": "prompts/get"}))
    ]);
    gateways.bad().set_faults(&rules)?;
    let methods = [("tools/call", TOOL), ("prompts/get", PROMPT)];
    for (method, name) in &methods[..if row.tool_only { 1 } else { 2 }] {
        let params = json!({"name": format!("bad_{name}")});
        let answer = session.request(gateways.gateway.mcp, method, &params)?;
        ensure!(answer.status == 200, "{method}: {answer:?}");
        let message = answer.message()?;
        ensure!(message["id"] == 7, "{method}: {message}");
        match row.outcome {
            Answer => {
                let is_result = message["result"].is_object() && message["result"]["isError"] != true;
                ensure!(is_result, "{method}: {message}");
            }
            Failure(says, safe) => {
                let (code, words) = error_of(&answer);
                let advice = if safe {
                    "trying again is safe"
                } else {
                    "may have been executed"
                };
                ensure!(
                    code == if *name == TOOL { 0 } else { -32603 },
                    "{method}: {message}"
                );
                ensure!(
                    words.contains("backend bad")
                        && says.iter().any(|says| words.contains(says))
                        && words.contains(advice),
                    "{method}: none of {says:?}, or no {advice:?} in {words:?}"
                );
            }
        }
        // Other tools of the same backend and of others, in the same session.
        gateways.echo(&session, "bad", row.fault)?;
        gateways.echo(&session, "good", row.fault)?;
    }
    gateways.close(&session)
}

/// The backend refuses to open a session: the call gets the reason, and the next call opens the session.
fn in_the_handshake(gateways: &Gateways) -> anyhow::Result<()> {
    for (fault, says) in [
        (json!({"status": 500}), "HTTP status 500"),
        (json!({"not_json": true}), "not JSON"),
        (json!({"wrong_content_type": true}), "the protocol does not allow"),
        (json!({"reset": "before_headers"}), "ended the connection"),
    ] {
        let mut rule = fault.clone();
        rule["only_method"] = json!("initialize");
        gateways.bad().set_faults(&rule)?;
        let session = gateways.open()?;
        let call = json!({"message": "hi"});
        let answer = session.call(gateways.gateway.mcp, "bad_echo", &call)?;
        let (_, words) = error_of(&answer);
        ensure!(
            words.contains("backend bad") && words.contains(says),
            "{fault} in the handshake: {}",
            answer.text()
        );
        gateways.bad().clear_faults()?;
        gateways.echo(&session, "bad", "after the handshake")?;
        gateways.close(&session)?;
    }
    Ok(())
}

/// Malformed lists: the status reports them, the earlier lists stay, and the gateway reads the backend again.
fn in_a_list(gateways: &Gateways) -> anyhow::Result<()> {
    let session = gateways.open()?;
    let before = session.names(gateways.gateway.mcp, "tools/list")?;
    let await_status = |what: &str, is_expected: &dyn Fn(&str) -> bool| {
        gateways.bad().admin("POST", "/tools-changed", &Value::Null)?;
        wait::until(what, LIMIT, || {
            let faults = gateways
                .gateway
                .status(&gateways.harness.recipe)?
                .faults
                .join("\n");
            ensure!(is_expected(&faults), "{faults:?}");
            Ok(())
        })
    };
    for (fault, says) in [
        (json!({"not_json": true}), "not JSON"),
        (json!({"wrong_content_type": true}), "content type"),
        (json!({"endless_line": 200 << 20}), "larger than"),
    ] {
        let mut rule = fault.clone();
        rule["only_method"] = json!("tools/list");
        gateways.bad().set_faults(&rule)?;
        await_status("the status names the fault", &|faults| {
            faults.contains("backend bad: tools/list") && faults.contains(says)
        })?;
        listed(gateways, &session, &before)?;
        gateways.bad().clear_faults()?;
        await_status("the list is read again", &|warnings| {
            !warnings.contains("backend bad")
        })?;
    }
    gateways.close(&session)
}

fn listed(gateways: &Gateways, session: &Session, before: &[String]) -> anyhow::Result<()> {
    let names = session.names(gateways.gateway.mcp, "tools/list")?;
    ensure!(names == before, "{names:?}");
    gateways.echo(session, "good", "while a list is broken")
}
