//! Odd contents: handshakes, lists, tools and results.

use serde_json::{Value, json};
use vmcp_e2e::scripted_server::{Reply, usual};

use super::{OddServer, content, odd, remove, result, tool};

pub(super) fn all() -> Vec<OddServer> {
    let mut all = handshakes();
    all.extend(lists());
    all.extend(tools());
    all.extend(results());
    all
}

fn handshakes() -> Vec<OddServer> {
    let with = |name, change: fn(&mut Value)| {
        odd(name, move |request| {
            (request.method() == "initialize").then(|| {
                let mut message: Value = serde_json::from_slice(&usual(request).body).unwrap_or_default();
                change(&mut message["result"]);
                Reply::json(200, &message)
            })
        })
    };
    vec![
        with("revision-2024-11-05", |result| {
            result["protocolVersion"] = json!("2024-11-05");
        }),
        with("revision-2024-10-07", |result| {
            result["protocolVersion"] = json!("2024-10-07");
        }),
        with("revision-of-the-future", |result| {
            result["protocolVersion"] = json!("2099-01-01");
        }),
        with("revision-draft", |result| {
            result["protocolVersion"] = json!("DRAFT-2026-v1");
        }),
        with("revision-in-semver", |result| {
            result["protocolVersion"] = json!("1.0.0");
        }),
        with("revision-missing", |result| remove(result, "protocolVersion")),
        with("revision-null", |result| result["protocolVersion"] = Value::Null),
        with("revision-as-number", |result| {
            result["protocolVersion"] = json!(20_250_618);
        }),
        with("revision-empty", |result| result["protocolVersion"] = json!("")),
        with("capabilities-missing", |result| remove(result, "capabilities")),
        with("capabilities-null", |result| result["capabilities"] = Value::Null),
        with("capabilities-empty", |result| result["capabilities"] = json!({})),
        with("capabilities-as-list", |result| {
            result["capabilities"] = json!([]);
        }),
        with("capability-null", |result| {
            result["capabilities"] = json!({"tools": null});
        }),
        with("capability-true", |result| {
            result["capabilities"] = json!({"tools": true});
        }),
        with("capability-with-null", |result| {
            result["capabilities"] = json!({"tools": {"listChanged": null}});
        }),
        with("capability-with-text", |result| {
            result["capabilities"] = json!({"tools": {"listChanged": "yes"}});
        }),
        with("capabilities-unknown", |result| {
            result["capabilities"] = json!({"tools": {}, "telepathy": {}, "experimental": {"x": {"y": 1}}});
        }),
        with("capabilities-experimental-odd", |result| {
            result["capabilities"] = json!({"tools": {}, "experimental": {"x": true}});
        }),
        with("capabilities-without-methods", |result| {
            result["capabilities"] =
                json!({"tools": {}, "prompts": {}, "resources": {}, "logging": {}, "completions": {}});
        }),
        with("server-info-missing", |result| remove(result, "serverInfo")),
        with("server-info-null", |result| result["serverInfo"] = Value::Null),
        with("server-info-without-version", |result| {
            result["serverInfo"] = json!({"name": "s"});
        }),
        with("server-info-without-name", |result| {
            result["serverInfo"] = json!({"version": "1"});
        }),
        with("server-info-with-version-null", |result| {
            result["serverInfo"] = json!({"name": "s", "version": null});
        }),
        with("server-info-with-number", |result| {
            result["serverInfo"] = json!({"name": "s", "version": 1});
        }),
        with("server-info-with-extras", |result| {
            result["serverInfo"] = json!({"name": "s", "version": "1", "title": null, "icons": null, "x": 1});
        }),
        with("instructions-null", |result| result["instructions"] = Value::Null),
        with("instructions-as-number", |result| {
            result["instructions"] = json!(1);
        }),
        with("instructions-as-list", |result| {
            result["instructions"] = json!(["a", "b"]);
        }),
        with("handshake-with-extras", |result| {
            result["sessionId"] = json!("x");
            result["_meta"] = json!({"a/b": 1});
        }),
        with("handshake-with-meta-null", |result| result["_meta"] = Value::Null),
    ]
}

fn lists() -> Vec<OddServer> {
    let page = |name, change: fn(&mut Value)| {
        odd(name, move |request| {
            (request.method() == "tools/list").then(|| {
                let mut message: Value = serde_json::from_slice(&usual(request).body).unwrap_or_default();
                change(&mut message["result"]);
                Reply::json(200, &message)
            })
        })
    };
    vec![
        page("cursor-null", |result| result["nextCursor"] = Value::Null),
        page("cursor-empty", |result| result["nextCursor"] = json!("")),
        page("cursor-false", |result| result["nextCursor"] = json!(false)),
        page("cursor-as-object", |result| result["nextCursor"] = json!({})),
        odd("cursor-as-number", |request| {
            let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
            (request.method() == "tools/list").then(|| match &request.message["params"]["cursor"] {
                Value::Null => request.result(&json!({"tools": [tool("echo")], "nextCursor": 2})),
                _ => request.result(&json!({"tools": [tool("second")]})),
            })
        }),
        odd("cursor-with-odd-characters", |request| {
            let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
            let cursor = json!("é \u{0}\"\\/");
            (request.method() == "tools/list").then(|| match &request.message["params"]["cursor"] {
                Value::Null => request.result(&json!({"tools": [tool("echo")], "nextCursor": cursor})),
                given if *given == cursor => request.result(&json!({"tools": [tool("second")]})),
                _ => request.error(200, -32602, "another cursor"),
            })
        }),
        odd("page-in-the-middle-empty", |request| {
            let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
            (request.method() == "tools/list").then(|| match request.message["params"]["cursor"].as_str() {
                None => request.result(&json!({"tools": [tool("echo")], "nextCursor": "a"})),
                Some("a") => request.result(&json!({"tools": [], "nextCursor": "b"})),
                Some(_) => request.result(&json!({"tools": [tool("second")]})),
            })
        }),
        odd("list-refuses-params", |request| {
            let is_odd = request.method() == "tools/list" && !request.message["params"].is_null();
            (is_odd && request.message["params"] != json!({}))
                .then(|| request.error(200, -32602, "no params"))
        }),
        page("list-null", |result| result["tools"] = Value::Null),
        page("list-missing", |result| remove(result, "tools")),
        page("list-empty", |result| result["tools"] = json!([])),
        page("list-with-extras", |result| {
            result["total"] = json!(1);
            result["_meta"] = json!({"a": null});
        }),
        page("list-with-meta-null", |result| result["_meta"] = Value::Null),
        page("list-with-a-null", |result| {
            result["tools"] = json!([null, {"name": "echo", "inputSchema": {"type": "object"}}]);
        }),
        page("list-with-a-text", |result| {
            result["tools"] = json!(["other", {"name": "echo", "inputSchema": {"type": "object"}}]);
        }),
        page("list-with-a-tool-twice", |result| {
            let tool = json!({"name": "echo", "inputSchema": {"type": "object"}});
            result["tools"] = json!([tool, tool]);
        }),
        page("list-as-object", |result| {
            result["tools"] = json!({"echo": {"name": "echo", "inputSchema": {"type": "object"}}});
        }),
    ]
}

fn tools() -> Vec<OddServer> {
    vec![
        tool("tool-without-schema", |tool| remove(tool, "inputSchema")),
        tool("tool-with-schema-null", |tool| tool["inputSchema"] = Value::Null),
        tool("tool-with-schema-empty", |tool| tool["inputSchema"] = json!({})),
        tool("tool-with-schema-true", |tool| tool["inputSchema"] = json!(true)),
        tool("tool-with-schema-as-text", |tool| {
            tool["inputSchema"] = json!("{\"type\":\"object\"}");
        }),
        tool("tool-with-schema-without-type", |tool| {
            tool["inputSchema"] = json!({"properties": {"message": {"type": "string"}}});
        }),
        tool("tool-with-schema-of-types", |tool| {
            tool["inputSchema"] = json!({"type": ["object", "null"]});
        }),
        tool("tool-with-schema-of-list", |tool| {
            tool["inputSchema"] = json!({"type": "array"});
        }),
        tool("tool-with-properties-null", |tool| {
            tool["inputSchema"] = json!({"type": "object", "properties": null});
        }),
        tool("tool-with-property-true", |tool| {
            tool["inputSchema"] = json!({"type": "object", "properties": {"message": true}});
        }),
        tool("tool-with-required-null", |tool| {
            tool["inputSchema"] = json!({"type": "object", "required": null});
        }),
        tool("tool-with-schema-dialect", |tool| {
            tool["inputSchema"] = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "$defs": {"a": {"$ref": "#/$defs/a"}}});
        }),
        tool("tool-with-description-null", |tool| {
            tool["description"] = Value::Null;
        }),
        tool("tool-with-description-as-list", |tool| {
            tool["description"] = json!(["a"]);
        }),
        tool("tool-with-title-null", |tool| tool["title"] = Value::Null),
        tool("tool-with-annotations-null", |tool| {
            tool["annotations"] = Value::Null;
        }),
        tool("tool-with-annotations-empty", |tool| {
            tool["annotations"] = json!({});
        }),
        tool("tool-with-hint-null", |tool| {
            tool["annotations"] = json!({"readOnlyHint": null, "title": null});
        }),
        tool("tool-with-hint-as-text", |tool| {
            tool["annotations"] = json!({"readOnlyHint": "true"});
        }),
        tool("tool-with-unknown-hint", |tool| {
            tool["annotations"] = json!({"dangerous": true, "readOnlyHint": true});
        }),
        tool("tool-with-output-null", |tool| tool["outputSchema"] = Value::Null),
        tool("tool-with-output-empty", |tool| tool["outputSchema"] = json!({})),
        tool("tool-with-meta-null", |tool| tool["_meta"] = Value::Null),
        tool("tool-with-icons-null", |tool| tool["icons"] = Value::Null),
        tool("tool-with-odd-icons", |tool| {
            tool["icons"] = json!([{"src": "x", "sizes": "any"}]);
        }),
        tool("tool-with-execution-null", |tool| tool["execution"] = Value::Null),
        tool("tool-with-unknown-execution", |tool| {
            tool["execution"] = json!({"taskSupport": "sometimes"});
        }),
        tool("tool-with-extras", |tool| {
            tool["x"] = json!(1);
            tool["parameters"] = json!({"type": "object"});
        }),
        odd("tool-with-name-of-blanks", |request| {
            let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
            (request.method() == "tools/list")
                .then(|| request.result(&json!({"tools": [tool("my tool"), tool("echo")]})))
        }),
    ]
}

fn results() -> Vec<OddServer> {
    vec![
        result("result-empty", json!({})),
        result("result-null", Value::Null),
        result("result-as-text", json!("hi")),
        result("result-as-list", json!([{"type": "text", "text": "hi"}])),
        result("content-missing", json!({"isError": false})),
        result("content-null", json!({"content": null})),
        result("content-empty", json!({"content": []})),
        result("content-as-text", json!({"content": "hi"})),
        result(
            "content-as-object",
            json!({"content": {"type": "text", "text": "hi"}}),
        ),
        result("content-of-texts", json!({"content": ["hi"]})),
        result("tool-result-of-2024", json!({"toolResult": {"a": 1}})),
        content(
            "content-of-unknown-type",
            json!({"type": "hologram", "data": "x"}),
        ),
        content("content-without-type", json!({"text": "hi"})),
        content("content-text-null", json!({"type": "text", "text": null})),
        content("content-text-as-number", json!({"type": "text", "text": 1})),
        content("content-text-missing", json!({"type": "text"})),
        content(
            "content-with-extras",
            json!({"type": "text", "text": "hi", "x": 1}),
        ),
        content(
            "content-with-annotations-null",
            json!({"type": "text", "text": "hi", "annotations": null}),
        ),
        content(
            "content-with-odd-audience",
            json!({"type": "text", "text": "hi", "annotations": {"audience": ["robot"]}}),
        ),
        content(
            "content-with-odd-priority",
            json!({"type": "text", "text": "hi", "annotations": {"priority": 7}}),
        ),
        content(
            "content-with-meta-null",
            json!({"type": "text", "text": "hi", "_meta": null}),
        ),
        content(
            "content-image-in-bad-base64",
            json!({"type": "image", "data": "?!", "mimeType": "image/png"}),
        ),
        content(
            "content-image-without-type",
            json!({"type": "image", "data": "AAAA"}),
        ),
        content(
            "content-resource-without-text",
            json!({"type": "resource", "resource": {"uri": "a://b"}}),
        ),
        content(
            "content-resource-with-both",
            json!({"type": "resource", "resource": {"uri": "a://b", "text": "x", "blob": "AAAA"}}),
        ),
        content(
            "content-resource-with-odd-uri",
            json!({"type": "resource", "resource": {"uri": "not a uri", "text": "x"}}),
        ),
        content(
            "content-link-without-name",
            json!({"type": "resource_link", "uri": "a://b"}),
        ),
        result("is-error-null", json!({"content": [], "isError": null})),
        result("is-error-as-text", json!({"content": [], "isError": "false"})),
        result("is-error-as-number", json!({"content": [], "isError": 0})),
        result(
            "structured-null",
            json!({"content": [], "structuredContent": null}),
        ),
        result(
            "structured-as-list",
            json!({"content": [], "structuredContent": [1]}),
        ),
        result("structured-alone", json!({"structuredContent": {"a": 1}})),
        result("result-with-meta-null", json!({"content": [], "_meta": null})),
        result(
            "result-with-extras",
            json!({"content": [], "x": {"y": null}, "resultType": "complete"}),
        ),
        result(
            "result-of-unknown-type",
            json!({"content": [], "resultType": "sketch"}),
        ),
    ]
}
