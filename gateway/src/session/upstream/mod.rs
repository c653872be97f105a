//! Upstream sessions of a client session: opened on first use and bound in the record, where every replica finds
//! them. States: see the diagram in `docs/architecture/upstream-sessions.md`.
//!
//! The first call to a backend opens an upstream session, by single flight in a process. It is bound in the record,
//! by a compare-and-set on the generation, before that call is sent. If two replicas open one at the same moment, the
//! loser (*superseded*) deletes its own and uses the winner's. A replica that finds a binding sends the stored id at
//! once, without `initialize`, so the backend's state for that id is kept.
//!
//! Opening runs in a task of its own. If the client disconnects meanwhile, no unbound upstream session is left
//! behind.

pub mod bindings;
pub(super) mod deletions;
mod list_attempts;
pub(super) mod provisional;
pub(super) mod reopen_limiter;
pub(super) mod session_lists;
pub(super) mod shared_sessions;
pub(super) mod sse_sessions;
pub(super) mod unstored_cookies;
pub(super) mod upstream_lookup;

use std::sync::Arc;

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use serde_json::value::RawValue;

use super::record::{Binding, Record, RecordKey};
use super::store::{BindOutcome, StoreError};
use super::{Session, SessionError, Sessions};
use crate::backend::{Backend, BackendError, InitializeParams, SessionScope, UpstreamSession};
use crate::core::{UpstreamError, UpstreamOpener};
use crate::runtime::clock;
use crate::session::cache::freshness::ReadStamp;
use crate::session::recovery::outage::StoreOperation;
use crate::session::upstream::provisional::PendingBinding;

use unstored_cookies::Unstored;

/// Key of the single flight: client session, backend, origin, and the upstream session that is replaced.
pub(super) type OpenTarget = (RecordKey, String, String, Option<UpstreamSession>);
/// Outcome of opening an upstream session.
pub(super) type OpenOutcome = Result<UpstreamSession, UpstreamError>;

/// Maximum number of upstream sessions whose cookies are stored at a time.
const MAX_CONCURRENT_COOKIE_WRITES: usize = 32;
/// Maximum number of attempts to bind when the record changes concurrently.
const ATTEMPTS: u32 = 3;

impl UpstreamOpener for Session {
    async fn open(&self, backend: &Backend) -> Result<UpstreamSession, UpstreamError> {
        if backend.shares_session() {
            return Box::pin(self.shared(backend, None)).await;
        }
        match self.bound_session(backend) {
            Some(session) => Ok(session),
            None => Box::pin(self.bind(backend, None)).await,
        }
    }

    async fn replace(
        &self,
        backend: &Backend,
        lost: &UpstreamSession,
    ) -> Result<UpstreamSession, UpstreamError> {
        if backend.shares_session() {
            return Box::pin(self.shared(backend, Some(lost))).await;
        }
        Box::pin(self.bind(backend, Some(lost.clone()))).await
    }

    async fn keep_cookies(&self, backend: &Backend, upstream: &UpstreamSession) {
        upstream.cookies.mark_stored(clock::unix_seconds());
        if backend.shares_session() {
            return backend.request_shared_session_write();
        }
        let is_stored = if self.sessions.inner.outage.is_failing(StoreOperation::Bind) {
            Ok(false)
        } else {
            self.store_cookies(backend, upstream).await.map(|()| true)
        };
        if let Err(error) = &is_stored {
            tracing::debug!(backend = %backend.name(), %error, "cookies of an upstream session are not stored");
        }
        if matches!(is_stored, Ok(true)) {
            return;
        }
        let unstored = &self.sessions.inner.unstored_cookies;
        if !unstored.keep(self, backend, upstream) {
            upstream.cookies.mark_unstored();
        }
    }
}

impl Sessions {
    /// Stores cookies that could not be stored before. Ends when the store does not answer any more; what is left is kept.
    pub(super) async fn store_cookies_again(&self) {
        let unstored = self.inner.unstored_cookies.take();
        let storing = unstored.into_iter().map(|unstored| async move {
            let Unstored {
                session,
                backend,
                upstream,
            } = &unstored;
            upstream.cookies.mark_stored(clock::unix_seconds());
            let is_down = self.inner.outage.is_failing(StoreOperation::Bind);
            let is_left = is_down || matches!(session.store_cookies(backend, upstream).await, Err(error) if !error.is_corrupt_record());
            if is_left && !self.inner.unstored_cookies.keep(session, backend, upstream) {
                upstream.cookies.mark_unstored();
            }
        });
        stream::iter(storing)
            .buffer_unordered(MAX_CONCURRENT_COOKIE_WRITES)
            .collect::<()>()
            .await;
    }
}

impl Session {
    /// Writes the cookies of `upstream` into its binding, if it is bound.
    async fn store_cookies(&self, backend: &Backend, upstream: &UpstreamSession) -> Result<(), StoreError> {
        let name = backend.name().as_str();
        let bound = self.record().bindings.get(name).cloned();
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
        let inner = &*self.sessions.inner;
        let stamp = inner.freshness.stamp_now();
        // The generation stays, because the upstream session does.
        let storing = inner
            .store
            .bind_backend(&self.key, name, binding.generation, &binding);
        match self.sessions.observed(StoreOperation::Bind, storing.await)? {
            // A session that has ended meanwhile needs no cookies.
            BindOutcome::Bound(record) => drop(self.update_record(record, stamp)),
            BindOutcome::Lost(_) | BindOutcome::Gone => {}
        }
        Ok(())
    }
}

impl Session {
    /// The upstream session at `backend` that is bound, or connected in this process.
    fn bound_session(&self, backend: &Backend) -> Option<UpstreamSession> {
        if backend.session_scope() == SessionScope::ProcessLocal {
            self.sessions.inner.sse_sessions.get(&self.key, backend)
        } else {
            usable(&self.record(), backend, None)
        }
    }

    /// The upstream session that a request to `backend` would use now, if there is one.
    pub(super) fn upstream_now(&self, backend: &Backend) -> Option<UpstreamSession> {
        let provisional = || self.sessions.inner.provisional.get(&self.key, backend);
        let bound = self.bound_session(backend);
        bound.or_else(|| provisional().map(|pending| pending.session))
    }

    /// The upstream session that all clients share at `backend`, other than `lost`.
    async fn shared(
        &self,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
    ) -> Result<UpstreamSession, UpstreamError> {
        let inner = &*self.sessions.inner;
        // A session known by its id alone may have ended, so no state may depend on it.
        if self.entry.is_from_id() && !backend.is_disposable() {
            let message = "it is not known whether the session is alive";
            return Err(StoreError::unavailable(message).into());
        }
        self.check_reopen_limit(backend, lost)?;
        if let Some(lost) = lost {
            backend.drop_shared_session(lost);
        }
        let known = backend.shared_session();
        if let Some(known) = known {
            return Ok(known.initialize_result.session);
        }
        inner.core.catalog().refresh(backend.name());
        Ok(backend.wait_for_shared_session().await?)
    }

    /// Opens and binds an upstream session. Concurrent calls share one attempt.
    async fn bind(
        &self,
        backend: &Backend,
        lost: Option<UpstreamSession>,
    ) -> Result<UpstreamSession, UpstreamError> {
        let target = (
            self.key,
            backend.name().to_string(),
            backend.origin().to_owned(),
            lost.clone(),
        );
        let (session, backend) = (self.clone(), backend.clone());
        let attempt = move |place| {
            let tasks = session.sessions.inner.tasks.clone();
            let binding = tasks.spawn(async move {
                let opened = session.bind_now(&backend, lost.as_ref()).await;
                drop(place);
                opened
            });
            let ended = |ended: Result<_, tokio::task::JoinError>| {
                ended.unwrap_or_else(|error| Err(BackendError::Broken(error.to_string()).into()))
            };
            binding.map(ended).boxed()
        };
        self.sessions.inner.openings.join(target, attempt).await
    }

    /// Whether the limit of reopenings admits a replacement of `lost`.
    pub(super) fn check_reopen_limit(
        &self,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
    ) -> Result<(), BackendError> {
        let limiter = &self.sessions.inner.reopen_limiter;
        if lost.is_none() || limiter.try_acquire(self.key, backend.name().as_str()) {
            return Ok(());
        }
        backend.note_repeated_session_loss();
        Err(BackendError::SessionAffinityRequired)
    }

    async fn bind_now(
        &self,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
    ) -> Result<UpstreamSession, UpstreamError> {
        // Another call or replica may have bound one meanwhile. Its event arrives a moment later even on a fresh
        // cache; a read is exact, and cheaper than `initialize`.
        match self.reload().await {
            Ok(()) => {}
            // A connection of this process is in no record, so it needs no store.
            Err(SessionError::Unavailable(error))
                if backend.session_scope() == SessionScope::ProcessLocal =>
            {
                // A session known by its id alone may have ended, so no state may depend on it.
                if self.entry.is_from_id() && !backend.is_disposable() {
                    return Err(error.into());
                }
            }
            Err(SessionError::NotFound) => return Err(UpstreamError::Gone),
            Err(SessionError::Unavailable(error)) => return self.provisional(backend, lost, error).await,
        }
        if backend.session_scope() == SessionScope::ProcessLocal {
            let record = Arc::clone(&self.record());
            return self.connect(backend, lost, &record).await;
        }
        for _ in 0..ATTEMPTS {
            let record = Arc::clone(&self.record());
            if let Some(session) = usable(&record, backend, lost) {
                return Ok(session);
            }
            let session = self.take_or_open(&record, backend, lost).await?;
            if let Some(session) = self.bind_opened(&record, backend, lost, session).await? {
                return Ok(session);
            }
        }
        Err(StoreError::unavailable("the upstream session changed too often; try again").into())
    }

    /// Takes the provisional upstream session if there is one, and otherwise initializes a new one.
    async fn take_or_open(
        &self,
        record: &Record,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
    ) -> Result<UpstreamSession, UpstreamError> {
        let inner = &*self.sessions.inner;
        let expected = record.generation(backend.name().as_str());
        let kept = inner.provisional.take(&self.key, backend, expected);
        if let Some(kept) = kept.filter(|kept| Some(kept) != lost) {
            return Ok(kept);
        }
        self.check_reopen_limit(backend, lost)?;
        let session = backend.initialize(&initialize_params(record)?).await?;
        inner.metrics.handshake(backend.name());
        Ok(session)
    }

    /// Binds `session`. Returns `None` if the record was lost and restored, so that the caller tries again.
    async fn bind_opened(
        &self,
        record: &Record,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
        session: UpstreamSession,
    ) -> Result<Option<UpstreamSession>, UpstreamError> {
        let inner = &*self.sessions.inner;
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
        let stamp = inner.freshness.stamp_now();
        let bound = inner
            .store
            .bind_backend(&self.key, name, expected, &binding)
            .await;
        match self.sessions.observed(StoreOperation::Bind, bound) {
            Ok(BindOutcome::Bound(record)) => self
                .prepare_bound(record, stamp, backend, session)
                .await
                .map(Some),
            Ok(BindOutcome::Lost(record)) => {
                let winner = usable(&record, backend, lost);
                // The winner may be this very session: an earlier bind succeeded, but its response was lost.
                if winner.as_ref() == Some(&session) {
                    return self
                        .prepare_bound(record, stamp, backend, session)
                        .await
                        .map(Some);
                }
                self.sessions.delete_upstream(backend.clone(), session);
                self.update_record(record, stamp)
                    .map_err(|_| UpstreamError::Gone)?;
                Ok(winner)
            }
            Ok(BindOutcome::Gone) => match self.sessions.resolve_missing(&self.key, None).await {
                Ok(Some(_)) => {
                    self.sessions.make_provisional(&self.key, pending);
                    Ok(None)
                }
                Ok(None) => {
                    self.sessions.delete_upstream(backend.clone(), session);
                    Err(UpstreamError::Gone)
                }
                Err(unavailable) => {
                    self.sessions.make_provisional(&self.key, pending);
                    Err(unavailable.into())
                }
            },
            Err(unavailable) => {
                // The bind may have succeeded, or may still succeed.
                self.sessions.make_provisional(&self.key, pending);
                self.provisional(backend, lost, unavailable).await.map(Some)
            }
        }
    }

    /// Brings a newly bound upstream session up to date before the first call: settings are replayed and its stream
    /// is opened.
    async fn prepare_bound(
        &self,
        record: Record,
        stamp: ReadStamp,
        backend: &Backend,
        session: UpstreamSession,
    ) -> OpenOutcome {
        self.sessions.inner.recent_writes.note(self.key);
        self.update_record(record.clone(), stamp)
            .map_err(|_| UpstreamError::Gone)?;
        tokio::join!(
            self.sessions.replay(&record, backend, &session),
            self.open_upstream_stream(backend, &session)
        );
        self.streams().changed(&self.key);
        Ok(session)
    }
}

/// The bound upstream session, if `backend` has its origin and it is not `lost`.
fn usable(record: &Record, backend: &Backend, lost: Option<&UpstreamSession>) -> Option<UpstreamSession> {
    let binding = record.bindings.get(backend.name().as_str())?;
    let usable = binding.origin == backend.origin() && Some(&binding.session) != lost;
    usable.then(|| binding.session.clone())
}

/// Parameters of `initialize`: the client's own, from the record.
pub(super) fn initialize_params(record: &Record) -> Result<InitializeParams<'_>, UpstreamError> {
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
