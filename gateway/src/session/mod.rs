//! Sessions of the legacy era: created by `initialize`, named by an id that the client sends with every request, ended by
//! DELETE or by time.
//!
//! A session is its record in the store. No process owns it: each request finds the record by the signed id that the client
//! sends, whichever process it reaches. What a process has seen of a record it remembers, and uses as long as it is known to be true.

mod abandoned_calls;
mod background;
mod cache;
mod catalog_sync;
mod client_capabilities;
mod client_settings;
mod counts;
pub mod id;
mod in_flight;
mod lookup;
pub mod record;
mod recovery;
pub mod store;
mod stream;
mod sweeper;
pub mod upstream;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use http::HeaderMap;
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};
use vmcp_crds::session_key::SessionKey;

use crate::backend::UpstreamSession;
use crate::config::ServerName;
use crate::core::{Core, Principal};
use crate::mcp::revision::Revision;
use crate::runtime::rate_limit::KeyedRateLimit;
use crate::runtime::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::request_id::CurrentRequestId;

use crate::runtime::single_flight::SingleFlight;
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
pub use in_flight::{Cancelled, Progress, RunningRequest, TooManyRequests};
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

pub use client_settings::SettingError;
pub use id::event_id::{BrokenCall, ResumePoint, StreamPositions};
pub use id::relayed_id::{RelayedId, RelayedIdKind};
pub use stream::session_stream::{SessionStream, SessionStreamEvent};
pub use upstream::upstream_lookup::NoUpstreamSession;

/// How many notifications may be on their way to backends at a time.
const MAX_BACKGROUND: usize = 1024;

/// How many streams a session may open by GET in a second. A client that was cut off opens one or two.
const STREAMS_PER_SECOND: u32 = 10;
/// How often a session may change its settings in a second: as many resources as it may watch may be subscribed to at once.
const SETTINGS_PER_SECOND: u32 = 256;

/// All sessions of the virtual server. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Sessions {
    inner: Arc<Inner>,
}

/// How sessions are kept, as far as it is not the store's business.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// How long sessions live.
    pub lifetimes: Lifetimes,
    /// How long what is remembered counts without a proof that it is true.
    pub max_staleness: Duration,
    /// Whether sessions that are remembered are served while the store does not answer.
    pub serve_in_outage: bool,
    /// For how long.
    pub outage_grace: Duration,
    /// How many sessions are remembered that are not in use.
    pub max_remembered: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            lifetimes: Lifetimes::default(),
            max_staleness: Duration::from_secs(2),
            serve_in_outage: true,
            outage_grace: Duration::from_secs(10 * 60),
            max_remembered: 10_000,
        }
    }
}

#[derive(Debug)]
struct Inner {
    server: ServerName,
    store: Arc<dyn SessionStore>,
    settings: SessionOptions,
    keys: SigningKeys,
    verified: VerifiedIds,
    core: Core,
    tasks: Tasks,
    metrics: Metrics,
    /// This process, among those that share the store.
    owner: ProcessId,
    /// Says that the store has lost its data.
    data_lost: Notify,
    cache: SessionCache,
    proof: Freshness,
    outage: Outage,
    writes: RecentWrites,
    touches: PendingTouches,
    provisional: ProvisionalSessions,
    endings: PendingTerminations,
    /// The sessions that the store is being asked for, so that requests that arrive together ask once.
    reads: SingleFlight<RecordKey, LookupOutcome>,
    /// The upstream sessions that are being opened, so that calls that arrive together open one.
    binds: SingleFlight<upstream::OpenTarget, upstream::OpenOutcome>,
    /// The lists that backends are asked for in clients' sessions.
    lists: SingleFlight<upstream::session_lists::ListTarget, upstream::session_lists::ListRequest>,
    list_queue: ListQueue,
    in_flight: InFlightRequests,
    repairs: ReopenLimiter,
    /// The upstream sessions that are connections of this process.
    local: SseSessions,
    /// The upstream sessions that are no longer needed.
    deletions: UpstreamDeletions,
    /// The sessions' own streams that are open here.
    streams: StreamRegistry,
    /// How often each session opens streams, and changes its settings: each is a write in the store.
    stream_rates: KeyedRateLimit<RecordKey>,
    setting_rates: KeyedRateLimit<RecordKey>,
    /// Bounds what goes on behind the requests that began it.
    background: Arc<Semaphore>,
}

/// One session that lives.
#[derive(Clone, Debug)]
pub struct Session {
    sessions: Sessions,
    key: RecordKey,
    /// The key that the session's id names. What is given to the client is sealed with it.
    signer: Arc<SessionKey>,
    /// What is remembered of it: the same for all of its requests, so that one sees what another has changed.
    entry: Arc<CacheEntry>,
    /// What may be passed on to backends of the headers that the request had.
    client_headers: Option<Arc<HeaderMap>>,
}

/// What a client says of itself in `initialize`, as it wrote it.
#[derive(Debug)]
pub struct ClientHandshake<'a> {
    /// The revision agreed on.
    pub revision: Revision,
    /// Its capabilities.
    pub capabilities: &'a RawValue,
    /// Its name and version.
    pub info: &'a RawValue,
}

/// Why a session cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// It is unknown, expired, terminated, or somebody else's; which of these is nobody's business.
    #[error("session not found")]
    NotFound,
    /// Whether it lives cannot be known at the moment.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}

/// Why there is no new session.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There are as many as there may be.
    #[error("there are as many sessions as there may be")]
    Limit(SessionLimit),
    /// The store did not answer.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}

impl Sessions {
    /// The sessions of `server` in `store`.
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
        let cache = SessionCache::new(settings.max_remembered, core.budget().sessions().clone());
        Self {
            inner: Arc::new(Inner {
                server,
                store,
                keys,
                verified: VerifiedIds::default(),
                core,
                tasks,
                metrics,
                owner: ProcessId(crate::runtime::random::bytes()),
                data_lost: Notify::new(),
                cache,
                proof: Freshness::new(settings.max_staleness),
                outage: Outage::default(),
                writes: RecentWrites::default(),
                touches: PendingTouches::default(),
                provisional: ProvisionalSessions::default(),
                endings: PendingTerminations::default(),
                reads: SingleFlight::default(),
                binds: SingleFlight::default(),
                lists: SingleFlight::default(),
                list_queue: ListQueue::default(),
                in_flight: InFlightRequests::default(),
                repairs: ReopenLimiter::default(),
                local: SseSessions::default(),
                deletions,
                streams: StreamRegistry::default(),
                stream_rates: KeyedRateLimit::default(),
                setting_rates: KeyedRateLimit::default(),
                background: Arc::new(Semaphore::new(MAX_BACKGROUND)),
                settings,
            }),
        }
    }

    /// Why the store's last operation had no answer; `None` when it had one.
    #[must_use]
    pub fn store_error(&self) -> Option<String> {
        self.inner.outage.now().map(|down| down.error.to_string())
    }

    /// What stands for the session id `id` in logs: the same for one id as long as the key that signs does not change, on every
    /// replica, and of no use to anybody else.
    #[must_use]
    pub fn log_tag(&self, id: &[u8]) -> String {
        let mac = self.inner.keys.current().mac("vmcp log tag", &[id]);
        mac[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `memory` or `redis`.
    #[must_use]
    pub fn store_provider(&self) -> &'static str {
        self.inner.store.provider()
    }

    /// Creates a session of `principal` and gives its id. The record is in the store before the id is known, so that every
    /// replica knows the session before the client can name it.
    ///
    /// # Errors
    /// When there are as many sessions as there may be, or the store is unavailable. Then there is no session.
    pub async fn create(
        &self,
        principal: &Principal,
        client: &ClientHandshake<'_>,
    ) -> Result<String, CreateError> {
        let inner = &*self.inner;
        let signer = inner.keys.current();
        let principal_tag = id::principal_tag(&signer, &inner.server, principal);
        // A rotation of the keys gives nobody a second allowance.
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
        let limits = inner.core.hot().limits.sessions(principal.is_anonymous());
        let limits = limits.of_weight(record.weight());
        loop {
            let key = RecordKey::random();
            let reading = inner.proof.stamp_now();
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
                    self.learn(record.life.incarnation);
                    inner.writes.note(key);
                    inner.cache.put(&key, record, reading);
                    inner.metrics.session_created();
                    return Ok(id.sign(&signer, &inner.server));
                }
            }
        }
    }

    /// Ends the session that a client names with `id`. Its upstream sessions are deleted in the background.
    ///
    /// # Errors
    /// As [`Self::find`]. When the store is unavailable the session may live on: a revocation that may not have happened is no
    /// success.
    pub async fn terminate(&self, id: &[u8], principal: &Principal) -> Result<(), SessionError> {
        let (id, _) = self.verify(id, principal)?;
        let inner = &*self.inner;
        let life = id.life();
        let upstreams = match inner.cache.get(&id.key) {
            CachedSession::Ended => return Err(SessionError::NotFound),
            CachedSession::Entry(entry) => self.upstreams_of(&entry.record()),
            // Whether the answer comes is not known, and afterwards nobody may know what the session had.
            CachedSession::Nothing => {
                match self.observed(StoreOperation::Load, inner.store.load(&id.key).await) {
                    Ok(LoadOutcome::Found(record)) => self.upstreams_of(&record),
                    Ok(LoadOutcome::Gone) => Vec::new(),
                    Err(error) if error.is_of_record() => Vec::new(),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let earlier = inner.endings.take(&id.key);
        match self.observed(
            StoreOperation::Terminate,
            inner.store.terminate(&id.key, life).await,
        ) {
            Ok(TerminateOutcome::Gone) => {
                self.forget(&id.key);
                // An attempt of which it was not known has ended it.
                for (backend, upstream) in earlier {
                    self.close_upstream(backend, upstream);
                }
                Err(SessionError::NotFound)
            }
            Ok(TerminateOutcome::Terminated(record)) => {
                inner.metrics.session_terminated();
                self.ended(&id.key, life);
                // What the store has lost may still be known here.
                let upstreams = record.map_or(upstreams, |record| self.upstreams_of(&record));
                for (backend, upstream) in upstreams {
                    self.close_upstream(backend, upstream);
                }
                Ok(())
            }
            Err(error) => {
                inner
                    .endings
                    .keep(id.key, if upstreams.is_empty() { earlier } else { upstreams });
                // That it has happened may have been told already.
                if matches!(inner.cache.get(&id.key), CachedSession::Ended) {
                    self.close_ended(&id.key);
                }
                Err(error.into())
            }
        }
    }

    /// Whether `id` was signed for this server and `principal`. The session may have ended.
    #[must_use]
    pub fn is_own_id(&self, id: &[u8], principal: &Principal) -> bool {
        self.verify(id, principal).is_ok()
    }

    fn verify(&self, id: &[u8], principal: &Principal) -> Result<(SessionId, Arc<SessionKey>), SessionError> {
        let inner = &*self.inner;
        if let Some(known) = inner.verified.get(id, &inner.keys, principal) {
            return Ok(known);
        }
        let (read, signer) =
            SessionId::verify(id, &inner.keys, &inner.server, principal).ok_or(SessionError::NotFound)?;
        inner.verified.add(id, &read, &signer, principal);
        Ok((read, signer))
    }

    /// Takes note of whether the store answered `operation`.
    fn observed<T>(
        &self,
        operation: StoreOperation,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let inner = &*self.inner;
        match &outcome {
            Err(error) if error.is_of_record() => {
                tracing::warn!(%error, "a session cannot be used");
            }
            Err(error) => {
                inner.metrics.store_unavailable();
                if let OutageChange::Turned { log } = inner.outage.failed(operation, error) {
                    inner.metrics.store_answers(false);
                    if log {
                        tracing::warn!(request_id = %CurrentRequestId, ?operation, %error, "the session store does not answer");
                    }
                }
            }
            Ok(_) => {
                if let OutageChange::Turned { log } = inner.outage.answered(operation) {
                    inner.metrics.store_answers(true);
                    if log {
                        tracing::info!("the session store answers again");
                    }
                }
            }
        }
        outcome
    }

    /// Runs `work` to its end, whatever becomes of the request that began it. `false` when too much is running already.
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

    /// Deletes an upstream session that is no longer needed.
    fn close_upstream(&self, backend: crate::backend::Backend, session: UpstreamSession) {
        self.inner.deletions.delete(backend, session);
    }

    /// Ends the upstream sessions of the session `key` that are connections of this process.
    fn close_connections(&self, key: &RecordKey) {
        for (backend, upstream) in self.inner.local.take(key) {
            self.close_upstream(backend, upstream);
        }
    }
}

impl Session {
    /// The revision that the client agreed to.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.record().revision
    }

    /// Begins the request `id` of this session.
    ///
    /// # Errors
    /// While as many are running as may at a time.
    pub fn begin(&self, id: &RawValue) -> Result<RunningRequest, TooManyRequests> {
        let inner = &*self.sessions.inner;
        let limit = inner.core.hot().limits.requests_in_flight_per_session;
        let running = inner.in_flight.begin(self.key, id, limit)?;
        // Its end may have been told between the search for the session and this moment.
        if matches!(inner.cache.get(&self.key), CachedSession::Ended) {
            inner.in_flight.end(&self.key);
        }
        Ok(running)
    }

    /// What a client means that cancels the request `id` of this session.
    #[must_use]
    pub fn cancelled(&self, id: &RawValue) -> Cancelled {
        self.sessions.inner.in_flight.cancelled(&self.key, id)
    }

    /// Goes on with a call of this session behind the event that the client names with `event_id`. An earlier stream behind the same
    /// event ends.
    ///
    /// # Errors
    /// While as many as may run at a time are running.
    pub fn resume_call(&self, event_id: &[u8]) -> Result<RunningRequest, TooManyRequests> {
        let inner = &*self.sessions.inner;
        let limit = inner.core.hot().limits.requests_in_flight_per_session;
        inner
            .in_flight
            .resume(self.key, &String::from_utf8_lossy(event_id), limit)
    }

    /// Whether another stream may be opened by GET now: not when there were too many of late.
    #[must_use]
    pub fn may_open_stream(&self) -> bool {
        self.sessions
            .inner
            .stream_rates
            .allows(&self.key, STREAMS_PER_SECOND)
    }

    /// Goes on with a request of this session that began elsewhere.
    #[must_use]
    pub fn go_on(&self) -> RunningRequest {
        self.sessions.inner.in_flight.go_on(self.key)
    }

    /// Says that the session is used: a request came in, or one that began a while ago is still running. The idle deadline is moved
    /// in the background, when it was not moved for a while.
    pub fn in_use(&self) {
        let inner = &*self.sessions.inner;
        if self.entry.used(inner.settings.lifetimes.touch_every()) {
            inner.touches.add(self.key);
        }
    }

    /// The record as it is known.
    fn record(&self) -> Guard<Arc<Record>> {
        self.entry.record()
    }
}
