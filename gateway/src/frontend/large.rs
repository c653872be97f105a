//! A JSON answer that is too large to be checked, passed on as it comes.

use bytes::Bytes;
use futures::Stream;
use futures::stream::{self, StreamExt as _};

use super::respond::BoxError;
use crate::backend::{Deadline, UpstreamBody};

/// The bytes of the answer. When the backend breaks off, pauses for too long or is not done at the deadline, the answer breaks off,
/// which tells the client that it is not complete.
pub(super) fn bytes(
    first: Bytes,
    rest: UpstreamBody,
    deadline: Deadline,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    let rest = stream::unfold(Some(rest), move |rest| async move {
        let mut rest = rest?;
        let chunk = tokio::time::timeout_at(deadline.at(), rest.chunk()).await;
        match chunk.unwrap_or_else(|_| Err(deadline.passed())) {
            Ok(None) => None,
            Ok(Some(chunk)) => Some((Ok(chunk), Some(rest))),
            Err(error) => Some((Err(error.into()), None)),
        }
    });
    stream::iter((!first.is_empty()).then_some(Ok(first))).chain(rest)
}
