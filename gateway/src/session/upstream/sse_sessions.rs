//! Upstream sessions that are HTTP+SSE connections of this process. No record names them.
//!
//! A connection lives as long as its client session, however rarely it is used, because the server's state cannot be
//! recovered. It closes when the termination of the client session arrives, or when the session has been idle in this
//! process for the idle lifetime and the store confirms the end. It also closes when the cache evicts the session.

use std::time::Duration;

use super::{UpstreamSessions, initialize_params};
use crate::backend::{Backend, UpstreamSession};
use crate::core::UpstreamError;
use crate::session::client_session::ClientSession;
use crate::session::local_sessions::LocalSessions;
use crate::session::record::Record;

/// Minimum interval between two checks of sessions with connections.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Maximum interval between two checks.
const MAX_PAUSE: Duration = Duration::from_secs(30);

impl UpstreamSessions {
    /// Background task: closes connections of sessions that have ended or are no longer cached. Runs until the
    /// process drains.
    pub(in crate::session) async fn close_ended_connections(self, idle: Duration) {
        loop {
            tokio::time::sleep(idle.clamp(MIN_PAUSE, MAX_PAUSE)).await;
            self.close_ended_connections_once(idle).await;
        }
    }

    pub(in crate::session) async fn close_ended_connections_once(&self, idle: Duration) {
        let inner = &*self.inner;
        let LocalSessions {
            cache,
            streams,
            in_flight,
            ..
        } = &inner.sessions;
        for key in inner.upstreams.sse_connections.keys() {
            match cache.peek(&key) {
                // An uncached session that is known by its id alone may be in use.
                None if !in_flight.is_quiet(&key) || streams.is_open(&key) => {}
                None => inner.teardown.close_connections(&key),
                Some(entry) if entry.is_alive(idle) => {}
                // The session may be in use on another replica.
                Some(_) => inner.recovery.reload_session(&key).await,
            }
        }
    }

    /// Opens a connection to `backend`, unless one other than `lost` is open.
    pub(in crate::session) async fn connect(
        &self,
        client: &ClientSession,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
        record: &Record,
    ) -> Result<UpstreamSession, UpstreamError> {
        let inner = &*self.inner;
        let connections = &inner.upstreams.sse_connections;
        let open = connections.get(&client.key, backend);
        if let Some(open) = open.filter(|open| Some(open) != lost) {
            return Ok(open);
        }
        self.check_reopen_limit(client, backend, lost)?;
        let upstream = backend.initialize(&initialize_params(record)?).await?;
        inner.metrics.handshake(backend.name());
        connections.put(client.key, backend, upstream.clone());
        self.replay_settings(record, backend, &upstream).await;
        self.open_upstream_stream(client, backend, &upstream).await;
        inner.sessions.streams.changed(&client.key);
        Ok(upstream)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Uri;
    use serde_json::value::RawValue;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::tcp::OwnedWriteHalf;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::backend::HttpClient;
    use crate::config::{self, BackendEndpoint, BackendTransport, HotSettings, ServerName};
    use crate::core::{Core, Principal, UpstreamOpener as _};
    use crate::mcp::revision::Revision;
    use crate::runtime::readiness::Readiness;
    use crate::runtime::tasks::Tasks;
    use crate::session::id::signing_keys::SigningKeys;
    use crate::session::record::Lifetimes;
    use crate::session::store::memory::MemoryStore;
    use crate::session::{ClientHandshake, SessionOptions, Sessions};
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
        let readiness = Readiness::default();
        sessions.run(
            readiness.wait_for("the persisted catalog"),
            readiness.wait_for("the session store"),
        );
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
            endpoint: BackendEndpoint::Http {
                url: url.clone(),
                transport: BackendTransport::Sse,
            },
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
        sessions.inner.upstreams.close_ended_connections_once(idle).await;
        assert!(is_open());
        let request = RawValue::from_string("1".to_owned()).unwrap();
        let running = session.begin(&request, 1).unwrap();
        drop(session);
        sessions.inner.upstreams.close_ended_connections_once(idle).await;
        assert!(is_open(), "its session is cached");
        for _ in 0..100 {
            sessions.create(&who, &client, limits).await.unwrap();
        }
        sessions.inner.upstreams.close_ended_connections_once(idle).await;
        assert!(is_open(), "a call is running");
        drop(running);
        sessions.inner.upstreams.close_ended_connections_once(idle).await;
        tokio::time::timeout(Duration::from_secs(10), async {
            while is_open() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
}
