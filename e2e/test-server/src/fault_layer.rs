//! The layer in front of rmcp: every request and response of the MCP endpoint passes through it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Extension, Router};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use rmcp::transport::StreamableHttpService;
use tokio_util::sync::CancellationToken;

use crate::body::{Cut, Tethered};
use crate::events;
use crate::faults::Rule;
use crate::listen::Connection;
use crate::reply;
use crate::seen::Seen;
use crate::server::{Ready, Server};
use crate::sessions::Sessions;
use crate::streams::Stream;
use crate::test_server::Shared;

/// How often a held request checks whether it may go on.
const HOLD: Duration = Duration::from_millis(20);

/// What the endpoint needs for a request.
#[derive(Clone)]
struct Gate {
    shared: Arc<Shared>,
    service: StreamableHttpService<Server, Sessions>,
}

/// The MCP endpoint.
pub(crate) fn router(shared: &Arc<Shared>, stop: &CancellationToken) -> Router {
    let gate = Gate {
        service: shared.service(stop),
        shared: Arc::clone(shared),
    };
    Router::new().route("/mcp", any(handle)).with_state(gate)
}

async fn handle(
    State(gate): State<Gate>,
    Extension(connection): Extension<Connection>,
    request: Request<Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let seen = Seen::new(&parts, &body);
    gate.shared.stats.arrived(&seen.method);
    let rule = gate
        .shared
        .faults
        .take(&seen, gate.is_second_get(&seen))
        .unwrap_or_default();
    gate.answer(&rule, &seen, &connection, parts, body).await
}

impl Gate {
    async fn answer(
        &self,
        rule: &Rule,
        seen: &Seen,
        connection: &Connection,
        parts: Parts,
        body: Bytes,
    ) -> Response {
        if let Some(ms) = rule.slow_ms {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        while rule.hold && self.shared.faults.hold(seen) {
            tokio::time::sleep(HOLD).await;
        }
        if rule.after_call && rule.withholds() {
            // Only the execution matters here.
            drop(
                self.pass(seen, connection, parts.clone(), body.clone())
                    .await
                    .collect()
                    .await,
            );
        }
        if let Some(response) = rule.instead(connection).await {
            return response;
        }
        if let (Some(style), Some(session)) = (rule.forget_sessions, &seen.session) {
            self.shared.forget(session, style).await;
        }
        if rule.second_get.is_some() {
            return reply::error(
                StatusCode::CONFLICT,
                -32000,
                "Conflict: the session has a stream open",
            );
        }
        // Until all of the answer is on its way.
        let running = match parts.method {
            Method::POST => Some(Arc::clone(&self.shared.calls).read_owned().await),
            _ => None,
        };
        if let Some(refusal) = self.refuse(seen).await {
            return refusal;
        }
        let response = self.pass(seen, connection, parts, body).await;
        let response = response.map(|body| Body::new(Tethered::new(body, &Cut::default(), running)));
        rule.spoil(response, connection).await
    }

    /// The response to a request with an unknown session id.
    async fn refuse(&self, seen: &Seen) -> Option<Response> {
        if self.shared.args.stateless {
            return None;
        }
        let session = seen.session.as_deref()?;
        let known = self.shared.sessions.knows(session).await;
        (!known).then(|| reply::unknown_session(self.shared.refusal(session)))
    }

    /// Passes the request to rmcp.
    async fn pass(&self, seen: &Seen, connection: &Connection, mut parts: Parts, body: Bytes) -> Response {
        let verb = parts.method.clone();
        let cut = Cut::default();
        parts.extensions.insert(cut.clone());
        let ready = Ready::default();
        parts.extensions.insert(ready.clone());
        let response = self
            .service
            .handle(Request::from_parts(parts, Full::new(body)))
            .await
            .map(Body::new);
        self.account(&verb, seen, response.status());
        let in_session = seen.session.is_some() && !self.shared.args.stateless;
        if seen.method == "notifications/initialized" && in_session && response.status().is_success() {
            ready.wait().await;
        }
        let response = self.shared.framing.apply(seen, response).await;
        let listed = (seen.is_get() && response.status().is_success()).then(|| {
            self.shared.streams.list(Stream {
                session: seen.session.clone().filter(|_| wants_own_stream(seen)),
                cut: cut.clone(),
                connection: connection.clone(),
            })
        });
        response.map(|body| Body::new(Tethered::new(body, &cut, listed)))
    }

    fn account(&self, verb: &Method, seen: &Seen, status: StatusCode) {
        if !status.is_success() {
            return;
        }
        if seen.method == "initialize" {
            self.shared
                .stats
                .initialized(seen.client.as_deref().unwrap_or_default());
        }
        if verb == Method::DELETE {
            self.shared.stats.deleted();
        }
    }

    fn is_second_get(&self, seen: &Seen) -> bool {
        let open = seen
            .session
            .as_deref()
            .is_some_and(|session| self.shared.streams.has(session));
        open && seen.is_get() && wants_own_stream(seen)
    }
}

/// Whether a GET asks for the session's own stream, and not for the rest of an answer.
fn wants_own_stream(seen: &Seen) -> bool {
    seen.resumes.as_deref().is_none_or(events::is_of_session)
}
