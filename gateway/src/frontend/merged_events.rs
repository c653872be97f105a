//! Merges the responses of a batch into one event stream.
//!
//! The requests of a batch run only while they are polled. So all of them are polled while one response is being sent: a call that streams
//! for minutes must not keep the others from beginning. Every chunk of a streamed response is one event, and streams are merged event by
//! event. A response that is one message may have several chunks, which are sent together.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt as _};
use http::Response;

use crate::frontend::batch::{Chunks, encode_events, is_stream};
use crate::frontend::response::ResponseBody;
use crate::runtime::BoxError;

/// The events of all responses of a batch.
pub(super) struct MergedEvents {
    /// The responses that have not begun yet; `None` when all have.
    responses: Option<BoxStream<'static, Response<ResponseBody>>>,
    /// The message that is being sent.
    message: Option<Chunks>,
    /// Further messages, at most one for each request of the batch.
    messages: VecDeque<Chunks>,
    streams: SelectAll<Chunks>,
}

impl MergedEvents {
    pub(super) fn new(responses: impl Stream<Item = Response<ResponseBody>> + Send + 'static) -> Self {
        Self {
            responses: Some(responses.boxed()),
            message: None,
            messages: VecDeque::new(),
            streams: SelectAll::new(),
        }
    }

    /// Runs the requests, and takes the responses that have begun.
    fn poll_responses(&mut self, context: &mut Context<'_>) {
        while let Some(responses) = &mut self.responses {
            match responses.poll_next_unpin(context) {
                Poll::Pending => return,
                Poll::Ready(None) => self.responses = None,
                Poll::Ready(Some(response)) if is_stream(&response) => {
                    self.streams.push(encode_events(response));
                }
                Poll::Ready(Some(response)) => self.messages.push_back(encode_events(response)),
            }
        }
    }
}

impl Stream for MergedEvents {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_responses(context);
        loop {
            if let Some(message) = &mut self.message {
                match message.poll_next_unpin(context) {
                    Poll::Ready(None) => self.message = None,
                    // Nothing may come between the parts of a message.
                    chunk => return chunk,
                }
            }
            self.message = self.messages.pop_front();
            if self.message.is_none() {
                break;
            }
        }
        match self.streams.poll_next_unpin(context) {
            Poll::Ready(None) if self.responses.is_some() => Poll::Pending,
            chunk => chunk,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::{FutureExt as _, stream};

    use super::*;
    use crate::frontend::response;

    fn message(chunks: &'static [&'static str]) -> Response<ResponseBody> {
        let chunks = chunks
            .iter()
            .map(|chunk| Ok(Bytes::from_static(chunk.as_bytes())));
        response::streaming_json(stream::iter(chunks))
    }

    fn endless(first: &'static str) -> Response<ResponseBody> {
        let first = stream::iter([Ok(Bytes::from_static(first.as_bytes()))]);
        response::events(first.chain(stream::pending()))
    }

    /// While one response streams without an end, the other requests begin, and their responses are sent.
    #[tokio::test]
    async fn endless_stream_does_not_hold_up_other_requests() {
        let has_begun = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&has_begun);
        let late = async move {
            tokio::task::yield_now().await;
            begun.store(true, Ordering::Relaxed);
            message(&["{\"a\":", "1}"])
        };
        let responses = stream::iter([async { endless("data: x\n\n") }.boxed(), late.boxed()]);
        let mut events = MergedEvents::new(responses.buffer_unordered(8));
        let mut sent = String::new();
        while !sent.contains("1}\n\n") {
            let chunk = events.next().await.unwrap().unwrap();
            sent.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        assert!(has_begun.load(Ordering::Relaxed));
        assert_eq!(sent, "data: x\n\nevent: message\ndata: {\"a\":1}\n\n");
    }

    /// The chunks of a message stay together, and the stream ends after the last response.
    #[tokio::test]
    async fn message_is_sent_in_one_piece_and_all_end() {
        let finite = response::events(stream::iter([
            Ok(Bytes::from_static(b"data: 1\n\n")),
            Ok(Bytes::from_static(b"data: 2\n\n")),
        ]));
        let responses = stream::iter([finite, message(&["[", "]"]), message(&["{}"])]);
        let chunks: Vec<_> = MergedEvents::new(responses)
            .map(|chunk| String::from_utf8(chunk.unwrap().to_vec()).unwrap())
            .collect()
            .await;
        let sent = chunks.concat();
        assert!(sent.contains("event: message\ndata: []\n\n"), "{sent}");
        assert!(sent.contains("event: message\ndata: {}\n\n"), "{sent}");
        assert!(
            sent.contains("data: 1\n\n") && sent.contains("data: 2\n\n"),
            "{sent}"
        );
    }
}
