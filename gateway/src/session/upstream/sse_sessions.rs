//! Upstream sessions that are HTTP+SSE connections of this process. No record names them.
//!
//! A connection lives as long as its client session, however rarely it is used, because the server's state cannot be
//! recovered. It closes when the termination of the client session arrives, or when the session has been idle in this
//! process for the idle lifetime and the store confirms the end. It also closes when the cache evicts the session.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backend::{Backend, UpstreamSession};
use crate::core::UpstreamError;
use crate::session::record::{Record, RecordKey};
use crate::session::{Session, Sessions};

/// Number of sessions at which closed connections are first removed.
const SWEEP_AT: usize = 64;

/// Minimum interval between two checks of sessions with connections.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Maximum interval between two checks.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Connections per client session, by backend name. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct SseSessions(Arc<Mutex<SseSession>>);

#[derive(Debug, Default)]
struct SseSession {
    sessions: HashMap<RecordKey, BTreeMap<String, (Backend, UpstreamSession)>>,
    /// Number of sessions at which closed connections are next removed.
    sweep_at: usize,
}

impl SseSessions {
    /// The open connection of `key` to `backend`.
    pub(in crate::session) fn get(&self, key: &RecordKey, backend: &Backend) -> Option<UpstreamSession> {
        let known = self.lock();
        let (owner, upstream) = known.sessions.get(key)?.get(backend.name().as_str())?;
        let open = owner.origin() == backend.origin() && backend.local_session_number(upstream).is_some();
        open.then(|| upstream.clone())
    }

    /// All open connections of `key`.
    pub(in crate::session) fn of(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let known = self.lock();
        let all = known.sessions.get(key).into_iter().flat_map(BTreeMap::values);
        all.filter(|(backend, upstream)| backend.local_session_number(upstream).is_some())
            .cloned()
            .collect()
    }

    fn put(&self, key: RecordKey, backend: &Backend, upstream: UpstreamSession) {
        let mut known = self.lock();
        if known.sessions.len() >= known.sweep_at.max(SWEEP_AT) {
            known.sessions.retain(|_, connections| {
                connections.retain(|_, (backend, upstream)| backend.local_session_number(upstream).is_some());
                !connections.is_empty()
            });
            // Bounds the map to twice the number of open connections.
            known.sweep_at = known.sessions.len() * 2;
        }
        let connections = known.sessions.entry(key).or_default();
        connections.insert(backend.name().to_string(), (backend.clone(), upstream));
    }

    /// Removes the connections of `key` and returns them.
    pub(in crate::session) fn take(&self, key: &RecordKey) -> Vec<(Backend, UpstreamSession)> {
        let taken = self.lock().sessions.remove(key).unwrap_or_default();
        taken.into_values().collect()
    }

    /// Whether there are connections of `key`, open or closed.
    pub(in crate::session) fn has(&self, key: &RecordKey) -> bool {
        self.lock().sessions.contains_key(key)
    }

    fn keys(&self) -> Vec<RecordKey> {
        self.lock().sessions.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, SseSession> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Background task: closes connections of sessions that have ended or are no longer cached. Runs until the
    /// process drains.
    pub(in crate::session) async fn close_ended_connections(self) {
        let idle = self.inner.settings.lifetimes.idle;
        loop {
            tokio::time::sleep(idle.clamp(MIN_PAUSE, MAX_PAUSE)).await;
            self.close_ended_connections_once(idle).await;
        }
    }

    async fn close_ended_connections_once(&self, idle: Duration) {
        for key in self.inner.sse_sessions.keys() {
            match self.inner.cache.peek(&key) {
                // An uncached session that is known by its id alone may be in use.
                None if !self.inner.in_flight.is_quiet(&key) || self.inner.streams.is_open(&key) => {}
                None => self.close_connections(&key),
                Some(entry) if entry.is_alive(idle) => {}
                // The session may be in use on another replica.
                Some(_) => self.reload_session(&key).await,
            }
        }
    }
}

impl Session {
    /// Opens a connection to `backend`, unless one other than `lost` is open.
    pub(in crate::session) async fn connect(
        &self,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
        record: &Record,
    ) -> Result<UpstreamSession, UpstreamError> {
        let inner = &*self.sessions.inner;
        let open = inner.sse_sessions.get(&self.key, backend);
        if let Some(open) = open.filter(|open| Some(open) != lost) {
            return Ok(open);
        }
        self.check_reopen_limit(backend, lost)?;
        let upstream = backend
            .initialize(&crate::session::upstream::initialize_params(record)?)
            .await?;
        inner.metrics.handshake(backend.name());
        inner.sse_sessions.put(self.key, backend, upstream.clone());
        self.sessions.replay(record, backend, &upstream).await;
        self.open_upstream_stream(backend, &upstream).await;
        self.streams().changed(&self.key);
        Ok(upstream)
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use serde_json::value::RawValue;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::tcp::OwnedWriteHalf;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::backend::HttpClient;
    use crate::config::{self, BackendTransport, HotSettings, ServerName};
    use crate::core::{Core, Principal, UpstreamOpener as _};
    use crate::mcp::revision::Revision;
    use crate::runtime::readiness::Readiness;
    use crate::runtime::tasks::Tasks;
    use crate::session::id::signing_keys::SigningKeys;
    use crate::session::record::Lifetimes;
    use crate::session::store::memory::MemoryStore;
    use crate::session::{ClientHandshake, SessionOptions};
    use crate::telemetry::Metrics;

    /// An HTTP+SSE server that answers `initialize` only, for one client at a time.
    async fn serve(listener: TcpListener) {
        let mut stream: Option<OwnedWriteHalf> = None;
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let request = read(&mut connection).await;
            if request.starts_with("GET") {
                let mut writer = connection.into_split().1;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: endpoint\ndata: /message\n\n";
                writer.write_all(head.as_bytes()).await.unwrap();
                stream = Some(writer);
                continue;
            }
            let accepted = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            connection.write_all(accepted).await.unwrap();
            let id = request
                .split("\"id\":")
                .nth(1)
                .and_then(|rest| rest.split(',').next());
            if let (Some(id), Some(stream)) = (id, &mut stream) {
                let result = r#"{"protocolVersion":"2024-11-05","capabilities":{},"serverInfo":{"name":"a","version":"1"}}"#;
                let answer = format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }

    async fn read(connection: &mut TcpStream) -> String {
        let (mut request, mut part) = (String::new(), [0; 4096]);
        loop {
            let length = connection.read(&mut part).await.unwrap();
            request.push_str(std::str::from_utf8(&part[..length]).unwrap());
            let ended = request.ends_with('}') || request.starts_with("GET") && request.ends_with("\r\n\r\n");
            if ended || length == 0 {
                return request;
            }
        }
    }

    fn sessions(tasks: &Tasks) -> Sessions {
        let hot = HotSettings::default();
        let transport = HttpClient::new(tasks.clone());
        let core = Core::new(
            hot,
            transport,
            tasks.clone(),
            &Readiness::default(),
            Metrics::new(),
        );
        let server = ServerName {
            namespace: "tests".to_owned(),
            name: "a".to_owned(),
        };
        let store = Arc::new(MemoryStore::new(Lifetimes::default()));
        let settings = SessionOptions {
            max_cached: 1,
            ..SessionOptions::default()
        };
        let keys = SigningKeys::random().unwrap();
        let sessions = Sessions::new(server, store, settings, keys, core, tasks.clone(), Metrics::new());
        sessions.run(Readiness::default().wait_for("the persisted catalog"));
        sessions
    }

    #[tokio::test]
    async fn sse_connection_closes_when_session_leaves_the_cache() {
        // A connection stays open while its session is cached or in use, and closes when the cache evicts the session.
        let tasks = Tasks::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}/sse", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        tasks.spawn_until_drain(serve(listener));
        let configured = config::BackendSettings {
            transport: BackendTransport::Sse,
            ..config::BackendSettings::for_test("a", url)
        };
        let backend = Backend::new(&configured, HttpClient::new(tasks.clone()));
        let sessions = sessions(&tasks);
        let empty = RawValue::from_string("{}".to_owned()).unwrap();
        let client = ClientHandshake {
            revision: Revision::LATEST,
            capabilities: &empty,
            info: &empty,
        };
        let who = Principal::Anonymous;
        let idle = Lifetimes::default().idle;

        let limits = HotSettings::default().limits.sessions(true);
        let id = sessions.create(&who, &client, limits).await.unwrap();
        let session = sessions.find(id.as_bytes(), &who).await.unwrap();
        let upstream = session.open(&backend).await.unwrap();
        let is_open = || backend.local_session_number(&upstream).is_some();
        // Other sessions come and go; the one in use stays.
        for _ in 0..100 {
            sessions.create(&who, &client, limits).await.unwrap();
        }
        sessions.close_ended_connections_once(idle).await;
        assert!(is_open());
        let request = RawValue::from_string("1".to_owned()).unwrap();
        let running = session.begin(&request, 1).unwrap();
        drop(session);
        sessions.close_ended_connections_once(idle).await;
        assert!(is_open(), "its session is cached");
        for _ in 0..100 {
            sessions.create(&who, &client, limits).await.unwrap();
        }
        sessions.close_ended_connections_once(idle).await;
        assert!(is_open(), "a call is running");
        drop(running);
        sessions.close_ended_connections_once(idle).await;
        tokio::time::timeout(Duration::from_secs(10), async {
            while is_open() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
}
