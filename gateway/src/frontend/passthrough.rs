//! Passes through a JSON response that is too large to be parsed.

use bytes::Bytes;
use futures::Stream;
use futures::stream::{self, StreamExt as _};

use crate::backend::{BackendError, Deadline, UpstreamBody};
use crate::config::BackendName;
use crate::core::RoutedCall;
use crate::runtime::BoxError;
use crate::session::SessionEnd;
use crate::telemetry::Metrics;

/// One response that is passed through unparsed.
pub(super) struct PassthroughBody {
    backend: BackendName,
    deadline: Deadline,
    session_end: SessionEnd,
}

impl PassthroughBody {
    pub(super) fn new(metrics: &Metrics, routed: &RoutedCall, session_end: SessionEnd) -> Self {
        metrics.unchecked(routed.backend.name());
        Self {
            backend: routed.backend.name().clone(),
            deadline: routed.deadline,
            session_end,
        }
    }

    /// The bytes of the response. If the backend breaks off, stalls, exceeds the size limit or passes the
    /// deadline, or if the session ends, the body ends with an error, which tells the client that it is
    /// incomplete.
    pub(super) fn bytes(
        self,
        first: Bytes,
        rest: Box<UpstreamBody>,
    ) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
        let rest = stream::unfold(Some((self, rest)), |passing| async move {
            let (passing, mut rest) = passing?;
            let deadline = passing.deadline;
            let chunk = tokio::select! {
                biased;
                () = passing.session_end.reached() => Ok(Err(BackendError::Broken("its session was ended".to_owned()))),
                chunk = tokio::time::timeout_at(deadline.at(), rest.chunk()) => chunk,
            };
            match chunk.unwrap_or_else(|_| Err(deadline.passed())) {
                Ok(None) => None,
                Ok(Some(chunk)) => Some((Ok(chunk), Some((passing, rest)))),
                Err(error) => Some((Err(passing.log_abort(error)), None)),
            }
        });
        stream::iter((!first.is_empty()).then_some(Ok(first))).chain(rest)
    }

    fn log_abort(&self, error: BackendError) -> BoxError {
        tracing::warn!(backend = %self.backend, %error, "backend response ended early");
        error.into()
    }
}
