//! The admin port: probes, metrics and status.
//!
//! It runs on its own thread, so that a scrape never delays a call, and a busy data path never fails a probe.

mod scrape;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

use crate::config::ServerName;
use crate::core::Core;
use crate::frontend::auth::Authentication;
use crate::http::server::{IDLE_TIMEOUT, Server};
use crate::runtime::drain::Drain;
use crate::runtime::incoming_body::IncomingBody;
use crate::runtime::readiness::Readiness;
use crate::runtime::tasks::Tasks;
use crate::session::Sessions;
use crate::session::id::signing_keys::SigningKeys;
use crate::telemetry::Metrics;

/// How long the last responses may take when the process ends.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The admin server, with handles to the parts of the process that it reports on. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Name of the virtual server.
    pub server: ServerName,
    /// Authentication of clients, for the state of the token issuer.
    pub auth: Authentication,
    /// The core, for the catalog and the hot configuration.
    pub core: Core,
    /// The sessions, for their number and the state of the store.
    pub sessions: Sessions,
    /// The keys that the bearer token of `/status` is derived from. Without keys there is no operator, and `/status` needs no token.
    pub keys: Option<SigningKeys>,
    /// Whether the process is ready for traffic.
    pub readiness: Readiness,
    /// The state of the shutdown.
    pub drain: Drain,
    /// The metrics that `/metrics` exports.
    pub metrics: Metrics,
    /// All tasks of the process except those of the admin port.
    pub tasks: Tasks,
}

impl Admin {
    /// Serves `listener` on its own thread until `end` closes it. That is later than the drain of the MCP endpoint, so that the process can
    /// be observed until the last call has finished.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn spawn(
        self,
        listener: std::net::TcpListener,
        end: Drain,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let address = listener.local_addr()?;
        std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || runtime.block_on(self.run(listener, address, end)))
    }

    async fn run(self, listener: std::net::TcpListener, address: SocketAddr, end: Drain) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, %address, "failed to serve the admin port");
                return;
            }
        };
        let tasks = Tasks::default();
        let admin = Arc::new(self);
        let server = Server {
            drain: end,
            tasks: tasks.clone(),
            error_body,
            idle_timeout: IDLE_TIMEOUT,
            tls: None,
        };
        let answer = move |request| {
            let admin = Arc::clone(&admin);
            async move { admin.answer(&request) }
        };
        server.serve(listener, answer).await;
        // A client that keeps a connection busy must not delay the end of the process.
        drop(tokio::time::timeout(FINISH_TIMEOUT, tasks.finish()).await);
    }

    fn answer(&self, request: &Request<IncomingBody>) -> Response<Full<Bytes>> {
        if *request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "Only GET is allowed.\n");
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(),
            "/metrics" => metrics(self.scrape()),
            "/status" => self.status(request.headers()),
            _ => text(
                StatusCode::NOT_FOUND,
                "Not found. The paths are /livez, /readyz, /metrics and /status.\n",
            ),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let mut pending = self.readiness.pending();
        if self.drain.is_draining() {
            pending.push("draining".to_owned());
        }
        if pending.is_empty() {
            return text(StatusCode::OK, "ok\n");
        }
        text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {}\n", pending.join(", ")),
        )
    }

    fn is_ready(&self) -> bool {
        !self.drain.is_draining() && self.readiness.pending().is_empty()
    }
}

fn metrics(encoded: String) -> Response<Full<Bytes>> {
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    respond(StatusCode::OK, HeaderValue::from_static(open_metrics), encoded)
}

/// The body of the response to a malformed request.
fn error_body(message: &str) -> (HeaderValue, Bytes) {
    (PLAIN, format!("{message}.\n").into())
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, PLAIN, text)
}

fn respond(status: StatusCode, media_type: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}
