//! Upstream sessions of a client session: opened on first use and bound in the record, where every replica finds
//! them.
//!
//! States of an upstream session, as in the diagram in `docs/architecture/upstream-sessions.md`:
//! - *opening*: one task sends `initialize`; concurrent calls wait for it ([`SingleFlight`]).
//! - *bound*: named by the record, as a [`Binding`].
//! - *provisional*: opened or bound while the store did not answer ([`provisional`]).
//! - *superseded*: another one is bound. It is deleted after the requests that may use it ([`provisional`]).
//! - *lost*: the backend does not know it any more. The next call replaces it.
//! - *unavailable*: lost too often to be replaced ([`reopen_limiter`]).
//! - *deleting*: DELETE is sent in the background ([`deletions`]).
//!
//! The first call to a backend opens an upstream session, by single flight in a process. It is bound in the record,
//! by a compare-and-set on the generation, before that call is sent. If two replicas open one at the same moment, the
//! loser (*superseded*) deletes its own and uses the winner's. A replica that finds a binding sends the stored id at
//! once, without `initialize`, so the backend's state for that id is kept.
//!
//! Opening runs in a task of its own. If the client disconnects meanwhile, no unbound upstream session is left
//! behind.

pub(super) mod deletions;
pub(super) mod local_upstreams;
mod provisional;
pub(super) mod provisional_sessions;
pub(super) mod reopen_limiter;
pub(super) mod session_catalogs;
mod settings_replay;
pub(super) mod shared_sessions;
pub(super) mod sse_connections;
mod sse_sessions;
pub(super) mod unstored_cookies;
pub(super) mod upstream_lookup;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use serde_json::value::RawValue;

use super::SessionError;
use super::client_session::ClientSession;
use super::local_sessions::LocalSessions;
use super::record::{Binding, Record, RecordKey};
use super::recovery::lost_data::Recovery;
use super::recovery::observed_store::ObservedStore;
use super::store::{BindOutcome, LoadOutcome, StoreError};
use super::teardown::SessionTeardown;
use crate::backend::{Backend, BackendError, ClientHeaders, InitializeParams, SessionScope, UpstreamSession};
use crate::config::ServerName;
use crate::core::{Core, UpstreamError};
use crate::runtime::clock;
use crate::runtime::single_flight::SingleFlight;
use crate::runtime::tasks::Tasks;
use crate::session::cache::freshness::ReadStamp;
use crate::session::id::upstream_tag::UpstreamTag;
use crate::session::recovery::outage::StoreOperation;
use crate::session::stream::upstream_streams::StreamedUpstreams;
use crate::session::upstream::provisional_sessions::PendingBinding;
use crate::telemetry::Metrics;

use local_upstreams::LocalUpstreams;
use reopen_limiter::ReopenLimiter;
use unstored_cookies::Unstored;

/// Key of the single flight: client session, backend, origin, and the upstream session that is replaced.
type OpenTarget = (RecordKey, String, String, Option<UpstreamSession>);
/// Outcome of opening an upstream session.
type OpenOutcome = Result<UpstreamSession, UpstreamError>;

/// Maximum number of upstream sessions whose cookies are stored at a time.
const MAX_CONCURRENT_COOKIE_WRITES: usize = 32;
/// Maximum number of attempts to bind when the record changes concurrently.
const ATTEMPTS: u32 = 3;
/// Time for which the first call to a backend waits for the backend's stream to open.
const OPEN_STREAM_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens, finds, replaces and ends the upstream sessions of client sessions. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct UpstreamSessions {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server: ServerName,
    store: Arc<ObservedStore>,
    sessions: LocalSessions,
    upstreams: LocalUpstreams,
    teardown: SessionTeardown,
    recovery: Recovery,
    core: Core,
    tasks: Tasks,
    metrics: Metrics,
    /// Single flight of `initialize` at backends: concurrent calls open one upstream session.
    openings: SingleFlight<OpenTarget, OpenOutcome>,
    reopen_limiter: ReopenLimiter,
}

/// The upstream sessions of one client session. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(super) struct ClientUpstreams {
    all: UpstreamSessions,
    client: ClientSession,
}

impl StreamedUpstreams for ClientUpstreams {
    fn bound(&self, headers: &ClientHeaders) -> Vec<(Backend, UpstreamSession)> {
        self.all.bound(&self.client, headers)
    }

    fn tag(&self, backend: &Backend, upstream: &UpstreamSession) -> Option<UpstreamTag> {
        self.all.tag(&self.client, backend, upstream)
    }

    async fn reopen(&self, backend: &Backend, lost: &UpstreamSession) -> Result<(), UpstreamError> {
        self.all.replace(&self.client, backend, lost).await?;
        self.all.inner.sessions.streams.changed(&self.client.key);
        Ok(())
    }
}

impl UpstreamSessions {
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the components that it is built on"
    )]
    pub(super) fn new(
        server: ServerName,
        store: Arc<ObservedStore>,
        sessions: LocalSessions,
        upstreams: LocalUpstreams,
        teardown: SessionTeardown,
        recovery: Recovery,
        core: Core,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Self {
        let inner = Inner {
            server,
            store,
            sessions,
            upstreams,
            teardown,
            recovery,
            core,
            tasks,
            metrics,
            openings: SingleFlight::default(),
            reopen_limiter: ReopenLimiter::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The upstream sessions of `client`.
    pub(super) fn of(&self, client: &ClientSession) -> ClientUpstreams {
        ClientUpstreams {
            all: self.clone(),
            client: client.clone(),
        }
    }

    /// Returns the upstream session of `client` at `backend`. Opens it first if necessary.
    pub(super) async fn open(&self, client: &ClientSession, backend: &Backend) -> OpenOutcome {
        if backend.shares_session() {
            return Box::pin(self.shared(client, backend, None)).await;
        }
        match self.bound_session(client, backend) {
            Some(session) => Ok(session),
            None => Box::pin(self.bind(client, backend, None)).await,
        }
    }

    /// Returns an upstream session at `backend` that replaces `lost`, which the backend no longer knows.
    pub(super) async fn replace(
        &self,
        client: &ClientSession,
        backend: &Backend,
        lost: &UpstreamSession,
    ) -> OpenOutcome {
        if backend.shares_session() {
            return Box::pin(self.shared(client, backend, Some(lost))).await;
        }
        Box::pin(self.bind(client, backend, Some(lost.clone()))).await
    }

    /// Stores the cookies of `upstream`, or keeps them until the store answers again.
    pub(super) async fn keep_cookies(
        &self,
        client: &ClientSession,
        backend: &Backend,
        upstream: &UpstreamSession,
    ) {
        upstream.cookies.mark_stored(clock::unix_seconds());
        if backend.shares_session() {
            return backend.request_shared_session_write();
        }
        let is_stored = if self.inner.store.outage().is_failing(StoreOperation::Bind) {
            Ok(false)
        } else {
            let storing = self.store_cookies(client, backend, upstream);
            storing.await.map(|()| true)
        };
        if let Err(error) = &is_stored {
            tracing::debug!(backend = %backend.name(), %error, "cookies of an upstream session are not stored");
        }
        if matches!(is_stored, Ok(true)) {
            return;
        }
        let unstored = &self.inner.upstreams.unstored_cookies;
        if !unstored.keep(client, backend, upstream) {
            upstream.cookies.mark_unstored();
        }
    }

    /// Stores cookies that could not be stored before. Ends when the store does not answer any more; what is left is
    /// kept.
    async fn store_cookies_again(&self) {
        let inner = &*self.inner;
        let unstored = inner.upstreams.unstored_cookies.take();
        let storing = unstored.into_iter().map(|unstored| async move {
            let Unstored {
                client,
                backend,
                upstream,
            } = &unstored;
            upstream.cookies.mark_stored(clock::unix_seconds());
            let is_down = inner.store.outage().is_failing(StoreOperation::Bind);
            let is_left = is_down || matches!(self.store_cookies(client, backend, upstream).await, Err(error) if !error.is_corrupt_record());
            if is_left && !inner.upstreams.unstored_cookies.keep(client, backend, upstream) {
                upstream.cookies.mark_unstored();
            }
        });
        stream::iter(storing)
            .buffer_unordered(MAX_CONCURRENT_COOKIE_WRITES)
            .collect::<()>()
            .await;
    }

    /// Writes the cookies of `upstream` into its binding, if it is bound.
    async fn store_cookies(
        &self,
        client: &ClientSession,
        backend: &Backend,
        upstream: &UpstreamSession,
    ) -> Result<(), StoreError> {
        let name = backend.name().as_str();
        let bound = client.record().bindings.get(name).cloned();
        let Some(bound) =
            bound.filter(|bound| bound.origin == backend.origin() && bound.session == *upstream)
        else {
            return Ok(());
        };
        let binding = Binding {
            session: UpstreamSession {
                cookies: upstream.cookies.detached_copy(),
                ..bound.session
            },
            ..bound
        };
        let inner = &*self.inner;
        let stamp = inner.sessions.cache.stamp_now();
        // The generation stays, because the upstream session does.
        let storing = inner
            .store
            .bind_backend(&client.key, name, binding.generation, &binding);
        match storing.await? {
            // A session that has ended meanwhile needs no cookies.
            BindOutcome::Bound(record) => drop(self.update_record(client, record, stamp)),
            BindOutcome::Lost(_) | BindOutcome::Gone => {}
        }
        Ok(())
    }

    /// The upstream session at `backend` that is bound, or connected in this process.
    fn bound_session(&self, client: &ClientSession, backend: &Backend) -> Option<UpstreamSession> {
        if backend.session_scope() == SessionScope::ProcessLocal {
            self.inner.upstreams.sse_connections.get(&client.key, backend)
        } else {
            usable(&client.record(), backend, None)
        }
    }

    /// The upstream session that a request to `backend` would use now, if there is one.
    fn upstream_now(&self, client: &ClientSession, backend: &Backend) -> Option<UpstreamSession> {
        let provisional = || self.inner.upstreams.provisional.get(&client.key, backend);
        let bound = self.bound_session(client, backend);
        bound.or_else(|| provisional().map(|pending| pending.session))
    }

    /// The upstream session that all clients share at `backend`, other than `lost`.
    async fn shared(
        &self,
        client: &ClientSession,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
    ) -> OpenOutcome {
        // A session known by its id alone may have ended, so no state may depend on it.
        if client.entry.is_from_id() && !backend.is_disposable() {
            let message = "it is not known whether the session is alive";
            return Err(StoreError::unavailable(message).into());
        }
        self.check_reopen_limit(client, backend, lost)?;
        if let Some(lost) = lost {
            backend.drop_shared_session(lost);
        }
        let known = backend.shared_session();
        if let Some(known) = known {
            return Ok(known.initialize_result.session);
        }
        self.inner.core.catalog().refresh(backend.name());
        Ok(backend.wait_for_shared_session().await?)
    }

    /// Opens and binds an upstream session. Concurrent calls share one attempt.
    async fn bind(
        &self,
        client: &ClientSession,
        backend: &Backend,
        lost: Option<UpstreamSession>,
    ) -> OpenOutcome {
        let target = (
            client.key,
            backend.name().to_string(),
            backend.origin().to_owned(),
            lost.clone(),
        );
        let (upstreams, client, backend) = (self.clone(), client.clone(), backend.clone());
        let attempt = move |place| {
            let tasks = upstreams.inner.tasks.clone();
            let binding = tasks.spawn(async move {
                let opened = upstreams.bind_now(&client, &backend, lost.as_ref()).await;
                drop(place);
                opened
            });
            let ended = |ended: Result<_, tokio::task::JoinError>| {
                ended.unwrap_or_else(|error| Err(BackendError::Broken(error.to_string()).into()))
            };
            binding.map(ended).boxed()
        };
        self.inner.openings.join(target, attempt).await
    }

    /// Whether the limit of reopenings admits a replacement of `lost`.
    fn check_reopen_limit(
        &self,
        client: &ClientSession,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
    ) -> Result<(), BackendError> {
        let limiter = &self.inner.reopen_limiter;
        if lost.is_none() || limiter.try_acquire(client.key, backend.name().as_str()) {
            return Ok(());
        }
        backend.note_repeated_session_loss();
        Err(BackendError::SessionAffinityRequired)
    }

    async fn bind_now(
        &self,
        client: &ClientSession,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
    ) -> OpenOutcome {
        // Another call or replica may have bound one meanwhile. Its event arrives a moment later even on a fresh
        // cache; a read is exact, and cheaper than `initialize`.
        match self.reload(client).await {
            Ok(()) => {}
            // A connection of this process is in no record, so it needs no store.
            Err(SessionError::Unavailable(error))
                if backend.session_scope() == SessionScope::ProcessLocal =>
            {
                // A session known by its id alone may have ended, so no state may depend on it.
                if client.entry.is_from_id() && !backend.is_disposable() {
                    return Err(error.into());
                }
            }
            Err(SessionError::NotFound) => return Err(UpstreamError::Gone),
            Err(SessionError::Unavailable(error)) => {
                return self.provisional(client, backend, lost, error).await;
            }
        }
        if backend.session_scope() == SessionScope::ProcessLocal {
            let record = Arc::clone(&client.record());
            return self.connect(client, backend, lost, &record).await;
        }
        for _ in 0..ATTEMPTS {
            let record = Arc::clone(&client.record());
            if let Some(session) = usable(&record, backend, lost) {
                return Ok(session);
            }
            let session = self.take_or_open(client, &record, backend, lost).await?;
            if let Some(session) = self.bind_opened(client, &record, backend, lost, session).await? {
                return Ok(session);
            }
        }
        Err(StoreError::unavailable("the upstream session changed too often; try again").into())
    }

    /// Takes the provisional upstream session if there is one, and otherwise initializes a new one.
    async fn take_or_open(
        &self,
        client: &ClientSession,
        record: &Record,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
    ) -> OpenOutcome {
        let inner = &*self.inner;
        let expected = record.generation(backend.name().as_str());
        let kept = inner.upstreams.provisional.take(&client.key, backend, expected);
        if let Some(kept) = kept.filter(|kept| Some(kept) != lost) {
            return Ok(kept);
        }
        self.check_reopen_limit(client, backend, lost)?;
        let session = backend.initialize(&initialize_params(record)?).await?;
        inner.metrics.handshake(backend.name());
        Ok(session)
    }

    /// Binds `session`. Returns `None` if the record was lost and restored, so that the caller tries again.
    async fn bind_opened(
        &self,
        client: &ClientSession,
        record: &Record,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
        session: UpstreamSession,
    ) -> Result<Option<UpstreamSession>, UpstreamError> {
        let inner = &*self.inner;
        let name = backend.name().as_str();
        let expected = record.generation(name);
        let pending = PendingBinding {
            backend: backend.clone(),
            session: session.clone(),
            expected,
        };
        let binding = Binding {
            origin: backend.origin().to_owned(),
            session: UpstreamSession {
                cookies: session.cookies.detached_copy(),
                ..session.clone()
            },
            generation: expected + 1,
        };
        let stamp = inner.sessions.cache.stamp_now();
        let bound = inner.store.bind_backend(&client.key, name, expected, &binding);
        match bound.await {
            Ok(BindOutcome::Bound(record)) => self
                .prepare_bound(client, record, stamp, backend, session)
                .await
                .map(Some),
            Ok(BindOutcome::Lost(record)) => {
                let winner = usable(&record, backend, lost);
                // The winner may be this very session: an earlier bind succeeded, but its response was lost.
                if winner.as_ref() == Some(&session) {
                    return self
                        .prepare_bound(client, record, stamp, backend, session)
                        .await
                        .map(Some);
                }
                inner.teardown.delete_upstream(backend.clone(), session);
                self.update_record(client, record, stamp)
                    .map_err(|_| UpstreamError::Gone)?;
                Ok(winner)
            }
            Ok(BindOutcome::Gone) => match inner.recovery.resolve_missing(&client.key, None).await {
                Ok(Some(_)) => {
                    self.make_provisional(&client.key, pending);
                    Ok(None)
                }
                Ok(None) => {
                    inner.teardown.delete_upstream(backend.clone(), session);
                    Err(UpstreamError::Gone)
                }
                Err(unavailable) => {
                    self.make_provisional(&client.key, pending);
                    Err(unavailable.into())
                }
            },
            Err(unavailable) => {
                // The bind may have succeeded, or may still succeed.
                self.make_provisional(&client.key, pending);
                self.provisional(client, backend, lost, unavailable)
                    .await
                    .map(Some)
            }
        }
    }

    /// Brings a newly bound upstream session up to date before the first call: settings are replayed and its stream
    /// is opened.
    async fn prepare_bound(
        &self,
        client: &ClientSession,
        record: Record,
        stamp: ReadStamp,
        backend: &Backend,
        session: UpstreamSession,
    ) -> OpenOutcome {
        self.inner.recovery.note_write(client.key);
        self.update_record(client, record.clone(), stamp)
            .map_err(|_| UpstreamError::Gone)?;
        tokio::join!(
            self.replay_settings(&record, backend, &session),
            self.open_upstream_stream(client, backend, &session)
        );
        self.inner.sessions.streams.changed(&client.key);
        Ok(session)
    }

    /// Opens the stream of a backend that was just bound, if the session's GET stream is open here. This happens
    /// before the first call, because some backends send messages of that call on the stream and drop them while no
    /// stream is open.
    async fn open_upstream_stream(
        &self,
        client: &ClientSession,
        backend: &Backend,
        upstream: &UpstreamSession,
    ) {
        let streams = &self.inner.sessions.streams;
        if !streams.is_open(&client.key) {
            return;
        }
        let listening = tokio::time::timeout(OPEN_STREAM_TIMEOUT, backend.listen(upstream, None)).await;
        if let Ok(Ok(events)) = listening {
            streams.with_upstream_streams(&client.key, |open| {
                open.adopt(&self.of(client), backend, upstream, events);
            });
        }
    }

    /// Reloads the record from the store.
    async fn reload(&self, client: &ClientSession) -> Result<(), SessionError> {
        let inner = &*self.inner;
        let stamp = inner.sessions.cache.stamp_now();
        match inner.store.load(&client.key).await? {
            LoadOutcome::Gone => match inner.recovery.resolve_missing(&client.key, None).await? {
                Some(_) => Ok(()),
                None => Err(SessionError::NotFound),
            },
            LoadOutcome::Found(record) => {
                match inner.recovery.accept_loaded(&client.key, record, stamp).await? {
                    Some(entry) => {
                        let record = Record::clone(&entry.record());
                        self.update_record(client, record, stamp)
                    }
                    None => Err(SessionError::NotFound),
                }
            }
        }
    }

    /// Caches `record`, which was read at `stamp`.
    fn update_record(
        &self,
        client: &ClientSession,
        record: Record,
        stamp: ReadStamp,
    ) -> Result<(), SessionError> {
        let cache = &self.inner.sessions.cache;
        let is_known = cache.update(&client.key, &client.entry, record, stamp);
        is_known.then_some(()).ok_or(SessionError::NotFound)
    }
}

/// The bound upstream session, if `backend` has its origin and it is not `lost`.
fn usable(record: &Record, backend: &Backend, lost: Option<&UpstreamSession>) -> Option<UpstreamSession> {
    let binding = record.bindings.get(backend.name().as_str())?;
    let usable = binding.origin == backend.origin() && Some(&binding.session) != lost;
    usable.then(|| binding.session.clone())
}

/// Parameters of `initialize`: the client's own, from the record.
fn initialize_params(record: &Record) -> Result<InitializeParams<'_>, UpstreamError> {
    let raw = |text| -> Result<&RawValue, UpstreamError> {
        serde_json::from_str(text)
            .map_err(|error| StoreError::unavailable(format!("unreadable record: {error}")).into())
    };
    Ok(InitializeParams {
        revision: record.revision,
        capabilities: raw(&record.capabilities)?,
        client_info: raw(&record.client_info)?,
    })
}

impl From<StoreError> for UpstreamError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
