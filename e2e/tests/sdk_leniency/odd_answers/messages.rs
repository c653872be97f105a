//! Odd messages: events, JSON, JSON-RPC envelopes and errors.

use serde_json::{Value, json};
use vmcp_e2e::scripted_server::{Reply, usual};

use super::{EVENTS, JSON, OddServer, answer, changed, each, events, odd, remove, to, written};

pub(super) fn all() -> Vec<OddServer> {
    let mut all = event_syntax();
    all.extend(event_order());
    all.extend(json_syntax());
    all.extend(envelopes());
    all.extend(errors());
    all
}

fn event_syntax() -> Vec<OddServer> {
    vec![
        events("events-plain", "data: $\n\n"),
        events("events-crlf", "event: message\r\ndata: $\r\n\r\n"),
        events("events-cr", "event: message\rdata: $\r\r"),
        events("events-with-mixed-ends", "event: message\r\ndata: $\n\r"),
        events("events-with-bom", "\u{feff}data: $\n\n"),
        events(
            "events-with-comments",
            ": hello\n\n:\nevent: message\n: in between\ndata: $\n:\n\n",
        ),
        events("events-without-blank", "event:message\ndata:$\n\n"),
        events("events-with-two-blanks", "event: message\ndata:  $\n\n"),
        events("events-of-empty-type", "event:\ndata: $\n\n"),
        events("events-of-other-type", "event: response\ndata: $\n\n"),
        events("events-of-type-in-capitals", "event: Message\ndata: $\n\n"),
        events(
            "events-with-two-types",
            "event: ping\nevent: message\ndata: $\n\n",
        ),
        events("events-with-retry", "retry: 10\nevent: message\ndata: $\n\n"),
        events(
            "events-with-odd-retry",
            "retry: soon\nretry: -1\nretry: 1.5\ndata: $\n\n",
        ),
        events("events-with-unknown-fields", "version: 1\nfoo\ndata: $\n\n"),
        events("events-with-ids", "id: a b/c\ndata: $\n\n"),
        events("events-with-empty-id", "id\ndata: $\n\n"),
        events("events-with-nul-in-id", "id: a\u{0}b\ndata: $\n\n"),
        events("events-with-latin-id", "id: caf\u{e9}\ndata: $\n\n"),
        events("events-with-empty-data-line", "data: \ndata: $\n\n"),
        events("events-without-last-blank-line", "data: $\n"),
        events("events-without-last-line-end", "data: $"),
        each("events-with-data-in-lines", |message| {
            let lines = message.replace(",\"", ",\ndata: \"");
            Reply::new(200, EVENTS, format!("data: {lines}\n\n").as_bytes())
        }),
    ]
}

fn event_order() -> Vec<OddServer> {
    const LOG: &str =
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}"#;
    let before = |name, before: &'static str| {
        each(name, move |message| {
            Reply::new(
                200,
                EVENTS,
                format!("data: {before}\n\ndata: {message}\n\n").as_bytes(),
            )
        })
    };
    vec![
        events("event-primes", "id: 1\ndata:\n\ndata: $\n\n"),
        events("event-primes-without-id", "data: \n\ndata: $\n\n"),
        events("event-pings", "event: ping\ndata: {\"t\":1}\n\ndata: $\n\n"),
        events(
            "event-with-endpoint",
            "event: endpoint\ndata: /messages\n\ndata: $\n\n",
        ),
        events("event-done-behind", "data: $\n\ndata: [DONE]\n\n"),
        events("event-in-a-batch", "data: [$]\n\n"),
        events(
            "events-in-one-batch",
            "data: [{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/x\"},$]\n\n",
        ),
        events("event-answers-twice", "data: $\n\ndata: $\n\n"),
        before("event-with-junk-before", "junk"),
        before("event-with-object-before", "{}"),
        before("event-with-log-before", LOG),
        before(
            "event-with-log-without-level",
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"x"}}"#,
        ),
        before(
            "event-with-log-of-odd-level",
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"loud","data":"x"}}"#,
        ),
        before(
            "event-with-unknown-notification",
            r#"{"jsonrpc":"2.0","method":"notifications/x","params":[1]}"#,
        ),
        before(
            "event-with-params-null",
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":null}"#,
        ),
        before(
            "event-with-unknown-progress",
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"who","progress":1}}"#,
        ),
        before(
            "event-with-progress-of-odd-type",
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":null,"progress":"half"}}"#,
        ),
        before(
            "event-with-answer-of-other-id",
            r#"{"jsonrpc":"2.0","id":4711,"result":{"content":[{"type":"text","text":"other"}],"tools":[]}}"#,
        ),
        before("event-with-ping", r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#),
        before(
            "event-with-unknown-request",
            r#"{"jsonrpc":"2.0","id":"u","method":"x/y"}"#,
        ),
        before(
            "event-with-request-of-id-null",
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        ),
        before(
            "event-with-request-of-id-zero",
            r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#,
        ),
        before(
            "event-with-roots-unasked",
            r#"{"jsonrpc":"2.0","id":9,"method":"roots/list"}"#,
        ),
        events("events-end-without-answer", ": bye\n\n"),
        odd("events-resume-with-get", |request| {
            match (request.method(), answer(request)) {
                ("initialize", _) => Some(usual(request).with("mcp-session-id", "one")),
                ("GET", _) => {
                    let id = request.header("last-event-id")?;
                    let (id, text) = id.split_once('/')?;
                    let result = json!({"content": [{"type": "text", "text": text}]});
                    let id: Value = serde_json::from_str(id).ok()?;
                    let message = json!({"jsonrpc": "2.0", "id": id, "result": result});
                    Some(Reply::new(200, EVENTS, format!("data: {message}\n\n").as_bytes()))
                }
                ("tools/call", _) => {
                    let id = &request.message["id"];
                    let body = format!("retry: 20\nid: {id}/hi\ndata:\n\n");
                    Some(Reply::new(200, EVENTS, body.as_bytes()))
                }
                _ => None,
            }
        }),
    ]
}

fn json_syntax() -> Vec<OddServer> {
    vec![
        written("json-behind-bom", "\u{feff}$"),
        written("json-behind-blanks", "\r\n\t  $"),
        written("json-before-line-ends", "$\r\n\r\n"),
        written("json-before-nul", "$\u{0}"),
        written("json-before-junk", "$;"),
        written("json-twice", "$\n$"),
        written("json-in-a-batch", "[$]"),
        written(
            "json-in-a-batch-with-notification",
            r#"[{"jsonrpc":"2.0","method":"notifications/x"},$]"#,
        ),
        written("json-empty-batch", "[]"),
        written("json-empty", ""),
        each("json-in-lines", |message| {
            let message: Value = serde_json::from_str(&message).unwrap_or_default();
            let pretty = serde_json::to_string_pretty(&message).unwrap_or_default();
            Reply::new(200, JSON, pretty.as_bytes())
        }),
        each("json-all-escaped", |message| {
            let escaped = message
                .replace("jsonrpc", "\\u006asonrpc")
                .replace("result", "\\u0072esult");
            Reply::new(200, JSON, escaped.as_bytes())
        }),
        each("json-in-latin-1", |message| {
            let mut body = message.replace("hi", "h?").into_bytes();
            body.iter_mut()
                .filter(|byte| **byte == b'?')
                .for_each(|byte| *byte = 0xe9);
            Reply::new(200, JSON, &body)
        }),
        each("json-in-utf-16", |message| {
            let units = message.encode_utf16().flat_map(u16::to_le_bytes);
            Reply::new(
                200,
                "application/json; charset=utf-16le",
                &units.collect::<Vec<u8>>(),
            )
        }),
        each("json-with-lone-surrogate", |message| {
            Reply::new(200, JSON, message.replace("hi", "hi \\ud83d").as_bytes())
        }),
        each("json-with-nan", |message| {
            Reply::new(
                200,
                JSON,
                message
                    .replace(r#""result":{"#, r#""result":{"x":NaN,"#)
                    .as_bytes(),
            )
        }),
        each("json-with-big-number", |message| {
            let big = r#""result":{"x":1e400,"y":123456789012345678901234567890,"#;
            Reply::new(200, JSON, message.replace(r#""result":{"#, big).as_bytes())
        }),
        each("json-with-key-twice", |message| {
            Reply::new(
                200,
                JSON,
                message
                    .replace(r#""result":{"#, r#""result":{"_meta":{"a":1},"_meta":{"a":2},"#)
                    .as_bytes(),
            )
        }),
        each("json-with-jsonrpc-twice", |message| {
            Reply::new(
                200,
                JSON,
                message.replacen('{', r#"{"jsonrpc":"2.0","#, 1).as_bytes(),
            )
        }),
        each("json-with-two-results", |message| {
            Reply::new(
                200,
                JSON,
                message.replacen('{', r#"{"result":{"other":1},"#, 1).as_bytes(),
            )
        }),
        each("json-with-result-in-capitals", |message| {
            Reply::new(
                200,
                JSON,
                message.replacen('{', r#"{"Result":{"other":1},"#, 1).as_bytes(),
            )
        }),
        each("json-nested-deeply", |message| {
            let deep = format!(r#""result":{{"x":{}{},"#, "[".repeat(100), "]".repeat(100));
            Reply::new(200, JSON, message.replace(r#""result":{"#, &deep).as_bytes())
        }),
    ]
}

fn envelopes() -> Vec<OddServer> {
    let in_events = |name, change: fn(&mut Value)| {
        each(name, move |message| {
            let mut message: Value = serde_json::from_str(&message).unwrap_or_default();
            change(&mut message);
            Reply::new(200, EVENTS, format!("data: {message}\n\n").as_bytes())
        })
    };
    let as_text = |message: &mut Value| message["id"] = json!(message["id"].to_string());
    let as_float = |message: &mut Value| message["id"] = json!(message["id"].as_f64());
    vec![
        changed("id-as-text", "", as_text),
        in_events("id-as-text-in-events", as_text),
        changed("id-as-float", "", as_float),
        in_events("id-as-float-in-events", as_float),
        changed("id-null", "", |message| message["id"] = Value::Null),
        in_events("id-null-in-events", |message| message["id"] = Value::Null),
        changed("id-of-another", "tools/call", |message| {
            message["id"] = json!(4711);
        }),
        in_events("id-of-another-in-events", |message| message["id"] = json!(4711)),
        changed("id-missing", "", |message| remove(message, "id")),
        in_events("id-missing-in-events", |message| remove(message, "id")),
        changed("jsonrpc-missing", "", |message| remove(message, "jsonrpc")),
        changed("jsonrpc-1", "", |message| message["jsonrpc"] = json!("1.0")),
        changed("jsonrpc-as-number", "", |message| message["jsonrpc"] = json!(2.0)),
        changed("envelope-with-extras", "", |message| {
            message["extra"] = json!({"a": [1]});
        }),
        changed("envelope-with-error-null", "", |message| {
            message["error"] = Value::Null;
        }),
        changed("envelope-with-method-null", "", |message| {
            message["method"] = Value::Null;
        }),
        changed("envelope-with-params-null", "", |message| {
            message["params"] = Value::Null;
        }),
        changed("envelope-with-method", "", |message| {
            message["method"] = json!("tools/call");
        }),
        changed("envelope-with-error-and-result", "tools/call", |message| {
            message["error"] = json!({"code": -32000, "message": "both"});
        }),
        changed("envelope-without-outcome", "tools/call", |message| {
            remove(message, "result");
        }),
    ]
}

fn errors() -> Vec<OddServer> {
    let fails = |name, status: u16, error: Value| {
        odd(name, move |request| {
            (request.method() == "tools/call").then(|| {
                let id = &request.message["id"];
                Reply::json(status, &json!({"jsonrpc": "2.0", "id": id, "error": error}))
            })
        })
    };
    let plain = || json!({"code": -32000, "message": "no"});
    vec![
        fails("error", 200, plain()),
        fails("error-with-400", 400, plain()),
        fails("error-with-404", 404, plain()),
        fails("error-with-429", 429, plain()),
        fails("error-with-500", 500, plain()),
        fails("error-with-202", 202, plain()),
        fails(
            "error-with-data-null",
            200,
            json!({"code": -32000, "message": "no", "data": null}),
        ),
        fails(
            "error-with-data",
            200,
            json!({"code": 7, "message": "no", "data": {"a": [1]}}),
        ),
        fails(
            "error-with-extras",
            200,
            json!({"code": -32000, "message": "no", "retryable": true}),
        ),
        fails(
            "error-with-empty-message",
            200,
            json!({"code": -32000, "message": ""}),
        ),
        fails("error-without-message", 200, json!({"code": -32000})),
        fails(
            "error-with-message-null",
            200,
            json!({"code": -32000, "message": null}),
        ),
        fails("error-without-code", 200, json!({"message": "no"})),
        fails(
            "error-with-code-as-text",
            200,
            json!({"code": "-32000", "message": "no"}),
        ),
        fails(
            "error-with-code-as-word",
            200,
            json!({"code": "E_NO", "message": "no"}),
        ),
        fails(
            "error-with-code-as-float",
            200,
            json!({"code": -32000.0, "message": "no"}),
        ),
        fails(
            "error-with-code-as-fraction",
            200,
            json!({"code": 1.5, "message": "no"}),
        ),
        fails(
            "error-with-huge-code",
            200,
            json!({"code": 9_007_199_254_740_993_i64, "message": "no"}),
        ),
        fails("error-as-text", 200, json!("no")),
        fails("error-as-list", 200, json!([])),
        fails("error-null", 200, Value::Null),
        odd("error-of-id-null", |request| {
            (request.method() == "tools/call").then(|| {
                let error = json!({"code": -32000, "message": "no"});
                Reply::json(200, &json!({"jsonrpc": "2.0", "id": null, "error": error}))
            })
        }),
        odd("error-of-id-null-with-400", |request| {
            (request.method() == "tools/call").then(|| {
                let error = json!({"code": -32000, "message": "no"});
                Reply::json(400, &json!({"jsonrpc": "2.0", "id": null, "error": error}))
            })
        }),
        odd("error-without-id-with-400", |request| {
            (request.method() == "tools/call").then(|| {
                let error = json!({"code": -32000, "message": "no"});
                Reply::json(400, &json!({"jsonrpc": "2.0", "error": error}))
            })
        }),
        to("call-gets-html-with-200", "tools/call", || {
            Reply::new(200, "text/html", b"<p>Log in</p>")
        }),
        to("call-gets-html-with-500", "tools/call", || {
            Reply::new(500, "text/html", b"<p>Oops</p>")
        }),
        to("call-gets-202", "tools/call", || Reply::empty(202)),
        to("call-gets-204", "tools/call", || Reply::empty(204)),
        to("call-gets-400-with-json", "tools/call", || {
            Reply::new(400, JSON, br#"{"error":"bad_request"}"#)
        }),
        to("call-gets-401", "tools/call", || Reply::empty(401)),
        to("call-gets-403", "tools/call", || Reply::empty(403)),
        to("call-gets-429", "tools/call", || {
            Reply::empty(429).with("retry-after", "1")
        }),
        to("call-gets-502", "tools/call", || Reply::empty(502)),
        to("call-gets-503", "tools/call", || Reply::empty(503)),
        odd("ping-is-unknown", |request| {
            (request.method() == "ping").then(|| request.error(200, -32601, "Method not found"))
        }),
        to("ping-gets-400", "ping", || {
            Reply::new(400, "text/plain", b"what?")
        }),
        odd("ping-answers-more", |request| {
            (request.method() == "ping").then(|| request.result(&json!({"pong": true})))
        }),
        odd("ping-answers-text", |request| {
            (request.method() == "ping").then(|| request.result(&json!("pong")))
        }),
        odd("ping-answers-null", |request| {
            (request.method() == "ping").then(|| request.result(&Value::Null))
        }),
    ]
}
