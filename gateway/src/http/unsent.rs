//! Bytes of an HTTP/2 response that the connection has not sent yet.
//!
//! [`h2`] buffers what the client's flow-control window or a slow connection holds back, and does not say when it has sent it. Every chunk
//! is therefore given to it as [`OutgoingData`], which counts down as `h2` writes it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use h2::SendStream;
use tokio::time::{Instant, Sleep};

use crate::budget::delivery::Delivery;
use crate::http::write_deadline::{DEADLINE_GRACE, MAX_STALL};

/// Counts the unsent bytes of one stream.
#[derive(Debug, Default)]
struct Counter {
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

impl Counter {
    fn subtract(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.waker.wake();
        }
    }
}

/// One chunk of a response. `h2` advances it as it writes, and drops it when the stream is reset.
#[derive(Debug)]
pub(super) struct OutgoingData {
    bytes: Bytes,
    counter: Arc<Counter>,
}

impl Buf for OutgoingData {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.counter.subtract(bytes);
    }
}

impl Drop for OutgoingData {
    fn drop(&mut self) {
        self.counter.subtract(self.bytes.remaining());
    }
}

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The client or its connection has ended the stream.
    Reset,
    /// The client does not read the response, and its deadline has passed or others need the memory.
    Unread,
}

/// The unsent bytes of one response, and how long its client may leave them unread.
///
/// The limits are those of [`crate::http::write_deadline`], applied to the stream: other streams of the connection go on.
#[derive(Debug)]
pub(super) struct Unsent {
    counter: Arc<Counter>,
    delivery: Delivery,
    /// The count at the last look.
    last: usize,
    /// Set while the client reads nothing.
    stalled: Option<Stalled>,
}

#[derive(Debug)]
struct Stalled {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Unsent {
    pub(super) fn new(delivery: Delivery) -> Self {
        Self {
            counter: Arc::default(),
            delivery,
            last: 0,
            stalled: None,
        }
    }

    /// `bytes`, counted until they are sent.
    pub(super) fn track(&mut self, bytes: Bytes) -> OutgoingData {
        self.counter.bytes.fetch_add(bytes.len(), Ordering::AcqRel);
        self.last = self.last.saturating_add(bytes.len());
        OutgoingData {
            bytes,
            counter: Arc::clone(&self.counter),
        }
    }

    /// Waits until at most `most` bytes are unsent.
    pub(super) async fn falls_to(
        &mut self,
        most: usize,
        stream: &mut SendStream<OutgoingData>,
    ) -> Result<(), Stopped> {
        poll_fn(|context| self.poll_falls_to(most, stream, context)).await
    }

    fn poll_falls_to(
        &mut self,
        most: usize,
        stream: &mut SendStream<OutgoingData>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Stopped>> {
        self.counter.waker.register(context.waker());
        let bytes = self.counter.bytes.load(Ordering::Acquire);
        if bytes < self.last && self.stalled.take().is_some() {
            self.delivery.mark_moving();
        }
        self.last = bytes;
        if bytes <= most {
            return Poll::Ready(Ok(()));
        }
        if stream.poll_reset(context).is_ready() {
            return Poll::Ready(Err(Stopped::Reset));
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            let since = Instant::now();
            Stalled {
                since,
                timer: Box::pin(tokio::time::sleep_until(since)),
            }
        });
        self.delivery.mark_stalled(stalled.since, context.waker());
        loop {
            // The deadline may move while the client reads nothing.
            let end = self.delivery.end().map(|end| end + DEADLINE_GRACE);
            let end = end.unwrap_or(stalled.since + MAX_STALL);
            if self.delivery.is_given_up() || end <= Instant::now() {
                return Poll::Ready(Err(Stopped::Unread));
            }
            if stalled.timer.deadline() != end {
                stalled.timer.as_mut().reset(end);
            }
            if stalled.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
