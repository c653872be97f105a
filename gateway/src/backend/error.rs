//! What can go wrong with a backend, by whose fault and whether a call may be tried again.

use std::time::Duration;

use http::header::{DATE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, Uri};
use serde::Deserialize;

use crate::runtime::truncate;
use crate::runtime::truncate::MAX_ERROR_BYTES;

/// How much of what a backend says about an error is shown.
const SAID_BYTES: usize = 300;

/// What somebody else says, as far as it stands in an error: see [`MAX_ERROR_BYTES`].
fn brief(said: &str) -> String {
    truncate::brief(said, MAX_ERROR_BYTES)
}

/// A failed exchange with a backend. However much the backend says, each shows as a text of bounded length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// No connection: the request was never sent.
    #[error("cannot be reached: {}", brief(.0))]
    Unreachable(String),
    /// A header that requests to it must bear has no value: the request was never sent.
    #[error("cannot be called: header {0}")]
    MissingHeader(String),
    /// The backend does not know the upstream session any more. It has not executed the request.
    #[error("does not know its session any more")]
    SessionLost,
    /// The backend has lost the session so often that it is not opened again. It has not executed the request.
    #[error(
        "loses its sessions again and again; if it has replicas, requests of one session must reach the same one (session affinity)"
    )]
    SessionAffinityRequired,
    /// The backend has one session for everybody, which somebody has. It has not executed the request.
    #[error(
        "has one session for all of its clients, and somebody has it: it refuses a second `initialize` as \"already initialized\". Run it so \
         that each client gets a session of its own (with the TypeScript SDK: a transport and a server for each session), or without \
         sessions; where that cannot be, let all clients share the one with `sharedSession: true` of the backend. Restart it if another \
         process had the session"
    )]
    SingleSession,
    /// No answer within the deadline. The request may have been executed.
    #[error("did not answer within {} s", .0.as_secs_f32())]
    Deadline(Duration),
    /// The backend paused for too long in the middle of its answer. The request was executed, wholly or in part.
    #[error("paused for more than {} s in the middle of its answer", .0.as_secs_f32())]
    Paused(Duration),
    /// The answer is larger than is passed on. The request was executed.
    #[error("gave an answer of more than {0} bytes, which is the most that is passed on")]
    TooLarge(u64),
    /// What is buffered of the backend's answers takes all the room that they may take. The request may have been executed.
    #[error(
        "sends more at a time than is buffered of one backend's answers ({0} bytes); `limits.bufferedBytes` says how much that is"
    )]
    NoRoom(usize),
    /// What the backend lists finds no room among what is kept of catalogs.
    #[error(
        "lists more than there is room for ({0} bytes for all lists of one backend, new and old); `limits.bufferedBytes` says how much that is"
    )]
    CatalogTooLarge(usize),
    /// The connection ended before the answer was complete. The request may have been executed.
    #[error("ended the connection before its answer was complete: {}", brief(.0))]
    Broken(String),
    /// The server says in HTTP/2 that it has not processed the request.
    #[error("did not process the request: {0}")]
    NotProcessed(String),
    /// The breaker is open: the request was not sent.
    #[error("is not asked at the moment, because calls fail again and again: it {}", brief(.reason))]
    CircuitOpen {
        /// What went wrong the last time.
        reason: String,
    },
    /// As many calls run there as are allowed, and the queue is full or was waited in for too long: the request was not sent.
    #[error("has {0} calls running, which is its limit")]
    Overloaded(usize),
    /// An HTTP status that is no answer.
    #[error("{}", of_status(*.0))]
    Status(u16),
    /// The same, where the backend says in the body what is the matter.
    #[error("{}", of_status(*.status))]
    StatusDetail {
        /// The status.
        status: u16,
        /// The backend's words, cut short. They are for the client; logs, which hold no bodies, do not have them.
        said: String,
    },
    /// A status that says when to come back: the backend is busy, or wants to be asked less often.
    #[error("answered with HTTP status {status} and asks to be left alone for {} s", .retry_after.as_secs())]
    Busy {
        /// The status, 429 or 503.
        status: u16,
        /// For how long.
        retry_after: Duration,
    },
    /// A redirect that is not followed: to another origin, where it would take credentials and sessions to a server that nobody configured;
    /// without end; or to a place that is to be asked with GET.
    #[error(
        "redirects to {}, which is not followed; if that is where it is now, configure that URL", brief(.0)
    )]
    Redirected(String),
    /// An answer that is not what the protocol allows.
    #[error("gave an answer that the protocol does not allow: {}", brief(.0))]
    Invalid(String),
    /// The backend answered a request of the gateway's own with a JSON-RPC error.
    #[error("refused: {code} {}", brief(.message))]
    JsonRpc {
        /// The error's code.
        code: i64,
        /// What the backend says.
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

/// How long `Retry-After` says (RFC 9110, section 10.2.3): seconds, or a date. A date is one of the clock by which the answer itself is
/// dated, which need not go like ours.
fn retry_after(after: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = after.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let instant = |date| httpdate::parse_http_date(date).ok();
    // What is past is now.
    Some(
        instant(after)?
            .duration_since(instant(date?)?)
            .unwrap_or_default(),
    )
}

impl BackendError {
    /// What the status and the headers of an answer that is none say.
    pub(super) fn of_answer<B>(answer: &Response<B>) -> Self {
        let (status, headers) = (answer.status(), answer.headers());
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if status.is_redirection() {
            let location = text(LOCATION).and_then(|location| location.parse::<Uri>().ok());
            // Not the whole of it: a query may hold a secret.
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
            _ => Self::Status(status),
        }
    }

    /// The same error with what the backend says of it in `body`, if it is a status and the body is JSON that has words in one of the usual
    /// places. What is said of credentials may repeat them, and is not shown.
    pub(super) fn told(self, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Body {
            Protocol { error: Said },
            Plain(Said),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Said {
            Text(String),
            Object {
                #[serde(alias = "error", alias = "detail")]
                message: String,
            },
        }
        let Self::Status(status) = self else { return self };
        if matches!(status, 401 | 403 | 407) {
            return self;
        }
        match serde_json::from_slice(body) {
            Ok(Body::Protocol { error: said } | Body::Plain(said)) => {
                let (Said::Text(said) | Said::Object { message: said }) = said;
                let said = truncate::head(&said, SAID_BYTES);
                let said = said.replace(char::is_control, " ");
                Self::StatusDetail { status, said }
            }
            Err(_) => self,
        }
    }

    /// The error of an `initialize` that was refused, or what it means: that there is one session for everybody.
    pub(super) fn of_initialize(self) -> Self {
        let (Self::StatusDetail { said, .. } | Self::JsonRpc { message: said, .. }) = &self else {
            return self;
        };
        if said.to_ascii_lowercase().contains("already initialized") {
            Self::SingleSession
        } else {
            self
        }
    }

    /// What the backend says of it, for the client.
    #[must_use]
    pub fn said(&self) -> Option<&str> {
        match self {
            Self::StatusDetail { said, .. } => Some(said),
            _ => None,
        }
    }

    /// An answer whose content type is this one, which is `not` what it has to be.
    pub(super) fn content_type(found: Option<&HeaderValue>, not: &str) -> Self {
        let found = found.map_or("none".into(), |value| String::from_utf8_lossy(value.as_bytes()));
        let found = truncate::head(&found, 100);
        Self::Invalid(format!("its content type is {found}, and {not}"))
    }

    /// Whether it says that nobody is there who could answer, whatever is asked: the next call would meet the same.
    #[must_use]
    pub fn says_unreachable(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::Deadline(_)
            | Self::Paused(_)
            | Self::Broken(_)
            | Self::Status(500..)
            | Self::StatusDetail { status: 500.., .. }
            | Self::Busy { status: 500.., .. } => true,
            Self::SessionLost
            | Self::SessionAffinityRequired
            | Self::SingleSession
            | Self::MissingHeader(_)
            | Self::NotProcessed(_)
            | Self::TooLarge(_)
            | Self::NoRoom(_)
            | Self::CatalogTooLarge(_)
            | Self::Busy { .. }
            | Self::Redirected(_)
            | Self::CircuitOpen { .. }
            | Self::Overloaded(_)
            | Self::Status(_)
            | Self::StatusDetail { .. }
            | Self::Invalid(_)
            | Self::JsonRpc { .. } => false,
        }
    }

    /// Whether the request is known not to have been executed, so that trying again is safe.
    #[must_use]
    pub fn is_retry_safe(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::MissingHeader(_)
            | Self::SessionLost
            | Self::SessionAffinityRequired
            | Self::SingleSession
            | Self::NotProcessed(_)
            | Self::CircuitOpen { .. }
            | Self::Overloaded(_) => true,
            Self::Status(status) | Self::StatusDetail { status, .. } => {
                matches!(status, 401 | 403 | 404 | 405 | 406 | 415 | 421 | 429 | 503)
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
        BackendError::of_answer(&answer.body(()).unwrap())
    }

    #[test]
    fn an_answer_that_is_none_says_what_is_the_matter_and_no_secret() {
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
            BackendError::of_answer(&answer.body(()).unwrap()).to_string()
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
    fn error_text_is_bounded_whatever_the_backend_said() {
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
    fn what_a_backend_says_of_a_status_is_for_the_client_unless_it_is_about_credentials() {
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
            let (silent, told) = (
                of(status, ("x", "y")),
                of(status, ("x", "y")).told(body.as_bytes()),
            );
            assert_eq!(told.said(), expected);
            assert_eq!(told.to_string(), silent.to_string(), "what is logged");
            assert_eq!(
                (told.is_retry_safe(), told.says_unreachable()),
                (silent.is_retry_safe(), status >= 500)
            );
        }
        let long = format!(r#"{{"message":"{}"}}"#, "é".repeat(1000));
        let told = of(500, ("x", "y")).told(long.as_bytes());
        assert_eq!(told.said().map(str::len), Some(SAID_BYTES));
    }
}
