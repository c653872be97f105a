//! POST: one message from the client.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::overload::{Place, SMALL_BODY_BYTES};
use super::respond::{self, Body};
use super::{Frontend, settings};
use crate::backend::Kind;
use crate::core::{Principal, Subject};
use crate::session::Session;
use crate::wire::jsonrpc::{self, Message};
use crate::wire::revision::Revision;
use crate::wire::{code, header as mcp};

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How much of a refused body is read and thrown away, at most this long.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);

impl Frontend {
    /// The answer, and the method for the metrics.
    pub(super) async fn post(
        &self,
        request: Request<Incoming>,
        principal: &Principal,
    ) -> (&'static str, Response<Body>) {
        let (head, body) = request.into_parts();
        if let Err(refusal) = media_types(&head.headers) {
            return ("other", refusal);
        }
        let (in_flight, largest) = {
            let limits = &self.core.hot().limits;
            (limits.requests_in_flight, limits.request_bytes)
        };
        let is_small = body
            .size_hint()
            .upper()
            .is_some_and(|bytes| bytes <= SMALL_BODY_BYTES);
        let Some(place) = self.places.take(in_flight, is_small) else {
            discard(body).await;
            return ("other", respond::overloaded(None));
        };
        let body = match read(body, largest).await {
            Ok(body) => body,
            Err(refusal) => return ("other", refusal),
        };
        match Message::parse(&body) {
            Err(fault) => ("other", respond::fault(&fault)),
            Ok(Message::Request(request)) => {
                let method = label(&request.method);
                if !place.is_for_requests() {
                    return (method, respond::overloaded(Some(request.id)));
                }
                let answer = self.request(&head.headers, &body, &request, principal, place);
                (method, answer.await)
            }
            Ok(message) => self.one_way(&head.headers, &body, &message, principal).await,
        }
    }

    async fn request(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        request: &jsonrpc::Request<'_>,
        principal: &Principal,
        place: Place,
    ) -> Response<Body> {
        if jsonrpc::is_reserved_id(request.id) {
            let message = "Ids that begin with \"vmcp:\" are the gateway's own; use another";
            return respond::error(
                StatusCode::BAD_REQUEST,
                Some(request.id),
                code::INVALID_REQUEST,
                message,
            );
        }
        if request.method == "initialize" {
            return self.initialize(request, principal).await;
        }
        let session = match self.session(headers, Some(request.id), principal).await {
            Ok(session) => session,
            Err(refusal) => return refusal,
        };
        let running = match session.begin(request.id) {
            Ok(running) => running,
            Err(busy) => return respond::busy(request.id, busy),
        };
        let response = self.dispatch(&session, body, request).await;
        respond::until_its_end(response, (running, place))
    }

    async fn dispatch(
        &self,
        session: &Session,
        body: &Bytes,
        request: &jsonrpc::Request<'_>,
    ) -> Response<Body> {
        match &*request.method {
            "ping" => respond::result(request.id, b"{}"),
            "tools/list" => self.list(Kind::Tools, request),
            "prompts/list" => self.list(Kind::Prompts, request),
            "resources/list" => self.list(Kind::Resources, request),
            "resources/templates/list" => self.list(Kind::Templates, request),
            "tools/call" => self.call(Subject::Tool, session, body, request).await,
            "prompts/get" => self.call(Subject::Prompt, session, body, request).await,
            "resources/read" => self.call(Subject::Resource, session, body, request).await,
            "completion/complete" => self.call(Subject::Completion, session, body, request).await,
            "logging/setLevel" => settings::set_log_level(session, request).await,
            "resources/subscribe" => self.subscribe(session, body, request).await,
            "resources/unsubscribe" => self.unsubscribe(session, body, request).await,
            _ => respond::method_not_found(request),
        }
    }

    /// The session that the request names, if it is the principal's.
    pub(super) async fn session(
        &self,
        headers: &HeaderMap,
        id: Option<&serde_json::value::RawValue>,
        principal: &Principal,
    ) -> Result<Session, Response<Body>> {
        let invalid =
            |message: &str| respond::error(StatusCode::BAD_REQUEST, id, code::INVALID_REQUEST, message);
        let Some(session_id) = headers.get(mcp::SESSION_ID) else {
            return Err(invalid(
                "The header Mcp-Session-Id is missing; send initialize first",
            ));
        };
        if let Some(version) = headers.get(mcp::PROTOCOL_VERSION)
            && version.to_str().ok().and_then(Revision::parse).is_none()
        {
            return Err(invalid(
                "The header MCP-Protocol-Version names a revision that is not known",
            ));
        }
        let found = self.sessions.find(session_id.as_bytes(), principal).await;
        found.map_err(|failure| respond::session_error(id, &failure))
    }
}

/// A client must send JSON and accept both framings (specification 2025-11-25, basic/transports).
fn media_types(headers: &HeaderMap) -> Result<(), Response<Body>> {
    let refuse = |status, message| Err(respond::error(status, None, code::INVALID_REQUEST, message));
    if !mcp::is_media_type(headers.get(header::CONTENT_TYPE), &mcp::JSON) {
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/json",
        );
    }
    if accepts(headers, &mcp::JSON) && accepts(headers, &mcp::EVENT_STREAM) {
        return Ok(());
    }
    refuse(
        StatusCode::NOT_ACCEPTABLE,
        "Accept must list application/json and text/event-stream",
    )
}

/// Whether `Accept` has a range that `media_type` is in.
pub(super) fn accepts(headers: &HeaderMap, media_type: &http::HeaderValue) -> bool {
    let values = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut ranges = values.flat_map(|value| value.split(','));
    ranges.any(|range| {
        let essence = range.split(';').next().unwrap_or(range).trim();
        let kind = media_type.to_str().unwrap_or_default();
        let family = kind.split('/').next().unwrap_or_default();
        essence == "*/*"
            || essence.eq_ignore_ascii_case(kind)
            || essence
                .strip_suffix("/*")
                .is_some_and(|range| range.eq_ignore_ascii_case(family))
    })
}

/// The body, refused before it is kept when it says that it is larger than `largest`, and otherwise as soon as it is.
async fn read(mut body: Incoming, largest: usize) -> Result<Bytes, Response<Body>> {
    if body.size_hint().lower() > largest as u64 {
        return Err(too_large(body, largest).await);
    }
    let reading = Limited::new(&mut body, largest).collect();
    let Ok(whole) = tokio::time::timeout(BODY_DEADLINE, reading).await else {
        let message = format!("The body did not arrive within {} s", BODY_DEADLINE.as_secs());
        return Err(respond::error(
            StatusCode::REQUEST_TIMEOUT,
            None,
            code::INVALID_REQUEST,
            &message,
        ));
    };
    match whole {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(body, largest).await),
        Err(_) => {
            let message = "The body ended before it was complete";
            Err(respond::error(
                StatusCode::BAD_REQUEST,
                None,
                code::PARSE_ERROR,
                message,
            ))
        }
    }
}

async fn too_large(body: Incoming, largest: usize) -> Response<Body> {
    discard(body).await;
    let message = format!("The body is larger than {largest} bytes");
    respond::error(
        StatusCode::PAYLOAD_TOO_LARGE,
        None,
        code::INVALID_REQUEST,
        &message,
    )
}

/// Reads what the client still sends of a refused body, for a while, and throws it away: a connection that is closed with unread bytes in
/// it takes the answer down with it.
async fn discard(mut body: Incoming) {
    let discarding = async {
        let mut left = MAX_DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // A client that is slower than this may miss the answer.
    drop(tokio::time::timeout(DISCARD_DEADLINE, discarding).await);
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
