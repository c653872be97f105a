//! A session's GET stream: carries the messages of backends that belong to no call.
//!
//! The gateway listens only while the client does, and only to bound backends. The client's reads drive it: no event
//! is read from a backend before the client can take it.

use std::time::Duration;

use futures::Stream;
use futures::stream;

use crate::backend::{Backend, UpstreamSession};
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
const HEAR_DEADLINE: Duration = Duration::from_secs(1);

/// Time for the previous owner of the stream to close its upstream streams. Some servers (rmcp) accept a second
/// stream of one session but stay silent on it, even after the first is closed.
const TAKE_OVER: Duration = Duration::from_millis(200);

/// An open GET stream of a session.
#[derive(Debug)]
pub struct SessionStream {
    session: Session,
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
    pub async fn listen(&self, positions: Option<StreamPositions>) -> Result<SessionStream, SessionError> {
        let (slot, mut taken_over) = self.streams().open(self.key, positions.is_none());
        // The previous owner closes its upstream streams first, because many backends accept one stream per session.
        match self.own_stream().await {
            Ok(number) => {
                taken_over |= number > 1;
                if number > 1 {
                    tokio::time::sleep(TAKE_OVER).await;
                }
            }
            Err(SessionError::Unavailable(_)) => {}
            Err(ended @ SessionError::NotFound) => return Err(ended),
        }
        slot.with_ears(|ears| {
            if let Some(positions) = positions {
                ears.positions = positions;
            }
            ears.follow_bindings(self);
        });
        Ok(SessionStream {
            session: self.clone(),
            slot,
            taken_over,
        })
    }

    async fn own_stream(&self) -> Result<u64, SessionError> {
        match self.sessions.inner.outage.now() {
            Some(down) => Err(down.error.clone().into()),
            None => self.sessions.own_stream(&self.key).await,
        }
    }
}

impl Sessions {
    /// Claims the session's stream for this process in the store and returns the claim's number.
    pub(in crate::session) async fn own_stream(&self, key: &RecordKey) -> Result<u64, SessionError> {
        let inner = &*self.inner;
        let mut owned = self.observed(
            StoreOperation::ClaimStream,
            inner.store.claim_stream(key, inner.owner).await,
        )?;
        if owned == StreamClaim::Gone && self.missing(key, None).await?.is_some() {
            owned = self.observed(
                StoreOperation::ClaimStream,
                inner.store.claim_stream(key, inner.owner).await,
            )?;
        }
        match owned {
            StreamClaim::Owned(number) => {
                inner.streams.own(key, number);
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
    pub(in crate::session) async fn hear(&self, backend: &Backend, upstream: &UpstreamSession) {
        if !self.streams().is_open(&self.key) {
            return;
        }
        let listening = tokio::time::timeout(HEAR_DEADLINE, backend.listen(upstream, None)).await;
        if let Ok(Ok(events)) = listening {
            let streams = self.streams();
            streams.with_listeners(&self.key, |ears| ears.adopt(self, backend, upstream, events));
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
            .with_ears(|ears| event_id::of_own_stream(&self.session.seal(), &ears.positions))
            .flatten()
    }

    /// The events, until the session ends or a newer stream is opened.
    pub fn events(self) -> impl Stream<Item = SessionStreamEvent> + Send + 'static {
        stream::unfold(self, |mut listening| async move {
            let heard = listening.next().await?;
            Some((heard, listening))
        })
    }

    async fn next(&mut self) -> Option<SessionStreamEvent> {
        loop {
            let sound = tokio::select! {
                biased;
                () = self.slot.closed() => return None,
                () = self.slot.changed() => None,
                sound = self.slot.heard() => Some(sound),
            };
            match sound {
                Some(sound) => return Some(self.place(sound)),
                None => drop(self.slot.with_ears(|ears| ears.follow_bindings(&self.session))),
            }
        }
    }

    fn place(&self, sound: UpstreamEvent) -> SessionStreamEvent {
        let id = self.slot.with_ears(|ears| {
            let named = ears.note(&self.session, &sound);
            named.then(|| event_id::of_own_stream(&self.session.seal(), &ears.positions))
        });
        SessionStreamEvent {
            backend: sound.backend,
            upstream: sound.upstream,
            event: sound.event,
            id: id.flatten().flatten(),
        }
    }
}
