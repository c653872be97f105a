//! What can go wrong with a backend, by whose fault and whether a call may be tried again.

use std::time::Duration;

/// A failed exchange with a backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// No connection: the request was never sent.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The backend does not know the upstream session any more. It has not executed the request.
    #[error("does not know its session any more")]
    SessionLost,
    /// No answer within the deadline. The request may have been executed.
    #[error("did not answer within {} s", .0.as_secs_f32())]
    Deadline(Duration),
    /// The backend paused for too long in the middle of its answer. The request was executed, wholly or in part.
    #[error("paused for more than {} s in the middle of its answer", .0.as_secs_f32())]
    Paused(Duration),
    /// The connection ended before the answer was complete. The request may have been executed.
    #[error("ended the connection before its answer was complete: {0}")]
    Broken(String),
    /// The breaker is open: the request was not sent.
    #[error("is not asked at the moment, because calls fail again and again: it {reason}")]
    Open {
        /// What went wrong the last time.
        reason: String,
    },
    /// As many calls run there as are allowed, and the queue is full or was waited in for too long: the request was not sent.
    #[error("has {0} calls running, which is its limit")]
    Full(usize),
    /// An HTTP status that is no answer.
    #[error("answered with HTTP status {0}")]
    Status(u16),
    /// An answer that is not what the protocol allows.
    #[error("gave an answer that the protocol does not allow: {0}")]
    Invalid(String),
    /// The backend answered a request of the gateway's own with a JSON-RPC error.
    #[error("refused: {code} {message}")]
    Refused {
        /// The error's code.
        code: i64,
        /// What the backend says.
        message: String,
    },
}

impl BackendError {
    /// Whether it says that nobody is there who could answer, whatever is asked: the next call would meet the same.
    #[must_use]
    pub fn says_unreachable(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::Deadline(_)
            | Self::Paused(_)
            | Self::Broken(_)
            | Self::Status(500..) => true,
            Self::SessionLost
            | Self::Open { .. }
            | Self::Full(_)
            | Self::Status(_)
            | Self::Invalid(_)
            | Self::Refused { .. } => false,
        }
    }

    /// Whether the request is known not to have been executed, so that trying again is safe.
    #[must_use]
    pub fn is_retry_safe(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::SessionLost | Self::Open { .. } | Self::Full(_) => true,
            Self::Status(status) => matches!(status, 401 | 403 | 404 | 405 | 406 | 415 | 421 | 429 | 503),
            Self::Deadline(_)
            | Self::Paused(_)
            | Self::Broken(_)
            | Self::Invalid(_)
            | Self::Refused { .. } => false,
        }
    }
}
