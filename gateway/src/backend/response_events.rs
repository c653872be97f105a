//! A backend's answer as a stream of messages.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{BackendError, UpstreamBody};
use crate::backend::response_reader::grow;
use crate::budget::{Reservation, UNCOUNTED_BYTES};
use crate::mcp::sse::{Event, SseDecoder};

/// The largest event that is passed on.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// The events of one answer, in order.
#[derive(Debug)]
pub struct ResponseEvents(EventSource);

/// Where they come from.
#[derive(Debug)]
enum EventSource {
    /// A body of their own.
    Body(Box<Assembly>),
    /// A stream that they share with others.
    Shared(mpsc::Receiver<Event>),
}

/// The events of a body, put together from its pieces.
#[derive(Debug)]
struct Assembly {
    body: UpstreamBody,
    decoder: SseDecoder,
    /// What has come and waits for room in the decoder.
    chunk: Option<Bytes>,
    /// For what the decoder holds.
    reserved: Reservation,
}

impl ResponseEvents {
    pub(super) fn new(body: UpstreamBody) -> Self {
        let reserved = body.account().begin();
        Self(EventSource::Body(Box::new(Assembly {
            body,
            decoder: SseDecoder::new(MAX_EVENT_BYTES),
            chunk: None,
            reserved,
        })))
    }

    pub(super) fn shared(events: mpsc::Receiver<Event>) -> Self {
        Self(EventSource::Shared(events))
    }

    /// The next event, or `None` at the end of the stream. May be dropped while it waits: nothing is lost. A backend may be silent
    /// for as long as its tool runs, so that there is no deadline here.
    ///
    /// # Errors
    /// When the stream breaks, or holds an event that is too large, or for which there is no room.
    pub async fn next(&mut self) -> Result<Option<Event>, BackendError> {
        match &mut self.0 {
            EventSource::Body(own) => own.next().await,
            EventSource::Shared(events) => Ok(events.recv().await),
        }
    }
}

impl Assembly {
    async fn next(&mut self) -> Result<Option<Event>, BackendError> {
        loop {
            match self.decoder.next_event() {
                Err(error) => return Err(BackendError::Invalid(error.to_string())),
                Ok(Some(event)) => return Ok(Some(self.counted(event))),
                Ok(None) => {}
            }
            if self.chunk.is_none() {
                self.chunk = self.body.endless_chunk().await?;
            }
            let Some(length) = self.chunk.as_ref().map(Bytes::len) else {
                let last = self.decoder.last_event();
                return Ok(last.map(|event| self.counted(event)));
            };
            self.reserve(self.decoder.held() + length).await?;
            self.decoder.push(&self.chunk.take().unwrap_or_default());
        }
    }

    /// Reserves room for what the decoder is about to hold. Few bytes are not counted.
    async fn reserve(&mut self, bytes: usize) -> Result<(), BackendError> {
        let counted = if bytes > UNCOUNTED_BYTES { bytes } else { 0 };
        match counted.checked_sub(self.reserved.bytes()) {
            Some(more) => grow(&mut self.reserved, more).await,
            None => {
                self.release(counted);
                Ok(())
            }
        }
    }

    /// The event, whose data stays counted for as long as anybody keeps it.
    fn counted(&mut self, mut event: Event) -> Event {
        // First given back, then taken again: the same bytes do not count twice.
        self.release(self.decoder.held());
        event.data = event.data.map(|data| self.body.account().count(data));
        event
    }

    fn release(&mut self, held: usize) {
        if held < self.reserved.bytes() {
            // Less is never refused.
            let _less = self.reserved.resize(held);
        }
    }
}
