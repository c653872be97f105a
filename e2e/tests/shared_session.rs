//! A backend with `sharedSession`: all clients use the one session of the server, and no client gets messages of another.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use vmcp_crds::config::{BackendConfig, HotConfig};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::scripted_server::{Received, Reply, ScriptedServer, usual};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server with one session for all clients.
#[derive(Clone)]
struct Single {
    server: ScriptedServer,
    /// The number of sessions that it has opened.
    given: Arc<AtomicU64>,
    is_taken: Arc<Mutex<bool>>,
    cancelled: Arc<Mutex<Vec<Value>>>,
}

impl Single {
    fn start() -> anyhow::Result<Self> {
        let (given, is_taken) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(false)));
        let cancelled: Arc<Mutex<Vec<Value>>> = Arc::default();
        let state = (Arc::clone(&given), Arc::clone(&is_taken), Arc::clone(&cancelled));
        let server = ScriptedServer::start(move |request| {
            let (given, is_taken, cancelled) = &state;
            if request.method() == "initialize" {
                if std::mem::replace(&mut *is_taken.lock().unwrap(), true) {
                    return Some(request.error(400, -32600, "Invalid Request: Server already initialized"));
                }
                let number = given.fetch_add(1, Ordering::Relaxed) + 1;
                return Some(usual(request).with("mcp-session-id", &number.to_string()));
            }
            let current = given.load(Ordering::Relaxed).to_string();
            if request.header("mcp-session-id") != Some(&*current) || !*is_taken.lock().unwrap() {
                return Some(Reply::new(404, "text/plain", b"no such session"));
            }
            match request.method() {
                "notifications/cancelled" => {
                    let id = request.message["params"]["requestId"].clone();
                    cancelled.lock().unwrap().push(id);
                    None
                }
                "tools/list" => Some(request.result(&json!({"tools": [
                    {"name": "echo", "inputSchema": {"type": "object"}},
                    {"name": "ask", "inputSchema": {"type": "object"}},
                    {"name": "hang", "inputSchema": {"type": "object"}},
                ]}))),
                "tools/call" if request.name() == "ask" => Some(asking(request)),
                "tools/call" if request.name() == "hang" => {
                    let id = &request.message["id"];
                    let until_cancelled = wait::until("the call is cancelled", PATIENCE, || {
                        anyhow::ensure!(cancelled.lock().unwrap().contains(id), "not yet");
                        Ok(())
                    });
                    until_cancelled.unwrap();
                    None
                }
                _ => None,
            }
        })?;
        Ok(Self {
            server,
            given,
            is_taken,
            cancelled,
        })
    }

    /// Loses its session, as after a restart.
    fn forget(&self) {
        *self.is_taken.lock().unwrap() = false;
    }

    fn sessions(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    fn hot(&self) -> HotConfig {
        HotConfig {
            backends: vec![BackendConfig {
                name: "one".to_owned(),
                url: self.server.url.clone(),
                shared_session: true,
                ..BackendConfig::default()
            }],
            ..HotConfig::default()
        }
    }

    fn gateway(&self) -> anyhow::Result<Gateway> {
        let mut recipe = Recipe::new(&[])?;
        recipe.config.hot = Some(self.hot());
        recipe.start()
    }
}

/// Sends progress and a request before the response.
fn asking(request: &Received) -> Reply {
    let token = &request.message["params"]["_meta"]["progressToken"];
    let who = &request.message["params"]["arguments"]["who"];
    let messages = [
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}}),
        json!({"jsonrpc": "2.0", "id": 5, "method": "roots/list", "params": {"for": who}}),
        json!({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": [{"type": "text", "text": who}]}}),
    ];
    let events: String = messages
        .iter()
        .map(|message| format!("data: {message}\n\n"))
        .collect();
    Reply::new(200, "text/event-stream", events.as_bytes())
}

fn echo(gateway: std::net::SocketAddr, session: &Session, id: u64, text: &str) -> anyhow::Result<()> {
    let answer = session.call_as(id, gateway, "one_echo", &json!({"message": text}))?;
    anyhow::ensure!(answer.message()?["id"] == json!(id), "{}", answer.text());
    anyhow::ensure!(answer.tool_text()? == text, "{}", answer.text());
    Ok(())
}

/// Clients with the same ids and progress tokens share the session without a collision: the server sees unique integers.
#[test]
fn shared_session_carries_all_clients_under_own_ids() -> anyhow::Result<()> {
    let single = Single::start()?;
    let gateway = single.gateway()?;
    let clients = [Session::open(gateway.mcp)?, Session::open(gateway.mcp)?];
    std::thread::scope(|scope| {
        let calls = clients.iter().enumerate().flat_map(|(number, client)| {
            (0..10)
                .map(move |call| (number, client, call))
                .collect::<Vec<_>>()
        });
        let mcp = gateway.mcp;
        let running: Vec<_> = calls
            .map(|(number, client, call)| {
                scope.spawn(move || echo(mcp, client, 1, &format!("{number} {call}")))
            })
            .collect();
        running.into_iter().try_for_each(|call| call.join().unwrap())
    })?;
    assert_eq!(single.sessions(), 1);
    let received = single.server.received();
    let ids: Vec<&Value> = received
        .iter()
        .map(|request| &request.message["id"])
        .filter(|id| !id.is_null())
        .collect();
    assert!(
        ids.iter().all(|id| id.as_u64().is_some_and(|id| id < 1 << 31)),
        "{ids:?}"
    );
    let unique: HashSet<u64> = ids.iter().filter_map(|id| id.as_u64()).collect();
    assert_eq!(unique.len(), ids.len());
    Ok(())
}

/// Progress and requests within a call reach its client, and the client's response reaches the server.
#[test]
fn server_request_and_progress_reach_calling_client() -> anyhow::Result<()> {
    let single = Single::start()?;
    let gateway = single.gateway()?;
    for who in ["ann", "bob"] {
        let session = Session::open(gateway.mcp)?;
        let mut stream = Stream::call(gateway.mcp, &session, &json!(7), "one_ask", &json!({"who": who}))?;
        let progress = stream.message()?;
        assert_eq!(progress["params"]["progressToken"], "of 7", "{progress}");
        let question = stream.message()?;
        assert_eq!(question["params"]["for"], who);
        let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": [], "of": who}});
        assert_eq!(session.post(gateway.mcp, &answer)?.status, 202);
        let result = stream.message()?;
        assert_eq!(
            (&result["id"], &result["result"]["content"][0]["text"]),
            (&json!(7), &json!(who))
        );
        let answered = single.server.received().into_iter().rev();
        let answered = answered
            .map(|request| request.message)
            .find(|message| message["result"]["of"] == who);
        assert_eq!(answered.unwrap()["id"], 5);
    }
    // No client gets messages of another client's call.
    assert_eq!(single.sessions(), 1);
    Ok(())
}

/// A cancellation is forwarded with the server's id of the call, and cancels no call of another client.
#[test]
fn cancellation_uses_the_shared_session_id() -> anyhow::Result<()> {
    let single = Single::start()?;
    let gateway = single.gateway()?;
    let (one, other) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| one.call_as(9, gateway.mcp, "one_hang", &json!({})));
        let upstream = wait::until("the call runs", PATIENCE, || {
            let calls = single.server.messages("tools/call");
            let call = calls.into_iter().find(|call| call["params"]["name"] == "hang");
            call.map(|call| call["id"].clone())
                .ok_or_else(|| anyhow::anyhow!("not yet"))
        })?;
        let cancel =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}});
        // The same id of another client is another request.
        assert_eq!(other.post(gateway.mcp, &cancel)?.status, 202);
        echo(gateway.mcp, &other, 9, "hi")?;
        assert!(single.cancelled.lock().unwrap().is_empty());
        assert_eq!(one.post(gateway.mcp, &cancel)?.status, 202);
        running.join().unwrap()?;
        assert_eq!(*single.cancelled.lock().unwrap(), [upstream]);
        Ok(())
    })
}

/// A server that has lost its session gets a new one, once for all clients, inside their calls.
#[test]
fn lost_shared_session_is_reopened_once() -> anyhow::Result<()> {
    let single = Single::start()?;
    let gateway = single.gateway()?;
    let clients = [Session::open(gateway.mcp)?, Session::open(gateway.mcp)?];
    for round in 1..3 {
        std::thread::scope(|scope| {
            let calls = clients.iter().map(|client| {
                let mcp = gateway.mcp;
                scope.spawn(move || echo(mcp, client, 3, "hi"))
            });
            let calls: Vec<_> = calls.collect();
            calls.into_iter().try_for_each(|call| call.join().unwrap())
        })?;
        assert_eq!(single.sessions(), round);
        single.forget();
    }
    Ok(())
}

/// A request with an effect on the whole session is rejected, because it would affect all clients.
#[test]
fn subscription_in_shared_session_is_rejected() -> anyhow::Result<()> {
    let test_server = vmcp_e2e::test_server::TestServer::start(&[])?;
    let mut recipe = Recipe::new(&[("one", &test_server.url)])?;
    recipe.hot().backends[0].shared_session = true;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let params = json!({"uri": "test://static-text"});
    let answer = session.request(gateway.mcp, "resources/subscribe", &params)?;
    assert_eq!(answer.error_code(), -32601, "{}", answer.text());
    assert!(answer.text().contains("sharedSession"), "{}", answer.text());
    let read = session.request(gateway.mcp, "resources/read", &params)?;
    assert_eq!(read.error_code(), 0, "{}", read.text());
    assert_eq!(test_server.stats()?.sessions.len(), 1);
    Ok(())
}

/// Replicas find the session in the store, also new ones: the server has no second session.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_one_session() -> anyhow::Result<()> {
    let single = Single::start()?;
    let mut harness = Harness::builder()
        .redis(Redis::start(None)?)
        .configure(|recipe| recipe.config.hot = Some(single.hot()))
        .replicas(2)
        .start_balanced()
        .await?;
    let session = Session::open(harness.address())?;
    for id in 0..4 {
        echo(harness.address(), &session, id, "hi")?;
    }
    harness.kill_gateways()?;
    harness.replace_gateways()?;
    for id in 0..4 {
        echo(harness.address(), &session, id, "hi again")?;
    }
    assert_eq!(single.sessions(), 1);
    // Each replica notices the loss with a call of its own, and one of them opens the next.
    single.forget();
    for id in 0..4 {
        echo(harness.address(), &session, id, "and again")?;
    }
    assert_eq!(single.sessions(), 2);
    // A request that met the lost session is sent again in the next one.
    let received = single.server.received();
    let all = received.iter().filter_map(|request| {
        let session = request.header("mcp-session-id").unwrap_or_default();
        Some((session, request.message["id"].as_u64()?))
    });
    let unique: HashSet<_> = all.clone().collect();
    assert_eq!(unique.len(), all.clone().count(), "{:?}", all.collect::<Vec<_>>());
    Ok(())
}
