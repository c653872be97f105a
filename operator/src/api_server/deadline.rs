//! The body of an answer that has to be there by a deadline.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// The API server did not answer in time, or not to the end.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", limit.as_secs())]
pub(super) struct DeadlinePassed {
    pub(super) limit: Duration,
}

/// A body that fails when it has not ended at its deadline.
pub(super) struct DeadlineBody<B> {
    inner: B,
    deadline: Pin<Box<Sleep>>,
    limit: Duration,
}

impl<B> DeadlineBody<B> {
    pub(super) fn new(inner: B, deadline: Instant, limit: Duration) -> Self {
        Self {
            inner,
            deadline: Box::pin(sleep_until(deadline)),
            limit,
        }
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // The deadline goes first: a body that never pauses would otherwise outlast it.
        if self.deadline.as_mut().poll(context).is_ready() {
            let limit = self.limit;
            return Poll::Ready(Some(Err(DeadlinePassed { limit }.into())));
        }
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
