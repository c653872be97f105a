//! New records, many in one exchange with Redis.
//!
//! Clients open sessions in storms: all of them come back at once after an outage or a roll-out. Most of what one new record costs
//! Redis is the same for all of them, and Redis does one thing at a time. So those who come while an exchange is under way wait until
//! it ends, or until they are about half of all, and leave together: while the answers of one half are given out Redis works at the
//! other. A lonely one does not wait; behind a Redis that is slow nobody waits longer than [`PATIENCE`].
//!
//! An exchange happens as a whole or not at all, and each of those in it learns what became of its own record. One whose caller has
//! gone is not sent.

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
use crate::session::record::{Lifetimes, NewRecord, Record, RecordKey};
use crate::session::store::redis::key_names::KeyNames;
use crate::session::store::redis::record_hash;
use crate::session::upstream::bindings::Bindings;

/// How many records are in one exchange, so that it keeps nobody else from Redis for long.
const TOGETHER: usize = 64;
/// How long those who wait let the exchange before them go on.
const PATIENCE: Duration = Duration::from_millis(1);
/// How many exchanges are under way at most.
const MOST_AT_ONCE: usize = 64;
/// How many may wait; those who come then are told that the store does not keep up.
const MAX_WAITING: usize = 1024;

/// Creates records. The task that does so ends with this.
#[derive(Debug)]
pub(super) struct CreateBatcher {
    queue: mpsc::Sender<Waiting>,
    _task: JoinSet<()>,
}

/// A record that is to be created.
#[derive(Debug)]
struct Waiting {
    key: RecordKey,
    record: NewRecord,
    limits: SessionLimits,
    answer: oneshot::Sender<Result<CreateOutcome, StoreError>>,
}

/// When the records began, when they end, the life of the store's data, and what came of each.
type Answer = (u64, u64, String, String);

struct Creator {
    connection: RedisConnection,
    script: Script,
    keys: Arc<KeyNames>,
    lifetimes: Lifetimes,
    /// How long records outlive their idle deadlines.
    kept: Duration,
    /// Who creates, as it stands in events.
    writer: String,
}

impl CreateBatcher {
    /// Creates records by `script`, in the name of `writer`.
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
        task.spawn(creator.work(queue));
        Self {
            queue: sender,
            _task: task,
        }
    }

    /// Creates one.
    ///
    /// # Errors
    /// When Redis gave no answer in time, or an error, or too many wait already. Unless it is the last, the record may be there, or
    /// may be written later.
    pub(super) async fn create(
        &self,
        key: &RecordKey,
        record: &NewRecord,
        limits: SessionLimits,
    ) -> Result<CreateOutcome, StoreError> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            key: *key,
            record: record.clone(),
            limits,
            answer,
        };
        let ended = || Err(StoreError::new("the connection to Redis has ended"));
        match self.queue.try_send(waiting) {
            Ok(()) => answered.await.unwrap_or_else(|_| ended()),
            Err(TrySendError::Closed(_)) => ended(),
            Err(TrySendError::Full(_)) => {
                let reason = format!("{MAX_WAITING} new sessions wait to be written already");
                Err(StoreError::new(reason))
            }
        }
    }
}

impl Creator {
    /// Works until it is aborted, or nobody can ask any more.
    async fn work(self, mut queue: mpsc::Receiver<Waiting>) {
        let mut under_way = FuturesUnordered::new();
        let mut waiting = Vec::new();
        let mut since = Instant::now();
        // How many records are under way, and how many were when an exchange left last.
        let (mut records, mut crowd) = (0, 0);
        loop {
            let places = TOGETHER - waiting.len();
            tokio::select! {
                came = queue.recv_many(&mut waiting, places), if under_way.len() < MOST_AT_ONCE => {
                    if came == 0 {
                        return;
                    }
                    if came == waiting.len() {
                        since = Instant::now();
                    }
                }
                Some(done) = under_way.next() => records -= done,
                () = tokio::time::sleep_until(since + PATIENCE), if !waiting.is_empty() => {}
            }
            let half = under_way.len() == 1 && waiting.len() >= crowd / 2;
            let full = waiting.len() == TOGETHER;
            if !waiting.is_empty() && (under_way.is_empty() || half || full || since.elapsed() >= PATIENCE) {
                // Requests that have arrived already are read first, and their records come along.
                tokio::task::yield_now().await;
                let places = TOGETHER - waiting.len();
                waiting.extend(std::iter::from_fn(|| queue.try_recv().ok()).take(places));
                records += waiting.len();
                crowd = records;
                under_way.push(self.exchange(std::mem::take(&mut waiting)));
            }
        }
    }

    /// Gives how many there were.
    async fn exchange(&self, mut waiting: Vec<Waiting>) -> usize {
        let records = waiting.len();
        waiting.retain(|one| !one.answer.is_closed());
        while let Some(first) = waiting.first() {
            let limits = first.limits;
            let (together, others) = waiting.into_iter().partition(|one| one.limits == limits);
            self.create(together, limits).await;
            waiting = others;
        }
        records
    }

    /// Creates those to which the same limits apply, and tells each what came of it.
    async fn create(&self, together: Vec<Waiting>, limits: SessionLimits) {
        let mut call = self.script.key(&self.keys.incarnation);
        call.key(&self.keys.channel)
            .arg(new_incarnation())
            .arg(millis(self.lifetimes.max))
            .arg(millis(self.lifetimes.idle))
            .arg(millis(self.kept))
            .arg(limits.server)
            .arg(limits.principal)
            .arg(&self.writer);
        for Waiting { key, record, .. } in &together {
            let other_names: Vec<String> = { &record.other_tags }
                .iter()
                .map(|tag| record_hash::principal_text(*tag))
                .collect();
            call.key(self.keys.record(key))
                .arg(&record_hash::new_fields(record))
                .arg(other_names.join(" "));
        }
        let answer = self.connection.run::<Answer>(&call).await;
        for (index, one) in together.into_iter().enumerate() {
            let created = match &answer {
                Ok(answer) => self.created(answer, index, &one.record),
                Err(error) => Err(error.clone()),
            };
            // Where nobody waits any more it is as if the answer had come too late.
            one.answer.send(created).ok();
        }
    }

    /// What came of the record at `index`.
    fn created(
        &self,
        answer: &Answer,
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
            _ => Err(StoreError::new("Redis did not say what became of a new record")),
        }
    }
}

fn seconds(millis: u64) -> u32 {
    u32::try_from(millis / 1000).unwrap_or(u32::MAX)
}
