//! The session's own stream: what backends say to it that belongs to none of its calls.
//!
//! Backends are listened to only while the client listens, and only those to which the session is bound. The client's reading pulls:
//! nothing is read from a backend faster than the client takes it.

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

/// How long the first call to a backend waits for the backend's stream to open.
const HEAR_DEADLINE: Duration = Duration::from_secs(1);

/// How long whoever had the stream before is given to hear of it and to close his at the backends. Some of them (rmcp's server) take
/// a second stream of one session without a word, and then say nothing on it for as long as it is open, also once the first is closed.
const TAKE_OVER: Duration = Duration::from_millis(200);

/// An open stream of a session.
#[derive(Debug)]
pub struct SessionStream {
    session: Session,
    slot: RegisteredStream,
    taken_over: bool,
}

/// An event of a backend.
#[derive(Debug)]
pub struct SessionStreamEvent {
    /// The backend.
    pub backend: Backend,
    /// The upstream session in which it said it.
    pub upstream: UpstreamSession,
    /// What it said.
    pub event: Event,
    /// The id that the client's event gets, where the backend names its events.
    pub id: Option<String>,
}

impl Session {
    /// Opens the session's own stream, behind `positions` if some are given, and closes the one that is open, in whichever process.
    ///
    /// # Errors
    /// When the session has ended. A store that does not answer is none: the stream is open without it.
    pub async fn listen(&self, positions: Option<StreamPositions>) -> Result<SessionStream, SessionError> {
        let (slot, mut taken_over) = self.streams().open(self.key, positions.is_none());
        // Others close theirs first: many backends give a session one stream only.
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
    /// Tells the store that the session's own stream is open here, and gives the number of times that it was opened.
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
    /// Listens to a backend to which the session was just bound, if its own stream is open here: before the call is sent, because
    /// some backends say there what belongs to the call, and say it to nobody when nobody listens yet.
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
    /// Whether another stream of the session was open before, and what it had no time to say may be missing.
    #[must_use]
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }

    /// The id of the place where the stream begins.
    #[must_use]
    pub fn start(&self) -> Option<String> {
        self.slot
            .with_ears(|ears| event_id::of_own_stream(&self.session.seal(), &ears.positions))
            .flatten()
    }

    /// What is heard, until the session ends or another stream of it is opened.
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
