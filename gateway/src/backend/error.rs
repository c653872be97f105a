//! The failures of an exchange with a backend, and whether a call may be retried after each.

use std::time::Duration;

use http::header::{DATE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, Uri};
use serde::Deserialize;

use super::request_headers::RequestHeaders;
use crate::runtime::truncate;
use crate::runtime::truncate::MAX_ERROR_BYTES;

/// The most bytes of a backend's error text that the client gets.
const MAX_DETAIL_BYTES: usize = 300;

/// Shortens foreign text for an error message: see [`MAX_ERROR_BYTES`].
fn brief(text: &str) -> String {
    truncate::brief(text, MAX_ERROR_BYTES)
}

/// A failed exchange with a backend. Each error displays as a text of bounded length, however much the backend sends.
///
/// ```
/// use vmcp_gateway::backend::BackendError;
///
/// let refused = BackendError::Unreachable("connection refused".to_owned());
/// assert!(refused.is_backend_failure() && refused.is_retry_safe());
/// assert_eq!(refused.to_string(), "cannot be reached: connection refused");
/// assert!(!BackendError::Broken("reset".to_owned()).is_retry_safe());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// No connection: the request was never sent.
    #[error("cannot be reached: {}", brief(.0))]
    Unreachable(String),
    /// A configured request header has no value: the request was never sent.
    #[error("cannot be called: header {0}")]
    MissingHeader(String),
    /// A configured environment variable of the server has no value: no process was started.
    #[error("cannot be started: variable {0}")]
    MissingVariable(String),
    /// All processes that the server may have are in use: the request was not sent.
    #[error("has {0} processes, which is its limit (`maxProcesses`)")]
    TooManyProcesses(usize),
    /// The backend does not know the upstream session any more. It has not executed the request.
    #[error("does not know its session any more")]
    SessionLost,
    /// The backend lost the session so often that the gateway does not open it again. It has not executed the request.
    #[error(
        "loses its sessions again and again; if it has replicas, requests of one session must reach the same one (session affinity)"
    )]
    SessionAffinityRequired,
    /// The backend has one session for all clients, and it is in use. It has not executed the request.
    #[error(
        "has one session for all of its clients, which is in use: it refuses a second `initialize` as \"already initialized\". Run it so \
         that each client gets a session of its own (with the TypeScript SDK: a transport and a server for each session), or without \
         sessions; where that cannot be, let all clients share the one with `sharedSession: true` of the backend. Restart it if another \
         process had the session"
    )]
    SingleSession,
    /// No response within the deadline. The request may have been executed.
    #[error("did not answer within {} s", .0.as_secs_f32())]
    Deadline(Duration),
    /// The backend paused for too long in the middle of its answer. The request was executed, wholly or in part.
    #[error("paused for more than {} s in the middle of its answer", .0.as_secs_f32())]
    Paused(Duration),
    /// The response is larger than `limits` allow. The request was executed.
    #[error("gave an answer of more than {0} bytes, which is the most that is passed on")]
    TooLarge(u64),
    /// The buffers for the backend's responses are full. The request may have been executed.
    #[error(
        "sends more at a time than is buffered of one backend's answers ({0} bytes); `limits.bufferedBytes` says how much that is"
    )]
    NoRoom(usize),
    /// The backend's lists exceed the budget for catalogs.
    #[error(
        "lists more than there is room for ({0} bytes for all lists of one backend, new and old); `limits.bufferedBytes` says how much that is"
    )]
    CatalogTooLarge(usize),
    /// The connection ended before the answer was complete. The request may have been executed.
    #[error("ended the connection before its answer was complete: {}", brief(.0))]
    Broken(String),
    /// The server reports over HTTP/2 that it has not processed the request.
    #[error("did not process the request: {0}")]
    NotProcessed(String),
    /// The breaker is open: the request was not sent.
    #[error("is not asked at the moment, because calls fail again and again: it {}", brief(.reason))]
    CircuitOpen {
        /// The failure that opened the breaker.
        reason: String,
    },
    /// The backend's concurrency limit is reached, and the queue is full or the wait in it took too long: the request was not sent.
    #[error("has {0} calls running, which is its limit")]
    Overloaded(usize),
    /// An HTTP status that reports an error.
    #[error("{}", of_status(*.code))]
    Status {
        /// The HTTP status code, 400 or above.
        code: u16,
        /// The backend's own error text, cut short. The client gets it; logs, which contain no bodies, do not.
        detail: Option<Box<str>>,
    },
    /// A 429 or 503 with `Retry-After`.
    #[error("answered with HTTP status {status} and asks to be left alone for {} s", .retry_after.as_secs())]
    Busy {
        /// The HTTP status code: 429 or 503.
        status: u16,
        /// The delay that the backend asks for.
        retry_after: Duration,
    },
    /// A redirect that is not followed. It leads to another origin, which would get credentials and sessions although it is not
    /// configured; it has no end; or it asks for GET.
    #[error(
        "redirects to {}, which is not followed; if that is where it is now, configure that URL", brief(.0)
    )]
    Redirected(String),
    /// A response that violates the protocol.
    #[error("gave an answer that the protocol does not allow: {}", brief(.0))]
    Invalid(String),
    /// A JSON-RPC error in response to a request of the gateway itself.
    #[error("refused: {code} {}", brief(.message))]
    JsonRpc {
        /// The JSON-RPC error code.
        code: i64,
        /// The backend's error message, cut short and without the values of configured headers.
        message: String,
    },
}

fn of_status(status: u16) -> String {
    match status {
        401 | 403 | 407 => format!(
            "refuses the gateway with HTTP status {status}; check the credentials in the backend's `headers`"
        ),
        _ => format!("answered with HTTP status {status}"),
    }
}

/// Parses `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date. A date is relative to the `Date` of the same response, because
/// the backend's clock may differ from ours.
fn retry_after(after: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = after.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let instant = |date| httpdate::parse_http_date(date).ok();
    // A date in the past means now.
    Some(
        instant(after)?
            .duration_since(instant(date?)?)
            .unwrap_or_default(),
    )
}

impl BackendError {
    /// Creates the error for the status and headers of an error response.
    pub(super) fn from_response<B>(answer: &Response<B>) -> Self {
        let (status, headers) = (answer.status(), answer.headers());
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if status.is_redirection() {
            let location = text(LOCATION).and_then(|location| location.parse::<Uri>().ok());
            // Only scheme and host: the query may contain a secret.
            let place = location.as_ref().and_then(|location| {
                let authority = location.authority()?.host();
                Some(format!(
                    "{}://{authority}",
                    location.scheme_str().unwrap_or_default()
                ))
            });
            return Self::Redirected(place.unwrap_or_else(|| "another path".to_owned()));
        }
        let status = status.as_u16();
        match text(RETRY_AFTER).and_then(|after| retry_after(after, text(DATE))) {
            Some(retry_after) if matches!(status, 429 | 503) => Self::Busy { status, retry_after },
            _ => Self::status(status),
        }
    }

    /// Creates the error of a status without a detail.
    pub(crate) fn status(code: u16) -> Self {
        Self::Status { code, detail: None }
    }

    /// Adds the error text in `body` to a status, if the body is JSON with a text in one of the usual fields. Text about credentials may
    /// repeat them, so it is not taken. In other text the values of `sent` are hidden.
    pub(super) fn with_detail_of(self, body: &[u8], sent: &RequestHeaders) -> Self {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Body {
            Protocol { error: ErrorText },
            Plain(ErrorText),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum ErrorText {
            Text(String),
            Object {
                #[serde(alias = "error", alias = "detail")]
                message: String,
            },
        }
        let Self::Status { code, .. } = self else {
            return self;
        };
        if matches!(code, 401 | 403 | 407) {
            return self;
        }
        match serde_json::from_slice(body) {
            Ok(Body::Protocol { error: text } | Body::Plain(text)) => {
                let (ErrorText::Text(text) | ErrorText::Object { message: text }) = text;
                // The start of a value that is cut off would not be found.
                let text = sent.hide_values(&text);
                let text = truncate::head(&text, MAX_DETAIL_BYTES);
                let text = text.replace(char::is_control, " ");
                Self::Status {
                    code,
                    detail: Some(text.into()),
                }
            }
            Err(_) => self,
        }
    }

    /// Hides the values of `sent` in the text that the backend may have written.
    pub(super) fn hide_values(self, sent: &RequestHeaders) -> Self {
        match self {
            Self::Unreachable(text) => Self::Unreachable(sent.hide_values(&text)),
            Self::Broken(text) => Self::Broken(sent.hide_values(&text)),
            Self::NotProcessed(text) => Self::NotProcessed(sent.hide_values(&text)),
            Self::Redirected(text) => Self::Redirected(sent.hide_values(&text)),
            Self::Invalid(text) => Self::Invalid(sent.hide_values(&text)),
            Self::JsonRpc { code, message } => Self::JsonRpc {
                code,
                message: sent.hide_values(&message),
            },
            other => other,
        }
    }

    /// Turns the error of a refused `initialize` into [`Self::SingleSession`] where it means that all clients have one session.
    pub(super) fn for_initialize(self) -> Self {
        let text = match &self {
            Self::Status {
                detail: Some(detail), ..
            } => detail,
            Self::JsonRpc { message, .. } => &**message,
            _ => return self,
        };
        if text.to_ascii_lowercase().contains("already initialized") {
            Self::SingleSession
        } else {
            self
        }
    }

    /// The backend's own error text, for the client.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Status { detail, .. } => detail.as_deref(),
            _ => None,
        }
    }

    /// Creates the error for an unexpected content type. `not` continues the sentence.
    pub(super) fn content_type(found: Option<&HeaderValue>, not: &str) -> Self {
        let found = found.map_or("none".into(), |value| String::from_utf8_lossy(value.as_bytes()));
        let found = truncate::head(&found, 100);
        Self::Invalid(format!("its content type is {found}, and {not}"))
    }

    /// Whether the backend as a whole failed, so the next call would fail, too. The circuit breaker counts these errors.
    #[must_use]
    pub fn is_backend_failure(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::Deadline(_)
            | Self::Paused(_)
            | Self::Broken(_)
            | Self::Status { code: 500.., .. }
            | Self::Busy { status: 500.., .. } => true,
            Self::SessionLost
            | Self::SessionAffinityRequired
            | Self::SingleSession
            | Self::MissingHeader(_)
            | Self::MissingVariable(_)
            | Self::TooManyProcesses(_)
            | Self::NotProcessed(_)
            | Self::TooLarge(_)
            | Self::NoRoom(_)
            | Self::CatalogTooLarge(_)
            | Self::Busy { .. }
            | Self::Redirected(_)
            | Self::CircuitOpen { .. }
            | Self::Overloaded(_)
            | Self::Status { .. }
            | Self::Invalid(_)
            | Self::JsonRpc { .. } => false,
        }
    }

    /// Whether the request is known not to have been executed, so a retry is safe.
    #[must_use]
    pub fn is_retry_safe(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::MissingHeader(_)
            | Self::MissingVariable(_)
            | Self::TooManyProcesses(_)
            | Self::SessionLost
            | Self::SessionAffinityRequired
            | Self::SingleSession
            | Self::NotProcessed(_)
            | Self::CircuitOpen { .. }
            | Self::Overloaded(_) => true,
            Self::Status { code, .. } => {
                matches!(code, 401 | 403 | 404 | 405 | 406 | 415 | 421 | 429 | 503)
            }
            Self::Busy { .. } | Self::Redirected(_) => true,
            Self::Deadline(_)
            | Self::Paused(_)
            | Self::TooLarge(_)
            | Self::NoRoom(_)
            | Self::CatalogTooLarge(_)
            | Self::Broken(_)
            | Self::Invalid(_)
            | Self::JsonRpc { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, header: (&str, &str)) -> BackendError {
        let answer = Response::builder().status(status).header(header.0, header.1);
        BackendError::from_response(&answer.body(()).unwrap())
    }

    #[test]
    fn error_response_is_described_without_secrets() {
        for (error, expected) in [
            (
                of(401, ("www-authenticate", "Bearer s3cret")),
                "HTTP status 401; check the credentials",
            ),
            (of(403, ("x", "y")), "HTTP status 403; check the credentials"),
            (
                of(429, ("retry-after", "30")),
                "HTTP status 429 and asks to be left alone for 30 s",
            ),
            (
                of(503, ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")),
                "HTTP status 503",
            ),
            (of(500, ("retry-after", "30")), "answered with HTTP status 500"),
            (
                of(307, ("location", "https://other.example/mcp?token=s3cret")),
                "redirects to https://other.example,",
            ),
            (
                of(302, ("location", "/login?token=s3cret")),
                "redirects to another path",
            ),
            (of(302, ("x", "y")), "redirects to another path"),
        ] {
            let text = error.to_string();
            assert!(text.contains(expected) && !text.contains("s3cret"), "{text}");
        }
        let dated = |after: &str| {
            let answer = Response::builder()
                .status(429)
                .header("date", "Fri, 31 Dec 1999 23:58:00 GMT")
                .header("retry-after", after);
            BackendError::from_response(&answer.body(()).unwrap()).to_string()
        };
        assert!(dated("Fri, 31 Dec 1999 23:59:59 GMT").ends_with("left alone for 119 s"));
        assert!(dated("Fri, 31 Dec 1999 23:57:59 GMT").ends_with("left alone for 0 s"));
        for nonsense in [
            "soon",
            "-1",
            "1.5",
            "",
            "Fri, 99 Dec 1999 23:59:59 GMT",
            "99999999999999999999",
        ] {
            assert!(dated(nonsense).ends_with("HTTP status 429"), "{nonsense}");
        }
        assert!(of(429, ("retry-after", "1")).is_retry_safe() && !of(500, ("x", "y")).is_retry_safe());
    }

    #[test]
    fn error_text_is_bounded() {
        let long = || "x".repeat(3 << 20);
        for error in [
            BackendError::Unreachable(long()),
            BackendError::Broken(long()),
            BackendError::CircuitOpen { reason: long() },
            BackendError::Redirected(long()),
            BackendError::Invalid(long()),
            BackendError::JsonRpc {
                code: 1,
                message: long(),
            },
        ] {
            let shown = error.to_string().len();
            assert!(shown < MAX_ERROR_BYTES + 200, "{shown}");
        }
    }

    #[test]
    fn backend_error_text_reaches_the_client_but_no_credentials() {
        // The client gets the backend's text for a status, unless the status is about credentials. Logs never get it.
        for (status, body, expected) in [
            (
                500,
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"the disk\nis full"}}"#,
                Some("the disk is full"),
            ),
            (400, r#"{"error":"no such tenant"}"#, Some("no such tenant")),
            (418, r#"{"message":"short and stout"}"#, Some("short and stout")),
            (503, r#"{"detail":"restarting"}"#, Some("restarting")),
            (500, "<html>", None),
            (500, r#"{"error":5}"#, None),
            (401, r#"{"error":"s3cret is no token"}"#, None),
        ] {
            let (plain, detailed) = (
                of(status, ("x", "y")),
                of(status, ("x", "y")).with_detail_of(body.as_bytes(), &RequestHeaders::default()),
            );
            assert_eq!(detailed.detail(), expected);
            assert_eq!(detailed.to_string(), plain.to_string(), "the logged text");
            assert_eq!(
                (detailed.is_retry_safe(), detailed.is_backend_failure()),
                (plain.is_retry_safe(), status >= 500)
            );
        }
        let long = format!(r#"{{"message":"{}"}}"#, "é".repeat(1000));
        let detailed = of(500, ("x", "y")).with_detail_of(long.as_bytes(), &RequestHeaders::default());
        assert_eq!(detailed.detail().map(str::len), Some(MAX_DETAIL_BYTES));
    }
}
