//! The downstream side: the streamable HTTP transport that clients speak, at `/mcp`.
//!
//! The order of checks is the same for every request: headers, host and origin, then media types and size, then the era and its
//! session, then the method. Which
//! status and which JSON-RPC code answers what stands in `docs/ARCHITECTURE.md`.
//!
//! The server stands on hyper itself: there is one path, and what a router would add is paid by every call.

mod batch;
mod body;
mod call;
mod cors;
mod delete;
mod era;
mod event;
mod get;
mod headers;
mod initialize;
mod keep_alive;
mod large;
mod list;
mod one_way;
mod origin;
mod overload;
mod post;
mod relay;
mod respond;
mod settings;
mod tools;
mod translate;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::config::ServerName;
use crate::core::{Core, Principal};
use crate::drain::Drain;
use crate::session::Sessions;
use crate::telemetry::Metrics;

use overload::{Places, Rate};
use respond::Body;

/// The path of the endpoint.
const PATH: &str = "/mcp";

/// The MCP endpoint. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Frontend {
    server: ServerName,
    sessions: Sessions,
    core: Core,
    metrics: Metrics,
    drain: Drain,
    places: Places,
    initializes: Rate,
    /// Whether only programs of this machine can reach the endpoint.
    on_loopback: bool,
}

impl Frontend {
    /// The endpoint of `server`; `on_loopback` says whether its listener is on loopback.
    #[must_use]
    pub fn new(
        server: ServerName,
        sessions: Sessions,
        core: Core,
        metrics: Metrics,
        drain: Drain,
        on_loopback: bool,
    ) -> Self {
        Self {
            server,
            sessions,
            core,
            metrics,
            drain,
            places: Places::default(),
            initializes: Rate::default(),
            on_loopback,
        }
    }

    /// Answers one HTTP request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (method, mut response) = self.judge(request).await;
        self.metrics.request(method, response.status().as_u16());
        tracing::debug!(method, status = response.status().as_u16(), "answered");
        if self.drain.is_draining() {
            let close = http::HeaderValue::from_static("close");
            response.headers_mut().insert(http::header::CONNECTION, close);
        }
        response
    }

    /// Answers a request that is meant for this endpoint, and lets the page that sent it, if one did, read the answer.
    async fn judge(&self, request: Request<Incoming>) -> (&'static str, Response<Body>) {
        let checked = headers::check(request.headers())
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
    async fn route(&self, request: Request<Incoming>) -> (&'static str, Response<Body>) {
        if request.uri().path() != PATH {
            return (
                "other",
                respond::text(StatusCode::NOT_FOUND, "Not found. The MCP endpoint is at /mcp.\n"),
            );
        }
        let principal = Principal::Anonymous;
        match *request.method() {
            Method::GET | Method::DELETE if era::is_modern_without_body(request.headers()) => {
                ("other", respond::method_not_allowed())
            }
            Method::POST => self.post(request, &principal).await,
            Method::GET => ("GET", self.get(request.headers(), &principal).await),
            Method::DELETE => ("DELETE", self.delete(request.headers(), &principal).await),
            _ => ("other", respond::method_not_allowed()),
        }
    }
}
