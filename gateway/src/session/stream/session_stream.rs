//! A session's GET stream: carries the messages of backends that belong to no call.
//!
//! The gateway listens only while the client does, and only to bound backends. The client's reads drive it: no event
//! is read from a backend before the client can take it.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream;

use crate::backend::{Backend, ClientHeaders, UpstreamSession};
use crate::config::ServerName;
use crate::mcp::sse::Event;
use crate::session::SessionError;
use crate::session::client_session::ClientSession;
use crate::session::id::event_id;
use crate::session::id::event_id::StreamPositions;
use crate::session::recovery::lost_data::Recovery;
use crate::session::recovery::observed_store::ObservedStore;
use crate::session::stream::upstream_streams::UpstreamEvent;
use crate::session::stream::{RegisteredStream, StreamRegistry};
use crate::session::upstream::ClientUpstreams;

/// Time for the previous owner of the stream to close its upstream streams. Some servers (rmcp) accept a second
/// stream of one session but stay silent on it, even after the first is closed.
const TAKEOVER_PAUSE: Duration = Duration::from_millis(200);

/// An open GET stream of a session.
#[derive(Debug)]
pub struct SessionStream {
    server: Arc<ServerName>,
    client: ClientSession,
    upstreams: ClientUpstreams,
    /// The headers of the client's GET, which pass through to the backends.
    headers: ClientHeaders,
    slot: RegisteredStream,
    taken_over: bool,
}

/// A message that a backend sent outside of calls.
#[derive(Debug)]
pub struct SessionStreamEvent {
    /// The backend that sent it.
    pub backend: Backend,
    /// The upstream session that it belongs to.
    pub upstream: UpstreamSession,
    /// The backend's event.
    pub event: Event,
    /// Event id for the client, if the backend gave one.
    pub id: Option<String>,
}

/// Opens the GET streams of client sessions. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(in crate::session) struct StreamOpener {
    server: Arc<ServerName>,
    store: Arc<ObservedStore>,
    streams: StreamRegistry,
    recovery: Recovery,
}

impl StreamOpener {
    pub(in crate::session) fn new(
        server: ServerName,
        store: Arc<ObservedStore>,
        streams: StreamRegistry,
        recovery: Recovery,
    ) -> Self {
        Self {
            server: Arc::new(server),
            store,
            streams,
            recovery,
        }
    }

    /// Opens the GET stream of `client`, after `positions` if given, and closes the previous one on any replica.
    ///
    /// # Errors
    /// The session has ended. An unavailable store is no error: the stream opens without a claim.
    pub(in crate::session) async fn open(
        &self,
        client: &ClientSession,
        upstreams: ClientUpstreams,
        positions: Option<StreamPositions>,
        headers: &ClientHeaders,
    ) -> Result<SessionStream, SessionError> {
        let (slot, mut taken_over) = self.streams.open(client.key, positions.is_none());
        // The previous owner closes its upstream streams first, because many backends accept one stream per session.
        match self.claim(client).await {
            Ok(number) => {
                taken_over |= number > 1;
                if number > 1 {
                    tokio::time::sleep(TAKEOVER_PAUSE).await;
                }
            }
            Err(SessionError::Unavailable(_)) => {}
            Err(ended @ SessionError::NotFound) => return Err(ended),
        }
        slot.with_upstream_streams(|open| {
            if let Some(positions) = positions {
                open.positions = positions;
            }
            open.follow_bindings(&upstreams, headers);
        });
        Ok(SessionStream {
            server: Arc::clone(&self.server),
            client: client.clone(),
            upstreams,
            headers: headers.clone(),
            slot,
            taken_over,
        })
    }

    async fn claim(&self, client: &ClientSession) -> Result<u64, SessionError> {
        match self.store.outage().current() {
            Some(down) => Err(down.error.clone().into()),
            None => self.recovery.claim_stream(&client.key).await,
        }
    }
}

impl SessionStream {
    /// Whether an earlier stream of the session was open. Its last events may be missing.
    #[must_use]
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }

    /// Event id of the position at which the stream starts.
    #[must_use]
    pub fn start(&self) -> Option<String> {
        let signer = self.client.token_signer(&self.server);
        self.slot
            .with_upstream_streams(|open| event_id::of_own_stream(&signer, &open.positions))
            .flatten()
    }

    /// The events, until the session ends or a newer stream is opened.
    pub fn events(self) -> impl Stream<Item = SessionStreamEvent> + Send + 'static {
        stream::unfold(self, |mut listening| async move {
            let event = listening.next().await?;
            Some((event, listening))
        })
    }

    async fn next(&mut self) -> Option<SessionStreamEvent> {
        loop {
            let event = tokio::select! {
                biased;
                () = self.slot.closed() => return None,
                () = self.slot.changed() => None,
                event = self.slot.next_event() => Some(event),
            };
            match event {
                Some(event) => return Some(self.to_session_event(event)),
                None => drop(self.slot.with_upstream_streams(|open| {
                    open.follow_bindings(&self.upstreams, &self.headers);
                })),
            }
        }
    }

    fn to_session_event(&self, event: UpstreamEvent) -> SessionStreamEvent {
        let signer = self.client.token_signer(&self.server);
        let id = self.slot.with_upstream_streams(|open| {
            let named = open.record_position(&self.upstreams, &event);
            named.then(|| event_id::of_own_stream(&signer, &open.positions))
        });
        SessionStreamEvent {
            backend: event.backend,
            upstream: event.upstream,
            event: event.event,
            id: id.flatten().flatten(),
        }
    }
}
