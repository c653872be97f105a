//! The events of every stream, so that a client can resume a stream after a lost connection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::stream;
use rmcp::model::{ContentBlock, JsonRpcMessage, ServerJsonRpcMessage, ServerResult};
use rmcp::transport::streamable_http_server::session::{
    EventId, EventStore, EventStoreError, EventStream, ServerSseMessage,
};
use tokio::sync::watch;

/// How many finished streams stay readable, and how many bytes of text in them.
const KEPT: usize = 4096;
const KEPT_BYTES: usize = 64 << 20;

/// The store: a line of events per stream.
///
/// An event id is the first digits of the stream's id and a position, so that the id of a stream that is not
/// kept any more, or of an earlier process, is unknown instead of meaning something else.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    by_name: HashMap<String, Line>,
    /// The names of the lines that ended and their sizes, oldest first.
    ended: VecDeque<(String, usize)>,
    ended_bytes: usize,
}

/// The events of one stream, as a channel whose value is all of them.
type Line = watch::Sender<Written>;

#[derive(Debug, Clone, Default)]
struct Written {
    events: Vec<ServerSseMessage>,
    bytes: usize,
    ended: bool,
}

impl Events {
    /// Ends the line of a session's own stream, when the session ends.
    pub(crate) fn end(&self, session: &str) {
        if let Some(line) = self.lines().by_name.remove(&common(session)) {
            line.send_modify(|written| written.ended = true);
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn append(&mut self, name: String, event: &ServerSseMessage) -> EventId {
        let line = self.by_name.entry(name.clone()).or_default();
        let mut id = EventId::new();
        let mut finished = None;
        line.send_modify(|written| {
            id = format!("{name}-{}", written.events.len());
            let mut event = event.clone();
            event.event_id = Some(id.clone());
            if let Some(message) = &event.message {
                written.bytes += weight(message);
                written.ended = is_last(message);
            }
            finished = written.ended.then_some(written.bytes);
            written.events.push(event);
        });
        if let Some(bytes) = finished {
            self.ended_bytes += bytes;
            self.ended.push_back((name, bytes));
            self.forget_oldest();
        }
        id
    }

    fn forget_oldest(&mut self) {
        while self.ended.len() > KEPT || self.ended_bytes > KEPT_BYTES {
            let Some((name, bytes)) = self.ended.pop_front() else {
                break;
            };
            self.by_name.remove(&name);
            self.ended_bytes -= bytes;
        }
    }
}

#[async_trait]
impl EventStore for Events {
    async fn store_event(
        &self,
        stream_id: &str,
        event: &ServerSseMessage,
    ) -> Result<EventId, EventStoreError> {
        let name = match stream_id.strip_suffix(":common") {
            Some(session) => common(session),
            None => digits(stream_id),
        };
        Ok(self.lines().append(name, event))
    }

    async fn replay_events_after(&self, last_event_id: &str) -> Result<EventStream, EventStoreError> {
        let (name, position) = last_event_id.split_once('-').ok_or("not an event id")?;
        let position: usize = position.parse()?;
        let line = self
            .lines()
            .by_name
            .get(name)
            .map(Line::subscribe)
            .ok_or("the stream is not kept")?;
        Ok(follow(line, position + 1))
    }
}

/// The events of a line from a position on: those that are there, then those that come, until the line ends.
fn follow(line: watch::Receiver<Written>, from: usize) -> EventStream {
    Box::pin(stream::unfold((line, from), async |(mut line, next)| {
        loop {
            let (event, ended) = {
                let written = line.borrow_and_update();
                (written.events.get(next).cloned(), written.ended)
            };
            if let Some(event) = event {
                return Some((event, (line, next + 1)));
            }
            if ended || line.changed().await.is_err() {
                return None;
            }
        }
    }))
}

/// Whether an event id belongs to a session's own stream. "0" is what rmcp calls the first event of each.
pub(crate) fn is_of_session(event_id: &str) -> bool {
    event_id == "0"
        || event_id
            .split_once('-')
            .is_some_and(|(name, _)| name.ends_with('s'))
}

/// The line of a session's own stream: a letter more, so that it is no other stream's.
fn common(session: &str) -> String {
    digits(session) + "s"
}

/// Sixteen digits of a UUID: enough to tell streams apart, and short, because gateways put several ids in one.
fn digits(uuid: &str) -> String {
    uuid.chars().filter(|c| *c != '-').take(16).collect()
}

/// Whether a message is the answer with which the stream of a request ends.
fn is_last(message: &ServerJsonRpcMessage) -> bool {
    matches!(message, JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_))
}

/// About how much memory a message takes. Only texts of tools are ever large.
fn weight(message: &ServerJsonRpcMessage) -> usize {
    let JsonRpcMessage::Response(response) = message else {
        return 0;
    };
    let ServerResult::CallToolResult(result) = &response.result else {
        return 0;
    };
    result
        .content
        .iter()
        .filter_map(ContentBlock::as_text)
        .map(|text| text.text.len())
        .sum()
}
