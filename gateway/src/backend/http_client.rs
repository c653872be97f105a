//! The HTTP client for backends.
//!
//! All connections share one [`HttpClient`] with the trusted certificate authorities. Each backend has its own [`ConnectionPool`]s,
//! because the connect timeout is a backend's setting, and because a hanging backend must not affect the pools of others.

use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector};
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::TokioTimer;
use tower_service::Service;

use super::error::BackendError;
use super::tls_files::TlsFiles;
use crate::backend::connection_gauge::{ConnectionGauge, CountedConnection};
use crate::backend::host_addresses::{HostAddresses, Resolver};
use crate::budget::Budget;
use crate::runtime::BoxError;
use crate::runtime::fair_queue::FairQueue;
use crate::runtime::tasks::Tasks;

/// How long an idle connection is kept. Node closes idle connections after 5 s, and a call that races with that close cannot be
/// retried.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How far a connection reads ahead of the response's consumer. Some hundred connections to one backend may do so at once, outside of
/// the buffer budget.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// The HTTP/2 flow-control windows of one stream and of a connection, for the same reason.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// The HTTP client that all backends share. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct HttpClient {
    tls: Arc<rustls::ClientConfig>,
    tasks: Tasks,
    budget: Budget,
    open: ConnectionGauge,
}

type PoolClient = Client<ConnectTimeout, Full<Bytes>>;

/// The connections to one backend, or to one of its addresses.
#[derive(Debug)]
pub(super) struct ConnectionPool {
    connections: ArcSwap<Connections>,
    connector: ConnectTimeout,
    protocol: Arc<NegotiatedProtocol>,
}

/// Connections that were opened with the same content of the TLS files.
#[derive(Debug)]
struct Connections {
    /// The [`TlsFiles::version`] of the content.
    version: u64,
    client: PoolClient,
    /// A second set of connections, for requests that the server did not process on the first.
    second: OnceLock<PoolClient>,
}

impl Connections {
    fn new(version: u64, connector: &ConnectTimeout) -> Self {
        Self {
            version,
            client: client(connector),
            second: OnceLock::new(),
        }
    }
}

/// Why a request has no response.
#[derive(Debug)]
pub(super) enum SendError {
    /// There was no connection, so nothing was sent.
    NoConnection {
        /// The address refused the connection. Otherwise the server may still be alive: slow, or behind a broken network.
        refused: bool,
        reason: String,
    },
    Other(BackendError),
}

impl HttpClient {
    /// Creates a client that trusts the certificate authorities of the system. `tasks` runs its background reads.
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        let config = match rustls::ClientConfig::builder().with_native_roots() {
            Ok(config) => config.with_no_client_auth(),
            Err(error) => {
                tracing::warn!(%error, "no certificate authorities found: https backends are unreachable");
                without_roots()
            }
        };
        Self {
            tls: Arc::new(with_alpn(config)),
            tasks,
            budget: Budget::default(),
            open: ConnectionGauge::default(),
        }
    }

    /// Returns the same client with its own connection gauge.
    pub(super) fn with_own_gauge(self) -> Self {
        Self {
            open: ConnectionGauge::default(),
            ..self
        }
    }

    /// The budget for bytes that the process buffers. Each backend has a share.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The number of open connections, in use or idle.
    pub(super) fn open(&self) -> usize {
        self.open.count()
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Creates an empty pool for `host`, or for its address `only`, with the connect timeout `connect`. The server must always prove the
    /// name in the URL, to the authorities in `tls_files` if there are any.
    pub(super) fn pool(
        &self,
        connect: Duration,
        host: &Arc<HostAddresses>,
        only: Option<IpAddr>,
        tls_files: Option<&Arc<TlsFiles>>,
    ) -> ConnectionPool {
        let host = Arc::clone(host);
        let mut http = HttpConnector::new_with_resolver(Resolver { host, only });
        http.enforce_http(false);
        // Without this a response of two writes waits 40 ms for an acknowledgement.
        http.set_nodelay(true);
        let protocol = Arc::new(NegotiatedProtocol::default());
        let connector = ConnectTimeout {
            inner: Arc::new(Connecting {
                http,
                tls: Arc::clone(&self.tls),
                tls_files: tls_files.map(Arc::clone),
                protocol: Arc::clone(&protocol),
            }),
            deadline: connect,
            open: self.open.clone(),
            fair_queue: self.tasks.fair_queue().clone(),
        };
        ConnectionPool {
            connections: ArcSwap::from_pointee(Connections::new(0, &connector)),
            connector,
            protocol,
        }
    }
}

/// Spawns the connection tasks on the fair queue.
#[derive(Clone, Debug)]
struct FairExecutor(FairQueue);

impl<F> hyper::rt::Executor<F> for FairExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    #[expect(
        clippy::disallowed_methods,
        reason = "a connection ends with its last request, or when it has been idle"
    )]
    fn execute(&self, connection: F) {
        tokio::spawn(self.0.fair(connection));
    }
}

fn client(connector: &ConnectTimeout) -> PoolClient {
    Client::builder(FairExecutor(connector.fair_queue.clone()))
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .http1_max_buf_size(READ_BUFFER_BYTES)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .build(connector.clone())
}

impl ConnectionPool {
    /// Whether the server may report a request as not processed. Only HTTP/2 can, and it is only negotiated over TLS.
    pub(super) fn can_send_again(&self, uri: &Uri) -> bool {
        uri.scheme() == Some(&http::uri::Scheme::HTTPS) && !self.protocol.is_http1()
    }

    /// The connections for new requests. After a change of the TLS files there are new ones: requests on the old ones finish, and then those
    /// are closed.
    async fn connections(&self) -> Arc<Connections> {
        let current = self.connections.load_full();
        let Some(files) = &self.connector.inner.tls_files else {
            return current;
        };
        let version = files.version().await;
        if current.version == version {
            return current;
        }
        let fresh = Arc::new(Connections::new(version, &self.connector));
        self.connections.store(Arc::clone(&fresh));
        fresh
    }

    /// Sends `request` and waits for the response head, at most for `first_byte` if given. A request that the server reports as not
    /// processed (RFC 9113, 6.8 and 8.7) is sent once more, on another connection.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        first_byte: Option<Duration>,
    ) -> Result<Response<Incoming>, SendError> {
        let again = self
            .can_send_again(request.uri())
            .then(|| Box::new(request.clone()));
        let connections = self.connections().await;
        let answer = connections.client.request(request);
        let outcome = match first_byte {
            None => answer.await.map_err(|error| failure(&error)),
            Some(limit) => Box::pin(within(limit, answer)).await,
        };
        let failure = match outcome {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        match (failure, again) {
            (SendError::Other(BackendError::NotProcessed(_)), Some(again)) => {
                // The reason is text of the server, which may repeat a secret header.
                tracing::debug!("request not processed; retrying on another connection");
                let second = connections.second.get_or_init(|| client(&self.connector));
                Box::pin(send_second(second.request(*again), first_byte)).await
            }
            (failure, _) => Err(failure),
        }
    }
}

async fn send_second(
    answer: ResponseFuture,
    first_byte: Option<Duration>,
) -> Result<Response<Incoming>, SendError> {
    match first_byte {
        None => answer.await.map_err(|error| failure(&error)),
        Some(limit) => within(limit, answer).await,
    }
}

async fn within(limit: Duration, answer: ResponseFuture) -> Result<Response<Incoming>, SendError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| failure(&error)),
        Err(_) => Err(BackendError::Deadline(limit).into()),
    }
}

#[cold]
fn failure(error: &hyper_util::client::legacy::Error) -> SendError {
    if error.is_connect() {
        SendError::NoConnection {
            refused: is_refused(error),
            reason: root_cause(error),
        }
    } else if is_unprocessed(error) {
        BackendError::NotProcessed(root_cause(error)).into()
    } else {
        BackendError::Broken(root_cause(error)).into()
    }
}

/// Whether the server reported over HTTP/2 that it has not processed the request. A remote GOAWAY ends only streams above the last one
/// that it names.
fn is_unprocessed(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (error.is_go_away() || is_refused);
        }
        cause = error.source();
    }
    false
}

impl From<BackendError> for SendError {
    fn from(error: BackendError) -> Self {
        Self::Other(error)
    }
}

impl From<SendError> for BackendError {
    fn from(failure: SendError) -> Self {
        match failure {
            SendError::NoConnection { reason, .. } => Self::Unreachable(reason),
            SendError::Other(error) => error,
        }
    }
}

/// A connector with a deadline for name resolution, connection and TLS handshake together. Each request clones it, so a clone is cheap.
#[derive(Clone, Debug)]
struct ConnectTimeout {
    inner: Arc<Connecting>,
    deadline: Duration,
    open: ConnectionGauge,
    fair_queue: FairQueue,
}

/// The protocols that the servers of a pool have negotiated so far.
#[derive(Debug, Default)]
struct NegotiatedProtocol {
    http1: AtomicBool,
    http2: AtomicBool,
}

impl NegotiatedProtocol {
    fn learn(&self, connection: &Connection) {
        let agreed = if connection.connected().is_negotiated_h2() {
            &self.http2
        } else {
            &self.http1
        };
        agreed.store(true, Ordering::Relaxed);
    }

    fn is_http1(&self) -> bool {
        self.http1.load(Ordering::Relaxed) && !self.http2.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Connecting {
    http: HttpConnector<Resolver>,
    tls: Arc<rustls::ClientConfig>,
    /// The backend's own authorities and client certificate.
    tls_files: Option<Arc<TlsFiles>>,
    protocol: Arc<NegotiatedProtocol>,
}

type Connection = <HttpsConnector<HttpConnector<Resolver>> as Service<Uri>>::Response;

impl Connecting {
    async fn connect(&self, uri: Uri) -> Result<Connection, BoxError> {
        let tls = match &self.tls_files {
            None => Arc::clone(&self.tls),
            Some(files) => files.client_config().await?,
        };
        let mut connector = HttpsConnector::from((self.http.clone(), tls));
        poll_fn(|context| connector.poll_ready(context)).await?;
        let connection = connector.call(uri).await?;
        self.protocol.learn(&connection);
        Ok(connection)
    }
}

impl Service<Uri> for ConnectTimeout {
    type Response = CountedConnection<Connection>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (inner, deadline, open) = (Arc::clone(&self.inner), self.deadline, self.open.clone());
        Box::pin(async move {
            match tokio::time::timeout(deadline, inner.connect(uri)).await {
                Ok(connected) => connected.map(|connection| open.with(connection)),
                Err(_) => Err(format!("no connection within {} s", deadline.as_secs_f32()).into()),
            }
        })
    }
}

fn without_roots() -> rustls::ClientConfig {
    rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

pub(super) fn with_alpn(mut config: rustls::ClientConfig) -> rustls::ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Whether the address refused the connection. A connect timeout does not count.
fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && let io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable = error.kind()
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Returns the text of the innermost error. The outer errors only say that there is an inner one.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connect_timeout_is_reported_as_no_connection() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // The TLS handshake is never answered.
        let uri: Uri = format!("https://{}/mcp", silent.local_addr().unwrap())
            .parse()
            .unwrap();
        let host = Arc::new(HostAddresses::new(&uri, &[]));
        let pool = HttpClient::new(Tasks::default()).pool(Duration::from_secs(3), &host, None, None);
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri;
        let started = tokio::time::Instant::now();
        let error = pool.send(request, None).await.unwrap_err();
        assert!(matches!(error, SendError::NoConnection { refused: false, .. }));
        assert_eq!(
            BackendError::from(error),
            BackendError::Unreachable("no connection within 3 s".to_owned())
        );
        assert_eq!(started.elapsed().as_secs(), 3);
    }

    #[tokio::test]
    async fn connection_counts_from_connect_to_close() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}/mcp", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let transport = HttpClient::new(Tasks::default());
        let (own, other) = (transport.clone().with_own_gauge(), transport.with_own_gauge());
        let pool = own.pool(
            Duration::from_secs(3),
            &Arc::new(HostAddresses::new(&uri, &[])),
            None,
            None,
        );
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri;
        let answering = async {
            let (mut server, _) = listener.accept().await.unwrap();
            server.read_u8().await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            server.write_all(answer).await.unwrap();
            server
        };
        assert_eq!(own.open(), 0);
        let (server, response) = tokio::join!(answering, pool.send(request, None));
        drop(response.unwrap());
        assert_eq!(
            (own.open(), other.open()),
            (1, 0),
            "it is kept for the next request"
        );
        drop(server);
        let closed = async {
            while own.open() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), closed)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn server_at_pinned_address_must_prove_the_host_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let uri: Uri = format!("https://replicas.test:{port}/mcp").parse().unwrap();
        let only = listener.local_addr().unwrap().ip();
        let host = Arc::new(HostAddresses::new(&uri, &[]));
        let pool = HttpClient::new(Tasks::default()).pool(Duration::from_secs(3), &host, Some(only), None);
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri;
        let accepting = async {
            let (connection, _) = listener.accept().await.unwrap();
            let acceptor = rustls::server::Acceptor::default();
            let hello = tokio_rustls::LazyConfigAcceptor::new(acceptor, connection)
                .await
                .unwrap();
            hello.client_hello().server_name().map(str::to_owned)
        };
        let (failure, name) = tokio::join!(pool.send(request, None), accepting);
        assert_eq!(name.as_deref(), Some("replicas.test"));
        assert!(matches!(failure, Err(SendError::NoConnection { .. })));
    }

    #[tokio::test]
    async fn refused_connection_differs_from_timeout() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let uri: Uri = format!("http://{closed}/mcp").parse().unwrap();
        let host = Arc::new(HostAddresses::new(&uri, &[]));
        let pool = HttpClient::new(Tasks::default()).pool(Duration::from_secs(3), &host, None, None);
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri;
        let failure = pool.send(request, None).await.unwrap_err();
        assert!(
            matches!(failure, SendError::NoConnection { refused: true, .. }),
            "{failure:?}"
        );
    }
}
