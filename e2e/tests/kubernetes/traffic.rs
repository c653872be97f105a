//! Traffic of clients through the Service of the virtual server `demo`, while a test changes something.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::runtime::Runtime;
use vmcp_cluster::Cluster;
use vmcp_e2e::client::Client;
use vmcp_e2e::counting_session::CountingSession;
use vmcp_e2e::http_client;
use vmcp_e2e::listener::Listener;
use vmcp_e2e::load::{Load, Turn};
use vmcp_e2e::wait;

use crate::support::{COUNTER, address, answers, stats};

/// Sessions that use a new connection for each call, so that each call may reach any pod. Each also holds its own stream.
const SESSIONS: usize = 20;
/// Sessions of a real client, which keeps its connections.
const CLIENTS: usize = 4;
/// Time between two calls of a session: 120 calls a second in all.
const EVERY: Duration = Duration::from_millis(200);
/// Time between two log messages of the MCP server, which every stream gets.
const EVENT_EVERY: Duration = Duration::from_millis(200);
/// Time until all streams are open.
const LIMIT: Duration = Duration::from_secs(60);

/// Running traffic. Nothing of it may fail.
pub(crate) struct Traffic {
    calls: Load,
    client_calls: Load,
    events: Load,
    sent: Arc<AtomicU64>,
    listeners: Vec<Listener>,
    started: Instant,
    /// Runs the real clients.
    _runtime: Runtime,
}

impl Traffic {
    /// Opens all sessions and streams, and begins to call. All its threads are in the network of the calling thread, which must be that of
    /// the cluster.
    pub(crate) fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let service = address(cluster, "vmcp-demo", 4483)?;
        let counter_admin = address(cluster, "counter", 8081)?;
        answers(service)?;
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            let mut session = CountingSession::open(service, COUNTER)?;
            session.call(service)?;
            sessions.push(session);
        }
        let listeners: Vec<_> = sessions
            .iter()
            .map(|counting| Listener::start(service, counting.session().clone()))
            .collect();
        wait::until("all streams are open", LIMIT, || {
            let open = stats(counter_admin)?.gets_open;
            // Each of the two pods has one for its catalog.
            ensure!(open >= SESSIONS as u64 + 2, "{open} streams");
            Ok(())
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let (sent, events) = send_events(counter_admin);
        Ok(Self {
            calls: call(service, sessions),
            client_calls: call_with_clients(&runtime, service)?,
            events,
            sent,
            listeners,
            started: Instant::now(),
            _runtime: runtime,
        })
    }

    /// Makes a change under traffic. Some more calls follow it, and no call may have failed.
    pub(crate) fn during<T>(
        &self,
        change: &str,
        make: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        println!("# {change}");
        let (started, before) = (Instant::now(), self.count());
        let made = make().with_context(|| change.to_owned());
        self.calls.go_on_for(SESSIONS as u64 * 5)?;
        self.client_calls.go_on_for(CLIENTS as u64 * 5)?;
        for load in [&self.calls, &self.client_calls, &self.events] {
            load.without_failure().with_context(|| change.to_owned())?;
        }
        println!(
            "# {change}: {} calls in {:.1} s, none failed",
            self.count() - before,
            started.elapsed().as_secs_f32()
        );
        made
    }

    /// The number of calls so far.
    fn count(&self) -> u64 {
        self.calls.turns() + self.client_calls.turns()
    }

    /// Ends the traffic. No call failed, no session lost its state at the backend, no stream was refused, and no event was lost.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let (count, took) = (self.count(), self.started.elapsed());
        self.events.finish().without_failure().context("events")?;
        let sent = self.sent.load(Ordering::Relaxed);
        let mut opened = 0;
        for listener in &self.listeners {
            listener.heard_exactly(sent)?;
            let report = listener.report();
            ensure!(
                report.refused.is_empty(),
                "streams were refused: {:?}",
                report.refused
            );
            opened += report.opened;
        }
        self.calls.finish().without_failure()?;
        self.client_calls.finish().without_failure()?;
        let per_second = count as f64 / took.as_secs_f64();
        println!("# {count} calls, {per_second:.0} a second; {sent} events; {opened} streams opened");
        Ok(())
    }
}

/// Each session calls in its turn.
fn call(service: SocketAddr, sessions: Vec<CountingSession>) -> Load {
    let count = sessions.len();
    let sessions = Mutex::new(sessions);
    Load::start(count, EVERY, |_| {
        let session = sessions.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut session = session.context("there is a session for each worker");
        Box::new(move |_| match &mut session {
            Ok(session) => session.call(service),
            Err(error) => anyhow::bail!("{error:#}"),
        }) as Turn
    })
}

/// Real clients call, each in its turn.
fn call_with_clients(runtime: &Runtime, service: SocketAddr) -> anyhow::Result<Load> {
    let url = format!("http://{service}/mcp");
    let clients = (0..CLIENTS).map(|_| runtime.block_on(Client::connect(&url)).map(Arc::new));
    let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Load::start(CLIENTS, EVERY, |worker| {
        let (client, runtime) = (Arc::clone(&clients[worker]), runtime.handle().clone());
        Box::new(move |turn: u64| {
            let count = runtime.block_on(client.call(COUNTER, json!({})))?;
            ensure!(count == (turn + 1).to_string(), "{count} in turn {turn}");
            Ok(())
        }) as Turn
    }))
}

/// The MCP server sends log messages to all sessions. Returns their number, and the load that makes it do so.
fn send_events(counter_admin: SocketAddr) -> (Arc<AtomicU64>, Load) {
    let sent = Arc::new(AtomicU64::new(0));
    let events = Load::start(1, EVENT_EVERY, |_| {
        let sent = Arc::clone(&sent);
        Box::new(move |turn: u64| {
            let path = format!("/log?level=error&text=event-{turn}");
            let answer = http_client::exchange(counter_admin, "POST", &path, &[], b"")?;
            ensure!(answer.status < 300, "{}", answer.text());
            sent.store(turn + 1, Ordering::Relaxed);
            Ok(())
        }) as Turn
    });
    (sent, events)
}
