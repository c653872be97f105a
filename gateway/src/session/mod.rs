//! Client sessions of the legacy era. `initialize` creates one, the client names it by a signed id in each request,
//! and DELETE or a deadline ends it.
//!
//! A session is its record in the store; no process owns it. Each request finds the record by the signed id, on any
//! replica. Replicas cache records and use a cached one while it is fresh. The state diagrams are in
//! `docs/architecture/sessions.md`.

mod abandoned_calls;
mod background;
mod cache;
mod caller;
mod catalog_sync;
mod client_capabilities;
mod counts;
pub mod id;
mod in_flight;
mod lookup;
pub mod record;
mod recovery;
mod settings;
pub mod store;
mod stream;
mod sweeper;
pub mod upstream;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};
use vmcp_crds::session_key::SessionKey;

use crate::backend::UpstreamSession;
use crate::config::{ServerName, SessionLimits};
use crate::core::{Core, Principal};
use crate::mcp::revision::Revision;
use crate::runtime::rate_limit::KeyedRateLimit;
use crate::runtime::single_flight::SingleFlight;
use crate::runtime::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::request_id::CurrentRequestId;
use background::PendingTouches;
use cache::cache_entry::CacheEntry;
use cache::freshness::Freshness;
use cache::{CachedSession, SessionCache};
use client_capabilities::ClientCapabilities;
pub use counts::SessionCounts;
use id::SessionId;
use id::signing_keys::SigningKeys;
use id::verified_ids::VerifiedIds;
use in_flight::InFlightRequests;
pub use in_flight::{CancellationTarget, Progress, RunningRequest, SessionEnd, TooManyRequests};
use lookup::LookupOutcome;
use record::{Lifetimes, NewRecord, Record, RecordKey};
use recovery::outage::{Outage, OutageChange, StoreOperation};
use recovery::pending_terminations::PendingTerminations;
use recovery::recent_writes::RecentWrites;
use store::{
    CreateOutcome, LoadOutcome, ProcessId, SessionLimit, SessionStore, StoreError, TerminateOutcome,
};
use stream::StreamRegistry;
use upstream::deletions::UpstreamDeletions;
use upstream::provisional::ProvisionalSessions;
use upstream::reopen_limiter::ReopenLimiter;
use upstream::session_lists::ListQueue;
use upstream::sse_sessions::SseSessions;
use upstream::unstored_cookies::UnstoredCookies;

pub use id::event_id::{BrokenCall, ResumePoint, StreamPositions};
pub use id::relayed_id::RelayedId;
pub use settings::SettingError;
pub use stream::session_stream::{SessionStream, SessionStreamEvent};
pub use upstream::upstream_lookup::NoUpstreamSession;

/// Maximum number of background tasks, such as notifications to backends, at a time.
const MAX_BACKGROUND: usize = 1024;

/// Maximum rate at which a session opens streams by GET. A client that reconnects opens one or two.
const STREAMS_PER_SECOND: u32 = 10;
/// Maximum rate at which a session changes its settings. A client may subscribe to many resources at once.
const SETTINGS_PER_SECOND: u32 = 256;

/// All client sessions of the virtual server. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Sessions {
    inner: Arc<Inner>,
}

/// Configuration of sessions, without the store's own.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The idle and the absolute lifetime.
    pub lifetimes: Lifetimes,
    /// Maximum age of cached session state. See `cache::freshness`.
    pub max_staleness: Duration,
    /// Whether cached sessions are served while the store is unavailable.
    pub serve_in_outage: bool,
    /// Maximum duration of that service. Afterwards requests fail.
    pub outage_grace: Duration,
    /// Maximum number of cached sessions that are not in use.
    pub max_cached: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            lifetimes: Lifetimes::default(),
            max_staleness: Duration::from_secs(2),
            serve_in_outage: true,
            outage_grace: Duration::from_secs(10 * 60),
            max_cached: 10_000,
        }
    }
}

#[derive(Debug)]
struct Inner {
    server: ServerName,
    store: Arc<dyn SessionStore>,
    settings: SessionOptions,
    keys: SigningKeys,
    verified_ids: VerifiedIds,
    core: Core,
    tasks: Tasks,
    metrics: Metrics,
    /// Names this process among the replicas that share the store.
    process_id: ProcessId,
    /// Notifies the catalog that the store lost its data.
    data_lost: Notify,
    cache: SessionCache,
    freshness: Freshness,
    outage: Outage,
    recent_writes: RecentWrites,
    pending_touches: PendingTouches,
    provisional: ProvisionalSessions,
    unstored_cookies: UnstoredCookies,
    pending_terminations: PendingTerminations,
    /// Single flight of loads: concurrent requests for one session load its record once.
    lookups: SingleFlight<RecordKey, LookupOutcome>,
    /// Single flight of `initialize` at backends: concurrent calls open one upstream session.
    openings: SingleFlight<upstream::OpenTarget, upstream::OpenOutcome>,
    /// Single flight of lists that backends give in a client's own session.
    lists: SingleFlight<upstream::session_lists::ListTarget, upstream::session_lists::ListRequest>,
    list_queue: ListQueue,
    in_flight: InFlightRequests,
    reopen_limiter: ReopenLimiter,
    /// Upstream sessions that are HTTP+SSE connections of this process.
    sse_sessions: SseSessions,
    /// Queue of upstream sessions to delete.
    deletions: UpstreamDeletions,
    /// The sessions' GET streams that are open in this process.
    streams: StreamRegistry,
    /// Rate limits per session: to open a stream and to change a setting each write to the store.
    stream_rates: KeyedRateLimit<RecordKey>,
    setting_rates: KeyedRateLimit<RecordKey>,
    /// Limits the tasks that outlive the request that started them.
    background: Arc<Semaphore>,
}

/// One live client session, as a request holds it.
#[derive(Clone, Debug)]
pub struct Session {
    sessions: Sessions,
    key: RecordKey,
    /// The key that signed the session's id. It also signs the tokens that the client gets.
    signer: Arc<SessionKey>,
    /// The cache entry, shared by all requests of the session, so that each sees the changes of the others.
    entry: Arc<CacheEntry>,
}

/// The client's part of `initialize`, as the client wrote it.
#[derive(Debug)]
pub struct ClientHandshake<'a> {
    /// The negotiated protocol revision.
    pub revision: Revision,
    /// The client's capabilities.
    pub capabilities: &'a RawValue,
    /// The client's name and version.
    pub info: &'a RawValue,
}

/// Why a session cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The session is unknown, expired, terminated, or belongs to another principal. The client must not learn which.
    #[error("session not found")]
    NotFound,
    /// The store does not answer, so it is not known whether the session is alive.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}

/// Why a session was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The session limit is reached.
    #[error("the limit of sessions is reached; end a session or try again later")]
    Limit(SessionLimit),
    /// The store does not answer.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}

impl Sessions {
    /// Creates the sessions of `server` over `store`. [`Self::run`] starts the background tasks.
    #[must_use]
    pub fn new(
        server: ServerName,
        store: Arc<dyn SessionStore>,
        settings: SessionOptions,
        keys: SigningKeys,
        core: Core,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Self {
        metrics.store_answers(true);
        let deletions = UpstreamDeletions::new(tasks.clone());
        let cache = SessionCache::new(settings.max_cached, core.budget().sessions().clone());
        Self {
            inner: Arc::new(Inner {
                server,
                store,
                keys,
                verified_ids: VerifiedIds::default(),
                core,
                tasks,
                metrics,
                process_id: ProcessId(crate::runtime::random::bytes()),
                data_lost: Notify::new(),
                cache,
                freshness: Freshness::new(settings.max_staleness),
                outage: Outage::default(),
                recent_writes: RecentWrites::default(),
                pending_touches: PendingTouches::default(),
                provisional: ProvisionalSessions::default(),
                unstored_cookies: UnstoredCookies::default(),
                pending_terminations: PendingTerminations::default(),
                lookups: SingleFlight::default(),
                openings: SingleFlight::default(),
                lists: SingleFlight::default(),
                list_queue: ListQueue::default(),
                in_flight: InFlightRequests::default(),
                reopen_limiter: ReopenLimiter::default(),
                sse_sessions: SseSessions::default(),
                deletions,
                streams: StreamRegistry::default(),
                stream_rates: KeyedRateLimit::default(),
                setting_rates: KeyedRateLimit::default(),
                background: Arc::new(Semaphore::new(MAX_BACKGROUND)),
                settings,
            }),
        }
    }

    /// Error of the store's last failed operation; `None` while all operations succeed.
    #[must_use]
    pub fn store_error(&self) -> Option<String> {
        self.inner.outage.current().map(|down| down.error.to_string())
    }

    /// Tag that stands for the session id in logs. It is the same on all replicas until the signing key changes, and
    /// does not grant access.
    #[must_use]
    pub fn log_tag(&self, id: &[u8]) -> String {
        let mac = self.inner.keys.current().mac("vmcp log tag", &[id]);
        mac[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Name of the store: `memory` or `redis`.
    #[must_use]
    pub fn store_provider(&self) -> &'static str {
        self.inner.store.provider()
    }

    /// Creates a session of `principal` within `limits`, and returns its id. The record is stored before the id is
    /// returned, so every replica finds the session when the client first names it.
    ///
    /// # Errors
    /// The session limit is reached, or the store is unavailable. No session exists then.
    pub async fn create(
        &self,
        principal: &Principal,
        client: &ClientHandshake<'_>,
        limits: SessionLimits,
    ) -> Result<String, CreateError> {
        let inner = &*self.inner;
        let signer = inner.keys.current();
        let principal_tag = id::principal_tag(&signer, &inner.server, principal);
        // Sessions under all keys count towards the limit. Otherwise a key rotation would give a principal a second
        // allowance.
        let others = inner.keys.all().filter(|key| !Arc::ptr_eq(key, &signer));
        let record = NewRecord {
            principal_tag,
            other_tags: others
                .map(|key| id::principal_tag(&key, &inner.server, principal))
                .collect(),
            revision: client.revision,
            capabilities: client.capabilities.get().into(),
            client_info: client.info.get().into(),
        };
        let limits = limits.for_weight(record.weight());
        loop {
            let key = RecordKey::random();
            let stamp = inner.freshness.stamp_now();
            match self.observed(
                StoreOperation::Create,
                inner.store.create(&key, &record, limits).await,
            )? {
                CreateOutcome::AlreadyExists => {}
                CreateOutcome::Limit(of) => return Err(CreateError::Limit(of)),
                CreateOutcome::Created { created, record } => {
                    let id = SessionId {
                        key,
                        incarnation: record.life.incarnation,
                        created,
                        end: record.life.end,
                        principal_tag,
                        revision: client.revision,
                        capabilities: ClientCapabilities::of(client.capabilities),
                    };
                    self.record_incarnation(record.life.incarnation);
                    inner.recent_writes.note(key);
                    inner.cache.insert(&key, record, stamp);
                    inner.metrics.session_created();
                    return Ok(id.sign(&signer, &inner.server));
                }
            }
        }
    }

    /// Terminates the session that a client names with `id` and deletes its upstream sessions in the background.
    ///
    /// # Errors
    /// As [`Self::find`]. If the store is unavailable, the session may still be alive, so the client gets an error
    /// and tries again.
    pub async fn terminate(&self, id: &[u8], principal: &Principal) -> Result<(), SessionError> {
        let (id, _) = self.verify(id, principal)?;
        let inner = &*self.inner;
        let life = id.life();
        let upstreams = match inner.cache.get(&id.key) {
            CachedSession::Terminated => return Err(SessionError::NotFound),
            CachedSession::Entry(entry) => self.upstreams_of(&entry.record()),
            // Read the bindings first. If the termination succeeds but its answer is lost, the record is gone.
            CachedSession::Unknown => {
                match self.observed(StoreOperation::Load, inner.store.load(&id.key).await) {
                    Ok(LoadOutcome::Found(record)) => self.upstreams_of(&record),
                    Ok(LoadOutcome::Gone) => Vec::new(),
                    Err(error) if error.is_corrupt_record() => Vec::new(),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let earlier = inner.pending_terminations.take(&id.key);
        match self.observed(
            StoreOperation::Terminate,
            inner.store.terminate(&id.key, life).await,
        ) {
            Ok(TerminateOutcome::Gone) => {
                self.drop_session(&id.key);
                // An earlier attempt, whose answer was lost, terminated the session.
                for (backend, upstream) in earlier {
                    self.delete_upstream(backend, upstream);
                }
                Err(SessionError::NotFound)
            }
            Ok(TerminateOutcome::Terminated(record)) => {
                inner.metrics.session_terminated();
                self.mark_terminated(&id.key, life);
                // The cache may name bindings that the store has lost.
                let upstreams = record.map_or(upstreams, |record| self.upstreams_of(&record));
                for (backend, upstream) in upstreams {
                    self.delete_upstream(backend, upstream);
                }
                Ok(())
            }
            Err(error) => {
                inner
                    .pending_terminations
                    .add(id.key, if upstreams.is_empty() { earlier } else { upstreams });
                // The event of the termination may have arrived before this error.
                if matches!(inner.cache.get(&id.key), CachedSession::Terminated) {
                    self.delete_upstreams_of_terminated(&id.key);
                }
                Err(error.into())
            }
        }
    }

    /// Whether `id` was signed for this server and `principal`. It does not say whether the session is alive.
    #[must_use]
    pub fn is_own_id(&self, id: &[u8], principal: &Principal) -> bool {
        self.verify(id, principal).is_ok()
    }

    fn verify(&self, id: &[u8], principal: &Principal) -> Result<(SessionId, Arc<SessionKey>), SessionError> {
        let inner = &*self.inner;
        if let Some(known) = inner.verified_ids.get(id, &inner.keys, principal) {
            return Ok(known);
        }
        let (read, signer) =
            SessionId::verify(id, &inner.keys, &inner.server, principal).ok_or(SessionError::NotFound)?;
        inner.verified_ids.add(id, &read, &signer, principal);
        Ok((read, signer))
    }

    /// Records in the outage state whether the store answered `operation`.
    fn observed<T>(
        &self,
        operation: StoreOperation,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let inner = &*self.inner;
        match &outcome {
            Err(error) if error.is_corrupt_record() => {
                tracing::warn!(%error, "session record unusable");
            }
            Err(error) => {
                inner.metrics.store_unavailable();
                if let OutageChange::Changed { log } = inner.outage.record_failure(operation, error) {
                    inner.metrics.store_answers(false);
                    if log {
                        tracing::warn!(request_id = %CurrentRequestId, ?operation, %error, "session store unavailable");
                    }
                }
            }
            Ok(_) => {
                if let OutageChange::Changed { log } = inner.outage.record_success(operation) {
                    inner.metrics.store_answers(true);
                    if log {
                        tracing::info!("session store available again");
                    }
                }
            }
        }
        outcome
    }

    /// Runs `work` in a task that outlives the request. Returns `false`, and drops `work`, when too many tasks are
    /// running.
    pub fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(permit) = Arc::clone(&self.inner.background).try_acquire_owned() else {
            return false;
        };
        self.inner.tasks.spawn(async move {
            work.await;
            drop(permit);
        });
        true
    }

    /// Queues the deletion of an upstream session.
    fn delete_upstream(&self, backend: crate::backend::Backend, session: UpstreamSession) {
        self.inner.deletions.delete(backend, session);
    }

    /// Deletes the upstream sessions of `key` that are connections of this process.
    fn close_connections(&self, key: &RecordKey) {
        for (backend, upstream) in self.inner.sse_sessions.take(key) {
            self.delete_upstream(backend, upstream);
        }
    }
}

impl Session {
    /// Registers the request `id` as running in this session, which may have `limit` at a time.
    ///
    /// # Errors
    /// The session has as many running requests as it may.
    pub fn begin(&self, id: &RawValue, limit: usize) -> Result<RunningRequest, TooManyRequests> {
        let inner = &*self.sessions.inner;
        let running = inner.in_flight.begin(self.key, id, limit)?;
        // A termination may have arrived between lookup and registration.
        if matches!(inner.cache.get(&self.key), CachedSession::Terminated) {
            inner.in_flight.end(&self.key);
        }
        Ok(running)
    }

    /// Resolves what a client's `notifications/cancelled` for the request `id` refers to.
    #[must_use]
    pub fn resolve_cancellation(&self, id: &RawValue) -> CancellationTarget {
        self.sessions.inner.in_flight.resolve_cancellation(&self.key, id)
    }

    /// Resumes a call after the event `event_id`, within `limit` running requests. An earlier stream that resumed
    /// after the same event ends.
    ///
    /// # Errors
    /// The session has as many running requests as it may.
    pub fn resume_call(&self, event_id: &[u8], limit: usize) -> Result<RunningRequest, TooManyRequests> {
        let inner = &*self.sessions.inner;
        inner
            .in_flight
            .resume(self.key, &String::from_utf8_lossy(event_id), limit)
    }

    /// Whether the rate limit admits another GET stream now.
    #[must_use]
    pub fn can_open_stream(&self) -> bool {
        self.sessions
            .inner
            .stream_rates
            .allows(&self.key, STREAMS_PER_SECOND)
    }

    /// The cached record.
    fn record(&self) -> Guard<Arc<Record>> {
        self.entry.record()
    }
}
