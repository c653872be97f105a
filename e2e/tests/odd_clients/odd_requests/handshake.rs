//! `initialize`, and the session that it opens.

use serde_json::{Value, json};

use super::{OddClient, odd};
use crate::conversation::{ID, Request, initialize};

pub(super) fn all() -> Vec<OddClient> {
    let mut all = Vec::new();
    for (name, changes) in params() {
        all.push(opens(name, Request::post(initialize(&changes))));
    }
    let usual = || Request::post(initialize(&json!({})));
    all.extend([
        opens("open-with-revision", usual().header("MCP-Protocol-Version", "2025-11-25")),
        opens("open-with-older-revision", usual().header("MCP-Protocol-Version", "2025-03-26")),
        opens("open-with-revision-of-the-past", usual().header("MCP-Protocol-Version", "2020-01-01")),
        opens("open-with-revision-of-the-future", usual().header("MCP-Protocol-Version", "2099-01-01")),
        opens("open-with-modern-revision", usual().header("MCP-Protocol-Version", "2026-07-28")),
        opens("open-with-revision-empty", usual().header("MCP-Protocol-Version", "")),
        opens("open-with-unknown-session", usual().header("Mcp-Session-Id", "what")),
        opens("open-with-empty-session", usual().header("Mcp-Session-Id", "")),
        opens("open-accepting-json", usual().header("Accept", "application/json")),
        opens("open-accepting-all", usual().header("Accept", "*/*")),
        opens("open-accepting-nothing", usual().without("accept")),
        opens("open-with-slash", usual().path("/mcp/")),
        opens("open-with-last-event-id", usual().header("Last-Event-ID", "what")),
        opens("open-in-http-1-0", usual().version("HTTP/1.0")),
        opens("open-with-id-of-text", changed(&["id"], &json!("a"))),
        opens("open-with-id-0", changed(&["id"], &json!(0))),
        opens("open-with-id-null", changed(&["id"], &Value::Null)),
        opens("open-with-id-fractional", changed(&["id"], &json!(1.5))),
        opens("open-with-params-null", changed(&["params"], &Value::Null)),
        opens("open-with-params-empty", changed(&["params"], &json!({}))),
        opens("open-with-params-list", changed(&["params"], &json!([]))),
        opens("open-with-unknown-member", changed(&["extra"], &json!(1))),
        opens("open-with-version-1", changed(&["jsonrpc"], &json!("1.0"))),
        opens("open-in-a-batch", Request::post(format!("[{}]", initialize(&json!({}))))),
        opens("open-in-small-pieces", usual().wire(|request| {
            let all = [request.head(true), request.body.clone()].concat();
            all.chunks(200).map(<[u8]>::to_vec).collect()
        })),
        odd("open-as-notification", |client| {
            let body = json!({"jsonrpc": "2.0", "method": "initialize", "params": {
                "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "odd", "version": "1"},
            }});
            client.send(&Request::post(body.to_string()), &crate::conversation::Wanted::Accepted);
            Ok(())
        }),
    ]);
    all
}

/// A client that opens a session so, and uses it.
fn opens(name: &'static str, request: Request) -> OddClient {
    odd(name, move |client| {
        client.initialize(&request)?;
        client.tell_initialized();
        client.call();
        Ok(())
    })
}

fn changed(path: &[&str], value: &Value) -> Request {
    let mut message: Value = serde_json::from_str(&initialize(&json!({}))).unwrap_or_default();
    let mut place = &mut message;
    for key in path {
        place = &mut place[*key];
    }
    *place = value.clone();
    if message["id"].is_null() && path != ["id"] {
        message["id"] = json!(ID);
    }
    Request::post(message.to_string())
}

/// Parameters instead of the usual ones. `(none)` omits one.
fn params() -> Vec<(&'static str, Value)> {
    let info = |info: Value| json!({"clientInfo": info});
    let capable = |capabilities: Value| json!({"capabilities": capabilities});
    let revision = |revision: Value| json!({"protocolVersion": revision});
    let meta = |meta: Value| json!({"_meta": meta});
    vec![
        ("asks-2024-11-05", revision(json!("2024-11-05"))),
        ("asks-2025-03-26", revision(json!("2025-03-26"))),
        ("asks-2025-06-18", revision(json!("2025-06-18"))),
        ("asks-2024-10-07", revision(json!("2024-10-07"))),
        ("asks-2026-07-28", revision(json!("2026-07-28"))),
        ("asks-the-future", revision(json!("2099-01-01"))),
        ("asks-the-past", revision(json!("1999-01-01"))),
        ("asks-draft", revision(json!("DRAFT-2025-v3"))),
        ("asks-1", revision(json!("1.0"))),
        ("asks-a-number", revision(json!(1))),
        ("asks-20251125", revision(json!(20_251_125))),
        ("asks-empty", revision(json!(""))),
        ("asks-null", revision(Value::Null)),
        ("asks-nothing", revision(json!("(none)"))),
        ("asks-a-list", revision(json!(["2025-11-25"]))),
        ("asks-with-blanks", revision(json!(" 2025-11-25 "))),
        ("info-missing", info(json!("(none)"))),
        ("info-null", info(Value::Null)),
        ("info-empty", info(json!({}))),
        ("info-text", info(json!("me"))),
        ("info-list", info(json!([]))),
        ("info-without-version", info(json!({"name": "odd"}))),
        ("info-without-name", info(json!({"version": "1"}))),
        (
            "info-with-version-null",
            info(json!({"name": "odd", "version": null})),
        ),
        (
            "info-with-version-number",
            info(json!({"name": "odd", "version": 1})),
        ),
        ("info-with-name-null", info(json!({"name": null, "version": "1"}))),
        ("info-with-name-number", info(json!({"name": 1, "version": "1"}))),
        ("info-with-name-empty", info(json!({"name": "", "version": ""}))),
        (
            "info-with-title-null",
            info(json!({"name": "odd", "version": "1", "title": null})),
        ),
        (
            "info-with-icons-null",
            info(json!({"name": "odd", "version": "1", "icons": null})),
        ),
        (
            "info-with-icons-odd",
            info(json!({"name": "odd", "version": "1", "icons": [{"a": 1}]})),
        ),
        (
            "info-with-website-odd",
            info(json!({"name": "odd", "version": "1", "websiteUrl": 7})),
        ),
        (
            "info-with-more",
            info(json!({"name": "odd", "version": "1", "extra": {"a": [1]}})),
        ),
        (
            "info-of-8-kb",
            info(json!({"name": "x".repeat(8 << 10), "version": "1"})),
        ),
        (
            "info-of-20-kb",
            info(json!({"name": "x".repeat(20 << 10), "version": "1"})),
        ),
        ("capabilities-missing", capable(json!("(none)"))),
        ("capabilities-null", capable(Value::Null)),
        ("capabilities-list", capable(json!([]))),
        ("capabilities-text", capable(json!("all"))),
        ("capabilities-true", capable(json!(true))),
        ("capabilities-with-more", capable(json!({"extra": {"a": 1}}))),
        ("capabilities-with-more-true", capable(json!({"extra": true}))),
        (
            "capabilities-all",
            capable(
                json!({"roots": {"listChanged": true}, "sampling": {}, "elicitation": {"form": {}, "url": {}}}),
            ),
        ),
        ("capabilities-roots-null", capable(json!({"roots": null}))),
        ("capabilities-roots-true", capable(json!({"roots": true}))),
        ("capabilities-roots-list", capable(json!({"roots": []}))),
        (
            "capabilities-roots-odd",
            capable(json!({"roots": {"listChanged": "yes"}})),
        ),
        ("capabilities-sampling-null", capable(json!({"sampling": null}))),
        ("capabilities-sampling-true", capable(json!({"sampling": true}))),
        (
            "capabilities-sampling-odd",
            capable(json!({"sampling": {"tools": null, "context": true}})),
        ),
        (
            "capabilities-elicitation-null",
            capable(json!({"elicitation": null})),
        ),
        (
            "capabilities-elicitation-true",
            capable(json!({"elicitation": true})),
        ),
        (
            "capabilities-elicitation-form-null",
            capable(json!({"elicitation": {"form": null}})),
        ),
        (
            "capabilities-experimental-null",
            capable(json!({"experimental": null})),
        ),
        (
            "capabilities-experimental-odd",
            capable(json!({"experimental": {"a": true, "b": null}})),
        ),
        ("capabilities-tasks-null", capable(json!({"tasks": null}))),
        (
            "capabilities-of-a-server",
            capable(json!({"tools": {}, "prompts": {}, "logging": {}})),
        ),
        (
            "capabilities-of-8-kb",
            capable(json!({"experimental": {"a": {"b": "x".repeat(8 << 10)}}})),
        ),
        (
            "capabilities-of-20-kb",
            capable(json!({"experimental": {"a": {"b": "x".repeat(20 << 10)}}})),
        ),
        (
            "capabilities-of-100-kb",
            capable(json!({"experimental": {"a": {"b": "x".repeat(100 << 10)}}})),
        ),
        ("open-meta-empty", meta(json!({}))),
        ("open-meta-null", meta(Value::Null)),
        ("open-meta-list", meta(json!([]))),
        ("open-meta-with-token", meta(json!({"progressToken": 1}))),
        ("open-meta-with-more", meta(json!({"a": 1}))),
        (
            "open-with-more",
            json!({"extra": {"a": 1}, "trace": "off", "processId": null}),
        ),
    ]
}
