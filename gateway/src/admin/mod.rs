//! The admin port: probes, metrics and status, for the operator and for people.
//!
//! It runs on a thread of its own, so that a scrape never delays a call, and a busy data path never fails a probe.

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
use crate::http::incoming_body::IncomingBody;
use crate::http::server::{IDLE_TIMEOUT, Server};
use crate::runtime::drain::Drain;
use crate::runtime::readiness::Readiness;
use crate::runtime::tasks::Tasks;
use crate::session::Sessions;
use crate::session::id::signing_keys::SigningKeys;
use crate::telemetry::Metrics;

/// How long the last answers may take when the process ends.
const FINISH: Duration = Duration::from_secs(1);
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What the admin port tells of. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Whose gateway this is.
    pub server: ServerName,
    /// Who may call.
    pub auth: Authentication,
    /// What is offered.
    pub core: Core,
    /// What is stored.
    pub sessions: Sessions,
    /// The keys from which the token of `/status` is derived; without them `/status` is open, because there is no operator.
    pub keys: Option<SigningKeys>,
    /// Whether the process should get traffic.
    pub readiness: Readiness,
    /// Whether the process is ending.
    pub drain: Drain,
    /// What `/metrics` tells.
    pub metrics: Metrics,
    /// What runs on the data path and behind it.
    pub tasks: Tasks,
}

impl Admin {
    /// Serves `listener` on a thread of its own until `end` closes it, which is later than the drain: until the last call has
    /// finished, the process can be watched.
    ///
    /// # Errors
    /// When the thread cannot be started.
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
                tracing::error!(%error, %address, "the admin listener cannot be served");
                return;
            }
        };
        let tasks = Tasks::default();
        let admin = Arc::new(self);
        let server = Server {
            drain: end,
            tasks: tasks.clone(),
            error_body: wording,
            idle_timeout: IDLE_TIMEOUT,
            tls: None,
        };
        let answer = move |request| {
            let admin = Arc::clone(&admin);
            async move { admin.answer(&request) }
        };
        server.serve(listener, answer).await;
        // Nobody has been asked to stay: a client that keeps a connection busy does not keep the process.
        drop(tokio::time::timeout(FINISH, tasks.finish()).await);
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
                "Not found. There are /livez, /readyz, /metrics and /status.\n",
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

/// How what is no request is refused here.
fn wording(message: &str) -> (HeaderValue, Bytes) {
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
