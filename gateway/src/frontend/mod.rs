//! The downstream side: the streamable HTTP transport that clients speak, at `/mcp`.
//!
//! The order of checks is the same for every request: headers, host and origin, size, who calls, then media types, then the era and its
//! session, then the method. Which status and which JSON-RPC code answers what stands in `docs/ARCHITECTURE.md`.
//!
//! The server stands on hyper itself: there is one path, and what a router would add is paid by every call.

mod access_log;
mod admission;
pub mod auth;
mod batch;
mod call;
mod call_error;
mod cors;
mod delete;
mod era;
mod gateway_events;
mod get;
mod header_checks;
mod initialize;
mod keep_alive;
mod late_stream;
mod list;
mod list_changed_throttle;
mod notifications;
mod origin;
mod passthrough;
mod post;
mod relay;
mod request_body;
mod response;
mod rewrite;
mod session_settings;
mod shared_body;
mod upstream_request_id;

use std::sync::Arc;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::config::ServerName;
use crate::core::{Core, Principal};
use crate::mcp::{error_code, header_names, jsonrpc};
use crate::runtime::drain::Drain;
use crate::runtime::rate_limit::{KeyedRateLimit, RateLimit};
use crate::session::Sessions;
use crate::telemetry::Metrics;

use access_log::RequestLog;
use admission::{PrincipalAccounts, RequestAdmission};
use auth::Authentication;
use request_body::BodyLimit;
use response::ResponseBody;

/// The path of the endpoint.
const PATH: &str = "/mcp";
/// The same with the slash at its end that some clients and health checks send.
const PATH_WITH_SLASH: &str = "/mcp/";

/// How what is no request is refused here: as an error without an id.
pub(crate) fn wording(message: &str) -> (http::HeaderValue, bytes::Bytes) {
    (
        header_names::JSON,
        jsonrpc::error(None, error_code::INVALID_REQUEST, message),
    )
}

/// The MCP endpoint. A request holds it behind an `Arc`: a clone copies a dozen handles.
#[derive(Clone, Debug)]
pub struct Frontend {
    server: Arc<ServerName>,
    auth: Authentication,
    sessions: Sessions,
    core: Core,
    metrics: Metrics,
    drain: Drain,
    places: RequestAdmission,
    /// Shares of the budget that principals use at the moment.
    principals: PrincipalAccounts,
    /// The rate of new sessions of all, and of each principal.
    initializes: Arc<RateLimit>,
    own_initializes: Arc<KeyedRateLimit<Principal>>,
    /// Whether only programs of this machine can reach the endpoint.
    on_loopback: bool,
}

impl Frontend {
    /// The endpoint of `server`; `on_loopback` says whether its listener is on loopback.
    #[must_use]
    pub fn new(
        server: ServerName,
        auth: Authentication,
        sessions: Sessions,
        core: Core,
        metrics: Metrics,
        drain: Drain,
        on_loopback: bool,
    ) -> Self {
        Self {
            server: Arc::new(server),
            auth,
            sessions,
            core,
            metrics,
            drain,
            places: RequestAdmission::default(),
            principals: PrincipalAccounts::default(),
            initializes: Arc::default(),
            own_initializes: Arc::default(),
            on_loopback,
        }
    }

    /// Answers one HTTP request.
    pub async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        let served = RequestLog::begin(self, request.headers());
        // Boxed: what serves connections would otherwise move the whole state of a request, again and again.
        let judging = Box::pin(self.judge(request));
        let (method, response) = served.id().scope(judging).await;
        let mut response = served.answered(method, response);
        if self.drain.is_draining() {
            let close = http::HeaderValue::from_static("close");
            response.headers_mut().insert(http::header::CONNECTION, close);
        }
        response
    }

    /// Answers a request that is meant for this endpoint, and lets the page that sent it, if one did, read the answer.
    async fn judge(&self, request: Request<Incoming>) -> (&'static str, Response<ResponseBody>) {
        let checked = header_checks::check(request.headers())
            .and_then(|()| origin::check(&request, &self.core.hot().access, self.on_loopback));
        let origin = match checked {
            Ok(origin) => origin,
            Err(refusal) => return ("other", refusal),
        };
        let (method, mut response) = match cors::preflight(&request, origin.as_ref()) {
            Some(answer) => ("other", answer),
            None => self.route(request).await,
        };
        if let Some(origin) = origin {
            cors::allow(response.headers_mut(), origin);
        }
        (method, response)
    }

    /// The answer, and the method for the metrics: one of a fixed set.
    async fn route(&self, request: Request<Incoming>) -> (&'static str, Response<ResponseBody>) {
        let path = request.uri().path();
        if path != PATH && path != PATH_WITH_SLASH {
            let description = self.auth.describe(request.method(), path);
            let not_found =
                || response::text(StatusCode::NOT_FOUND, "Not found. The MCP endpoint is at /mcp.\n");
            return ("other", description.unwrap_or_else(not_found));
        }
        let limit = self.body_limit(request.headers());
        if limit.is_exceeded_by(request.body()) {
            return (
                "other",
                Box::pin(request_body::too_large(request.into_body(), limit)).await,
            );
        }
        let principal = match self.auth.principal(request.headers()).await {
            Ok(principal) => principal,
            Err(refusal) => {
                Box::pin(request_body::discard(request.into_body())).await;
                return ("other", refusal);
            }
        };
        match *request.method() {
            Method::GET | Method::DELETE if era::is_modern_without_body(request.headers()) => {
                ("other", response::method_not_allowed())
            }
            Method::POST => self.post(request, &principal).await,
            // What is not the most frequent is boxed, here and below, so that the state of a call, which is moved, stays small.
            Method::GET => ("GET", Box::pin(self.get(request.headers(), &principal)).await),
            Method::DELETE => (
                "DELETE",
                Box::pin(self.delete(request.headers(), &principal)).await,
            ),
            _ => ("other", response::method_not_allowed()),
        }
    }

    fn body_limit(&self, headers: &HeaderMap) -> BodyLimit {
        BodyLimit::of(headers, self.core.hot().limits.request_bytes)
    }
}
