//! GET streams of all backends that a session is bound to, merged into one.

use std::collections::HashMap;
use std::time::Duration;

use futures::stream::{self, BoxStream, SelectAll, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backend::{
    Backend, BackendError, ClientHeaders, ListenStream, NoStream, ResponseEvents, UpstreamSession, position,
};
use crate::catalog::LISTS_CHANGED;
use crate::core::UpstreamError;
use crate::mcp::jsonrpc;
use crate::mcp::sse::Event;
use crate::session::id::event_id::{StreamPositions, UpstreamPosition};
use crate::session::id::upstream_tag::UpstreamTag;

/// Minimum interval between reopenings of a lost upstream session that only the stream asks for.
const REOPEN_INTERVAL: Duration = Duration::from_secs(60);
/// First pause between two checks whether an upstream session is lost; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Maximum time for a backend to answer `ping`.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The upstream sessions of one client session, as its streams see them. A cheap-clone handle.
pub(in crate::session) trait StreamedUpstreams: Clone + Send + Sync + 'static {
    /// All of the session's own upstream sessions, with the client's headers to send to each.
    fn bound(&self, headers: &ClientHeaders) -> Vec<(Backend, UpstreamSession)>;

    /// Tag that identifies `upstream` among the session's upstream sessions at `backend`.
    fn tag(&self, backend: &Backend, upstream: &UpstreamSession) -> Option<UpstreamTag>;

    /// Replaces `lost`, which the backend no longer knows, and lets the session's stream follow the new binding.
    fn reopen(
        &self,
        backend: &Backend,
        lost: &UpstreamSession,
    ) -> impl Future<Output = Result<(), UpstreamError>> + Send;
}

/// An event of a backend, with the upstream session that it belongs to.
#[derive(Debug)]
pub(in crate::session) struct UpstreamEvent {
    pub(in crate::session) backend: Backend,
    pub(in crate::session) upstream: UpstreamSession,
    pub(in crate::session) event: Event,
}

/// The open upstream streams and the position of each.
#[derive(Default)]
pub(in crate::session) struct UpstreamStreams {
    pub(in crate::session) events: SelectAll<BoxStream<'static, UpstreamEvent>>,
    pub(in crate::session) positions: StreamPositions,
    open: HashMap<String, OpenStream>,
}

struct OpenStream {
    upstream: UpstreamSession,
    origin: String,
    since: Instant,
    /// Closes the stream when dropped.
    _stop: DropGuard,
}

impl UpstreamStreams {
    /// Opens and closes streams so that they match the bindings of the session.
    pub(in crate::session) fn follow_bindings(
        &mut self,
        upstreams: &impl StreamedUpstreams,
        headers: &ClientHeaders,
    ) {
        let bound = upstreams.bound(headers);
        self.open.retain(|name, open| {
            bound
                .iter()
                .any(|(backend, _)| backend.name().as_str() == name && backend.origin() == open.origin)
        });
        for (backend, upstream) in bound {
            let name = backend.name().as_str();
            let known = self.open.get(name);
            if known.is_some_and(|open| open.upstream == upstream && open.origin == backend.origin()) {
                continue;
            }
            let may_reopen = known.is_none_or(|open| open.since.elapsed() >= REOPEN_INTERVAL);
            let tag = upstreams.tag(&backend, &upstream);
            let from = self
                .positions
                .get(name)
                .filter(|position| Some(position.upstream) == tag)
                .map(|position| position.event.clone());
            if from.is_none() {
                self.positions.remove(name);
            }
            let listener = ListenStream::new(backend.clone(), upstream.clone(), from);
            self.listen_to(upstreams, backend, upstream, listener, may_reopen);
        }
    }

    /// Adopts the open stream `events` of a backend to which the session was just bound.
    pub(in crate::session) fn adopt(
        &mut self,
        upstreams: &impl StreamedUpstreams,
        backend: &Backend,
        upstream: &UpstreamSession,
        events: ResponseEvents,
    ) {
        self.positions.remove(backend.name().as_str());
        let listener = ListenStream::from_open(backend.clone(), upstream.clone(), events);
        self.listen_to(upstreams, backend.clone(), upstream.clone(), listener, true);
    }

    fn listen_to(
        &mut self,
        upstreams: &impl StreamedUpstreams,
        backend: Backend,
        upstream: UpstreamSession,
        listener: ListenStream,
        may_reopen: bool,
    ) {
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let name = backend.name().as_str().to_owned();
        let open = OpenStream {
            upstream: upstream.clone(),
            origin: backend.origin().to_owned(),
            since: Instant::now(),
            _stop: stop.drop_guard(),
        };
        let replaced = self.open.insert(name, open);
        if backend.lists_per_session() && replaced.is_some_and(|replaced| replaced.upstream != upstream) {
            // The client has the lists of the previous upstream session, and no backend reports that they changed.
            let changes = lists_changed(&backend, &upstream);
            self.events.push(stream::iter(changes).boxed());
        }
        let events = backend_events(upstreams.clone(), backend, upstream, listener, may_reopen);
        self.events.push(events.take_until(stopped).boxed());
    }

    /// Records the event's position. Returns `false` if the event has no id.
    pub(in crate::session) fn record_position(
        &mut self,
        upstreams: &impl StreamedUpstreams,
        event: &UpstreamEvent,
    ) -> bool {
        let Some(event_id) = position(&event.event) else {
            return false;
        };
        let Some(tag) = upstreams.tag(&event.backend, &event.upstream) else {
            return false;
        };
        let name = event.backend.name().as_str().to_owned();
        self.positions.insert(
            name,
            UpstreamPosition {
                upstream: tag,
                event: event_id,
            },
        );
        true
    }
}

/// `list_changed` notifications on behalf of a backend that was replaced.
fn lists_changed(backend: &Backend, upstream: &UpstreamSession) -> Vec<UpstreamEvent> {
    let event = |method: &&str| UpstreamEvent {
        backend: backend.clone(),
        upstream: upstream.clone(),
        event: Event {
            data: Some(jsonrpc::notification(method)),
            ..Event::default()
        },
    };
    LISTS_CHANGED.iter().map(event).collect()
}

/// The events of one upstream session. Ends when the backend offers no stream.
fn backend_events(
    upstreams: impl StreamedUpstreams,
    backend: Backend,
    upstream: UpstreamSession,
    listener: ListenStream,
    may_reopen: bool,
) -> BoxStream<'static, UpstreamEvent> {
    let state = (upstreams, backend, upstream, listener);
    let events = stream::unfold(
        state,
        move |(upstreams, backend, upstream, mut listener)| async move {
            match listener.next().await {
                Ok(event) => {
                    let event = UpstreamEvent {
                        backend: backend.clone(),
                        upstream: upstream.clone(),
                        event,
                    };
                    Some((event, (upstreams, backend, upstream, listener)))
                }
                Err(NoStream::SessionInDoubt) if may_reopen => {
                    reopen_if_lost(&upstreams, &backend, &upstream).await;
                    None
                }
                Err(NoStream::SessionInDoubt | NoStream::NotOffered) => None,
            }
        },
    );
    events.boxed()
}

/// Reopens the upstream session if the backend has lost it, so that a client which only listens keeps receiving
/// events. The new binding changes the record, and the change opens a stream for it.
async fn reopen_if_lost(upstreams: &impl StreamedUpstreams, backend: &Backend, upstream: &UpstreamSession) {
    let mut pause = FIRST_PAUSE;
    loop {
        let asking = tokio::time::timeout(PING_TIMEOUT, backend.ping(upstream));
        let answer = asking.await;
        match answer.unwrap_or(Err(BackendError::Deadline(PING_TIMEOUT))) {
            Err(BackendError::SessionLost) => match upstreams.reopen(backend, upstream).await {
                Ok(()) | Err(UpstreamError::Gone) => return,
                Err(error) => {
                    tracing::debug!(backend = %backend.name(), %error, "failed to reopen upstream session");
                }
            },
            // The session is alive; the backend offers no stream.
            Ok(()) | Err(BackendError::JsonRpc { .. }) => return,
            Err(error) => {
                tracing::debug!(backend = %backend.name(), %error, "failed to check upstream session");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

impl std::fmt::Debug for UpstreamStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamStreams")
            .field("backends", &self.open.keys())
            .finish_non_exhaustive()
    }
}
