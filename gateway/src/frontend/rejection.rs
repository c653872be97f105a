//! The gateway's own errors, and the one table that gives each its HTTP status and JSON-RPC code.
//!
//! `docs/architecture/statuses.md` explains the table to users. A test compares the two.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::value::RawValue;

use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::error_code;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::InvalidMessage;

/// Value of `Retry-After`, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request gets an error instead of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// The session is unknown, expired, terminated or another principal's.
    SessionNotFound,
    /// The session ended while the response stream of this request was open.
    SessionEnded,
    /// The session store does not respond.
    StoreUnavailable,
    /// A header that names the session or the revision is missing or unknown.
    InvalidSessionHeader,
    /// The parameters do not fit the method, or name an unknown tool or prompt.
    InvalidParams,
    /// No backend has the resource.
    ResourceNotFound,
    /// A backend that may have the item has not been discovered yet.
    BackendNotDiscovered,
    /// The method is unknown or not offered.
    MethodNotFound,
    /// The message cannot be rewritten for the backend.
    RewriteFailed,
    /// The backend gave no valid response.
    BackendFailed,
    /// The backend's concurrency limit is reached.
    BackendOverloaded,
    /// An id or event id was not issued in this session, or belongs to a lost upstream session.
    NotIssuedHere,
    /// The backend does not accept the client's message now.
    DeliveryFailed,
    /// The body is not JSON, or incomplete.
    MalformedJson,
    /// The JSON is not a valid JSON-RPC message.
    InvalidMessage,
    /// The parameters of a notification or of a response do not fit.
    InvalidNotification,
    /// The request id has the gateway's own prefix.
    ReservedId,
    /// The batch is not allowed here, or contains what a batch must not contain.
    InvalidBatch,
    /// `server/discover` of the modern era.
    DiscoverUnsupported,
    /// A modern message lacks a required field.
    ModernFieldMissing,
    /// Header and `_meta` of a modern message differ.
    ModernHeaderMismatch,
    /// The revision of a modern message is not supported.
    ModernUnsupported,
    /// The body is too large.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The headers are too large.
    HeadersTooLarge,
    /// `Content-Type` is not JSON.
    UnsupportedMediaType,
    /// `Accept` allows no format of the response.
    NotAcceptable,
    /// `Host` is missing, or a header that must be unique occurs twice.
    InvalidHeaders,
    /// A limit of the gateway is reached.
    LimitReached,
    /// `Host` is not allowed.
    ForbiddenHost,
    /// `Origin` is not allowed.
    ForbiddenOrigin,
    /// The token is missing or invalid.
    Unauthenticated,
    /// The header `Authorization` is malformed.
    MalformedAuthorization,
    /// The issuer's keys cannot be fetched.
    IssuerUnavailable,
    /// The gateway cannot encode its own response.
    Internal,
}

impl Rejection {
    /// The rejection of a malformed message that is answered for the whole request.
    pub(super) fn of_message(fault: &InvalidMessage) -> Self {
        match fault.code {
            error_code::PARSE_ERROR => Self::MalformedJson,
            error_code::INVALID_PARAMS => Self::InvalidNotification,
            _ => Self::InvalidMessage,
        }
    }

    /// The HTTP status and the JSON-RPC code.
    pub(super) fn status_and_code(self) -> (StatusCode, i32) {
        use error_code::{
            HEADER_MISMATCH, INTERNAL, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR,
            RESOURCE_NOT_FOUND, SESSION_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION,
        };
        match self {
            Self::SessionNotFound => (StatusCode::NOT_FOUND, SESSION_NOT_FOUND),
            Self::SessionEnded => (StatusCode::OK, SESSION_NOT_FOUND),
            Self::InvalidParams => (StatusCode::OK, INVALID_PARAMS),
            Self::ResourceNotFound => (StatusCode::OK, RESOURCE_NOT_FOUND),
            Self::MethodNotFound => (StatusCode::OK, METHOD_NOT_FOUND),
            Self::BackendNotDiscovered | Self::RewriteFailed | Self::BackendFailed => {
                (StatusCode::OK, INTERNAL)
            }
            Self::MalformedJson => (StatusCode::BAD_REQUEST, PARSE_ERROR),
            Self::InvalidSessionHeader
            | Self::NotIssuedHere
            | Self::InvalidMessage
            | Self::ReservedId
            | Self::InvalidBatch
            | Self::InvalidHeaders
            | Self::MalformedAuthorization => (StatusCode::BAD_REQUEST, INVALID_REQUEST),
            Self::DiscoverUnsupported => (StatusCode::BAD_REQUEST, METHOD_NOT_FOUND),
            Self::InvalidNotification | Self::ModernFieldMissing => (StatusCode::BAD_REQUEST, INVALID_PARAMS),
            Self::ModernHeaderMismatch => (StatusCode::BAD_REQUEST, HEADER_MISMATCH),
            Self::ModernUnsupported => (StatusCode::BAD_REQUEST, UNSUPPORTED_PROTOCOL_VERSION),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, INVALID_REQUEST),
            Self::ForbiddenHost | Self::ForbiddenOrigin => (StatusCode::FORBIDDEN, INVALID_REQUEST),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, INVALID_REQUEST),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST),
            Self::HeadersTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, INVALID_REQUEST),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, INTERNAL),
            Self::StoreUnavailable
            | Self::BackendOverloaded
            | Self::DeliveryFailed
            | Self::LimitReached
            | Self::IssuerUnavailable => (StatusCode::SERVICE_UNAVAILABLE, INTERNAL),
        }
    }

    /// The error response for the request `id`; a null id if there is none.
    pub(super) fn response(self, id: Option<&RawValue>, message: &str) -> Response<ResponseBody> {
        let (_, code) = self.status_and_code();
        self.with_body(jsonrpc::error(id, code, message))
    }

    /// As [`Self::response`], with the member `data`.
    pub(super) fn response_with_data(
        self,
        id: Option<&RawValue>,
        message: &str,
        data: &serde_json::Value,
    ) -> Response<ResponseBody> {
        let (_, code) = self.status_and_code();
        self.with_body(jsonrpc::error_with_data(id, code, message, Some(data)))
    }

    fn with_body(self, body: bytes::Bytes) -> Response<ResponseBody> {
        let (status, _) = self.status_and_code();
        let mut response = response::json(status, body);
        // A temporary failure: the client should send the same request again.
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("../../../docs/architecture/statuses.md");

    /// Each rejection has the status and the code that the table of the documentation gives for it.
    #[test]
    fn rejection_matches_the_documented_status() {
        let rows: Vec<Vec<&str>> = DOCUMENTED
            .lines()
            .filter(|line| line.starts_with("| "))
            .map(|line| line.trim_matches(['|', ' ']).split(" | ").collect())
            .collect();
        for (rejection, situation) in [
            (
                Rejection::SessionNotFound,
                "the session is unknown, expired, terminated",
            ),
            (
                Rejection::SessionNotFound,
                "the session ends during a call, before",
            ),
            (Rejection::SessionEnded, "the session ends during a call, while"),
            (Rejection::StoreUnavailable, "the session store is unavailable"),
            (Rejection::InvalidSessionHeader, "the session header is missing"),
            (Rejection::InvalidParams, "unknown tool or prompt"),
            (Rejection::ResourceNotFound, "unknown resource"),
            (Rejection::BackendNotDiscovered, "unknown name, while a backend"),
            (Rejection::MethodNotFound, "unknown method"),
            (Rejection::BackendFailed, "the backend is unreachable"),
            (Rejection::BackendOverloaded, "the backend's concurrency limit"),
            (Rejection::NotIssuedHere, "a client's answer has an id"),
            (Rejection::DeliveryFailed, "the backend does not accept"),
            (Rejection::MalformedJson, "malformed JSON"),
            (Rejection::InvalidMessage, "not a JSON-RPC message"),
            (Rejection::InvalidNotification, "a notification with invalid"),
            (Rejection::ReservedId, "a request id that begins with"),
            (Rejection::InvalidBatch, "a batch that is empty"),
            (Rejection::DiscoverUnsupported, "`server/discover`"),
            (Rejection::ModernFieldMissing, "another message of the modern era"),
            (
                Rejection::ModernHeaderMismatch,
                "the same, header and `_meta` differ",
            ),
            (Rejection::ModernUnsupported, "the same, otherwise"),
            (Rejection::BodyTooLarge, "the body is larger than"),
            (Rejection::HeadersTooLarge, "the head is larger than"),
            (Rejection::UnsupportedMediaType, "`Content-Type` is not JSON"),
            (Rejection::NotAcceptable, "`Accept` does not allow JSON"),
            (Rejection::InvalidHeaders, "no `Host`, or a header"),
            (Rejection::BodyTimeout, "the head, once begun"),
            (Rejection::LimitReached, "a limit is reached"),
            (Rejection::ForbiddenHost, "`Host` is not in"),
            (Rejection::ForbiddenOrigin, "`Origin` is not in"),
            (Rejection::Unauthenticated, "the token is missing"),
            (
                Rejection::MalformedAuthorization,
                "the `Authorization` header holds",
            ),
            (Rejection::IssuerUnavailable, "the token cannot be checked"),
        ] {
            let row = rows.iter().find(|row| row[0].starts_with(situation));
            let row = row.unwrap_or_else(|| panic!("no row {situation:?}"));
            let (status, code) = rejection.status_and_code();
            assert!(
                row[1].starts_with(status.as_str()),
                "{situation}: {status} is not {}",
                row[1]
            );
            assert!(
                row[2].contains(&code.to_string()),
                "{situation}: {code} is not in {}",
                row[2]
            );
            let has_retry_after = rejection
                .response(None, "")
                .headers()
                .contains_key(header::RETRY_AFTER);
            assert_eq!(has_retry_after, row[1].contains("`Retry-After`"), "{situation}");
        }
    }
}
