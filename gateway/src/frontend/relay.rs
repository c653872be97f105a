//! A backend's answer as a stream of events, passed on as it comes.
//!
//! The client's reading pulls: nothing is read from the backend faster than the client takes it, so that no queue grows.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::stream;
use serde_json::value::RawValue;

use super::respond::BoxError;
use super::tools::explain;
use crate::backend::{BackendError, Events};
use crate::config::BackendName;
use crate::wire::jsonrpc::{self, Response};
use crate::wire::{code, sse};

/// How long a stream may be silent before a comment is sent, so that proxies and clients see that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The events of an answer to the request `id`. When the backend's stream ends without the answer, the client gets an error for the
/// id: it is never left waiting.
pub(super) fn events(
    backend: BackendName,
    events: Events,
    id: Box<RawValue>,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    let relay = Relay {
        backend,
        events,
        id,
        answered: false,
    };
    stream::unfold(Some(relay), |relay| async move {
        let mut relay = relay?;
        let chunk = relay.next().await;
        let rest = (!chunk.last).then_some(relay);
        (!chunk.bytes.is_empty()).then_some((Ok(chunk.bytes), rest))
    })
}

struct Relay {
    backend: BackendName,
    events: Events,
    id: Box<RawValue>,
    answered: bool,
}

struct Chunk {
    bytes: Bytes,
    last: bool,
}

impl Relay {
    async fn next(&mut self) -> Chunk {
        loop {
            let chunk = self.step().await;
            if chunk.last || !chunk.bytes.is_empty() {
                return chunk;
            }
        }
    }

    async fn step(&mut self) -> Chunk {
        match tokio::time::timeout(KEEP_ALIVE, self.events.next()).await {
            Err(_) => Chunk {
                bytes: Bytes::from_static(b": keep-alive\n\n"),
                last: false,
            },
            Ok(Ok(Some(event))) => self.pass(event),
            Ok(Ok(None)) if self.answered => Chunk {
                bytes: Bytes::new(),
                last: true,
            },
            Ok(Ok(None)) => self.fail(&BackendError::Broken("the stream ended".to_owned())),
            Ok(Err(_)) if self.answered => Chunk {
                bytes: Bytes::new(),
                last: true,
            },
            Ok(Err(error)) => self.fail(&error),
        }
    }

    /// The event with its data as the backend wrote it. The backend's event ids mean nothing here, and are left out; so are events
    /// without data, which only set such an id.
    fn pass(&mut self, event: sse::Event) -> Chunk {
        if event.data.as_ref().is_none_or(Bytes::is_empty) {
            return Chunk {
                bytes: Bytes::new(),
                last: false,
            };
        }
        let is_answer = |data: &Bytes| Response::parse(data).is_ok_and(|response| response.answers(&self.id));
        self.answered |= event.data.as_ref().is_some_and(is_answer);
        let event = sse::Event {
            id: None,
            retry: None,
            ..event
        };
        Chunk {
            bytes: sse::encode(&event),
            last: self.answered,
        }
    }

    fn fail(&self, error: &BackendError) -> Chunk {
        tracing::warn!(backend = %self.backend, %error, "a stream ended without its answer");
        let message = jsonrpc::error(
            Some(&self.id),
            code::INTERNAL,
            &explain(self.backend.as_str(), error),
        );
        Chunk {
            bytes: sse::encode(&sse::Event {
                data: Some(message),
                ..sse::Event::default()
            }),
            last: true,
        }
    }
}
