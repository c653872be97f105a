//! A backend's answer as a stream of messages.

use tokio::sync::mpsc;

use super::{BackendError, UpstreamBody};
use crate::wire::sse::{Decoder, Event};

/// The largest event that is passed on.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// The events of one answer, in order.
#[derive(Debug)]
pub struct Events(Source);

/// Where they come from.
#[derive(Debug)]
enum Source {
    /// A body of their own.
    Body(Box<(UpstreamBody, Decoder)>),
    /// A stream that they share with others.
    Shared(mpsc::Receiver<Event>),
}

impl Events {
    pub(super) fn new(body: UpstreamBody) -> Self {
        Self(Source::Body(Box::new((body, Decoder::new(MAX_EVENT_BYTES)))))
    }

    pub(super) fn shared(events: mpsc::Receiver<Event>) -> Self {
        Self(Source::Shared(events))
    }

    /// The next event, or `None` at the end of the stream. May be dropped while it waits: nothing is lost. A backend may be silent
    /// for as long as its tool runs, so that there is no deadline here.
    ///
    /// # Errors
    /// When the stream breaks, or holds an event that is too large.
    pub async fn next(&mut self) -> Result<Option<Event>, BackendError> {
        let (body, decoder) = match &mut self.0 {
            Source::Body(own) => (&mut own.0, &mut own.1),
            Source::Shared(events) => return Ok(events.recv().await),
        };
        loop {
            match decoder.next_event() {
                Err(error) => return Err(BackendError::Invalid(error.to_string())),
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
            }
            match body.endless_chunk().await? {
                None => return Ok(None),
                Some(chunk) => decoder.push(&chunk),
            }
        }
    }
}
