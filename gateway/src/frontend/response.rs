//! Builds HTTP responses: bodies, statuses and headers.

use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Either;
use serde_json::value::RawValue;

use crate::budget::delivery::Delivery;
use crate::budget::{Account, UNCOUNTED_BYTES};
use crate::catalog::ListPage;
use crate::frontend::rejection::Rejection;
use crate::frontend::shared_body::SharedBody;
use crate::frontend::streamed_body::StreamedBody;
use crate::mcp::{error_code, header_names as mcp, jsonrpc};
use crate::runtime::BoxError;
use crate::session::store::{SessionLimit, StoreError};
use crate::session::{CreateError, SessionError};

/// A response body: whole, or streamed.
pub(crate) type ResponseBody = Either<SharedBody, Box<StreamedBody>>;

pub(super) fn json(status: StatusCode, message: Bytes) -> Response<ResponseBody> {
    let mut response = whole(status, message);
    response.headers_mut().insert(header::CONTENT_TYPE, mcp::JSON);
    response
}

pub(super) fn result(id: &RawValue, result: &[u8]) -> Response<ResponseBody> {
    json(StatusCode::OK, jsonrpc::result(id, result))
}

/// Responds with one page of a list, as a part of `delivery` if there is one. A large page is not copied.
pub(super) fn list_page(
    id: &RawValue,
    page: &ListPage,
    delivery: Option<&Delivery>,
) -> Response<ResponseBody> {
    if page.len() <= UNCOUNTED_BYTES {
        return result(id, &page.whole());
    }
    let head = jsonrpc::result_head(id, &page.opening);
    let respond = |rest| {
        let parts = SharedBody::new([head, rest, Bytes::from_static(b"}")]);
        let mut response = Response::new(Either::Left(parts));
        response.headers_mut().insert(header::CONTENT_TYPE, mcp::JSON);
        response
    };
    let rest = page.rest.clone();
    let Some(account) = &page.account else {
        return respond(rest);
    };
    let delivery = delivery.cloned().unwrap_or_default();
    let rest = delivery.track(account, rest);
    with_delivery(delivery, respond(rest))
}

/// The method does not exist, or belongs to a capability that is not offered.
pub(super) fn method_not_found(request: &jsonrpc::Request<'_>) -> Response<ResponseBody> {
    let message = format!("Method not found: {}", request.method);
    Rejection::MethodNotFound.response(Some(request.id), &message)
}

/// A malformed message. The error has the id of the request if the message has one that is unambiguous.
pub(super) fn malformed_message(message: &[u8], fault: &jsonrpc::InvalidMessage) -> Response<ResponseBody> {
    let id = jsonrpc::awaited_id(message);
    Rejection::of_message(fault).response(id, &fault.message)
}

/// A malformed notification or response, whose sender expects no response.
pub(super) fn invalid_message(fault: &jsonrpc::InvalidMessage) -> Response<ResponseBody> {
    Rejection::of_message(fault).response(None, &fault.message)
}

/// Invalid parameters. A wrong value is an error of the method; a duplicate key makes the whole request
/// invalid.
pub(super) fn invalid_params(id: &RawValue, fault: &jsonrpc::InvalidMessage) -> Response<ResponseBody> {
    let rejection = match fault.code {
        error_code::INVALID_REQUEST => Rejection::InvalidMessage,
        error_code::INTERNAL => Rejection::RewriteFailed,
        _ => Rejection::InvalidParams,
    };
    rejection.response(Some(id), &fault.message)
}

/// An unusable session. `id` is the request's, for a failure that concerns this request alone.
pub(super) fn session_error(id: Option<&RawValue>, failure: &SessionError) -> Response<ResponseBody> {
    match failure {
        SessionError::NotFound => session_not_found(),
        SessionError::Unavailable(unavailable) => store_unavailable(id, unavailable),
    }
}

/// The session does not exist. The response is the same whether the session is unknown, expired, terminated
/// or another principal's.
///
/// The id is null: the Go SDK treats an error with the request's id as a failure of that one call, and never
/// notices that the session is gone. The SDKs' own servers respond in the same way.
pub(super) fn session_not_found() -> Response<ResponseBody> {
    Rejection::SessionNotFound.response(None, "Session not found; send initialize to start another")
}

/// The session ended while the response stream of this request was open.
pub(super) fn session_ended(id: Option<&RawValue>) -> Response<ResponseBody> {
    let message = "Session not found; it was ended while this call was running";
    Rejection::SessionEnded.response(id, message)
}

/// The session store is unavailable. The reason is only logged: it may contain addresses.
pub(super) fn store_unavailable(id: Option<&RawValue>, _: &StoreError) -> Response<ResponseBody> {
    Rejection::StoreUnavailable.response(
        id,
        "The session store is unavailable; the session is not lost, try again",
    )
}

/// All permits for requests are taken.
pub(super) fn overloaded(id: Option<&RawValue>) -> Response<ResponseBody> {
    Rejection::LimitReached.response(
        id,
        "The gateway has as many requests as it takes at a time; try again",
    )
}

/// The memory budget is used up by other requests.
pub(super) fn budget_exhausted() -> Response<ResponseBody> {
    Rejection::LimitReached.response(None, BUDGET_EXHAUSTED)
}

/// As [`budget_exhausted`], for the request `id`.
pub(super) fn budget_exhausted_for(id: &RawValue) -> Response<ResponseBody> {
    Rejection::LimitReached.response(Some(id), BUDGET_EXHAUSTED)
}

const BUDGET_EXHAUSTED: &str = "The gateway buffers as many bytes as it takes at a time; try again";

/// The session runs as many requests as it may.
pub(super) fn session_overloaded(id: &RawValue) -> Response<ResponseBody> {
    let message =
        "The session has as many requests running as it may at a time; try again when one has ended";
    Rejection::LimitReached.response(Some(id), message)
}

/// No session could be created.
pub(super) fn session_not_created(id: &RawValue, reason: &CreateError) -> Response<ResponseBody> {
    let message = match reason {
        CreateError::Unavailable(unavailable) => return store_unavailable(Some(id), unavailable),
        CreateError::Limit(SessionLimit::Server) => {
            "The server has as many sessions as it may; try again later"
        }
        CreateError::Limit(SessionLimit::Principal) => {
            "You have as many sessions as one client may; end one, or try again later"
        }
    };
    Rejection::LimitReached.response(Some(id), message)
}

pub(super) fn accepted() -> Response<ResponseBody> {
    empty(StatusCode::ACCEPTED)
}

pub(super) fn empty(status: StatusCode) -> Response<ResponseBody> {
    whole(status, Bytes::new())
}

pub(super) fn method_not_allowed() -> Response<ResponseBody> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed.\n");
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
    response
}

pub(super) fn text(status: StatusCode, text: &'static str) -> Response<ResponseBody> {
    let mut response = whole(status, Bytes::from_static(text.as_bytes()));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// A JSON response whose bytes are streamed.
pub(super) fn streaming_json(
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Response<ResponseBody> {
    streaming(mcp::JSON, chunks)
}

/// A response that is a stream of server-sent events.
pub(super) fn events(
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Response<ResponseBody> {
    let mut response = streaming(mcp::EVENT_STREAM, chunks);
    let headers = response.headers_mut();
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-transform"),
    );
    // Without this header, proxies such as nginx buffer the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Attaches `delivery` to a response, for the connection that sends it.
pub(super) fn with_delivery(
    delivery: Delivery,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    response.extensions_mut().insert(delivery);
    response
}

/// A backend's complete response, charged to `account`, as a part of `delivery` if there is one. It has no deadline of its own.
pub(super) fn complete_message(
    message: Bytes,
    account: &Account,
    delivery: Option<&Delivery>,
) -> Response<ResponseBody> {
    if message.len() <= UNCOUNTED_BYTES {
        return json(StatusCode::OK, message);
    }
    let delivery = delivery.cloned().unwrap_or_default();
    let message = delivery.track(account, message);
    with_delivery(delivery, json(StatusCode::OK, message))
}

/// Keeps `guard` until the whole response has been sent or the client has gone away.
pub(super) fn hold_until_sent<G: Send + 'static>(
    mut response: Response<ResponseBody>,
    guard: G,
) -> Response<ResponseBody> {
    if let Either::Right(streamed) = response.body_mut() {
        streamed.hold(guard);
    }
    response
}

fn streaming(
    media_type: HeaderValue,
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Response<ResponseBody> {
    let mut response = Response::new(Either::Right(Box::new(StreamedBody::new(chunks))));
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

fn whole(status: StatusCode, body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(Either::Left(SharedBody::from(body)));
    *response.status_mut() = status;
    response
}
