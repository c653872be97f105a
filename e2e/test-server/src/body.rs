//! Response bodies that the test server can end early, and that are counted while they are open.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Ends the response to a request from inside the request. A request extension, so that tools find it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut(CancellationToken);

impl Cut {
    /// Ends the response as if it were complete.
    pub(crate) fn cut(&self) {
        self.0.cancel();
    }
}

pin_project! {
    /// A body that ends early when it is cut, and that holds on to something for as long as it is open.
    pub(crate) struct Tethered<G> {
        #[pin]
        inner: Body,
        #[pin]
        cut: WaitForCancellationFutureOwned,
        guard: G,
    }
}

impl<G> Tethered<G> {
    pub(crate) fn new(inner: Body, cut: &Cut, guard: G) -> Self {
        Self {
            inner,
            cut: cut.0.clone().cancelled_owned(),
            guard,
        }
    }
}

impl<G> HttpBody for Tethered<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        // Data that are ready go out first: a cut follows everything that was sent before it.
        match this.inner.poll_frame(cx) {
            Poll::Pending => this.cut.poll(cx).map(|()| None),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
