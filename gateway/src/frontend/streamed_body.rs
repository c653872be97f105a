//! A streamed response body, with everything that must last until it has been sent.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};

use crate::frontend::access_log::RequestLog;
use crate::frontend::shared_body;
use crate::frontend::shared_body::SLICE_BYTES;
use crate::runtime::BoxError;

/// A streamed body. It holds its guards itself, so that each further guard is not one more box around the
/// stream that every chunk passes.
pub(crate) struct StreamedBody {
    inner: UnsyncBoxBody<Bytes, BoxError>,
    /// Dropped with the body: permits, and the registration of the running request.
    guards: Vec<Box<dyn Any + Send>>,
    /// Records how the body ends; only the body that is sent has one.
    log: Option<RequestLog>,
    /// The part of the current chunk that has not been handed to the connection.
    rest: Bytes,
}

impl StreamedBody {
    pub(super) fn new(chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        Self {
            inner: StreamBody::new(chunks.map_ok(Frame::data)).boxed_unsync(),
            guards: Vec::new(),
            log: None,
            rest: Bytes::new(),
        }
    }

    /// Keeps `guard` until the body has been sent or the client has gone away.
    pub(super) fn hold(&mut self, guard: impl Any + Send) {
        self.guards.push(Box::new(guard));
    }

    /// Has `log` record how the body ends.
    pub(super) fn log_to(&mut self, log: RequestLog) {
        self.log = Some(log);
    }

    /// The next slice of the current chunk, without a copy.
    fn next_slice(&mut self) -> Frame<Bytes> {
        let slice = shared_body::slice(&mut self.rest);
        let is_complete = http_body::Body::is_end_stream(self);
        if let Some(log) = &mut self.log {
            log.set_complete(is_complete);
        }
        Frame::data(slice)
    }
}

impl fmt::Debug for StreamedBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StreamedBody").finish_non_exhaustive()
    }
}

impl http_body::Body for StreamedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(this.next_slice())));
        }
        let inner = Pin::new(&mut this.inner);
        let Some(log) = &mut this.log else {
            return inner.poll_frame(context);
        };
        let polled = log.id().within(|| inner.poll_frame(context));
        match &polled {
            Poll::Ready(None) => log.set_complete(true),
            Poll::Ready(Some(Err(_))) => log.set_aborted(),
            Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(|data| data.len() > SLICE_BYTES) => {
                let Poll::Ready(Some(Ok(frame))) = polled else {
                    return polled;
                };
                this.rest = frame.into_data().unwrap_or_default();
                return Poll::Ready(Some(Ok(this.next_slice())));
            }
            Poll::Ready(Some(Ok(_))) => log.set_complete(this.inner.is_end_stream()),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The size of the whole is unknown here: hyper asks before the first chunk.
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Guards are kept while chunks are sent, and dropped with the body.
    #[tokio::test]
    async fn streamed_body_keeps_guards_until_dropped() {
        let chunks = futures::stream::iter([Ok(Bytes::from_static(b"a")), Ok(Bytes::from_static(b"b"))]);
        let (first, second) = (Arc::new(()), Arc::new(()));
        let mut body = StreamedBody::new(chunks);
        body.hold(Arc::clone(&first));
        body.hold(Arc::clone(&second));
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "a");
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (2, 2));
        drop(body);
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 1));
    }
}
