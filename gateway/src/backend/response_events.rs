//! The server-sent events of a response.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{BackendError, UpstreamBody};
use crate::backend::response_reader::grow;
use crate::budget::{Reservation, UNCOUNTED_BYTES};
use crate::mcp::sse::{Event, SseDecoder};

/// The largest accepted event.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// The events of one response, in order.
#[derive(Debug)]
pub struct ResponseEvents(EventSource);

/// Where the events come from.
#[derive(Debug)]
enum EventSource {
    /// The body of one response.
    Body(Box<Assembly>),
    /// A share of the stream of a process-local session.
    Shared(SharedEvents),
}

/// The events of one call or listener on the stream of a process-local session.
#[derive(Debug)]
struct SharedEvents {
    /// An event that was read already and comes first.
    first: Option<Event>,
    events: mpsc::Receiver<Event>,
    /// Why the stream has ended, if that is known.
    end_reason: Arc<OnceLock<String>>,
}

/// Decodes the events of a body.
#[derive(Debug)]
struct Assembly {
    body: UpstreamBody,
    decoder: SseDecoder,
    /// A received chunk that waits for budget.
    chunk: Option<Bytes>,
    /// The reservation for the decoder's buffer.
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

    pub(super) fn shared(events: mpsc::Receiver<Event>, end_reason: Arc<OnceLock<String>>) -> Self {
        Self(EventSource::Shared(SharedEvents {
            first: None,
            events,
            end_reason,
        }))
    }

    /// Puts back an event of a shared stream that was read.
    pub(super) fn put_back(&mut self, event: Event) {
        if let EventSource::Shared(shared) = &mut self.0 {
            shared.first = Some(event);
        }
    }

    /// Returns the next event, or `None` at the end of the stream. Cancel safe. It has no deadline, because a backend may be silent for as
    /// long as its tool runs.
    ///
    /// # Errors
    /// When the stream breaks, or an event is too large or exceeds the budget.
    pub async fn next(&mut self) -> Result<Option<Event>, BackendError> {
        match &mut self.0 {
            EventSource::Body(own) => own.next().await,
            EventSource::Shared(shared) => shared.next().await,
        }
    }
}

impl SharedEvents {
    async fn next(&mut self) -> Result<Option<Event>, BackendError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        match (self.events.recv().await, self.end_reason.get()) {
            (Some(event), _) => Ok(Some(event)),
            (None, Some(reason)) => Err(BackendError::Broken(reason.clone())),
            (None, None) => Ok(None),
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
                self.chunk = self.body.stream_chunk().await?;
            }
            let Some(length) = self.chunk.as_ref().map(Bytes::len) else {
                let last = self.decoder.last_event();
                return Ok(last.map(|event| self.counted(event)));
            };
            self.reserve(self.decoder.held() + length).await?;
            self.decoder.push(&self.chunk.take().unwrap_or_default());
        }
    }

    /// Reserves budget for the decoder's buffer. Small buffers do not count.
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

    /// Counts the event's data in the budget for as long as the data lives.
    fn counted(&mut self, mut event: Event) -> Event {
        // Release first, so that the same bytes do not count twice.
        self.release(self.decoder.held());
        event.data = event.data.map(|data| self.body.account().count(data));
        event
    }

    fn release(&mut self, held: usize) {
        if held < self.reserved.bytes() {
            // Shrinking a reservation never fails.
            let _less = self.reserved.resize(held);
        }
    }
}
