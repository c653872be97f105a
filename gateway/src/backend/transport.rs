//! HTTP to the backends: one connection pool for the whole process.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::error::BackendError;

/// The body of a backend's answer.
pub type UpstreamBody = Incoming;

/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// How long a backend may take until the head of its answer. Servers that stream send it at once; servers that answer with
/// JSON send it when the tool has finished.
const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(120);

/// How long an idle connection is kept. Node closes idle connections after 5 s, and a call that meets such a close cannot be
/// repeated.
const IDLE: Duration = Duration::from_secs(4);

/// A cheap-clone handle to the connection pool.
#[derive(Clone, Debug)]
pub struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Transport {
    /// A pool without connections. TLS trusts the certificate authorities of the system.
    #[must_use]
    pub fn new() -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        // Without this an answer of two writes waits 40 ms for an acknowledgement.
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_DEADLINE));
        let https = HttpsConnectorBuilder::new();
        let https = match https.with_native_roots() {
            Ok(https) => https,
            Err(error) => {
                tracing::warn!(%error, "no certificate authorities found; https backends cannot be reached");
                HttpsConnectorBuilder::new().with_tls_config(without_roots())
            }
        };
        let connector = https
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self { client }
    }

    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<UpstreamBody>, BackendError> {
        match tokio::time::timeout(FIRST_BYTE_DEADLINE, self.client.request(request)).await {
            Err(_) => Err(BackendError::Deadline(FIRST_BYTE_DEADLINE)),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(BackendError::Unreachable(root_cause(&error))),
            Ok(Err(error)) => Err(BackendError::Broken(root_cause(&error))),
        }
    }
}

impl Default for Transport {
    fn default() -> Self {
        Self::new()
    }
}

fn without_roots() -> rustls::ClientConfig {
    rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

/// The innermost error of a chain: the outer ones say only that there is an inner one.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
