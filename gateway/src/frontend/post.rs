//! POST: handles one message of the client, or a batch.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body as _;

use super::Frontend;
use super::era::{self, Era};
use crate::backend::ListKind;
use crate::budget::delivery::Delivery;
use crate::core::CallSubject;
use crate::frontend::admission::{RequestPermit, SMALL_BODY_BYTES};
use crate::frontend::header_checks::{ResponseFormats, filled, media_types};
use crate::frontend::rejection::Rejection;
use crate::frontend::request_body::{BodyLimit, discard, read};
use crate::frontend::request_context::{RequestContext, RequestKind};
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::frontend::session_settings;
use crate::frontend::upstream_request_id::UpstreamRequestId;
use crate::mcp::header_names as mcp;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::Message;
use crate::mcp::method::Method;
use crate::mcp::revision::Revision;
use crate::runtime::incoming_body::IncomingBody;
use crate::session::{RunningRequest, Session, TooManyRequests};

/// A request of a session, and how to respond to it.
#[derive(Debug)]
pub(super) struct SessionRequest<'a> {
    pub(super) context: &'a RequestContext,
    pub(super) request: &'a jsonrpc::Request<'a>,
    pub(super) method: Method,
    /// The request's place among the running requests of its session.
    pub(super) running: &'a RunningRequest,
    /// The request id that is sent upstream.
    pub(super) upstream_id: &'a UpstreamRequestId,
    /// The response formats that the client accepts.
    pub(super) formats: ResponseFormats,
    /// The delivery that the response is a part of, if it is not sent alone.
    pub(super) delivery: Option<&'a Delivery>,
}

impl Frontend {
    /// Handles a POST.
    pub(super) async fn post(
        &self,
        context: &Arc<RequestContext>,
        body: IncomingBody,
        limit: BodyLimit,
    ) -> (RequestKind, Response<ResponseBody>) {
        let formats = match media_types(&context.headers) {
            Ok(formats) => formats,
            Err(rejection) => return (RequestKind::Other, rejection),
        };
        let in_flight = context.hot.limits.requests_in_flight;
        let is_small = body
            .size_hint()
            .upper()
            .is_some_and(|bytes| bytes <= SMALL_BODY_BYTES);
        let Some(permit) = self.admission.try_acquire(in_flight, is_small) else {
            discard(body).await;
            return (RequestKind::Other, response::overloaded(None));
        };
        // Without this check, any value in the header would give an unauthenticated client the larger body
        // limit of sessions.
        if !is_small && self.has_foreign_session_id(context) {
            discard(body).await;
            return (RequestKind::Other, response::session_not_found());
        }
        let account = || self.accounts.account(self.core.budget(), &context.principal);
        let body = match read(body, limit, account).await {
            Ok(body) => body,
            Err(rejection) => return (RequestKind::Other, rejection),
        };
        let body = without_mark(body);
        if jsonrpc::is_batch(&body) {
            let answer = self.batch(context, &body, formats, permit);
            return (RequestKind::Batch, Box::pin(answer).await);
        }
        match Message::parse(&body) {
            Err(fault) => (RequestKind::Other, response::malformed_message(&body, &fault)),
            Ok(Message::Request(request)) => {
                let method = Method::parse(&request.method);
                let kind = RequestKind::Message(method);
                if !permit.can_run_request() {
                    return (kind, response::overloaded(Some(request.id)));
                }
                let answer = self.request(context, &body, &request, method, formats, permit);
                (kind, answer.await)
            }
            Ok(message) => Box::pin(self.deliver_message(context, &body, &message)).await,
        }
    }

    async fn request(
        &self,
        context: &Arc<RequestContext>,
        body: &Bytes,
        request: &jsonrpc::Request<'_>,
        method: Method,
        formats: ResponseFormats,
        permit: RequestPermit,
    ) -> Response<ResponseBody> {
        let session_id = context.headers.get(mcp::SESSION_ID);
        match era::of(&context.headers, session_id.is_some(), method, request.params) {
            Ok(Era::Legacy) => {}
            Ok(Era::Modern(meta)) => return era::reject(&context.headers, &meta, request, method),
            Err(fault) => return response::invalid_params(request.id, &fault),
        }
        if method == Method::Initialize {
            return Box::pin(self.initialize(context, request)).await;
        }
        // A ping needs no session.
        if method == Method::Ping && session_id.is_none() {
            return response::result(request.id, b"{}");
        }
        match self.session_of(session_id, context, Some(request.id)).await {
            Ok(session) => match context.hot.stream_calls_after {
                Some(stream_after) if formats == ResponseFormats::Any && method.is_call() => {
                    Box::pin(self.run_streaming_after(context, &session, body, stream_after, permit)).await
                }
                _ => {
                    self.run(context, &session, body, request, method, formats, None, permit)
                        .await
                }
            },
            Err(rejection) => rejection,
        }
    }

    /// Runs a request of `session`, which came in as `body`. The response is a part of `delivery`, if there
    /// is one. `guard` is kept until the response has been sent.
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one request")]
    pub(super) async fn run<G: Send + 'static>(
        &self,
        context: &RequestContext,
        session: &Session,
        body: &Bytes,
        request: &jsonrpc::Request<'_>,
        method: Method,
        formats: ResponseFormats,
        delivery: Option<&Delivery>,
        guard: G,
    ) -> Response<ResponseBody> {
        if jsonrpc::is_reserved_id(request.id) {
            let message = "Ids that begin with \"vmcp:\" are the gateway's own; use another";
            return Rejection::ReservedId.response(Some(request.id), message);
        }
        let running = match session.begin(request.id, context.session_request_limit()) {
            Ok(running) => running,
            Err(TooManyRequests) => return response::session_overloaded(request.id),
        };
        let upstream_id = UpstreamRequestId::for_running(&running);
        let incoming = SessionRequest {
            context,
            request,
            method,
            running: &running,
            upstream_id: &upstream_id,
            formats,
            delivery,
        };
        let session_end = running.session_end();
        let response = tokio::select! {
            biased;
            response = self.dispatch(session, body, &incoming) => response,
            // A terminated session has no results, on whichever replica it was terminated.
            () = session_end.reached() => response::session_not_found(),
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
        match incoming.method {
            Method::Ping => response::result(request.id, b"{}"),
            Method::ListTools => self.list(ListKind::Tools, session, incoming).await,
            Method::ListPrompts => self.list(ListKind::Prompts, session, incoming).await,
            Method::ListResources => self.list(ListKind::Resources, session, incoming).await,
            Method::ListResourceTemplates => self.list(ListKind::Templates, session, incoming).await,
            Method::CallTool => self.call(CallSubject::Tool, session, body, incoming).await,
            Method::GetPrompt => self.call(CallSubject::Prompt, session, body, incoming).await,
            Method::ReadResource => self.call(CallSubject::Resource, session, body, incoming).await,
            Method::Complete => self.call(CallSubject::Completion, session, body, incoming).await,
            Method::SetLogLevel => Box::pin(session_settings::set_log_level(session, incoming)).await,
            Method::Subscribe => Box::pin(self.subscribe(session, body, incoming)).await,
            Method::Unsubscribe => Box::pin(self.unsubscribe(session, body, incoming)).await,
            Method::Initialize
            | Method::Discover
            | Method::Initialized
            | Method::Cancelled
            | Method::Progress
            | Method::RootsListChanged
            | Method::Unknown => response::method_not_found(request),
        }
    }

    /// Whether the request has a session id that this server did not sign for this principal.
    fn has_foreign_session_id(&self, context: &RequestContext) -> bool {
        let id = context.headers.get(mcp::SESSION_ID);
        id.is_some_and(|id| !self.sessions.is_own_id(id.as_bytes(), &context.principal))
    }

    /// Looks up the session that the request names. Another principal's session is not found.
    pub(super) async fn session(
        &self,
        context: &RequestContext,
        id: Option<&serde_json::value::RawValue>,
    ) -> Result<Session, Response<ResponseBody>> {
        self.session_of(context.headers.get(mcp::SESSION_ID), context, id)
            .await
    }

    /// As [`Self::session`], if the header with the session id has been looked up already.
    async fn session_of(
        &self,
        session_id: Option<&HeaderValue>,
        context: &RequestContext,
        id: Option<&serde_json::value::RawValue>,
    ) -> Result<Session, Response<ResponseBody>> {
        let invalid = |message: &str| Rejection::InvalidSessionHeader.response(id, message);
        let Some(session_id) = session_id else {
            return Err(invalid(
                "The header Mcp-Session-Id is missing; send initialize first",
            ));
        };
        check_revision(&context.headers, id)?;
        let found = self
            .sessions
            .find(session_id.as_bytes(), &context.principal)
            .await;
        found.map_err(|failure| response::session_error(id, &failure))
    }
}

/// Removes a byte order mark. Not every backend accepts it.
fn without_mark(mut body: Bytes) -> Bytes {
    let marked = body.len();
    let length = jsonrpc::repair::without_mark(&body).len();
    body.split_off(marked.saturating_sub(length))
}

/// Rejects an unknown revision in `MCP-Protocol-Version`. A missing or empty header is allowed (specification
/// 2025-11-25, basic/transports).
pub(super) fn check_revision(
    headers: &HeaderMap,
    id: Option<&serde_json::value::RawValue>,
) -> Result<(), Response<ResponseBody>> {
    match filled(headers, mcp::PROTOCOL_VERSION) {
        Some(version) if version.to_str().ok().and_then(Revision::of_peer).is_none() => {
            let message = "The header MCP-Protocol-Version names a revision that is not known";
            Err(Rejection::InvalidSessionHeader.response(id, message))
        }
        _ => Ok(()),
    }
}
