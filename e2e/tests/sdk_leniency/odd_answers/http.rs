//! Odd HTTP: headers, framing, redirects, notifications, GET and DELETE, session ids.

use std::sync::atomic::{AtomicU64, Ordering};

use vmcp_e2e::scripted_server::{Framing, Reply, usual};

use super::{EVENTS, JSON, OddServer, answer, each, odd, to};

pub(super) fn all() -> Vec<OddServer> {
    let mut all = headers();
    all.extend(framings());
    all.extend(redirects());
    all.extend(notifications());
    all.extend(streams_and_ends());
    all.extend(sessions());
    all
}

fn headers() -> Vec<OddServer> {
    let typed = |name, content_type: &'static str| {
        each(name, move |message| {
            Reply::new(200, content_type, message.as_bytes())
        })
    };
    let status = |name, status: u16| each(name, move |message| Reply::new(status, JSON, message.as_bytes()));
    vec![
        typed("json-with-charset", "application/json; charset=utf-8"),
        typed("json-in-capitals", "Application/JSON;Charset=\"UTF-8\""),
        typed("json-with-blanks", "application/json ; charset=utf-8 ;"),
        typed("json-of-a-vendor", "application/vnd.example+json"),
        typed("json-rpc-type", "application/json-rpc"),
        typed("json-as-text", "text/plain"),
        typed("json-as-html", "text/html"),
        typed("two-content-types", "application/json, application/json"),
        each("no-content-type", |message| {
            let mut reply = Reply::empty(200);
            reply.body = message.into_bytes();
            reply
        }),
        odd("events-with-charset", |request| {
            let body = format!("data: {}\n\n", answer(request)?);
            Some(Reply::new(
                200,
                "text/event-stream;charset=UTF-8",
                body.as_bytes(),
            ))
        }),
        odd("events-in-capitals", |request| {
            let body = format!("data: {}\n\n", answer(request)?);
            Some(Reply::new(200, "Text/Event-Stream", body.as_bytes()))
        }),
        odd("events-as-json", |request| {
            Some(Reply::new(
                200,
                JSON,
                format!("data: {}\n\n", answer(request)?).as_bytes(),
            ))
        }),
        status("results-with-201", 201),
        status("results-with-202", 202),
        status("results-with-203", 203),
        status("results-with-206", 206),
        status("results-with-299", 299),
        status("results-with-400", 400),
        status("results-with-500", 500),
        each("many-headers", |message| {
            let mut reply = Reply::new(200, JSON, message.as_bytes());
            for number in 0..60 {
                reply = reply.with(&format!("x-number-{number}"), "x");
            }
            reply
        }),
        each("odd-header-values", |message| {
            Reply::new(200, JSON, message.as_bytes())
                .with("x-empty", "")
                .with("x-latin", "caf\u{e9}")
                .with("cache-control", "private, max-age=600")
                .with("vary", "*")
        }),
    ]
}

fn framings() -> Vec<OddServer> {
    let framed = |name, framing| {
        each(name, move |message| {
            Reply::new(200, JSON, message.as_bytes()).framed(framing)
        })
    };
    let in_events = |name, framing| {
        each(name, move |message| {
            Reply::new(200, EVENTS, format!("data: {message}\n\n").as_bytes()).framed(framing)
        })
    };
    vec![
        framed("body-until-close", Framing::UntilClose),
        framed("body-in-chunks", Framing::Chunked),
        framed("body-byte-by-byte", Framing::Drip),
        framed("body-behind-100", Framing::AfterContinue),
        in_events("events-with-length", Framing::Length),
        in_events("events-until-close", Framing::UntilClose),
        in_events("events-byte-by-byte", Framing::Drip),
        in_events("events-without-end", Framing::Open),
        each("body-with-connection-close", |message| {
            Reply::new(200, JSON, message.as_bytes())
                .with("keep-alive", "timeout=1")
                .framed(Framing::UntilClose)
        }),
    ]
}

fn redirects() -> Vec<OddServer> {
    let redirect = |name: &'static str, status| {
        odd(name, move |request| {
            (!request.path.ends_with("/moved"))
                .then(|| Reply::empty(status).with("location", &format!("{}/moved", request.path)))
        })
    };
    vec![
        redirect("redirect-301", 301),
        redirect("redirect-302", 302),
        redirect("redirect-303", 303),
        redirect("redirect-307", 307),
        redirect("redirect-308", 308),
        odd("redirect-to-other-origin", |request| {
            let host = request.header("host")?;
            let other = host.replace("127.0.0.1", "localhost");
            (host != other)
                .then(|| Reply::empty(307).with("location", &format!("http://{other}{}", request.path)))
        }),
        odd("redirect-in-a-circle", |request| {
            Some(Reply::empty(307).with("location", &request.path))
        }),
        odd("redirect-of-calls-only", |request| {
            (request.method() == "tools/call" && !request.path.ends_with("/moved"))
                .then(|| Reply::empty(307).with("location", &format!("{}/moved", request.path)))
        }),
    ]
}

fn notifications() -> Vec<OddServer> {
    const INITIALIZED: &str = "notifications/initialized";
    vec![
        to("initialized-gets-200", INITIALIZED, || Reply::empty(200)),
        to("initialized-gets-204", INITIALIZED, || Reply::empty(204)),
        to("initialized-gets-json", INITIALIZED, || {
            Reply::new(200, JSON, b"{}")
        }),
        to("initialized-gets-null", INITIALIZED, || {
            Reply::new(200, JSON, b"null")
        }),
        to("initialized-gets-empty-json", INITIALIZED, || {
            Reply::new(200, JSON, b"")
        }),
        to("initialized-gets-202-with-text", INITIALIZED, || {
            Reply::new(202, "text/plain", b"Accepted")
        }),
        to("initialized-gets-202-with-json", INITIALIZED, || {
            Reply::new(202, JSON, br#"{"jsonrpc":"2.0","id":null,"result":{}}"#)
        }),
        to("initialized-gets-events", INITIALIZED, || {
            Reply::new(200, EVENTS, b": nothing\n\n")
        }),
        to("initialized-gets-open-events", INITIALIZED, || {
            Reply::new(200, EVENTS, b": nothing\n\n").framed(Framing::Open)
        }),
        to("initialized-gets-202-with-events", INITIALIZED, || {
            Reply::new(202, EVENTS, b"")
        }),
        to("initialized-gets-html", INITIALIZED, || {
            Reply::new(200, "text/html", b"<p>OK</p>")
        }),
        to("initialized-gets-error", INITIALIZED, || {
            Reply::new(
                200,
                JSON,
                br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"no"}}"#,
            )
        }),
        to("initialized-gets-400", INITIALIZED, || {
            Reply::new(400, "text/plain", b"no")
        }),
        to("initialized-gets-404", INITIALIZED, || Reply::empty(404)),
        to("initialized-gets-405", INITIALIZED, || Reply::empty(405)),
        to("initialized-gets-500", INITIALIZED, || Reply::empty(500)),
        to("initialized-gets-401", INITIALIZED, || Reply::empty(401)),
    ]
}

fn streams_and_ends() -> Vec<OddServer> {
    let get = |name, reply: fn() -> Reply| {
        odd(name, move |request| match request.method() {
            "initialize" => Some(usual(request).with("mcp-session-id", "one")),
            "GET" => Some(reply()),
            _ => None,
        })
    };
    let delete = |name, reply: fn() -> Reply| {
        odd(name, move |request| match request.method() {
            "initialize" => Some(usual(request).with("mcp-session-id", "one")),
            "DELETE" => Some(reply()),
            _ => None,
        })
    };
    vec![
        get("get-gets-200-json", || Reply::new(200, JSON, b"{}")),
        get("get-gets-200-html", || {
            Reply::new(200, "text/html", b"<p>Hello</p>")
        }),
        get("get-gets-202", || Reply::empty(202)),
        get("get-gets-204", || Reply::empty(204)),
        get("get-gets-400", || Reply::new(400, "text/plain", b"no")),
        get("get-gets-401", || Reply::empty(401)),
        get("get-gets-403", || Reply::empty(403)),
        get("get-gets-404", || Reply::empty(404)),
        get("get-gets-406", || Reply::empty(406)),
        get("get-gets-409", || Reply::empty(409)),
        get("get-gets-500", || Reply::empty(500)),
        get("get-gets-501", || Reply::empty(501)),
        get("get-is-never-answered", || {
            Reply::empty(200).framed(Framing::Never)
        }),
        get("get-ends-at-once", || {
            Reply::new(200, EVENTS, b"retry: 60000\n\n")
        }),
        get("get-sends-junk", || {
            let stream = b"data: junk\n\nevent: ping\ndata: {}\n\ndata: [1]\n\n:\n\n";
            Reply::new(200, EVENTS, stream).framed(Framing::Open)
        }),
        get("get-sends-answers", || {
            let stream = b"data: {\"jsonrpc\":\"2.0\",\"id\":77,\"result\":{}}\n\n";
            Reply::new(200, EVENTS, stream).framed(Framing::Open)
        }),
        delete("delete-gets-404", || Reply::empty(404)),
        delete("delete-gets-405", || Reply::empty(405)),
        delete("delete-gets-500", || Reply::empty(500)),
    ]
}

fn sessions() -> Vec<OddServer> {
    let named = |name, header: &'static str, id: &'static str| {
        odd(name, move |request| match request.method() {
            "initialize" => Some(usual(request).with(header, id)),
            "GET" | "DELETE" => None,
            _ if request.header("mcp-session-id") == Some(id) => None,
            _ => Some(Reply::new(404, "text/plain", b"no such session")),
        })
    };
    let counter = AtomicU64::new(0);
    vec![
        named("session-header-in-capitals", "MCP-SESSION-ID", "one"),
        named("session-with-blanks", "mcp-session-id", "one two three"),
        named("session-with-punctuation", "mcp-session-id", "{\"a\":[1,2];~}"),
        named(
            "session-of-600-bytes",
            "mcp-session-id",
            "0123456789".repeat(60).leak(),
        ),
        named(
            "session-of-6000-bytes",
            "mcp-session-id",
            "0123456789".repeat(600).leak(),
        ),
        odd("session-is-empty", |request| {
            (request.method() == "initialize").then(|| usual(request).with("mcp-session-id", ""))
        }),
        odd("session-twice", |request| {
            (request.method() == "initialize").then(|| {
                usual(request)
                    .with("mcp-session-id", "one")
                    .with("mcp-session-id", "one")
            })
        }),
        odd("session-in-every-answer", |request| {
            answer(request).map(|_| usual(request).with("mcp-session-id", "one"))
        }),
        odd("session-changes-in-every-answer", move |request| {
            let next = counter.fetch_add(1, Ordering::Relaxed).to_string();
            answer(request).map(|_| usual(request).with("mcp-session-id", &next))
        }),
        odd("session-comes-with-the-list", |request| {
            (request.method() == "tools/list").then(|| usual(request).with("mcp-session-id", "late"))
        }),
        odd("protocol-version-header-in-answers", |request| {
            answer(request).map(|_| usual(request).with("mcp-protocol-version", "2024-11-05"))
        }),
    ]
}
