//! POST: one message from the client.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use super::Frontend;
use super::era::{self, Era};
use crate::backend::ListKind;
use crate::budget::delivery::Delivery;
use crate::core::{CallSubject, Principal};
use crate::frontend::admission::{RequestPermit, SMALL_BODY_BYTES};
use crate::frontend::header_checks::{ResponseFormats, media_types};
use crate::frontend::request_body::{discard, read};
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::frontend::upstream_request_id::UpstreamRequestId;
use crate::frontend::{late_stream, session_settings};
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::Message;
use crate::mcp::revision::Revision;
use crate::mcp::{error_code, header_names as mcp};
use crate::session::{Session, TooManyRequests};

/// A request of a session, and the terms of its answer.
#[derive(Debug)]
pub(super) struct RequestOutcome<'a> {
    pub(super) request: &'a jsonrpc::Request<'a>,
    /// The id under which it goes upstream.
    pub(super) upstream_id: &'a UpstreamRequestId,
    /// How it may be answered.
    pub(super) framing: ResponseFormats,
    /// What its answer is a part of, if it is not alone.
    pub(super) delivery: Option<&'a Delivery>,
}

impl Frontend {
    /// The answer, and the method for the metrics.
    pub(super) async fn post(
        &self,
        request: Request<Incoming>,
        principal: &Principal,
    ) -> (&'static str, Response<ResponseBody>) {
        let (head, body) = request.into_parts();
        let framing = match media_types(&head.headers) {
            Ok(framing) => framing,
            Err(refusal) => return ("other", refusal),
        };
        let in_flight = self.core.hot().limits.requests_in_flight;
        let limit = self.body_limit(&head.headers);
        let is_small = body
            .size_hint()
            .upper()
            .is_some_and(|bytes| bytes <= SMALL_BODY_BYTES);
        let Some(place) = self.places.take(in_flight, is_small) else {
            discard(body).await;
            return ("other", response::overloaded(None));
        };
        // Otherwise a header that says anything would buy a stranger what sessions may have.
        if !is_small && self.has_foreign_session_id(&head.headers, principal) {
            discard(body).await;
            return ("other", response::session_not_found());
        }
        let account = || self.principals.account(self.core.budget(), principal);
        let body = match read(body, limit, account).await {
            Ok(body) => body,
            Err(refusal) => return ("other", refusal),
        };
        if jsonrpc::is_batch(&body) {
            let answer = self.batch(&head.headers, &body, framing, principal, place);
            return ("batch", Box::pin(answer).await);
        }
        match Message::parse(&body) {
            Err(fault) => ("other", response::no_message(&body, &fault)),
            Ok(Message::Request(request)) => {
                let method = label(&request.method);
                if !place.is_for_requests() {
                    return (method, response::overloaded(Some(request.id)));
                }
                let answer = self.request(&head.headers, &body, &request, framing, principal, place);
                (method, answer.await)
            }
            Ok(message) => Box::pin(self.one_way(&head.headers, &body, &message, principal)).await,
        }
    }

    async fn request(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        request: &jsonrpc::Request<'_>,
        framing: ResponseFormats,
        principal: &Principal,
        place: RequestPermit,
    ) -> Response<ResponseBody> {
        match era::of(headers, &request.method, request.params) {
            Ok(Era::Legacy) => {}
            Ok(Era::Modern(meta)) => return era::refuse(headers, &meta, request),
            Err(fault) => return response::params_fault(request.id, &fault),
        }
        if request.method == "initialize" {
            return Box::pin(self.initialize(request, principal)).await;
        }
        match self.session(headers, Some(request.id), principal).await {
            Ok(session) => match self.core.hot().stream_calls_after {
                Some(patience)
                    if framing == ResponseFormats::Any && late_stream::is_call(&request.method) =>
                {
                    Box::pin(self.run_with_patience(&session, body, patience, place)).await
                }
                _ => self.run(&session, body, request, framing, None, place).await,
            },
            Err(refusal) => refusal,
        }
    }

    /// Runs a request of `session`, which came in as `body`. Its answer is a part of what `delivery` delivers, if that is given. `guard` is
    /// kept until it has gone out.
    pub(super) async fn run<G: Send + 'static>(
        &self,
        session: &Session,
        body: &Bytes,
        request: &jsonrpc::Request<'_>,
        framing: ResponseFormats,
        delivery: Option<&Delivery>,
        guard: G,
    ) -> Response<ResponseBody> {
        if jsonrpc::is_reserved_id(request.id) {
            let message = "Ids that begin with \"vmcp:\" are the gateway's own; use another";
            return response::error(
                StatusCode::BAD_REQUEST,
                Some(request.id),
                error_code::INVALID_REQUEST,
                message,
            );
        }
        let running = match session.begin(request.id) {
            Ok(running) => running,
            Err(TooManyRequests) => return response::busy(request.id),
        };
        let upstream_id = UpstreamRequestId::of(&running);
        let asked = RequestOutcome {
            request,
            upstream_id: &upstream_id,
            framing,
            delivery,
        };
        let response = tokio::select! {
            biased;
            response = self.dispatch(session, body, &asked) => response,
            // Whoever ended the session wants nothing more of it, wherever that was.
            () = running.session_ended() => response::session_not_found(),
        };
        response::until_its_end(response, (running, guard))
    }

    async fn dispatch(
        &self,
        session: &Session,
        body: &Bytes,
        asked: &RequestOutcome<'_>,
    ) -> Response<ResponseBody> {
        let request = asked.request;
        match &*request.method {
            "ping" => response::result(request.id, b"{}"),
            "tools/list" => self.list(ListKind::Tools, session, request).await,
            "prompts/list" => self.list(ListKind::Prompts, session, request).await,
            "resources/list" => self.list(ListKind::Resources, session, request).await,
            "resources/templates/list" => self.list(ListKind::Templates, session, request).await,
            "tools/call" => self.call(CallSubject::Tool, session, body, asked).await,
            "prompts/get" => self.call(CallSubject::Prompt, session, body, asked).await,
            "resources/read" => self.call(CallSubject::Resource, session, body, asked).await,
            "completion/complete" => self.call(CallSubject::Completion, session, body, asked).await,
            "logging/setLevel" => Box::pin(session_settings::set_log_level(session, request)).await,
            "resources/subscribe" => Box::pin(self.subscribe(session, body, asked)).await,
            "resources/unsubscribe" => Box::pin(self.unsubscribe(session, body, asked)).await,
            _ => response::method_not_found(request),
        }
    }

    /// Whether the request names a session whose id was not signed here for this principal.
    fn has_foreign_session_id(&self, headers: &HeaderMap, principal: &Principal) -> bool {
        let id = headers.get(mcp::SESSION_ID);
        id.is_some_and(|id| !self.sessions.is_own_id(id.as_bytes(), principal))
    }

    /// The session that the request names, if it is the principal's.
    pub(super) async fn session(
        &self,
        headers: &HeaderMap,
        id: Option<&serde_json::value::RawValue>,
        principal: &Principal,
    ) -> Result<Session, Response<ResponseBody>> {
        let invalid = |message: &str| {
            response::error(StatusCode::BAD_REQUEST, id, error_code::INVALID_REQUEST, message)
        };
        let Some(session_id) = headers.get(mcp::SESSION_ID) else {
            return Err(invalid(
                "The header Mcp-Session-Id is missing; send initialize first",
            ));
        };
        check_revision(headers, id)?;
        let found = self.sessions.find(session_id.as_bytes(), principal).await;
        let session = found.map_err(|failure| response::session_error(id, &failure))?;
        let passed = self.core.passed_headers();
        Ok(if passed.is_empty() {
            session
        } else {
            session.with_headers(headers, &passed)
        })
    }
}

/// Refuses a request that names a revision that is not known. None at all is as good as one that is (specification 2025-11-25, basic,
/// transports).
pub(super) fn check_revision(
    headers: &HeaderMap,
    id: Option<&serde_json::value::RawValue>,
) -> Result<(), Response<ResponseBody>> {
    match headers.get(mcp::PROTOCOL_VERSION) {
        Some(version) if version.to_str().ok().and_then(Revision::parse).is_none() => {
            let message = "The header MCP-Protocol-Version names a revision that is not known";
            let code = error_code::INVALID_REQUEST;
            Err(response::error(StatusCode::BAD_REQUEST, id, code, message))
        }
        _ => Ok(()),
    }
}

/// The method as a label of metrics: whatever a client invents is one label.
pub(super) fn label(method: &str) -> &'static str {
    const KNOWN: [&str; 17] = [
        "initialize",
        "logging/setLevel",
        "notifications/cancelled",
        "notifications/initialized",
        "notifications/progress",
        "notifications/roots/list_changed",
        "resources/subscribe",
        "resources/unsubscribe",
        "ping",
        "tools/list",
        "tools/call",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "completion/complete",
    ];
    KNOWN
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other")
}
