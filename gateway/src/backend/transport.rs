//! HTTP to the backends.
//!
//! What all connections share is the [`Transport`]: the certificate authorities that are trusted. Each backend has a [`Pool`] of
//! its own, because how long a connection may take is the backend's, and because the connections of one that hangs must not keep
//! those of another from being found.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;

use super::error::BackendError;
use crate::tasks::Tasks;

/// How long an idle connection is kept. Node closes idle connections after 5 s, and a call that meets such a close cannot be
/// repeated.
const IDLE: Duration = Duration::from_secs(4);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the connections to all backends share. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Transport {
    tls: Arc<rustls::ClientConfig>,
    tasks: Tasks,
}

/// The connections to one backend. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    client: Client<Punctual<HttpsConnector<HttpConnector>>, Full<Bytes>>,
    connect: Duration,
}

impl Transport {
    /// TLS trusts the certificate authorities of the system. What has to be read when nobody waits for it is read by `tasks`.
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        let config = match rustls::ClientConfig::builder().with_native_roots() {
            Ok(config) => config.with_no_client_auth(),
            Err(error) => {
                tracing::warn!(%error, "no certificate authorities found; https backends cannot be reached");
                without_roots()
            }
        };
        Self {
            tls: Arc::new(with_alpn(config)),
            tasks,
        }
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// A pool without connections, each of which may take as long as `connect` to be made.
    pub(super) fn pool(&self, connect: Duration) -> Pool {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        // Without this an answer of two writes waits 40 ms for an acknowledgement.
        http.set_nodelay(true);
        let connector = Punctual {
            inner: HttpsConnector::from((http, Arc::clone(&self.tls))),
            deadline: connect,
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Pool { client, connect }
    }
}

impl Pool {
    /// How long a connection may take to be made.
    pub(super) fn connect(&self) -> Duration {
        self.connect
    }

    /// Sends `request` and waits for the head of the answer, at most as long as `first_byte`.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        first_byte: Duration,
    ) -> Result<Response<Incoming>, BackendError> {
        match tokio::time::timeout(first_byte, self.client.request(request)).await {
            Err(_) => Err(BackendError::Deadline(first_byte)),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(BackendError::Unreachable(root_cause(&error))),
            Ok(Err(error)) => Err(BackendError::Broken(root_cause(&error))),
        }
    }
}

/// A connector that gives up at its deadline, which spans the look-up of the name, the connection and the TLS handshake.
#[derive(Clone, Debug)]
struct Punctual<C> {
    inner: C,
    deadline: Duration,
}

impl<C> Service<Uri> for Punctual<C>
where
    C: Service<Uri>,
    C::Response: Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, deadline) = (self.inner.call(uri), self.deadline);
        Box::pin(async move {
            match tokio::time::timeout(deadline, connecting).await {
                Ok(connected) => connected.map_err(Into::into),
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

fn with_alpn(mut config: rustls::ClientConfig) -> rustls::ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// The innermost error of a chain: the outer ones say only that there is an inner one.
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
    async fn a_connection_that_is_not_made_in_time_is_no_connection() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // The TLS handshake is never answered.
        let uri: Uri = format!("https://{}/mcp", silent.local_addr().unwrap())
            .parse()
            .unwrap();
        let pool = Transport::new(Tasks::default()).pool(Duration::from_secs(3));
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri;
        let started = tokio::time::Instant::now();
        let error = pool.send(request, Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(
            error,
            BackendError::Unreachable("no connection within 3 s".to_owned())
        );
        assert_eq!(started.elapsed().as_secs(), 3);
    }
}
