//! Batched creation: creates many records in one exchange with Redis.
//!
//! After an outage or a rollout all clients open sessions at once. Most of the cost of a creation in Redis is the
//! same for a whole batch. So creations that arrive during an exchange wait until it ends, or until about half of all
//! are waiting, and are sent together: Redis works on one half while the other half gets its results. A single
//! creation does not wait, and no creation waits longer than [`MAX_BATCH_WAIT`] for a slow exchange.
//!
//! An exchange is atomic. Each creation gets its own outcome, and a creation whose caller has gone is not sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::RedisConnection;
use super::script::Script;
use super::{CreateOutcome, ProcessId, SessionLife, SessionLimit, StoreError, millis, new_incarnation};
use crate::config::SessionLimits;
use crate::session::record::bindings::Bindings;
use crate::session::record::{Lifetimes, NewRecord, Record, RecordKey};
use crate::session::store::redis::key_names::KeyNames;
use crate::session::store::redis::record_hash;

/// Maximum number of records per exchange, so that other commands are not delayed for long.
const MAX_BATCH: usize = 64;
/// Maximum time for which waiting creations let the previous exchange continue.
const MAX_BATCH_WAIT: Duration = Duration::from_millis(1);
/// Maximum number of concurrent exchanges.
const MAX_EXCHANGES: usize = 64;
/// Maximum number of waiting creations. Further ones fail at once.
const MAX_WAITING: usize = 1024;

/// Queues creations. Dropping it ends the task that sends them.
#[derive(Debug)]
pub(super) struct CreateBatcher {
    queue: mpsc::Sender<PendingCreate>,
    _task: JoinSet<()>,
}

/// A creation that waits to be sent.
#[derive(Debug)]
struct PendingCreate {
    key: RecordKey,
    record: NewRecord,
    limits: SessionLimits,
    answer: oneshot::Sender<Result<CreateOutcome, StoreError>>,
}

/// Response of the script: creation time, end, incarnation, and the outcome of each record.
type CreateResponse = (u64, u64, String, String);

struct Creator {
    connection: RedisConnection,
    script: Script,
    keys: Arc<KeyNames>,
    lifetimes: Lifetimes,
    /// Time for which records outlive their idle deadline.
    kept: Duration,
    /// This process's id in events.
    writer: String,
}

impl CreateBatcher {
    /// Creates records with `script`, on behalf of `writer`.
    pub(super) fn new(
        connection: RedisConnection,
        script: Script,
        keys: Arc<KeyNames>,
        lifetimes: Lifetimes,
        kept: Duration,
        writer: ProcessId,
    ) -> Self {
        let creator = Creator {
            connection,
            script,
            keys,
            lifetimes,
            kept,
            writer: record_hash::owner_text(writer),
        };
        let (sender, queue) = mpsc::channel(MAX_WAITING);
        let mut task = JoinSet::new();
        task.spawn(creator.send_batches(queue));
        Self {
            queue: sender,
            _task: task,
        }
    }

    /// Creates one record.
    ///
    /// # Errors
    /// Redis did not answer in time, answered with an error, or the queue is full. Except for the full queue, the
    /// record may exist now or later.
    pub(super) async fn create(
        &self,
        key: &RecordKey,
        record: &NewRecord,
        limits: SessionLimits,
    ) -> Result<CreateOutcome, StoreError> {
        let (answer, answered) = oneshot::channel();
        let waiting = PendingCreate {
            key: *key,
            record: record.clone(),
            limits,
            answer,
        };
        let ended = || Err(StoreError::unavailable("the connection to Redis has ended"));
        match self.queue.try_send(waiting) {
            Ok(()) => answered.await.unwrap_or_else(|_| ended()),
            Err(TrySendError::Closed(_)) => ended(),
            Err(TrySendError::Full(_)) => {
                let reason = format!("{MAX_WAITING} new sessions already wait to be written; try again");
                Err(StoreError::unavailable(reason))
            }
        }
    }
}

impl Creator {
    /// Sends batches until the task is aborted or the queue is closed.
    async fn send_batches(self, mut queue: mpsc::Receiver<PendingCreate>) {
        let mut under_way = FuturesUnordered::new();
        let mut waiting = Vec::new();
        let mut since = Instant::now();
        // Number of records under way, and the same when the last exchange was sent.
        let (mut records, mut last_records) = (0, 0);
        loop {
            let places = MAX_BATCH - waiting.len();
            tokio::select! {
                received = queue.recv_many(&mut waiting, places), if under_way.len() < MAX_EXCHANGES => {
                    if received == 0 {
                        return;
                    }
                    if received == waiting.len() {
                        since = Instant::now();
                    }
                }
                Some(done) = under_way.next() => records -= done,
                () = tokio::time::sleep_until(since + MAX_BATCH_WAIT), if !waiting.is_empty() => {}
            }
            let half = under_way.len() == 1 && waiting.len() >= last_records / 2;
            let full = waiting.len() == MAX_BATCH;
            if !waiting.is_empty()
                && (under_way.is_empty() || half || full || since.elapsed() >= MAX_BATCH_WAIT)
            {
                // Yield, so that requests that have arrived join this batch.
                tokio::task::yield_now().await;
                let places = MAX_BATCH - waiting.len();
                waiting.extend(std::iter::from_fn(|| queue.try_recv().ok()).take(places));
                records += waiting.len();
                last_records = records;
                under_way.push(self.exchange(std::mem::take(&mut waiting)));
            }
        }
    }

    /// Sends one exchange and returns the number of its records.
    async fn exchange(&self, mut waiting: Vec<PendingCreate>) -> usize {
        let records = waiting.len();
        waiting.retain(|one| !one.answer.is_closed());
        while let Some(first) = waiting.first() {
            let limits = first.limits;
            let (batch, others) = waiting.into_iter().partition(|one| one.limits == limits);
            self.create(batch, limits).await;
            waiting = others;
        }
        records
    }

    /// Creates records to which the same limits apply, and reports each outcome.
    async fn create(&self, batch: Vec<PendingCreate>, limits: SessionLimits) {
        let mut call = self.script.key(&self.keys.incarnation);
        call.key(&self.keys.channel)
            .arg(new_incarnation())
            .arg(millis(self.lifetimes.max))
            .arg(millis(self.lifetimes.idle))
            .arg(millis(self.kept))
            .arg(limits.server)
            .arg(limits.principal)
            .arg(&self.writer);
        for PendingCreate { key, record, .. } in &batch {
            let other_names: Vec<String> = { &record.other_tags }
                .iter()
                .map(|tag| record_hash::principal_text(*tag))
                .collect();
            call.key(self.keys.record(key))
                .arg(&record_hash::new_fields(record))
                .arg(other_names.join(" "));
        }
        let answer = self.connection.run::<CreateResponse>(&call).await;
        for (index, one) in batch.into_iter().enumerate() {
            let created = match &answer {
                Ok(answer) => self.created(answer, index, &one.record),
                Err(error) => Err(error.clone()),
            };
            // A closed receiver means that the caller has gone.
            one.answer.send(created).ok();
        }
    }

    /// Outcome of the record at `index`.
    fn created(
        &self,
        answer: &CreateResponse,
        index: usize,
        record: &NewRecord,
    ) -> Result<CreateOutcome, StoreError> {
        let (now, end, incarnation, outcomes) = answer;
        match outcomes.as_bytes().get(index) {
            Some(b'c') => {
                let incarnation = record_hash::incarnation(incarnation)?;
                let remaining = Duration::from_millis(end.saturating_sub(*now));
                Ok(CreateOutcome::Created {
                    created: seconds(*now),
                    record: Record {
                        principal_tag: record.principal_tag,
                        revision: record.revision,
                        capabilities: Arc::clone(&record.capabilities),
                        client_info: Arc::clone(&record.client_info),
                        life: SessionLife {
                            incarnation,
                            end: seconds(*end),
                        },
                        version: *now,
                        untouched: Duration::ZERO,
                        left: self.lifetimes.idle.min(remaining),
                        remaining,
                        log_level: None,
                        subscriptions: BTreeMap::new(),
                        bindings: Bindings::default(),
                    },
                })
            }
            Some(b't') => Ok(CreateOutcome::AlreadyExists),
            Some(b's') => Ok(CreateOutcome::Limit(SessionLimit::Server)),
            Some(b'p') => Ok(CreateOutcome::Limit(SessionLimit::Principal)),
            _ => Err(StoreError::unavailable(
                "Redis did not report the outcome of a creation",
            )),
        }
    }
}

fn seconds(millis: u64) -> u32 {
    u32::try_from(millis / 1000).unwrap_or(u32::MAX)
}
