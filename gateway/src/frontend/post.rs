//! POST: handles one message of the client, or a batch.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use super::Frontend;
use super::era::{self, Era};
use crate::backend::ListKind;
use crate::budget::delivery::Delivery;
use crate::core::{CallSubject, Principal};
use crate::frontend::admission::{RequestPermit, SMALL_BODY_BYTES};
use crate::frontend::header_checks::{ResponseFormats, media_types};
use crate::frontend::request_body::{BodyLimit, discard, read};
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::frontend::upstream_request_id::UpstreamRequestId;
use crate::frontend::{late_stream, session_settings};
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::Message;
use crate::mcp::revision::Revision;
use crate::mcp::{error_code, header_names as mcp};
use crate::session::{Session, TooManyRequests};

/// A request of a session, and how to respond to it.
#[derive(Debug)]
pub(super) struct SessionRequest<'a> {
    pub(super) request: &'a jsonrpc::Request<'a>,
    /// The request id that is sent upstream.
    pub(super) upstream_id: &'a UpstreamRequestId,
    /// The response formats that the client accepts.
    pub(super) formats: ResponseFormats,
    /// The delivery that the response is a part of, if it is not sent alone.
    pub(super) delivery: Option<&'a Delivery>,
}

impl Frontend {
    /// Handles a POST. Also returns the method label for the metrics.
    pub(super) async fn post(
        &self,
        request: Request<Incoming>,
        limit: BodyLimit,
        principal: &Principal,
    ) -> (&'static str, Response<ResponseBody>) {
        let (head, body) = request.into_parts();
        let formats = match media_types(&head.headers) {
            Ok(formats) => formats,
            Err(rejection) => return ("other", rejection),
        };
        let in_flight = self.core.hot().limits.requests_in_flight;
        let is_small = body
            .size_hint()
            .upper()
            .is_some_and(|bytes| bytes <= SMALL_BODY_BYTES);
        let Some(permit) = self.admission.try_acquire(in_flight, is_small) else {
            discard(body).await;
            return ("other", response::overloaded(None));
        };
        // Without this check, any value in the header would give an unauthenticated client the larger body
        // limit of sessions.
        if !is_small && self.has_foreign_session_id(&head.headers, principal) {
            discard(body).await;
            return ("other", response::session_not_found());
        }
        let account = || self.accounts.account(self.core.budget(), principal);
        let body = match read(body, limit, account).await {
            Ok(body) => body,
            Err(rejection) => return ("other", rejection),
        };
        if jsonrpc::is_batch(&body) {
            let answer = self.batch(&head.headers, &body, formats, principal, permit);
            return ("batch", Box::pin(answer).await);
        }
        match Message::parse(&body) {
            Err(fault) => ("other", response::malformed_message(&body, &fault)),
            Ok(Message::Request(request)) => {
                let method = label(&request.method);
                if !permit.can_run_request() {
                    return (method, response::overloaded(Some(request.id)));
                }
                let answer = self.request(&head.headers, &body, &request, formats, principal, permit);
                (method, answer.await)
            }
            Ok(message) => Box::pin(self.deliver_message(&head.headers, &body, &message, principal)).await,
        }
    }

    async fn request(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        request: &jsonrpc::Request<'_>,
        formats: ResponseFormats,
        principal: &Principal,
        permit: RequestPermit,
    ) -> Response<ResponseBody> {
        let session_id = headers.get(mcp::SESSION_ID);
        match era::of(headers, session_id.is_some(), &request.method, request.params) {
            Ok(Era::Legacy) => {}
            Ok(Era::Modern(meta)) => return era::reject(headers, &meta, request),
            Err(fault) => return response::invalid_params(request.id, &fault),
        }
        if request.method == "initialize" {
            return Box::pin(self.initialize(request, principal)).await;
        }
        let session = self.session_of(session_id, headers, Some(request.id), principal);
        match session.await {
            Ok(session) => match self.core.hot().stream_calls_after {
                Some(stream_after)
                    if formats == ResponseFormats::Any && late_stream::is_call(&request.method) =>
                {
                    Box::pin(self.run_streaming_after(&session, body, stream_after, permit)).await
                }
                _ => self.run(&session, body, request, formats, None, permit).await,
            },
            Err(rejection) => rejection,
        }
    }

    /// Runs a request of `session`, which came in as `body`. The response is a part of `delivery`, if there
    /// is one. `guard` is kept until the response has been sent.
    pub(super) async fn run<G: Send + 'static>(
        &self,
        session: &Session,
        body: &Bytes,
        request: &jsonrpc::Request<'_>,
        formats: ResponseFormats,
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
            Err(TooManyRequests) => return response::session_overloaded(request.id),
        };
        let upstream_id = UpstreamRequestId::for_running(&running);
        let incoming = SessionRequest {
            request,
            upstream_id: &upstream_id,
            formats,
            delivery,
        };
        let response = tokio::select! {
            biased;
            response = self.dispatch(session, body, &incoming) => response,
            // A terminated session has no results, on whichever replica it was terminated.
            () = running.session_ended() => response::session_not_found(),
        };
        response::hold_until_sent(response, (running, guard))
    }

    async fn dispatch(
        &self,
        session: &Session,
        body: &Bytes,
        incoming: &SessionRequest<'_>,
    ) -> Response<ResponseBody> {
        let request = incoming.request;
        match &*request.method {
            "ping" => response::result(request.id, b"{}"),
            "tools/list" => self.list(ListKind::Tools, session, request).await,
            "prompts/list" => self.list(ListKind::Prompts, session, request).await,
            "resources/list" => self.list(ListKind::Resources, session, request).await,
            "resources/templates/list" => self.list(ListKind::Templates, session, request).await,
            "tools/call" => self.call(CallSubject::Tool, session, body, incoming).await,
            "prompts/get" => self.call(CallSubject::Prompt, session, body, incoming).await,
            "resources/read" => self.call(CallSubject::Resource, session, body, incoming).await,
            "completion/complete" => self.call(CallSubject::Completion, session, body, incoming).await,
            "logging/setLevel" => Box::pin(session_settings::set_log_level(session, request)).await,
            "resources/subscribe" => Box::pin(self.subscribe(session, body, incoming)).await,
            "resources/unsubscribe" => Box::pin(self.unsubscribe(session, body, incoming)).await,
            _ => response::method_not_found(request),
        }
    }

    /// Whether the request has a session id that this server did not sign for this principal.
    fn has_foreign_session_id(&self, headers: &HeaderMap, principal: &Principal) -> bool {
        let id = headers.get(mcp::SESSION_ID);
        id.is_some_and(|id| !self.sessions.is_own_id(id.as_bytes(), principal))
    }

    /// Looks up the session that the request names. Another principal's session is not found.
    pub(super) async fn session(
        &self,
        headers: &HeaderMap,
        id: Option<&serde_json::value::RawValue>,
        principal: &Principal,
    ) -> Result<Session, Response<ResponseBody>> {
        self.session_of(headers.get(mcp::SESSION_ID), headers, id, principal)
            .await
    }

    /// The same, where what names the session has been looked up.
    async fn session_of(
        &self,
        session_id: Option<&HeaderValue>,
        headers: &HeaderMap,
        id: Option<&serde_json::value::RawValue>,
        principal: &Principal,
    ) -> Result<Session, Response<ResponseBody>> {
        let invalid = |message: &str| {
            response::error(StatusCode::BAD_REQUEST, id, error_code::INVALID_REQUEST, message)
        };
        let Some(session_id) = session_id else {
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

/// Rejects an unknown revision in `MCP-Protocol-Version`. A missing header is allowed (specification
/// 2025-11-25, basic/transports).
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

/// The method as a metrics label. All unknown methods share one label, so that clients cannot create labels.
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
