//! A session's GET stream: carries the messages of backends that belong to no call.
//!
//! The gateway listens only while the client does, and only to bound backends. The client's reads drive it: no event
//! is read from a backend before the client can take it.

use std::time::Duration;

use futures::Stream;
use futures::stream;

use crate::backend::{Backend, ClientHeaders, UpstreamSession};
use crate::mcp::sse::Event;
use crate::session::id::event_id;
use crate::session::id::event_id::StreamPositions;
use crate::session::record::RecordKey;
use crate::session::recovery::outage::StoreOperation;
use crate::session::store::StreamClaim;
use crate::session::stream::RegisteredStream;
use crate::session::stream::upstream_streams::UpstreamEvent;
use crate::session::{Session, SessionError, Sessions};

/// Time for which the first call to a backend waits for the backend's stream to open.
const OPEN_STREAM_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for the previous owner of the stream to close its upstream streams. Some servers (rmcp) accept a second
/// stream of one session but stay silent on it, even after the first is closed.
const TAKEOVER_PAUSE: Duration = Duration::from_millis(200);

/// An open GET stream of a session.
#[derive(Debug)]
pub struct SessionStream {
    session: Session,
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

impl Session {
    /// Opens the session's GET stream, after `positions` if given, and closes the previous one on any replica.
    ///
    /// # Errors
    /// The session has ended. An unavailable store is no error: the stream opens without a claim.
    pub async fn listen(
        &self,
        positions: Option<StreamPositions>,
        headers: &ClientHeaders,
    ) -> Result<SessionStream, SessionError> {
        let (slot, mut taken_over) = self.streams().open(self.key, positions.is_none());
        // The previous owner closes its upstream streams first, because many backends accept one stream per session.
        match self.claim_stream().await {
            Ok(number) => {
                taken_over |= number > 1;
                if number > 1 {
                    tokio::time::sleep(TAKEOVER_PAUSE).await;
                }
            }
            Err(SessionError::Unavailable(_)) => {}
            Err(ended @ SessionError::NotFound) => return Err(ended),
        }
        slot.with_upstream_streams(|upstreams| {
            if let Some(positions) = positions {
                upstreams.positions = positions;
            }
            upstreams.follow_bindings(self, headers);
        });
        Ok(SessionStream {
            session: self.clone(),
            headers: headers.clone(),
            slot,
            taken_over,
        })
    }

    async fn claim_stream(&self) -> Result<u64, SessionError> {
        match self.sessions.inner.outage.current() {
            Some(down) => Err(down.error.clone().into()),
            None => self.sessions.claim_stream(&self.key).await,
        }
    }
}

impl Sessions {
    /// Claims the session's stream for this process in the store and returns the claim's number.
    pub(in crate::session) async fn claim_stream(&self, key: &RecordKey) -> Result<u64, SessionError> {
        let inner = &*self.inner;
        let mut owned = self.observed(
            StoreOperation::ClaimStream,
            inner.store.claim_stream(key, inner.process_id).await,
        )?;
        if owned == StreamClaim::Gone && self.resolve_missing(key, None).await?.is_some() {
            owned = self.observed(
                StoreOperation::ClaimStream,
                inner.store.claim_stream(key, inner.process_id).await,
            )?;
        }
        match owned {
            StreamClaim::Owned(number) => {
                inner.streams.set_claim(key, number);
                Ok(number)
            }
            StreamClaim::Gone => Err(SessionError::NotFound),
        }
    }
}

impl Session {
    /// Opens the stream of a backend that was just bound, if the session's GET stream is open here. This happens
    /// before the first call, because some backends send messages of that call on the stream and drop them while no
    /// stream is open.
    pub(in crate::session) async fn open_upstream_stream(
        &self,
        backend: &Backend,
        upstream: &UpstreamSession,
    ) {
        if !self.streams().is_open(&self.key) {
            return;
        }
        let listening = tokio::time::timeout(OPEN_STREAM_TIMEOUT, backend.listen(upstream, None)).await;
        if let Ok(Ok(events)) = listening {
            let streams = self.streams();
            streams.with_upstream_streams(&self.key, |upstreams| {
                upstreams.adopt(self, backend, upstream, events);
            });
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
        self.slot
            .with_upstream_streams(|upstreams| {
                event_id::of_own_stream(&self.session.token_signer(), &upstreams.positions)
            })
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
                None => drop(self.slot.with_upstream_streams(|upstreams| {
                    upstreams.follow_bindings(&self.session, &self.headers);
                })),
            }
        }
    }

    fn to_session_event(&self, event: UpstreamEvent) -> SessionStreamEvent {
        let id = self.slot.with_upstream_streams(|upstreams| {
            let named = upstreams.record_position(&self.session, &event);
            named.then(|| event_id::of_own_stream(&self.session.token_signer(), &upstreams.positions))
        });
        SessionStreamEvent {
            backend: event.backend,
            upstream: event.upstream,
            event: event.event,
            id: id.flatten().flatten(),
        }
    }
}
