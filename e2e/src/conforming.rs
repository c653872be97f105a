//! Checks the gateway's requests to a server against the specification (2025-11-25, basic and basic/transports).

use serde_json::Value;
use vmcp_gateway::mcp::revision::Revision;

use crate::scripted_server::Received;

/// Methods whose parameters come from a client. They are forwarded unchanged, and the backend checks them.
const OF_CLIENTS: [&str; 6] = [
    "tools/call",
    "prompts/get",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "completion/complete",
];

/// The faults of `requests`, one per line, except for those that an odd client has written.
#[must_use]
pub fn faults_of_gateway(requests: &[Received]) -> Vec<String> {
    let found = requests.iter().flat_map(|request| {
        let is_of_client = OF_CLIENTS.contains(&request.method());
        let of_message = if is_of_client {
            Vec::new()
        } else {
            message_faults(request)
        };
        let of_one = head_faults(request).into_iter().chain(of_message);
        of_one.map(move |fault| format!("{} {}: {fault}: {}", request.verb, request.path, request.message))
    });
    found.collect()
}

/// The faults of `requests`, one per line.
#[must_use]
pub fn faults(requests: &[Received]) -> Vec<String> {
    let found = requests.iter().flat_map(|request| {
        let of_one = head_faults(request).into_iter().chain(message_faults(request));
        of_one.map(move |fault| format!("{} {}: {fault}: {}", request.verb, request.path, request.message))
    });
    found.collect()
}

fn head_faults(request: &Received) -> Vec<String> {
    let mut faults = Vec::new();
    let mut wants = |holds: bool, fault: &str| {
        if !holds {
            faults.push(fault.to_owned());
        }
    };
    let header = |name| request.header(name).unwrap_or_default();
    for name in [
        "mcp-session-id",
        "mcp-protocol-version",
        "content-type",
        "accept",
        "host",
    ] {
        let count = request.headers.iter().filter(|(other, _)| other == name).count();
        wants(count < 2, &format!("{name} stands {count} times"));
    }
    wants(!header("host").is_empty(), "no host");
    match &*request.verb {
        "POST" => {
            wants(header("content-type") == "application/json", "the content type");
            let accept = header("accept");
            wants(
                accept.contains("application/json") && accept.contains("text/event-stream"),
                "accept must list both types",
            );
        }
        "GET" => wants(
            header("accept").contains("text/event-stream"),
            "accept must list events",
        ),
        "DELETE" => wants(!header("mcp-session-id").is_empty(), "no session to delete"),
        _ => wants(false, "the verb"),
    }
    if request.method() != "initialize" {
        wants(
            Revision::parse(header("mcp-protocol-version")).is_some(),
            "no revision that is known",
        );
    }
    faults
}

fn message_faults(request: &Received) -> Vec<String> {
    let mut faults = Vec::new();
    let mut wants = |holds: bool, fault: &str| {
        if !holds {
            faults.push(fault.to_owned());
        }
    };
    if request.verb != "POST" {
        wants(request.message.is_null(), "a body");
        return faults;
    }
    let Some(message) = request.message.as_object() else {
        return vec!["the body is no object".to_owned()];
    };
    let get = |key| message.get(key);
    wants(get("jsonrpc") == Some(&Value::from("2.0")), "jsonrpc");
    let known: &[&str] = match (get("method"), get("id")) {
        (Some(method), id) => {
            wants(
                method.as_str().is_some_and(|method| !method.is_empty()),
                "the method",
            );
            let is_valid = id.is_none_or(|id| id.is_string() || id.is_i64() || id.is_u64());
            wants(is_valid, "the id is neither a text nor an integer");
            &["jsonrpc", "id", "method", "params"]
        }
        (None, Some(_)) => {
            wants(
                get("result").is_some() != get("error").is_some(),
                "not one outcome",
            );
            &["jsonrpc", "id", "result", "error"]
        }
        (None, None) => {
            wants(false, "neither a method nor an id");
            &[]
        }
    };
    let extra = message.keys().find(|key| !known.contains(&key.as_str()));
    wants(extra.is_none(), &format!("the member {extra:?}"));
    let Some(params) = get("params") else {
        return faults;
    };
    wants(params.is_object(), "params are no object");
    let meta = &params["_meta"];
    wants(meta.is_null() || meta.is_object(), "_meta is no object");
    wants(params.get("_meta") != Some(&Value::Null), "_meta is null");
    let token = meta.get("progressToken");
    wants(
        token.is_none_or(|token| token.is_string() || token.is_i64() || token.is_u64()),
        "the progress token is neither a text nor an integer",
    );
    match request.method() {
        "tools/call" => {
            wants(params["name"].is_string(), "the tool's name");
            wants(
                params.get("arguments").is_none_or(Value::is_object),
                "arguments are no object",
            );
            wants(params.get("task").is_none(), "a task");
        }
        "tools/list" => wants(
            params.get("cursor").is_none_or(Value::is_string),
            "the cursor is no text",
        ),
        "initialize" => {
            wants(params["protocolVersion"].is_string(), "no revision");
            wants(params["capabilities"].is_object(), "no capabilities");
            wants(
                params["clientInfo"]["name"].is_string() && params["clientInfo"]["version"].is_string(),
                "who it is",
            );
        }
        _ => {}
    }
    faults
}
