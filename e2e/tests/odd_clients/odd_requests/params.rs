//! Parameters of requests.

use super::{OddClient, with_params};

pub(super) fn all() -> Vec<OddClient> {
    let all = [CALLS, META, LISTS, OTHERS];
    let rows = all.iter().flat_map(|rows| rows.iter());
    rows.map(|(name, method, params)| with_params(*name, method, params))
        .collect()
}

type Row = (&'static str, &'static str, &'static str);

const CALLS: &[Row] = &[
    ("call-params-null", "tools/call", "null"),
    ("call-params-list", "tools/call", r#"["$echo",{"message":"hi"}]"#),
    ("call-params-text", "tools/call", r#""$echo""#),
    ("call-params-empty", "tools/call", "{}"),
    (
        "call-with-more",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"extra":1}"#,
    ),
    (
        "call-with-more-twice",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"extra":1,"extra":2}"#,
    ),
    ("call-without-arguments", "tools/call", r#"{"name":"$echo"}"#),
    (
        "call-with-arguments-null",
        "tools/call",
        r#"{"name":"$echo","arguments":null}"#,
    ),
    (
        "call-with-arguments-list",
        "tools/call",
        r#"{"name":"$echo","arguments":["hi"]}"#,
    ),
    (
        "call-with-arguments-text",
        "tools/call",
        r#"{"name":"$echo","arguments":"hi"}"#,
    ),
    (
        "call-with-arguments-as-json-text",
        "tools/call",
        r#"{"name":"$echo","arguments":"{\"message\":\"hi\"}"}"#,
    ),
    (
        "call-with-arguments-twice",
        "tools/call",
        r#"{"name":"$echo","arguments":{},"arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-more-arguments",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":[1]}}"#,
    ),
    (
        "call-with-argument-twice",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"ho","message":"hi"}}"#,
    ),
    (
        "call-with-argument-number",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":7}}"#,
    ),
    (
        "call-with-argument-null",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":null}}"#,
    ),
    (
        "call-with-argument-in-capitals",
        "tools/call",
        r#"{"name":"$echo","arguments":{"Message":"hi"}}"#,
    ),
    (
        "call-with-empty-key",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","":1}}"#,
    ),
    (
        "call-with-nan",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":NaN}}"#,
    ),
    (
        "call-with-infinity",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":Infinity}}"#,
    ),
    (
        "call-with-large-number",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":1e999}}"#,
    ),
    (
        "call-with-long-number",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":123456789012345678901234567890}}"#,
    ),
    (
        "call-with-leading-zero",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":007}}"#,
    ),
    (
        "call-with-leading-point",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":.5}}"#,
    ),
    (
        "call-with-plus",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":+5}}"#,
    ),
    (
        "call-with-hex",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":0x10}}"#,
    ),
    (
        "call-with-true-of-python",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":True}}"#,
    ),
    (
        "call-with-undefined",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi","extra":undefined}}"#,
    ),
    (
        "call-with-comment",
        "tools/call",
        r#"{"name":"$echo",/* what */"arguments":{"message":"hi"}}"#,
    ),
    (
        "call-without-name",
        "tools/call",
        r#"{"arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-name-null",
        "tools/call",
        r#"{"name":null,"arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-name-number",
        "tools/call",
        r#"{"name":7,"arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-name-list",
        "tools/call",
        r#"{"name":["$echo"],"arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-name-blank",
        "tools/call",
        r#"{"name":" $echo ","arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-name-escaped",
        "tools/call",
        r#"{"name":"$ech\u006f","arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-name-twice",
        "tools/call",
        r#"{"name":"$echo","name":"$echo","arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-name-in-capitals",
        "tools/call",
        r#"{"Name":"$echo","Arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-name-also-in-capitals",
        "tools/call",
        r#"{"name":"$echo","Name":"what","arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-arguments-also-in-capitals",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"Arguments":{}}"#,
    ),
    (
        "call-with-unknown-name",
        "tools/call",
        r#"{"name":"what","arguments":{"message":"hi"}}"#,
    ),
    (
        "call-with-task-null",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"task":null}"#,
    ),
    (
        "call-with-task",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"task":{"ttl":1000}}"#,
    ),
    (
        "call-with-task-text",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"task":"now"}"#,
    ),
    (
        "call-with-input-responses",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"inputResponses":{}}"#,
    ),
    (
        "call-with-tool-in-uri",
        "tools/call",
        r#"{"uri":"$echo","arguments":{"message":"hi"}}"#,
    ),
];

const META: &[Row] = &[
    (
        "meta-empty",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{}}"#,
    ),
    (
        "meta-null",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":null}"#,
    ),
    (
        "meta-list",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":[]}"#,
    ),
    (
        "meta-text",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":"what"}"#,
    ),
    (
        "meta-true",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":true}"#,
    ),
    (
        "meta-twice",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{},"_meta":{}}"#,
    ),
    (
        "meta-with-more",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"a":1,"example.com/b":[2],"":3}}"#,
    ),
    (
        "meta-with-more-twice",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"a":1,"a":2}}"#,
    ),
    (
        "meta-with-odd-names",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"a/b/c":1,"mcp/x":2,"io.modelcontextprotocol/what":3}}"#,
    ),
    (
        "meta-of-the-modern-era",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2025-11-25"}}"#,
    ),
    (
        "meta-with-client-info",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"a","version":"1"}}}"#,
    ),
    (
        "token-of-text",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":"a"}}"#,
    ),
    (
        "token-empty",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":""}}"#,
    ),
    (
        "token-of-number",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":7}}"#,
    ),
    (
        "token-0",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":0}}"#,
    ),
    (
        "token-null",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":null}}"#,
    ),
    (
        "token-fractional",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":1.5}}"#,
    ),
    (
        "token-with-point",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":1.0}}"#,
    ),
    (
        "token-negative",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":-1}}"#,
    ),
    (
        "token-large",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":9007199254740993}}"#,
    ),
    (
        "token-of-80-bits",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":1208925819614629174706175}}"#,
    ),
    (
        "token-true",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":true}}"#,
    ),
    (
        "token-false",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":false}}"#,
    ),
    (
        "token-of-list",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":[1]}}"#,
    ),
    (
        "token-of-object",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":{"a":1}}}"#,
    ),
    (
        "token-twice",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":1,"progressToken":2}}"#,
    ),
    (
        "token-in-params",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"progressToken":1}"#,
    ),
    (
        "token-with-nul",
        "tools/call",
        r#"{"name":"$echo","arguments":{"message":"hi"},"_meta":{"progressToken":"a\u0000"}}"#,
    ),
    ("list-meta-null", "tools/list", r#"{"_meta":null}"#),
    ("list-meta-list", "tools/list", r#"{"_meta":[]}"#),
    ("list-meta-text", "tools/list", r#"{"_meta":"what"}"#),
    (
        "list-token-null",
        "tools/list",
        r#"{"_meta":{"progressToken":null}}"#,
    ),
    (
        "list-token-true",
        "tools/list",
        r#"{"_meta":{"progressToken":true}}"#,
    ),
    ("ping-meta-null", "ping", r#"{"_meta":null}"#),
    ("ping-meta-text", "ping", r#"{"_meta":"what"}"#),
    ("ping-token", "ping", r#"{"_meta":{"progressToken":1}}"#),
];

const LISTS: &[Row] = &[
    ("list-params-null", "tools/list", "null"),
    ("list-params-list", "tools/list", "[]"),
    ("list-params-text", "tools/list", "\"\""),
    ("list-params-false", "tools/list", "false"),
    ("list-with-more", "tools/list", r#"{"extra":1,"limit":5}"#),
    ("list-cursor-null", "tools/list", r#"{"cursor":null}"#),
    ("list-cursor-empty", "tools/list", r#"{"cursor":""}"#),
    ("list-cursor-unknown", "tools/list", r#"{"cursor":"what"}"#),
    ("list-cursor-number", "tools/list", r#"{"cursor":0}"#),
    ("list-cursor-false", "tools/list", r#"{"cursor":false}"#),
    ("list-cursor-object", "tools/list", r#"{"cursor":{}}"#),
    ("list-cursor-list", "tools/list", r#"{"cursor":[]}"#),
    ("list-cursor-in-capitals", "tools/list", r#"{"Cursor":"what"}"#),
    ("prompts-params-null", "prompts/list", "null"),
    ("prompts-params-list", "prompts/list", "[]"),
    ("prompts-cursor-null", "prompts/list", r#"{"cursor":null}"#),
    ("prompts-cursor-empty", "prompts/list", r#"{"cursor":""}"#),
    ("resources-params-null", "resources/list", "null"),
    ("resources-cursor-null", "resources/list", r#"{"cursor":null}"#),
    (
        "resources-cursor-unknown",
        "resources/list",
        r#"{"cursor":"what"}"#,
    ),
    ("templates-params-null", "resources/templates/list", "null"),
    (
        "templates-cursor-empty",
        "resources/templates/list",
        r#"{"cursor":""}"#,
    ),
];

const OTHERS: &[Row] = &[
    ("ping-params-null", "ping", "null"),
    ("ping-params-list", "ping", "[]"),
    ("ping-params-text", "ping", "\"what\""),
    ("ping-params-number", "ping", "7"),
    ("ping-with-more", "ping", r#"{"extra":1}"#),
    (
        "prompt",
        "prompts/get",
        r#"{"name":"$greet","arguments":{"name":"Ada"}}"#,
    ),
    ("prompt-without-arguments", "prompts/get", r#"{"name":"$greet"}"#),
    (
        "prompt-with-arguments-null",
        "prompts/get",
        r#"{"name":"$greet","arguments":null}"#,
    ),
    (
        "prompt-with-arguments-list",
        "prompts/get",
        r#"{"name":"$greet","arguments":[]}"#,
    ),
    (
        "prompt-with-argument-number",
        "prompts/get",
        r#"{"name":"$greet","arguments":{"name":7}}"#,
    ),
    (
        "prompt-with-argument-null",
        "prompts/get",
        r#"{"name":"$greet","arguments":{"name":null}}"#,
    ),
    (
        "prompt-with-more-arguments",
        "prompts/get",
        r#"{"name":"$greet","arguments":{"name":"Ada","extra":"1"}}"#,
    ),
    (
        "prompt-with-more",
        "prompts/get",
        r#"{"name":"$greet","arguments":{"name":"Ada"},"extra":1}"#,
    ),
    (
        "prompt-meta-null",
        "prompts/get",
        r#"{"name":"$greet","arguments":{"name":"Ada"},"_meta":null}"#,
    ),
    (
        "prompt-without-name",
        "prompts/get",
        r#"{"arguments":{"name":"Ada"}}"#,
    ),
    ("prompt-unknown", "prompts/get", r#"{"name":"what"}"#),
    ("read", "resources/read", r#"{"uri":"test://motto"}"#),
    (
        "read-with-more",
        "resources/read",
        r#"{"uri":"test://motto","extra":1}"#,
    ),
    (
        "read-meta-null",
        "resources/read",
        r#"{"uri":"test://motto","_meta":null}"#,
    ),
    (
        "read-of-another-spelling",
        "resources/read",
        r#"{"uri":"TEST://motto"}"#,
    ),
    ("read-with-slash", "resources/read", r#"{"uri":"test://motto/"}"#),
    (
        "read-with-escape",
        "resources/read",
        r#"{"uri":"test://mott%6f"}"#,
    ),
    (
        "read-with-blanks",
        "resources/read",
        r#"{"uri":" test://motto "}"#,
    ),
    (
        "read-with-fragment",
        "resources/read",
        r#"{"uri":"test://motto#a"}"#,
    ),
    ("read-with-query", "resources/read", r#"{"uri":"test://motto?a"}"#),
    (
        "read-with-escaped-slash",
        "resources/read",
        r#"{"uri":"test:\/\/motto"}"#,
    ),
    (
        "read-uri-twice",
        "resources/read",
        r#"{"uri":"test://motto","uri":"test://motto"}"#,
    ),
    (
        "read-uri-in-capitals",
        "resources/read",
        r#"{"URI":"test://motto"}"#,
    ),
    ("read-uri-null", "resources/read", r#"{"uri":null}"#),
    ("read-uri-list", "resources/read", r#"{"uri":["test://motto"]}"#),
    ("read-without-uri", "resources/read", "{}"),
    ("read-unknown", "resources/read", r#"{"uri":"test://what"}"#),
    ("read-uri-that-is-none", "resources/read", r#"{"uri":"what"}"#),
    (
        "complete",
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"$greet"},"argument":{"name":"name","value":"A"}}"#,
    ),
    (
        "complete-with-more",
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"$greet","title":"a","extra":1},"argument":{"name":"name","value":"A","extra":1},"extra":1}"#,
    ),
    (
        "complete-with-context",
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"$greet"},"argument":{"name":"name","value":"A"},"context":{"arguments":{"a":"b"}}}"#,
    ),
    (
        "complete-with-context-null",
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"$greet"},"argument":{"name":"name","value":"A"},"context":null}"#,
    ),
    (
        "complete-with-context-empty",
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"$greet"},"argument":{"name":"name","value":"A"},"context":{}}"#,
    ),
    (
        "complete-without-argument",
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"$greet"}}"#,
    ),
    (
        "complete-without-value",
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"$greet"},"argument":{"name":"name"}}"#,
    ),
    (
        "complete-with-value-number",
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"$greet"},"argument":{"name":"name","value":7}}"#,
    ),
    (
        "complete-without-type",
        "completion/complete",
        r#"{"ref":{"name":"$greet"},"argument":{"name":"name","value":"A"}}"#,
    ),
    (
        "complete-with-unknown-type",
        "completion/complete",
        r#"{"ref":{"type":"ref/tool","name":"$greet"},"argument":{"name":"name","value":"A"}}"#,
    ),
    (
        "complete-with-ref-text",
        "completion/complete",
        r#"{"ref":"$greet","argument":{"name":"name","value":"A"}}"#,
    ),
    (
        "complete-resource",
        "completion/complete",
        r#"{"ref":{"type":"ref/resource","uri":"test://motto"},"argument":{"name":"name","value":"A"}}"#,
    ),
    (
        "complete-unknown-argument",
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"$greet"},"argument":{"name":"what","value":"A"}}"#,
    ),
    (
        "complete-unknown-prompt",
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"what"},"argument":{"name":"name","value":"A"}}"#,
    ),
    ("level", "logging/setLevel", r#"{"level":"info"}"#),
    (
        "level-with-more",
        "logging/setLevel",
        r#"{"level":"info","extra":1,"_meta":null}"#,
    ),
    ("level-in-capitals", "logging/setLevel", r#"{"level":"INFO"}"#),
    ("level-warn", "logging/setLevel", r#"{"level":"warn"}"#),
    ("level-unknown", "logging/setLevel", r#"{"level":"what"}"#),
    ("level-empty", "logging/setLevel", r#"{"level":""}"#),
    ("level-null", "logging/setLevel", r#"{"level":null}"#),
    ("level-number", "logging/setLevel", r#"{"level":1}"#),
    ("level-missing", "logging/setLevel", "{}"),
    ("level-params-null", "logging/setLevel", "null"),
    ("subscribe", "resources/subscribe", r#"{"uri":"test://motto"}"#),
    (
        "subscribe-with-more",
        "resources/subscribe",
        r#"{"uri":"test://motto","extra":1,"_meta":null}"#,
    ),
    (
        "subscribe-unknown",
        "resources/subscribe",
        r#"{"uri":"test://what"}"#,
    ),
    ("subscribe-without-uri", "resources/subscribe", "{}"),
    (
        "subscribe-uri-that-is-none",
        "resources/subscribe",
        r#"{"uri":"what"}"#,
    ),
    (
        "unsubscribe-unknown",
        "resources/unsubscribe",
        r#"{"uri":"test://what"}"#,
    ),
    (
        "unsubscribe-not-subscribed",
        "resources/unsubscribe",
        r#"{"uri":"test://motto"}"#,
    ),
    ("unsubscribe-without-uri", "resources/unsubscribe", "{}"),
];
