//! Session store in Redis: one hash per record.
//!
//! Every key has the prefix `{<prefix><namespace>/<name>}`. The braces are a cluster hash tag: all keys of a virtual
//! server are in one slot, so a script over several keys is atomic. Two virtual servers never share a key.
//!
//! Every change is one script, which first checks that the record is alive. Scripts use the clock of Redis only, so
//! clocks of different machines are never compared. A record outlives its idle deadline by at least `GRACE`, so an
//! expired record is distinguishable from one that never existed.
//!
//! Every operation has a deadline. An operation whose deadline has passed may still happen later. [`connection`] is
//! the way to Redis.

pub mod connection;
mod create_batch;
mod events;
mod eviction_policy;
mod key_names;
mod record_hash;
mod script;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::{
    BindOutcome, CreateOutcome, ID_BLOCK_LEASE, Incarnation, LoadOutcome, PERSISTED_CATALOG_LIFETIME,
    ProcessId, RESTORE_WINDOW, RecoverOutcome, RestoreReason, SessionLife, SessionLimit, SessionStore,
    SetOutcome, SettingChange, StoreError, StoreEvent, StoredOffers, StreamClaim, TOMBSTONE_LIFETIME,
    TerminateOutcome, TouchOutcome,
};
use crate::backend::ID_BLOCKS;
use crate::config::{RedisStorage, ServerName, SessionLimits};
use crate::session::record::{Binding, Lifetimes, NewRecord, Record, RecordKey};

use connection::RedisConnection;
use create_batch::CreateBatcher;
use eviction_policy::EvictionPolicy;
use key_names::KeyNames;
use script::{Script, ScriptCall, Scripts};

/// Minimum time for which a record outlives its idle deadline: as long as sessions are served during an outage, so
/// that a session used meanwhile can be restored.
const GRACE: Duration = Duration::from_secs(10 * 60);

/// The session store in Redis. A Redis that is down makes operations fail, not the process.
pub struct RedisStore {
    connection: RedisConnection,
    scripts: Scripts,
    creates: CreateBatcher,
    eviction_policy: EvictionPolicy,
    keys: Arc<KeyNames>,
    /// This process's id in events.
    writer: ProcessId,
    lifetimes: Lifetimes,
    /// Time for which a record outlives its idle deadline.
    kept: Duration,
}

impl RedisStore {
    /// Opens the store of `server`. The process starts even if Redis is down.
    ///
    /// # Errors
    /// A file that `storage` names is unusable.
    pub fn new(
        storage: &RedisStorage,
        server: &ServerName,
        lifetimes: Lifetimes,
    ) -> Result<Self, StoreError> {
        let keys = Arc::new(KeyNames::new(&storage.key_prefix, server));
        let connection = RedisConnection::new(storage, &keys.incarnation)?;
        let (scripts, create) = Scripts::new(connection.publish_command());
        let writer = ProcessId(crate::runtime::random::bytes());
        let kept = GRACE.max(storage.outage_grace);
        Ok(Self {
            creates: CreateBatcher::new(
                connection.clone(),
                create,
                Arc::clone(&keys),
                lifetimes,
                kept,
                writer,
            ),
            kept,
            writer,
            eviction_policy: EvictionPolicy::watch(connection.clone()),
            connection,
            scripts,
            keys,
            lifetimes,
        })
    }

    /// Starts a call of a script that writes a whole record: keys, name, deadlines, and a new incarnation.
    fn writing<'a>(&self, script: &'a Script, key: &RecordKey) -> ScriptCall<'a> {
        let mut call = script.key(self.keys.record(key));
        call.key(&self.keys.incarnation)
            .key(&self.keys.channel)
            .arg(key.to_string())
            .arg(millis(self.lifetimes.idle))
            .arg(millis(self.kept))
            .arg(new_incarnation());
        call
    }

    async fn recover_now(
        &self,
        key: &RecordKey,
        life: SessionLife,
        new: &NewRecord,
    ) -> Result<RecoverOutcome, StoreError> {
        let mut call = self.writing(&self.scripts.recover, key);
        call.key(self.keys.marker(key))
            .arg(record_hash::incarnation_text(life.incarnation))
            .arg(u64::from(life.end) * 1000)
            .arg(millis(RESTORE_WINDOW))
            .arg(&record_hash::new_fields(new));
        let answer: (String, u64, Option<record_hash::ScriptRecord>) = self.connection.run(&call).await?;
        match answer {
            (_, _, Some(snapshot)) => record_hash::record(&snapshot).map(RecoverOutcome::Found),
            (outcome, millis, None) if outcome == "wait" => {
                Ok(RecoverOutcome::Wait(Duration::from_millis(millis)))
            }
            (outcome, millis, None) if outcome == "vanished" => Ok(RecoverOutcome::Vanished {
                now: u32::try_from(millis / 1000).unwrap_or(u32::MAX),
            }),
            (_, _, None) => Ok(RecoverOutcome::Gone),
        }
    }

    async fn restore_now(
        &self,
        key: &RecordKey,
        record: &Record,
        missing: RestoreReason,
    ) -> Result<RecoverOutcome, StoreError> {
        let mut call = self.writing(&self.scripts.restore, key);
        call.key(self.keys.marker(key))
            .arg(record_hash::incarnation_text(record.life.incarnation))
            .arg(u64::from(record.life.end) * 1000)
            .arg(record.version)
            .arg(missing == RestoreReason::Lost)
            .arg(record_hash::all_fields(record)?);
        let answer: Option<record_hash::ScriptRecord> = self.connection.run(&call).await?;
        match answer {
            Some(snapshot) => record_hash::record(&snapshot).map(RecoverOutcome::Found),
            None => Ok(RecoverOutcome::Gone),
        }
    }

    async fn claim_stream_now(&self, key: &RecordKey, owner: ProcessId) -> Result<StreamClaim, StoreError> {
        let mut call = self.scripts.claim_stream.key(self.keys.record(key));
        call.key(&self.keys.channel)
            .arg(key.to_string())
            .arg(record_hash::owner_text(owner));
        match self.connection.run(&call).await? {
            0 => Ok(StreamClaim::Gone),
            number => Ok(StreamClaim::Owned(number)),
        }
    }

    async fn incarnation_now(&self) -> Result<Incarnation, StoreError> {
        let mut call = self.scripts.incarnation.key(&self.keys.incarnation);
        call.arg(new_incarnation());
        let text: String = self.connection.run(&call).await?;
        record_hash::incarnation(&text)
    }

    async fn load_now(&self, key: &RecordKey) -> Result<LoadOutcome, StoreError> {
        let call = self.scripts.load.key(self.keys.record(key));
        let answer: Option<record_hash::ScriptRecord> = self.connection.run(&call).await?;
        match answer {
            None => Ok(LoadOutcome::Gone),
            Some(snapshot) => record_hash::record(&snapshot).map(LoadOutcome::Found),
        }
    }

    async fn bind_now(
        &self,
        key: &RecordKey,
        backend: &str,
        expected: u64,
        binding: &Binding,
    ) -> Result<BindOutcome, StoreError> {
        let mut call = self.scripts.bind.key(self.keys.record(key));
        call.key(&self.keys.channel)
            .arg(key.to_string())
            .arg(record_hash::binding_field(backend))
            .arg(expected)
            .arg(record_hash::binding_value(binding)?);
        let answer: (String, Option<record_hash::ScriptRecord>) = self.connection.run(&call).await?;
        match answer {
            (outcome, Some(snapshot)) if outcome == "bound" => {
                record_hash::record(&snapshot).map(BindOutcome::Bound)
            }
            (_, Some(snapshot)) => record_hash::record(&snapshot).map(BindOutcome::Lost),
            (_, None) => Ok(BindOutcome::Gone),
        }
    }

    async fn set_now(&self, key: &RecordKey, setting: &SettingChange) -> Result<SetOutcome, StoreError> {
        let record_hash::Field {
            name,
            value,
            kind,
            limit,
        } = record_hash::setting_field(setting);
        let mut call = self.scripts.set.key(self.keys.record(key));
        call.key(&self.keys.channel)
            .arg(key.to_string())
            .arg(name)
            .arg(value)
            .arg(kind)
            .arg(limit);
        let answer: (String, Option<record_hash::ScriptRecord>) = self.connection.run(&call).await?;
        match answer {
            (_, Some(snapshot)) => record_hash::record(&snapshot).map(SetOutcome::Set),
            (outcome, None) if outcome == "full" => Ok(SetOutcome::Full),
            (_, None) => Ok(SetOutcome::Gone),
        }
    }

    async fn touch_now(&self, keys: &[RecordKey]) -> Result<Vec<TouchOutcome>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = self.scripts.touch.arg(millis(self.lifetimes.idle));
        call.arg(millis(self.kept));
        for key in keys {
            call.key(self.keys.record(key));
        }
        let touched: Vec<(u64, u64)> = self.connection.run(&call).await?;
        let outcome = |(version, left)| match version {
            0 => TouchOutcome::Gone,
            version => TouchOutcome::Alive {
                version,
                left: Duration::from_millis(left),
            },
        };
        Ok(touched.into_iter().map(outcome).collect())
    }

    async fn terminate_now(
        &self,
        key: &RecordKey,
        life: SessionLife,
    ) -> Result<TerminateOutcome, StoreError> {
        let mut call = self.scripts.terminate.key(self.keys.record(key));
        call.key(&self.keys.incarnation)
            .key(&self.keys.channel)
            .key(self.keys.marker(key))
            .arg(key.to_string())
            .arg(new_incarnation())
            .arg(record_hash::incarnation_text(life.incarnation))
            .arg(u64::from(life.end) * 1000)
            .arg(millis(TOMBSTONE_LIFETIME));
        let answer: (String, Option<record_hash::ScriptRecord>) = self.connection.run(&call).await?;
        match answer {
            (outcome, _) if outcome == "gone" => Ok(TerminateOutcome::Gone),
            (_, None) => Ok(TerminateOutcome::Terminated(None)),
            (outcome, Some(snapshot)) => match record_hash::record(&snapshot) {
                Ok(record) => Ok(TerminateOutcome::Terminated(Some(record))),
                Err(unreadable) if outcome == "kept" => Err(unreadable),
                // The record was damaged and is deleted. Its upstream sessions are unknown.
                Err(_) => Ok(TerminateOutcome::Terminated(None)),
            },
        }
    }
}

impl RedisStore {
    async fn claim_now(&self, ago: Duration, limit: usize) -> Result<Vec<(RecordKey, Record)>, StoreError> {
        let mut call = self.scripts.claim.key(&self.keys.sessions);
        call.arg(&self.keys.record_prefix).arg(millis(ago)).arg(limit);
        let claimed: Vec<(String, record_hash::ScriptRecord)> = self.connection.run(&call).await?;
        // An unreadable record is left to a newer gateway, or to Redis, which expires it.
        let readable = claimed.iter().filter_map(|(name, snapshot)| {
            Some((record_hash::key(name)?, record_hash::record(snapshot).ok()?))
        });
        Ok(readable.collect())
    }

    async fn remove_now(&self, keys: &[RecordKey]) -> Result<(), StoreError> {
        let Some((first, others)) = keys.split_first() else {
            return Ok(());
        };
        let mut call = self.scripts.remove.key(self.keys.record(first));
        for key in others {
            call.key(self.keys.record(key));
        }
        self.connection.run(&call).await
    }

    async fn offers_now(&self) -> Result<StoredOffers, StoreError> {
        let mut command = ::redis::cmd("HGETALL");
        command.arg(&self.keys.offers);
        self.connection.command(&command).await
    }

    async fn keep_offer_now(&self, backend: &str, offer: Option<&[u8]>) -> Result<(), StoreError> {
        let mut change = match offer {
            Some(_) => ::redis::cmd("HSET"),
            None => ::redis::cmd("HDEL"),
        };
        change.arg(&self.keys.offers).arg(backend).arg(offer);
        self.connection.command::<()>(&change).await?;
        self.keep(&self.keys.offers).await
    }

    /// Extends the lifetime of `key` to [`PERSISTED_CATALOG_LIFETIME`] from now.
    async fn keep(&self, key: &str) -> Result<(), StoreError> {
        let mut expiry = ::redis::cmd("EXPIRE");
        expiry.arg(key).arg(PERSISTED_CATALOG_LIFETIME.as_secs());
        self.connection.command(&expiry).await
    }

    async fn shared_session_now(&self, backend: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut command = ::redis::cmd("HGET");
        command.arg(&self.keys.shared_sessions).arg(backend);
        self.connection.command(&command).await
    }

    async fn keep_shared_session_now(&self, backend: &str, session: &[u8]) -> Result<(), StoreError> {
        let mut change = ::redis::cmd("HSET");
        change.arg(&self.keys.shared_sessions).arg(backend).arg(session);
        self.connection.command::<()>(&change).await?;
        self.keep(&self.keys.shared_sessions).await
    }

    async fn claim_id_block_now(
        &self,
        backend: &str,
        owner: ProcessId,
        block: u32,
        is_held: bool,
    ) -> Result<u32, StoreError> {
        let mut call = self.scripts.claim_block.key(&self.keys.shared_sessions);
        call.arg(backend)
            .arg(record_hash::owner_text(owner))
            .arg(block)
            .arg(u8::from(is_held));
        call.arg(ID_BLOCKS)
            .arg(ID_BLOCK_LEASE.as_secs())
            .arg(PERSISTED_CATALOG_LIFETIME.as_secs());
        self.connection.run(&call).await
    }
}

impl SessionStore for RedisStore {
    fn create<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a NewRecord,
        limits: SessionLimits,
    ) -> BoxFuture<'a, Result<CreateOutcome, StoreError>> {
        self.creates.create(key, record, limits).boxed()
    }

    fn load<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<LoadOutcome, StoreError>> {
        self.load_now(key).boxed()
    }

    fn bind_backend<'a>(
        &'a self,
        key: &'a RecordKey,
        backend: &'a str,
        expected: u64,
        binding: &'a Binding,
    ) -> BoxFuture<'a, Result<BindOutcome, StoreError>> {
        self.bind_now(key, backend, expected, binding).boxed()
    }

    fn set<'a>(
        &'a self,
        key: &'a RecordKey,
        setting: &'a SettingChange,
    ) -> BoxFuture<'a, Result<SetOutcome, StoreError>> {
        self.set_now(key, setting).boxed()
    }

    fn touch<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<Vec<TouchOutcome>, StoreError>> {
        self.touch_now(keys).boxed()
    }

    fn claim_stream<'a>(
        &'a self,
        key: &'a RecordKey,
        owner: ProcessId,
    ) -> BoxFuture<'a, Result<StreamClaim, StoreError>> {
        self.claim_stream_now(key, owner).boxed()
    }

    fn terminate<'a>(
        &'a self,
        key: &'a RecordKey,
        life: SessionLife,
    ) -> BoxFuture<'a, Result<TerminateOutcome, StoreError>> {
        self.terminate_now(key, life).boxed()
    }

    fn recover<'a>(
        &'a self,
        key: &'a RecordKey,
        life: SessionLife,
        new: &'a NewRecord,
    ) -> BoxFuture<'a, Result<RecoverOutcome, StoreError>> {
        self.recover_now(key, life, new).boxed()
    }

    fn restore<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a Record,
        missing: RestoreReason,
    ) -> BoxFuture<'a, Result<RecoverOutcome, StoreError>> {
        self.restore_now(key, record, missing).boxed()
    }

    fn incarnation(&self) -> BoxFuture<'_, Result<Incarnation, StoreError>> {
        self.incarnation_now().boxed()
    }

    fn claim_expired(
        &self,
        ago: Duration,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(RecordKey, Record)>, StoreError>> {
        self.claim_now(ago, limit).boxed()
    }

    fn remove_expired<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.remove_now(keys).boxed()
    }

    fn offers(&self) -> BoxFuture<'_, Result<StoredOffers, StoreError>> {
        self.offers_now().boxed()
    }

    fn keep_offer<'a>(
        &'a self,
        backend: &'a str,
        offer: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.keep_offer_now(backend, offer).boxed()
    }

    fn shared_session<'a>(&'a self, backend: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>> {
        self.shared_session_now(backend).boxed()
    }

    fn keep_shared_session<'a>(
        &'a self,
        backend: &'a str,
        session: &'a [u8],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.keep_shared_session_now(backend, session).boxed()
    }

    fn claim_id_block<'a>(
        &'a self,
        backend: &'a str,
        owner: ProcessId,
        block: u32,
        is_held: bool,
    ) -> BoxFuture<'a, Result<u32, StoreError>> {
        self.claim_id_block_now(backend, owner, block, is_held).boxed()
    }

    fn events(&self, every: Duration) -> Option<BoxStream<'static, StoreEvent>> {
        Some(events::events(
            self.connection.clone(),
            self.keys.channel.clone(),
            self.writer,
            every,
        ))
    }

    fn probe_reads(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async {
            self.connection
                .run(&self.scripts.probe_reads.key(&self.keys.probe))
                .await
        }
        .boxed()
    }

    fn probe_writes(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async {
            let mut call = self.scripts.probe_writes.key(&self.keys.probe);
            call.key(&self.keys.probe_set);
            self.connection.run(&call).await
        }
        .boxed()
    }

    fn provider(&self) -> &'static str {
        "redis"
    }

    fn eviction_warning(&self) -> Option<String> {
        self.eviction_policy.warning()
    }
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore")
            .field("record_prefix", &self.keys.record_prefix)
            .finish_non_exhaustive()
    }
}

fn new_incarnation() -> String {
    record_hash::incarnation_text(Incarnation(crate::runtime::random::bytes()))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
