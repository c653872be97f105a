//! The envelope of a message, and how its JSON is written.

use serde_json::{Value, json};

use super::{OddClient, asks, asks_as, in_session, in_session_of, tells, with_params};
use crate::conversation::{Request, Wanted};

pub(super) fn all() -> Vec<OddClient> {
    let mut all = bodies();
    all.extend(envelopes());
    all.extend(ids());
    all.extend(one_way());
    all.extend(responses());
    all.extend(batches());
    all
}

/// The usual call. The text of its parameters replaces `$params`.
const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params}"#;
const PARAMS: &str = r#"{"name":"$echo","arguments":{"message":"hi"}}"#;

/// The usual call in this frame, where `$call` stands for it, and `$params` for its parameters.
fn framed(frame: &str) -> String {
    frame.replace("$call", CALL).replace("$params", PARAMS)
}

fn bodies() -> Vec<OddClient> {
    const FRAMES: &[(&str, &str)] = &[
        ("bom", "\u{feff}$call"),
        ("blanks-before", " \r\n\t$call"),
        ("blanks-behind", "$call \r\n\t\n"),
        ("nul-behind", "$call\0"),
        ("junk-behind", "$call what"),
        ("message-twice", "$call$call"),
        ("messages-in-lines", "$call\n$call\n"),
        ("comma-behind", "$call,"),
        ("comment-before", "/* what */ $call"),
        ("comment-behind", "$call // what"),
        ("as-event", "data: $call\n\n"),
        ("as-form", "message=$call"),
        ("in-parentheses", "($call)"),
        ("length-header-before", "Content-Length: 100\r\n\r\n$call"),
        (
            "comma-at-end-of-object",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params,}"#,
        ),
        (
            "single-quotes",
            r#"{'jsonrpc':'2.0','id':7,'method':'tools/call','params':$params}"#,
        ),
        (
            "keys-without-quotes",
            r#"{jsonrpc:"2.0",id:7,method:"tools/call",params:$params}"#,
        ),
        (
            "pretty",
            "{\n  \"jsonrpc\" : \"2.0\",\n  \"id\" : 7,\n  \"method\" : \"tools/call\",\n  \"params\" : $params\n}\n",
        ),
        (
            "order-of-keys",
            r#"{"params":$params,"method":"tools/call","id":7,"jsonrpc":"2.0"}"#,
        ),
        (
            "key-escaped",
            r#"{"jsonrpc":"2.0","id":7,"\u006dethod":"tools/call","params":$params}"#,
        ),
        (
            "method-escaped",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools\/c\u0061ll","params":$params}"#,
        ),
        (
            "vertical-tab-between",
            "{\"jsonrpc\":\"2.0\",\u{b}\"id\":7,\"method\":\"tools/call\",\"params\":$params}",
        ),
        (
            "no-break-space-between",
            "{\"jsonrpc\":\"2.0\",\u{a0}\"id\":7,\"method\":\"tools/call\",\"params\":$params}",
        ),
    ];
    let mut all: Vec<_> = FRAMES
        .iter()
        .map(|(name, frame)| asks(*name, framed(frame)))
        .collect();
    let utf_16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        let text = format!("\u{feff}{}", framed("$call"));
        text.encode_utf16().flat_map(bytes).collect()
    };
    all.extend([
        asks("utf-16", utf_16(u16::to_le_bytes)),
        asks("utf-16-of-the-net", utf_16(u16::to_be_bytes)),
        asks("utf-8-broken", broken(b"\xc3(")),
        asks("utf-8-of-surrogates", broken(b"\xed\xa0\xbd")),
        asks("latin-1", broken(b"gr\xfc\xdfe")),
        asks("control-in-text", broken(b"a\x01b")),
        asks("tab-in-text", broken(b"a\tb")),
        asks("line-end-in-text", broken(b"a\nb")),
    ]);
    const TEXTS: &[(&str, &str)] = &[
        ("half-a-pair", r#""a\ud83d""#),
        ("nul-in-text", r#""a\u0000b""#),
        ("escape-unknown", r#""a\xb""#),
        ("text-in-emoji", r#""🦀""#),
    ];
    for (name, text) in TEXTS {
        let params = format!(r#"{{"name":"$echo","arguments":{{"message":{text}}}}}"#);
        all.push(with_params(*name, "tools/call", &params));
    }
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"name":"$echo","arguments":{{"message":"hi","deep":{open}{close}}}}}"#)
    };
    let large = |bytes: usize| {
        let text = "x".repeat(bytes);
        format!(r#"{{"name":"$echo","arguments":{{"message":"hi","large":"{text}"}}}}"#)
    };
    all.extend([
        with_params("nested-100-deep", "tools/call", &nested(100)),
        with_params("nested-200-deep", "tools/call", &nested(200)),
        with_params("nested-2000-deep", "tools/call", &nested(2000)),
        with_params("large-of-100-kb", "tools/call", &large(100 << 10)),
        with_params("large-of-1-mb", "tools/call", &large(1 << 20)),
    ]);
    all
}

/// A call whose message is these bytes, and `hi` is taken for granted in the answer.
fn broken(text: &[u8]) -> Vec<u8> {
    let call = framed("$call");
    let (before, behind) = call.split_once("\"hi\"").unwrap_or((&call, ""));
    [
        before.as_bytes(),
        b"\"hi\",\"odd\":\"",
        text,
        b"\"",
        behind.as_bytes(),
    ]
    .concat()
}

fn envelopes() -> Vec<OddClient> {
    const FRAMES: &[(&str, &str)] = &[
        (
            "version-missing",
            r#"{"id":7,"method":"tools/call","params":$params}"#,
        ),
        (
            "version-1",
            r#"{"jsonrpc":"1.0","id":7,"method":"tools/call","params":$params}"#,
        ),
        (
            "version-as-2",
            r#"{"jsonrpc":"2","id":7,"method":"tools/call","params":$params}"#,
        ),
        (
            "version-as-number",
            r#"{"jsonrpc":2.0,"id":7,"method":"tools/call","params":$params}"#,
        ),
        (
            "version-null",
            r#"{"jsonrpc":null,"id":7,"method":"tools/call","params":$params}"#,
        ),
        (
            "version-escaped",
            r#"{"jsonrpc":"\u0032.0","id":7,"method":"tools/call","params":$params}"#,
        ),
        (
            "version-twice",
            r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":7,"method":"tools/call","params":$params}"#,
        ),
        (
            "id-twice",
            r#"{"jsonrpc":"2.0","id":7,"id":7,"method":"tools/call","params":$params}"#,
        ),
        (
            "id-twice-in-two-ways",
            r#"{"jsonrpc":"2.0","id":8,"id":7,"method":"tools/call","params":$params}"#,
        ),
        (
            "method-twice",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","method":"tools/call","params":$params}"#,
        ),
        (
            "method-twice-in-two-ways",
            r#"{"jsonrpc":"2.0","id":7,"method":"ping","method":"tools/call","params":$params}"#,
        ),
        (
            "params-twice",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params,"params":$params}"#,
        ),
        (
            "params-twice-with-null",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":null,"params":$params}"#,
        ),
        (
            "unknown-member",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params,"extra":1}"#,
        ),
        (
            "unknown-member-twice",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params,"extra":1,"extra":2}"#,
        ),
        (
            "unknown-meta",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params,"_meta":{}}"#,
        ),
        (
            "with-result-null",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params,"result":null}"#,
        ),
        (
            "with-error-null",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params,"error":null}"#,
        ),
        (
            "with-both-null",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params,"result":null,"error":null}"#,
        ),
        (
            "with-result",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params,"result":{}}"#,
        ),
        (
            "with-error",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":$params,"error":{"code":1,"message":"a"}}"#,
        ),
        (
            "keys-in-capitals",
            r#"{"JSONRPC":"2.0","ID":7,"METHOD":"tools/call","PARAMS":$params}"#,
        ),
        (
            "id-in-capitals",
            r#"{"jsonrpc":"2.0","Id":7,"method":"tools/call","params":$params}"#,
        ),
        (
            "method-in-capitals",
            r#"{"jsonrpc":"2.0","id":7,"Method":"tools/call","params":$params}"#,
        ),
        (
            "params-in-capitals",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","Params":$params}"#,
        ),
        (
            "method-also-in-capitals",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","Method":"ping","params":$params}"#,
        ),
        ("method-missing", r#"{"jsonrpc":"2.0","id":7,"params":$params}"#),
        (
            "method-null",
            r#"{"jsonrpc":"2.0","id":7,"method":null,"params":$params}"#,
        ),
        (
            "method-as-number",
            r#"{"jsonrpc":"2.0","id":7,"method":1,"params":$params}"#,
        ),
        (
            "method-empty",
            r#"{"jsonrpc":"2.0","id":7,"method":"","params":$params}"#,
        ),
        (
            "method-of-capitals",
            r#"{"jsonrpc":"2.0","id":7,"method":"Tools/Call","params":$params}"#,
        ),
        (
            "method-with-blank",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call ","params":$params}"#,
        ),
        (
            "method-with-slash",
            r#"{"jsonrpc":"2.0","id":7,"method":"/tools/call","params":$params}"#,
        ),
        (
            "method-with-dot",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools.call","params":$params}"#,
        ),
        (
            "method-unknown",
            r#"{"jsonrpc":"2.0","id":7,"method":"what/ever"}"#,
        ),
        (
            "method-of-rpc",
            r#"{"jsonrpc":"2.0","id":7,"method":"rpc.discover"}"#,
        ),
        (
            "method-of-a-notification",
            r#"{"jsonrpc":"2.0","id":7,"method":"notifications/initialized"}"#,
        ),
        (
            "method-of-a-server",
            r#"{"jsonrpc":"2.0","id":7,"method":"roots/list"}"#,
        ),
        (
            "ping-without-params",
            r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
        ),
        ("tasks-list", r#"{"jsonrpc":"2.0","id":7,"method":"tasks/list"}"#),
        ("message-of-null", "null"),
        ("message-of-a-number", "7"),
        ("message-of-a-text", "\"what\""),
        ("message-empty", "{}"),
    ];
    FRAMES
        .iter()
        .map(|(name, frame)| asks(*name, framed(frame)))
        .collect()
}

fn ids() -> Vec<OddClient> {
    const IDS: &[(&str, &str)] = &[
        ("id-of-text", "\"a\""),
        ("id-empty", "\"\""),
        ("id-of-uuid", "\"01234567-89ab-cdef-0123-456789abcdef\""),
        ("id-of-digits", "\"7\""),
        ("id-in-utf-8", "\"Grüße 🦀\""),
        ("id-with-escapes", r#""a\u0041\/\n""#),
        ("id-with-nul", r#""a\u0000""#),
        ("id-with-half-a-pair", r#""a\ud83d""#),
        ("id-of-reserved-prefix", "\"vmcp:1\""),
        ("id-0", "0"),
        ("id-negative", "-7"),
        ("id-minus-0", "-0"),
        ("id-of-32-bits", "2147483648"),
        ("id-of-53-bits", "9007199254740991"),
        ("id-of-54-bits", "9007199254740993"),
        ("id-of-63-bits", "9223372036854775807"),
        ("id-of-64-bits", "18446744073709551615"),
        ("id-of-80-bits", "1208925819614629174706175"),
        ("id-with-point", "1.0"),
        ("id-with-exponent", "1e2"),
        ("id-fractional", "1.5"),
        ("id-true", "true"),
        ("id-null", "null"),
        ("id-of-list", "[7]"),
        ("id-of-object", "{\"a\":7}"),
    ];
    let mut all: Vec<_> = IDS.iter().map(|(name, id)| asks_as(*name, id)).collect();
    for (name, bytes) in [
        ("id-of-200-bytes", 200),
        ("id-of-300-bytes", 300),
        ("id-of-5000-bytes", 5000),
    ] {
        all.push(asks_as(name, &format!("\"{}\"", "x".repeat(bytes))));
    }
    all
}

/// Notifications, and requests without an id.
fn one_way() -> Vec<OddClient> {
    const TOLD: &[(&str, &str, &str)] = &[
        ("told-unknown", "notifications/what", "{}"),
        ("told-of-no-family", "what", "{}"),
        ("told-a-call", "tools/call", PARAMS),
        ("told-ping", "ping", "{}"),
        ("told-initialized-again", "notifications/initialized", "{}"),
        ("told-initialized-null", "notifications/initialized", "null"),
        ("told-initialized-list", "notifications/initialized", "[]"),
        (
            "told-initialized-with-more",
            "notifications/initialized",
            r#"{"a":1,"_meta":{"b":2}}"#,
        ),
        (
            "told-initialized-with-meta-null",
            "notifications/initialized",
            r#"{"_meta":null}"#,
        ),
        (
            "told-initialized-with-text",
            "notifications/initialized",
            r#""what""#,
        ),
        (
            "told-cancelled-unknown",
            "notifications/cancelled",
            r#"{"requestId":99}"#,
        ),
        (
            "told-cancelled-unknown-text",
            "notifications/cancelled",
            r#"{"requestId":"what","reason":"why"}"#,
        ),
        (
            "told-cancelled-null",
            "notifications/cancelled",
            r#"{"requestId":null}"#,
        ),
        ("told-cancelled-without-id", "notifications/cancelled", "{}"),
        ("told-cancelled-without-params", "notifications/cancelled", "null"),
        (
            "told-cancelled-fractional",
            "notifications/cancelled",
            r#"{"requestId":1.5}"#,
        ),
        (
            "told-cancelled-list",
            "notifications/cancelled",
            r#"{"requestId":[1]}"#,
        ),
        (
            "told-cancelled-true",
            "notifications/cancelled",
            r#"{"requestId":true}"#,
        ),
        (
            "told-cancelled-odd-reason",
            "notifications/cancelled",
            r#"{"requestId":99,"reason":7}"#,
        ),
        (
            "told-cancelled-reason-null",
            "notifications/cancelled",
            r#"{"requestId":99,"reason":null}"#,
        ),
        (
            "told-cancelled-id-twice",
            "notifications/cancelled",
            r#"{"requestId":99,"requestId":98}"#,
        ),
        (
            "told-cancelled-reserved",
            "notifications/cancelled",
            r#"{"requestId":"vmcp:1"}"#,
        ),
        (
            "told-progress-unknown",
            "notifications/progress",
            r#"{"progressToken":99,"progress":1}"#,
        ),
        (
            "told-progress-null",
            "notifications/progress",
            r#"{"progressToken":null,"progress":1}"#,
        ),
        (
            "told-progress-without-token",
            "notifications/progress",
            r#"{"progress":1}"#,
        ),
        ("told-progress-without-params", "notifications/progress", "null"),
        (
            "told-progress-as-text",
            "notifications/progress",
            r#"{"progressToken":"a","progress":"half"}"#,
        ),
        ("told-roots", "notifications/roots/list_changed", "{}"),
        ("told-roots-with-list", "notifications/roots/list_changed", "[]"),
        (
            "told-message",
            "notifications/message",
            r#"{"level":"info","data":"a"}"#,
        ),
        ("told-tools-changed", "notifications/tools/list_changed", "{}"),
        (
            "told-updated",
            "notifications/resources/updated",
            r#"{"uri":"test://motto"}"#,
        ),
        (
            "told-elicitation-complete",
            "notifications/elicitation/complete",
            r#"{"elicitationId":"a"}"#,
        ),
        (
            "told-task-status",
            "notifications/tasks/status",
            r#"{"taskId":"a","status":"working"}"#,
        ),
    ];
    let told = TOLD.iter().map(|(name, method, params)| {
        tells(
            *name,
            format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#),
        )
    });
    let mut all: Vec<_> = told.collect();
    all.extend([
        tells(
            "told-without-version",
            r#"{"method":"notifications/initialized"}"#,
        ),
        tells(
            "told-with-id-null",
            r#"{"jsonrpc":"2.0","id":null,"method":"notifications/roots/list_changed"}"#,
        ),
        tells(
            "told-with-unknown-member",
            r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed","extra":1}"#,
        ),
        tells(
            "told-method-in-capitals",
            r#"{"jsonrpc":"2.0","Method":"notifications/roots/list_changed"}"#,
        ),
        tells(
            "told-cancelled-without-anything",
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#,
        ),
        in_session(
            "told-accepting-nothing",
            Request::post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)
                .in_session()
                .without("accept"),
            Wanted::Accepted,
        ),
    ]);
    all
}

/// Answers to what no server has asked.
fn responses() -> Vec<OddClient> {
    const RESPONSES: &[(&str, &str)] = &[
        ("response-unasked", r#"{"jsonrpc":"2.0","id":99,"result":{}}"#),
        (
            "response-unasked-to-text",
            r#"{"jsonrpc":"2.0","id":"what","result":{}}"#,
        ),
        (
            "response-with-content",
            r#"{"jsonrpc":"2.0","id":99,"result":{"roots":[]}}"#,
        ),
        (
            "response-of-error",
            r#"{"jsonrpc":"2.0","id":99,"error":{"code":-32601,"message":"no"}}"#,
        ),
        (
            "response-of-error-with-data",
            r#"{"jsonrpc":"2.0","id":99,"error":{"code":1,"message":"no","data":[1]}}"#,
        ),
        (
            "response-of-error-without-message",
            r#"{"jsonrpc":"2.0","id":99,"error":{"code":1}}"#,
        ),
        (
            "response-of-error-without-code",
            r#"{"jsonrpc":"2.0","id":99,"error":{"message":"no"}}"#,
        ),
        (
            "response-of-error-as-text",
            r#"{"jsonrpc":"2.0","id":99,"error":"no"}"#,
        ),
        (
            "response-of-error-to-null",
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#,
        ),
        ("response-to-null", r#"{"jsonrpc":"2.0","id":null,"result":{}}"#),
        ("response-without-id", r#"{"jsonrpc":"2.0","result":{}}"#),
        (
            "response-of-error-without-id",
            r#"{"jsonrpc":"2.0","error":{"code":1,"message":"no"}}"#,
        ),
        ("response-of-null", r#"{"jsonrpc":"2.0","id":99,"result":null}"#),
        ("response-of-a-list", r#"{"jsonrpc":"2.0","id":99,"result":[]}"#),
        (
            "response-of-a-text",
            r#"{"jsonrpc":"2.0","id":99,"result":"yes"}"#,
        ),
        (
            "response-of-both",
            r#"{"jsonrpc":"2.0","id":99,"result":{},"error":{"code":1,"message":"no"}}"#,
        ),
        (
            "response-with-error-null",
            r#"{"jsonrpc":"2.0","id":99,"result":{},"error":null}"#,
        ),
        (
            "response-with-method-null",
            r#"{"jsonrpc":"2.0","id":99,"method":null,"result":{}}"#,
        ),
        (
            "response-with-more",
            r#"{"jsonrpc":"2.0","id":99,"result":{},"extra":1}"#,
        ),
        (
            "response-to-a-fraction",
            r#"{"jsonrpc":"2.0","id":1.5,"result":{}}"#,
        ),
        ("response-to-a-list", r#"{"jsonrpc":"2.0","id":[1],"result":{}}"#),
        (
            "response-to-reserved",
            r#"{"jsonrpc":"2.0","id":"vmcp:1","result":{}}"#,
        ),
    ];
    RESPONSES.iter().map(|(name, body)| tells(*name, *body)).collect()
}

fn batches() -> Vec<OddClient> {
    let ping = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "ping"});
    let told = || json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    let unasked = || json!({"jsonrpc": "2.0", "id": 99, "result": {}});
    let call: Value = serde_json::from_str(&framed("$call")).unwrap_or_default();
    let answers = |ids: &[u64]| Wanted::Results(ids.iter().map(|id| json!(id)).collect());
    let many: Vec<_> = (0..50).map(ping).collect();
    let of_many: Vec<u64> = (0..50).collect();
    let bodies: [(&str, Value, Wanted); 11] = [
        ("of-one", json!([call]), answers(&[7])),
        ("of-two", json!([ping(1), call]), answers(&[1, 7])),
        ("with-notification", json!([told(), call]), answers(&[7])),
        ("of-notifications", json!([told(), told()]), Wanted::Accepted),
        ("of-responses", json!([unasked(), unasked()]), Wanted::Accepted),
        (
            "of-all",
            json!([ping(1), told(), unasked(), call]),
            answers(&[1, 7]),
        ),
        ("of-50", json!(many), answers(&of_many)),
        ("empty", json!([]), Wanted::Success),
        ("nested", json!([[call]]), answers(&[7])),
        ("with-junk", json!([1, call]), answers(&[7])),
        ("with-one-id-twice", json!([ping(7), call]), answers(&[7, 7])),
    ];
    let mut all = Vec::new();
    for (name, body, wanted) in bodies {
        // Only the older revision has batches.
        for (revision, kind) in [("2025-03-26", "batch"), ("2025-11-25", "new-batch")] {
            let request = Request::post(body.to_string())
                .in_session()
                .header("MCP-Protocol-Version", revision);
            let name = format!("{kind}-{name}");
            all.push(in_session_of(revision, name, request, wanted.clone()));
        }
    }
    all
}
