//! The downstream side: serves the streamable HTTP transport to clients at `/mcp`.
//!
//! Every request passes the same checks in the same order: headers, host and origin, size, authentication,
//! media types, era and session, method. `rejection` has the table of HTTP statuses and JSON-RPC
//! codes.
//!
//! The server uses hyper directly: there is one path, and every call would pay for a router.

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
mod merged_events;
mod notifications;
mod origin;
mod passthrough;
mod post;
mod rejection;
mod relay;
mod request_body;
mod request_context;
mod response;
mod rewrite;
mod session_settings;
mod shared_body;
mod streamed_body;
mod upstream_request_id;

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};

use crate::config::{HotSettings, ServerName};
use crate::core::{Core, Principal};
use crate::mcp::{error_code, header_names, jsonrpc};
use crate::runtime::drain::Drain;
use crate::runtime::incoming_body::IncomingBody;
use crate::runtime::rate_limit::{KeyedRateLimit, RateLimit};
use crate::session::Sessions;
use crate::telemetry::Metrics;

use access_log::RequestLog;
use admission::{PrincipalAccounts, RequestAdmission};
use auth::Authentication;
use request_body::BodyLimit;
use request_context::{RequestContext, RequestKind};
use response::ResponseBody;

/// Path of the MCP endpoint.
const PATH: &str = "/mcp";
/// The same path with a trailing slash, which some clients and health checks send.
const PATH_WITH_SLASH: &str = "/mcp/";

/// Encodes the rejection of a malformed HTTP request as a JSON-RPC error without an id.
pub(crate) fn error_body(message: &str) -> (http::HeaderValue, bytes::Bytes) {
    (
        header_names::JSON,
        jsonrpc::error(None, error_code::INVALID_REQUEST, message),
    )
}

/// The MCP endpoint. Requests share it behind an `Arc`, because a clone copies a dozen handles.
#[derive(Clone, Debug)]
pub struct Frontend {
    server: Arc<ServerName>,
    auth: Authentication,
    sessions: Sessions,
    core: Core,
    metrics: Metrics,
    drain: Drain,
    admission: RequestAdmission,
    /// The budget accounts of the principals that use memory at the moment.
    accounts: PrincipalAccounts,
    /// Limits the rate of new sessions over all clients, and per principal.
    session_rate: Arc<RateLimit>,
    principal_session_rate: Arc<KeyedRateLimit<Principal>>,
    /// Whether the listener is on loopback, so that only programs on this machine can reach it.
    on_loopback: bool,
}

impl Frontend {
    /// Creates the endpoint of `server`; `on_loopback` says whether its listener is on loopback.
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
            admission: RequestAdmission::default(),
            accounts: PrincipalAccounts::default(),
            session_rate: Arc::default(),
            principal_session_rate: Arc::default(),
            on_loopback,
        }
    }

    /// Serves one HTTP request.
    pub(crate) async fn serve(self: &Arc<Self>, request: Request<IncomingBody>) -> Response<ResponseBody> {
        // The only load of the hot configuration: every later step of the request uses this snapshot.
        let hot = Arc::clone(&self.core.hot());
        let log = RequestLog::start(self, &hot, request.headers());
        // Boxed: the HTTP server would otherwise move the whole state of a request several times.
        let serving = Box::pin(self.check_and_route(request, hot));
        let (kind, response) = log.id().clone().scope(serving).await;
        let mut response = log.follow(kind, response);
        if self.drain.is_draining() {
            let close = http::HeaderValue::from_static("close");
            response.headers_mut().insert(http::header::CONNECTION, close);
        }
        response
    }

    /// Checks host and origin, serves the request, and adds the CORS headers for the page that sent it.
    async fn check_and_route(
        &self,
        request: Request<IncomingBody>,
        hot: Arc<HotSettings>,
    ) -> (RequestKind, Response<ResponseBody>) {
        let checked = header_checks::check(request.headers())
            .and_then(|()| origin::check(&request, &hot.access, self.on_loopback));
        let origin = match checked {
            Ok(origin) => origin,
            Err(rejection) => return (RequestKind::Other, rejection),
        };
        let (kind, mut response) = match cors::preflight(&request, origin.as_ref()) {
            Some(answer) => (RequestKind::Other, answer),
            None => self.route(request, hot).await,
        };
        if let Some(origin) = origin {
            cors::allow(response.headers_mut(), origin);
        }
        (kind, response)
    }

    /// Authenticates the request, and routes it by path and HTTP method.
    async fn route(
        &self,
        request: Request<IncomingBody>,
        hot: Arc<HotSettings>,
    ) -> (RequestKind, Response<ResponseBody>) {
        let path = request.uri().path();
        if path != PATH && path != PATH_WITH_SLASH {
            let metadata = self.auth.metadata_response(request.method(), path);
            let not_found =
                || response::text(StatusCode::NOT_FOUND, "Not found. The MCP endpoint is at /mcp.\n");
            return (RequestKind::Other, metadata.unwrap_or_else(not_found));
        }
        let limit = BodyLimit::of(request.headers(), request.body(), hot.limits.request_bytes);
        if limit.is_exceeded_by(request.body()) {
            return (
                RequestKind::Other,
                Box::pin(request_body::too_large(request.into_body(), limit)).await,
            );
        }
        let principal = match self.auth.principal(request.headers()).await {
            Ok(principal) => principal,
            Err(rejection) => {
                Box::pin(request_body::discard(request.into_body())).await;
                return (RequestKind::Other, rejection);
            }
        };
        let (head, body) = request.into_parts();
        let context = Arc::new(RequestContext::new(hot, principal, head.headers));
        match head.method {
            Method::GET | Method::DELETE if era::is_modern_without_body(&context.headers) => {
                (RequestKind::Other, response::method_not_allowed())
            }
            Method::POST => self.post(&context, body, limit).await,
            // Rare branches are boxed, here and below, so that the future of a call, which is moved, stays
            // small.
            Method::GET => (RequestKind::Get, Box::pin(self.get(&context)).await),
            Method::DELETE => (RequestKind::Delete, Box::pin(self.delete(&context)).await),
            _ => (RequestKind::Other, response::method_not_allowed()),
        }
    }
}
