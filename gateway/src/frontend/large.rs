//! A JSON answer that is too large to be checked, passed on as it comes.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::stream::{self, StreamExt as _};
use http_body_util::BodyExt as _;

use super::respond::BoxError;
use crate::backend::{BackendError, UpstreamBody};

/// How long a backend may pause within such an answer.
const IDLE_DEADLINE: Duration = Duration::from_secs(60);

/// The bytes of the answer. When the backend breaks off or pauses for too long, so does the answer, which tells the client that it is
/// not complete.
pub(super) fn bytes(
    first: Bytes,
    rest: UpstreamBody,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    let rest = stream::unfold(Some(rest.into_data_stream()), |rest| async move {
        let mut rest = rest?;
        match tokio::time::timeout(IDLE_DEADLINE, rest.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(rest))),
            Ok(Some(Err(error))) => Some((Err(error.into()), None)),
            Err(_) => Some((Err(BackendError::Deadline(IDLE_DEADLINE).into()), None)),
        }
    });
    stream::iter((!first.is_empty()).then_some(Ok(first))).chain(rest)
}
