//! A backend's answer as a stream of messages.

use super::{BackendError, UpstreamBody};
use crate::wire::sse::{Decoder, Event};

/// The largest event that is passed on.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// The events of one answer, in order.
#[derive(Debug)]
pub struct Events {
    body: UpstreamBody,
    decoder: Decoder,
}

impl Events {
    pub(super) fn new(body: UpstreamBody) -> Self {
        Self {
            body,
            decoder: Decoder::new(MAX_EVENT_BYTES),
        }
    }

    /// The next event, or `None` at the end of the stream. May be dropped while it waits: nothing is lost. A backend may be silent
    /// for as long as its tool runs, so that there is no deadline here.
    ///
    /// # Errors
    /// When the stream breaks, or holds an event that is too large.
    pub async fn next(&mut self) -> Result<Option<Event>, BackendError> {
        loop {
            match self.decoder.next_event() {
                Err(error) => return Err(BackendError::Invalid(error.to_string())),
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
            }
            match self.body.chunk_in_time().await? {
                None => return Ok(None),
                Some(chunk) => self.decoder.push(&chunk),
            }
        }
    }
}
