//! The order in which messages come.

use serde_json::json;

use super::{OddClient, REVISION, odd, one};
use crate::connection::Until;
use crate::conversation::{self, Conversation, ID, Request, Wanted, initialize};

fn request(method: &str) -> Request {
    Request::post(json!({"jsonrpc": "2.0", "id": ID, "method": method}).to_string())
}

fn usual_call() -> Request {
    Request::post(conversation::call()).in_session()
}

/// A session for which the client has not sent `notifications/initialized`.
fn not_initialized(client: &mut Conversation<'_>) -> anyhow::Result<()> {
    client.initialize(&Request::post(initialize(&json!({}))))
}

pub(super) fn all() -> Vec<OddClient> {
    let without_session = |name, request: Request, wanted: Wanted| {
        odd(name, move |client| {
            client.send(&request, &wanted);
            Ok(())
        })
    };
    let before_initialized = |name, request: Request, wanted: Wanted| {
        odd(name, move |client| {
            not_initialized(client)?;
            client.send(&request, &wanted);
            client.tell_initialized();
            client.call();
            Ok(())
        })
    };
    let outside = |name, method| without_session(name, request(method), one());
    let early = |name, method| before_initialized(name, request(method).in_session(), one());
    vec![
        outside("ping-without-session", "ping"),
        outside("list-without-session", "tools/list"),
        outside("level-without-session", "logging/setLevel"),
        outside("unknown-without-session", "what"),
        outside("discover-without-session", "server/discover"),
        without_session("call-without-session", Request::post(conversation::call()), one()),
        without_session(
            "initialized-without-session",
            Request::post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string()),
            Wanted::Accepted,
        ),
        without_session(
            "cancelled-without-session",
            Request::post(
                json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}).to_string(),
            ),
            Wanted::Accepted,
        ),
        without_session(
            "response-without-session",
            Request::post(json!({"jsonrpc": "2.0", "id": 1, "result": {}}).to_string()),
            Wanted::Accepted,
        ),
        before_initialized("call-before-initialized", usual_call(), one()),
        early("ping-before-initialized", "ping"),
        early("list-before-initialized", "tools/list"),
        early("prompts-before-initialized", "prompts/list"),
        before_initialized("get-before-initialized", Request::get(), Wanted::Stream),
        before_initialized(
            "level-before-initialized",
            Request::post(
                json!({"jsonrpc": "2.0", "id": ID, "method": "logging/setLevel", "params": {"level": "info"}}).to_string(),
            )
            .in_session(),
            one(),
        ),
        odd("never-initialized", |client| {
            not_initialized(client)?;
            client.call();
            client.call();
            Ok(())
        }),
        odd("never-initialized-without-revision", |client| {
            not_initialized(client)?;
            client.send(&usual_call().without("mcp-protocol-version"), &one());
            Ok(())
        }),
        odd("initialized-twice", |client| {
            client.open(REVISION)?;
            client.tell_initialized();
            client.call();
            Ok(())
        }),
        odd("initialize-again-in-session", |client| {
            client.open(REVISION)?;
            client.send(&Request::post(initialize(&json!({}))).in_session(), &one());
            client.call();
            Ok(())
        }),
        odd("initialize-again-before-initialized", |client| {
            not_initialized(client)?;
            client.send(&Request::post(initialize(&json!({}))).in_session(), &one());
            Ok(())
        }),
        odd("initialize-in-a-batch-of-session", |client| {
            client.open("2025-03-26")?;
            let body = format!("[{}]", initialize(&json!({})));
            let request = Request::post(body).in_session();
            client.send(&request.header("MCP-Protocol-Version", "2025-03-26"), &one());
            Ok(())
        }),
        odd("call-behind-delete", |client| {
            client.open(REVISION)?;
            client.send(&Request::delete(), &Wanted::Success);
            client.call();
            Ok(())
        }),
        odd("delete-twice", |client| {
            client.open(REVISION)?;
            client.send(&Request::delete(), &Wanted::Success);
            client.send(&Request::delete(), &Wanted::Success);
            Ok(())
        }),
        odd("one-id-one-after-the-other", |client| {
            client.open(REVISION)?;
            (0..3).for_each(|_| client.call());
            Ok(())
        }),
        odd("id-of-initialize-again", |client| {
            client.open(REVISION)?;
            client.send(&request("ping").in_session(), &one());
            Ok(())
        }),
        odd("cancelled-behind-the-answer", |client| {
            client.open(REVISION)?;
            client.call();
            let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": ID}});
            client.send(&Request::post(body.to_string()).in_session(), &Wanted::Accepted);
            client.call();
            Ok(())
        }),
        odd("cancelled-initialize", |client| {
            not_initialized(client)?;
            let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": ID}});
            client.send(&Request::post(body.to_string()).in_session(), &Wanted::Accepted);
            client.tell_initialized();
            client.call();
            Ok(())
        }),
        odd("revisions-change", |client| {
            client.open(REVISION)?;
            for revision in ["2025-06-18", "2025-03-26", "2024-11-05"] {
                client.send(&usual_call().header("MCP-Protocol-Version", revision), &one());
            }
            Ok(())
        }),
        odd("newer-revision-in-older-session", |client| {
            client.open("2024-11-05")?;
            client.call();
            Ok(())
        }),
        odd("call-beside-stream", |client| {
            client.open(REVISION)?;
            let mut stream = client.connect()?;
            stream.write(&client.pieces(&Request::get()));
            let answer = stream.read(Until::Head);
            client.note(answer, &Wanted::Stream);
            client.call();
            stream.close();
            client.call();
            Ok(())
        }),
        odd("two-streams", |client| {
            client.open(REVISION)?;
            let mut streams = Vec::new();
            for _ in 0..2 {
                let mut stream = client.connect()?;
                stream.write(&client.pieces(&Request::get()));
                let answer = stream.read(Until::Head);
                client.note(answer, &Wanted::Stream);
                streams.push(stream);
            }
            client.call();
            streams.into_iter().for_each(crate::connection::Connection::close);
            Ok(())
        }),
    ]
}
