//! A response body with a deadline.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// The API server's response was not complete at its deadline.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", timeout.as_secs())]
pub(super) struct DeadlineExceeded {
    pub(super) timeout: Duration,
}

/// A response body that fails if it has not ended by its deadline.
pub(super) struct DeadlineBody<B> {
    inner: B,
    deadline: Pin<Box<Sleep>>,
    timeout: Duration,
}

impl<B> DeadlineBody<B> {
    pub(super) fn new(inner: B, deadline: Instant, timeout: Duration) -> Self {
        Self {
            inner,
            deadline: Box::pin(sleep_until(deadline)),
            timeout,
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
        // Checked before the body: a body that is always ready would otherwise never meet its deadline.
        if self.deadline.as_mut().poll(context).is_ready() {
            let timeout = self.timeout;
            return Poll::Ready(Some(Err(DeadlineExceeded { timeout }.into())));
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
