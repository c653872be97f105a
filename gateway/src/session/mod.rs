//! Client sessions of the legacy era. `initialize` creates one, the client names it by a signed id in each request,
//! and DELETE or a deadline ends it.
//!
//! A session is its record in the store; no process owns it. Each request finds the record by the signed id, on any
//! replica. Replicas cache records and use a cached one while it is fresh. The state diagrams are in
//! `docs/architecture/sessions.md`.

mod abandoned_calls;
mod background_limit;
mod cache;
mod catalog_sync;
mod client_capabilities;
mod client_session;
mod counts;
mod event_follower;
pub mod id;
mod idle_deadlines;
mod in_flight;
mod local_sessions;
mod lookup;
pub mod record;
mod recovery;
mod session_handle;
mod settings;
pub mod store;
mod store_probe;
mod store_readiness;
mod stream;
mod sweeper;
mod teardown;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use vmcp_crds::status::SessionStoreStatus;

use crate::config::{ServerName, SessionLimits};
use crate::core::{Caller as _, Core, Principal};
use crate::mcp::revision::Revision;
use crate::runtime::rate_limit::KeyedRateLimit;
use crate::runtime::readiness::ReadinessWait;
use crate::runtime::tasks::Tasks;
use crate::telemetry::Metrics;

use background_limit::BackgroundLimit;
use cache::freshness::Freshness;
use cache::{CachedSession, SessionCache};
use catalog_sync::CatalogSync;
use client_capabilities::ClientCapabilities;
use event_follower::EventFollower;
use id::SessionId;
use id::signing_keys::SigningKeys;
use idle_deadlines::IdleDeadlines;
use local_sessions::LocalSessions;
use lookup::SessionLookup;
use record::{Lifetimes, NewRecord, Record, RecordKey};
use recovery::lost_data::Recovery;
use recovery::observed_store::{ObservedStore, OutagePolicy};
use settings::SessionSettings;
use store::{CreateOutcome, LoadOutcome, SessionLimit, SessionStore, StoreError, TerminateOutcome};
use store_probe::StoreProbe;
use stream::session_stream::StreamOpener;
use sweeper::Sweeper;
use teardown::SessionTeardown;
use upstream::UpstreamSessions;
use upstream::local_upstreams::LocalUpstreams;
use upstream::session_catalogs::SessionCatalogs;
use upstream::shared_sessions::SharedSessionSync;

pub use counts::SessionCounts;
pub use id::event_id::{BrokenCall, ResumePoint, StreamPositions};
pub use id::relayed_id::RelayedId;
pub use in_flight::{CancellationTarget, Progress, RunningRequest, SessionEnd, TooManyRequests};
pub use session_handle::Session;
pub use settings::SettingError;
pub use stream::session_stream::{SessionStream, SessionStreamEvent};
pub use upstream::upstream_lookup::NoUpstreamSession;

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

/// The components of the session layer. Each names in its constructor what it is built on.
#[derive(Debug)]
struct Inner {
    server: ServerName,
    keys: SigningKeys,
    options: SessionOptions,
    core: Core,
    tasks: Tasks,
    metrics: Metrics,
    store: Arc<ObservedStore>,
    local: LocalSessions,
    local_upstreams: LocalUpstreams,
    teardown: SessionTeardown,
    recovery: Recovery,
    lookup: SessionLookup,
    upstreams: UpstreamSessions,
    catalogs: SessionCatalogs,
    settings: SessionSettings,
    streams: StreamOpener,
    /// Each stream of a session is a write in the store.
    stream_rates: KeyedRateLimit<RecordKey>,
    background: BackgroundLimit,
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
        options: SessionOptions,
        keys: SigningKeys,
        core: Core,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Self {
        let lifetimes = options.lifetimes;
        let policy = OutagePolicy {
            serves_cached: options.serve_in_outage,
            grace: options.outage_grace,
        };
        let store = Arc::new(ObservedStore::new(store, policy, metrics.clone()));
        let account = core.budget().sessions().clone();
        let freshness = Freshness::new(options.max_staleness);
        let local = LocalSessions::new(SessionCache::new(options.max_cached, account, freshness));
        let local_upstreams = LocalUpstreams::new(tasks.clone());
        let teardown = SessionTeardown::new(local.clone(), local_upstreams.clone());
        let recovery = Recovery::new(
            Arc::clone(&store),
            local.clone(),
            teardown.clone(),
            lifetimes.idle,
            tasks.clone(),
            metrics.clone(),
        );
        let lookup = SessionLookup::new(
            server.clone(),
            keys.clone(),
            Arc::clone(&store),
            Arc::clone(&local.cache),
            recovery.clone(),
            lifetimes,
            tasks.clone(),
            metrics.clone(),
        );
        let upstreams = UpstreamSessions::new(
            server.clone(),
            Arc::clone(&store),
            local.clone(),
            local_upstreams.clone(),
            teardown.clone(),
            recovery.clone(),
            core.clone(),
            tasks.clone(),
            metrics.clone(),
        );
        let background = BackgroundLimit::new(tasks.clone());
        let catalogs =
            SessionCatalogs::new(upstreams.clone(), core.clone(), background.clone(), tasks.clone());
        let settings = SessionSettings::new(
            Arc::clone(&store),
            Arc::clone(&local.cache),
            recovery.clone(),
            upstreams.clone(),
        );
        let streams = StreamOpener::new(
            server.clone(),
            Arc::clone(&store),
            local.streams.clone(),
            recovery.clone(),
        );
        Self {
            inner: Arc::new(Inner {
                server,
                keys,
                options,
                core,
                tasks,
                metrics,
                store,
                local,
                local_upstreams,
                teardown,
                recovery,
                lookup,
                upstreams,
                catalogs,
                settings,
                streams,
                stream_rates: KeyedRateLimit::default(),
                background,
            }),
        }
    }

    /// Starts the background tasks. They run until the process drains, or has drained. `loading` is dropped when the
    /// catalog has loaded what the store has persisted, and `first_access` when the store has been reached or waited for.
    pub fn run(&self, loading: ReadinessWait, first_access: ReadinessWait) {
        let inner = &*self.inner;
        let (tasks, cache) = (&inner.tasks, &inner.local.cache);
        let (store, idle) = (|| Arc::clone(&inner.store), inner.options.lifetimes.idle);
        let renewal = cache.freshness().renewal_interval();
        match inner.store.unobserved().events(renewal) {
            Some(events) => {
                let follower = EventFollower::new(
                    store(),
                    inner.local.clone(),
                    inner.teardown.clone(),
                    inner.recovery.clone(),
                    tasks.clone(),
                );
                tasks.spawn_until_idle(follower.run(events));
                let sync = CatalogSync::new(store(), inner.core.clone(), inner.recovery.clone());
                tasks.spawn_until_drain(sync.run(loading));
            }
            None => cache.freshness().set_sole_writer(),
        }
        tasks.spawn_until_drain(SharedSessionSync::new(store(), inner.core.clone()).run());
        let every = inner.options.lifetimes.touch_every();
        let deadlines = IdleDeadlines::new(store(), inner.local.clone(), inner.recovery.clone(), every);
        tasks.spawn_until_idle(deadlines.clone().move_queued());
        tasks.spawn_until_idle(deadlines.queue_running());
        let upstreams = &inner.upstreams;
        let probe = StoreProbe::new(store(), Arc::clone(cache), upstreams.clone(), tasks.clone());
        tasks.spawn_until_idle(probe.run(first_access));
        tasks.spawn_until_drain(upstreams.clone().close_ended_connections(idle));
        let sweeper = Sweeper::new(
            store(),
            Arc::clone(cache),
            inner.local_upstreams.sse_connections.clone(),
            upstreams.clone(),
            idle,
            tasks.clone(),
        );
        tasks.spawn_until_drain(sweeper.run());
        let (upstreams, drained) = (upstreams.clone(), tasks.drained());
        tasks.spawn(async move {
            drained.await;
            upstreams.reconcile().await;
        });
    }

    /// State of the store. It is unavailable while it refuses an operation, and when reads have failed for a while: a single
    /// late response would make the virtual server not ready for a moment.
    #[must_use]
    pub fn store_status(&self) -> SessionStoreStatus {
        let store = self.inner.store.unobserved();
        let outage = self.inner.store.outage().current();
        let outage = outage.filter(|down| down.is_certain());
        SessionStoreStatus {
            provider: store.provider().to_owned(),
            available: outage.is_none(),
            error: outage.map(|down| down.error.reason().to_owned()),
            warning: store.eviction_warning(),
        }
    }

    /// Tag that stands for the session id in logs. It is the same on all replicas until the signing key changes, and
    /// does not grant access.
    #[must_use]
    pub fn log_tag(&self, id: &[u8]) -> String {
        let mac = self.inner.keys.current().mac("vmcp log tag", &[id]);
        mac[..6].iter().map(|byte| format!("{byte:02x}")).collect()
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
            let stamp = inner.local.cache.stamp_now();
            match inner.store.create(&key, &record, limits).await? {
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
                    inner.recovery.record_incarnation(record.life.incarnation);
                    inner.recovery.note_write(key);
                    inner.local.cache.insert(&key, record, stamp);
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
        let inner = &*self.inner;
        let (id, _) = inner.lookup.verify(id, principal)?;
        let life = id.life();
        let (cache, teardown) = (&inner.local.cache, &inner.teardown);
        let upstreams_of = |record: &Record| inner.upstreams.of_record(record);
        let upstreams = match cache.get(&id.key) {
            CachedSession::Terminated => return Err(SessionError::NotFound),
            CachedSession::Entry(entry) => upstreams_of(&entry.record()),
            // Read the bindings first. If the termination succeeds but its answer is lost, the record is gone.
            CachedSession::Unknown => match inner.store.load(&id.key).await {
                Ok(LoadOutcome::Found(record)) => upstreams_of(&record),
                Ok(LoadOutcome::Gone) => Vec::new(),
                Err(error) if error.is_corrupt_record() => Vec::new(),
                Err(error) => return Err(error.into()),
            },
        };
        let pending_terminations = &inner.local_upstreams.pending_terminations;
        let earlier = pending_terminations.take(&id.key);
        match inner.store.terminate(&id.key, life).await {
            Ok(TerminateOutcome::Gone) => {
                teardown.drop_session(&id.key);
                // An earlier attempt, whose answer was lost, terminated the session.
                for (backend, upstream) in earlier {
                    teardown.delete_upstream(backend, upstream);
                }
                Err(SessionError::NotFound)
            }
            Ok(TerminateOutcome::Terminated(record)) => {
                inner.metrics.session_terminated();
                teardown.mark_terminated(&id.key, life);
                // The cache may name bindings that the store has lost.
                let upstreams = record.map_or(upstreams, |record| upstreams_of(&record));
                for (backend, upstream) in upstreams {
                    teardown.delete_upstream(backend, upstream);
                }
                Ok(())
            }
            Err(error) => {
                pending_terminations.add(id.key, if upstreams.is_empty() { earlier } else { upstreams });
                // The event of the termination may have arrived before this error.
                if matches!(cache.get(&id.key), CachedSession::Terminated) {
                    teardown.delete_upstreams_of_terminated(&id.key);
                }
                Err(error.into())
            }
        }
    }

    /// Whether `id` was signed for this server and `principal`. It does not say whether the session is alive.
    #[must_use]
    pub fn is_own_id(&self, id: &[u8], principal: &Principal) -> bool {
        self.inner.lookup.verify(id, principal).is_ok()
    }

    /// Returns the live session of `principal` that a client names with `id`.
    ///
    /// # Errors
    /// There is no such session, or the store cannot say. An id that was not signed for this server and this
    /// principal is refused without a read of the store.
    pub async fn find(&self, id: &[u8], principal: &Principal) -> Result<Session, SessionError> {
        let client = self.inner.lookup.find(id, principal).await?;
        let session = Session::new(self.clone(), client);
        session.record_use();
        Ok(session)
    }

    /// Runs `work` in a task that outlives the request. Returns `false`, and drops `work`, when too many tasks are
    /// running.
    pub fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        self.inner.background.spawn(work)
    }

    /// Counts the sessions. It visits every cache entry, so only a scrape may call it, not a request.
    #[must_use]
    pub fn counts(&self) -> SessionCounts {
        let inner = &*self.inner;
        SessionCounts::count(&inner.local, &inner.local_upstreams, inner.options.lifetimes.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::recovery::outage::StoreOperation;
    use super::store::memory::MemoryStore;
    use super::*;
    use crate::backend::HttpClient;
    use crate::config::HotSettings;
    use crate::runtime::readiness::Readiness;

    fn sessions() -> Sessions {
        let (tasks, metrics) = (Tasks::default(), Metrics::new());
        let transport = HttpClient::new(tasks.clone());
        let core = Core::new(
            HotSettings::default(),
            transport,
            tasks.clone(),
            &Readiness::default(),
            Metrics::new(),
        );
        let server = ServerName {
            namespace: "tests".to_owned(),
            name: "a".to_owned(),
        };
        let store = Arc::new(MemoryStore::new(Lifetimes::default()));
        let keys = SigningKeys::random().unwrap();
        Sessions::new(
            server,
            store,
            SessionOptions::default(),
            keys,
            core,
            tasks,
            metrics,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn one_late_answer_leaves_store_available() {
        let sessions = sessions();
        let outage = sessions.inner.store.outage();
        let late = StoreError::unavailable("Redis did not answer");
        outage.record_failure(StoreOperation::Load, &late);
        let status = sessions.store_status();
        assert!(status.available && status.error.is_none(), "{status:?}");
        tokio::time::advance(Duration::from_secs(1)).await;
        let status = sessions.store_status();
        assert_eq!(
            (status.available, status.error.as_deref()),
            (false, Some("Redis did not answer"))
        );
        outage.record_success(StoreOperation::Load);
        assert!(sessions.store_status().available);
        outage.record_failure(StoreOperation::Create, &StoreError::refused("its memory is full"));
        let status = sessions.store_status();
        assert_eq!(
            (status.available, status.error.as_deref()),
            (false, Some("its memory is full"))
        );
    }
}
