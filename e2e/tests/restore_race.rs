//! A session is restored between two reads of one lookup: that of the missing record, and that of the incarnation of the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use vmcp_e2e::providers::server;
use vmcp_e2e::records::redis_store;
use vmcp_e2e::redis::Redis;
use vmcp_external::requires;
use vmcp_gateway::backend::{ClientHeaders, HttpClient};
use vmcp_gateway::config::{HotSettings, SessionLimits};
use vmcp_gateway::core::{Core, Principal};
use vmcp_gateway::mcp::revision::Revision;
use vmcp_gateway::runtime::readiness::Readiness;
use vmcp_gateway::runtime::tasks::Tasks;
use vmcp_gateway::session::id::signing_keys::SigningKeys;
use vmcp_gateway::session::record::{Binding, Lifetimes, NewRecord, Record, RecordKey};
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::{
    BindOutcome, CreateOutcome, Incarnation, LoadOutcome, ProcessId, RecoverOutcome, RestoreReason,
    SessionLife, SessionStore, SetOutcome, SettingChange, StoreError, StoreEvent, StoredOffers, StreamClaim,
    TerminateOutcome, TouchOutcome,
};
use vmcp_gateway::session::{ClientHandshake, SessionOptions, Sessions};
use vmcp_gateway::telemetry::Metrics;

/// How long anything here may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A proxy for Redis that delays one reply to a read.
#[derive(Debug)]
struct Late {
    redis: RedisStore,
    hold_next: AtomicBool,
    held: Notify,
    release: Notify,
}

impl SessionStore for Late {
    fn load<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<LoadOutcome, StoreError>> {
        async move {
            let answer = self.redis.load(key).await;
            if self.hold_next.swap(false, Ordering::SeqCst) {
                self.held.notify_one();
                self.release.notified().await;
            }
            answer
        }
        .boxed()
    }

    fn create<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a NewRecord,
        limits: SessionLimits,
    ) -> BoxFuture<'a, Result<CreateOutcome, StoreError>> {
        self.redis.create(key, record, limits)
    }

    fn bind_backend<'a>(
        &'a self,
        key: &'a RecordKey,
        backend: &'a str,
        expected: u64,
        binding: &'a Binding,
    ) -> BoxFuture<'a, Result<BindOutcome, StoreError>> {
        self.redis.bind_backend(key, backend, expected, binding)
    }

    fn set<'a>(
        &'a self,
        key: &'a RecordKey,
        setting: &'a SettingChange,
    ) -> BoxFuture<'a, Result<SetOutcome, StoreError>> {
        self.redis.set(key, setting)
    }

    fn touch<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<Vec<TouchOutcome>, StoreError>> {
        self.redis.touch(keys)
    }

    fn claim_stream<'a>(
        &'a self,
        key: &'a RecordKey,
        owner: ProcessId,
    ) -> BoxFuture<'a, Result<StreamClaim, StoreError>> {
        self.redis.claim_stream(key, owner)
    }

    fn terminate<'a>(
        &'a self,
        key: &'a RecordKey,
        life: SessionLife,
    ) -> BoxFuture<'a, Result<TerminateOutcome, StoreError>> {
        self.redis.terminate(key, life)
    }

    fn recover<'a>(
        &'a self,
        key: &'a RecordKey,
        life: SessionLife,
        new: &'a NewRecord,
    ) -> BoxFuture<'a, Result<RecoverOutcome, StoreError>> {
        self.redis.recover(key, life, new)
    }

    fn restore<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a Record,
        missing: RestoreReason,
    ) -> BoxFuture<'a, Result<RecoverOutcome, StoreError>> {
        self.redis.restore(key, record, missing)
    }

    fn incarnation(&self) -> BoxFuture<'_, Result<Incarnation, StoreError>> {
        self.redis.incarnation()
    }

    fn claim_expired(
        &self,
        ago: Duration,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(RecordKey, Record)>, StoreError>> {
        self.redis.claim_expired(ago, limit)
    }

    fn remove_expired<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.redis.remove_expired(keys)
    }

    fn offers(&self) -> BoxFuture<'_, Result<StoredOffers, StoreError>> {
        self.redis.offers()
    }

    fn keep_offer<'a>(
        &'a self,
        backend: &'a str,
        offer: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.redis.keep_offer(backend, offer)
    }

    fn shared_session<'a>(&'a self, backend: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>> {
        self.redis.shared_session(backend)
    }

    fn keep_shared_session<'a>(
        &'a self,
        backend: &'a str,
        session: &'a [u8],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.redis.keep_shared_session(backend, session)
    }

    fn claim_id_block<'a>(
        &'a self,
        backend: &'a str,
        owner: ProcessId,
        block: u32,
        is_held: bool,
    ) -> BoxFuture<'a, Result<u32, StoreError>> {
        self.redis.claim_id_block(backend, owner, block, is_held)
    }

    fn events(&self, every: Duration) -> Option<BoxStream<'static, StoreEvent>> {
        self.redis.events(every)
    }

    fn probe_reads(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.redis.probe_reads()
    }

    fn probe_writes(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.redis.probe_writes()
    }

    fn provider(&self) -> &'static str {
        self.redis.provider()
    }

    fn eviction_warning(&self) -> Option<String> {
        self.redis.eviction_warning()
    }
}

/// A session that is restored while a lookup reads it is found, and a terminated one is not.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn session_restored_while_read_is_found() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let store = Arc::new(Late {
        redis: redis_store(&redis, "a", Lifetimes::default())?,
        hold_next: AtomicBool::new(false),
        held: Notify::new(),
        release: Notify::new(),
    });
    let tasks = Tasks::default();
    let core = Core::new(
        HotSettings::default(),
        HttpClient::new(tasks.clone()),
        tasks.clone(),
        &Readiness::default(),
        Metrics::new(),
    );
    // Every request loads the record.
    let settings = SessionOptions {
        max_staleness: Duration::ZERO,
        ..SessionOptions::default()
    };
    let sessions = Sessions::new(
        server("a"),
        Arc::clone(&store) as Arc<dyn SessionStore>,
        settings,
        SigningKeys::random()?,
        core,
        tasks,
        Metrics::new(),
    );
    let empty = RawValue::from_string("{}".to_owned())?;
    let client = ClientHandshake {
        revision: Revision::LATEST,
        capabilities: &empty,
        info: &empty,
    };
    let limits = HotSettings::default().limits.sessions(true);
    let id = sessions.create(&Principal::Anonymous, &client, limits).await?;
    let session = sessions.find(id.as_bytes(), &Principal::Anonymous).await?;

    redis.command::<()>(&["FLUSHALL"])?;
    store.hold_next.store(true, Ordering::SeqCst);
    let meanwhile = async {
        store.held.notified().await;
        // The first gateway restores it. The second one knows the incarnation.
        session.set_log_level("info", &ClientHeaders::default()).await?;
        session.set_log_level("debug", &ClientHeaders::default()).await?;
        store.release.notify_one();
        anyhow::Ok(())
    };
    let late = sessions.find(id.as_bytes(), &Principal::Anonymous);
    let (late, meanwhile) = tokio::time::timeout(LIMIT, async { tokio::join!(late, meanwhile) }).await?;
    meanwhile?;
    late?;

    // A terminated session is not found by the second read.
    sessions.terminate(id.as_bytes(), &Principal::Anonymous).await?;
    let ended = sessions.find(id.as_bytes(), &Principal::Anonymous).await;
    anyhow::ensure!(ended.is_err(), "it was terminated");
    Ok(())
}
