//! What this process does when the store has lost data.
//!
//! The store's data has lives ([`Incarnation`]): when a script finds none, it begins one. So "there is no record" means one of two
//! things. In the life of the data in which the session was seen, it has ended. In a later one it was lost, and is brought back: by
//! whoever remembers it, as it was; or from its id alone, by whoever gets a request that names it, once, a second after the new life
//! began, so that whoever remembers more comes first.
//!
//! A new life is noticed by whoever gets an answer from it. Then everything that is remembered is written back, and what was terminated
//! is terminated once more, lest somebody who has not heard of it brings it back.
//!
//! A store that is replaced by a copy of itself (a fail-over with asynchronous replication) has the same life, and lacks what was
//! written last. So whenever the events were interrupted, the sessions that were created or terminated in this process in the
//! [`RECENT`] time before, or in which something was bound or set, are written or terminated again. None is created again when the
//! interruption was so long that the store may have forgotten who was terminated meanwhile. A record that lives gets what it lacks: a
//! binding by its generation, what the client has set by the record's version. The same is done for a record that is read and lacks what
//! this process knows of it, before it is used: whoever comes first uses the binding that was lost, and opens no other.
//!
//! A request may come before that to a process that does not know the session. The rule: a record that is missing in the life of the data
//! in which the session was created, without a marker of its end, and before it can have expired, was lost, and is waited for
//! ([`FailoverWait`]).

pub(super) mod failover;
pub(super) mod outage;
pub(super) mod pending_terminations;
pub(super) mod recent_writes;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::Sessions;
use super::cache::CachedSession;
use super::id::SessionId;
use super::record::{Record, RecordKey};
use super::store::{
    Incarnation, LoadOutcome, REMEMBERED, RecoverOutcome, RestoreReason, SETTLE, SessionLife, StoreError,
};
use crate::session::cache::cache_entry::CacheEntry;
use crate::session::cache::freshness::{CaughtUp, ReadStamp};
use crate::session::lookup::LookupOutcome;
use crate::session::recovery::failover::FailoverWait;
use crate::session::recovery::outage::StoreOperation;
use crate::session::recovery::recent_writes::RECENT;

/// How many sessions are written at a time.
const AT_A_TIME: usize = 32;
/// The pause before a store that did not say in which life its data is, is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// The pause before terminations that the store refused are tried again.
const TERMINATE_AGAIN: Duration = Duration::from_secs(1);
/// How often somebody is asked to wait for those who know more.
const MAX_WAITS: u32 = 4;

/// What a second look at a session says of which the store had no record.
enum MissingRecord {
    Found(Record),
    Missing(RestoreReason),
    Ended,
}

impl Sessions {
    /// The session under `key`, of which the store has no record: brought back if it was lost. `id` is its id, if somebody named it.
    pub(super) async fn missing(&self, key: &RecordKey, id: Option<&SessionId>) -> LookupOutcome {
        let inner = &*self.inner;
        let mut reading = inner.proof.stamp_now();
        let outcome = match (inner.cache.get(key), id) {
            (CachedSession::Ended, _) | (CachedSession::Nothing, None) => RecoverOutcome::Gone,
            (CachedSession::Entry(entry), _) => match self.missing_still(key, &entry).await? {
                MissingRecord::Found(record) => RecoverOutcome::Found(record),
                MissingRecord::Missing(missing) => {
                    reading = inner.proof.stamp_now();
                    let outcome = self.write_back(key, &entry, missing).await?;
                    if matches!(outcome, RecoverOutcome::Found(_)) {
                        inner.metrics.recovered();
                    }
                    outcome
                }
                MissingRecord::Ended => RecoverOutcome::Gone,
            },
            (CachedSession::Nothing, Some(id)) => self.recover(id).await?,
        };
        match outcome {
            RecoverOutcome::Found(record) => Ok(inner.cache.put(key, record, reading)),
            RecoverOutcome::Gone | RecoverOutcome::Wait(_) | RecoverOutcome::Vanished { .. } => {
                self.forget(key);
                Ok(None)
            }
        }
    }

    /// In which way the store has no record of `entry`, if it still has none. The answer that says so may be older than what is
    /// remembered: meanwhile somebody may have written the session back into a new life of the data, and been heard. So the store is
    /// asked once more, between a look at the life in which the session was seen and one at the life that the data has now: only where
    /// both are the same, the session was there in it, and has ended.
    async fn missing_still(&self, key: &RecordKey, entry: &CacheEntry) -> Result<MissingRecord, StoreError> {
        let inner = &*self.inner;
        let seen_in = entry.seen_in();
        if let LoadOutcome::Found(record) =
            self.observed(StoreOperation::Load, inner.store.load(key).await)?
        {
            return Ok(MissingRecord::Found(record));
        }
        let incarnation = self.observed(StoreOperation::Incarnation, inner.store.incarnation().await)?;
        self.learn(incarnation);
        let missing = entry.missing(seen_in, incarnation, inner.settings.lifetimes.idle);
        Ok(missing.map_or(MissingRecord::Ended, MissingRecord::Missing))
    }

    /// Brings a session back of which nothing is left but its id.
    async fn recover(&self, id: &SessionId) -> Result<RecoverOutcome, StoreError> {
        let inner = &*self.inner;
        let (life, new) = (id.life(), id.record());
        let mut vanished = FailoverWait::new(id, inner.settings.lifetimes.idle);
        for _ in 0..MAX_WAITS {
            match self.observed(
                StoreOperation::Recover,
                inner.store.recover(&id.key, life, &new).await,
            )? {
                RecoverOutcome::Wait(wait) => tokio::time::sleep(wait.min(SETTLE)).await,
                RecoverOutcome::Vanished { now } => match vanished.wait(now, &inner.proof) {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Ok(RecoverOutcome::Gone),
                },
                RecoverOutcome::Found(record) => {
                    inner.metrics.recovered();
                    tracing::info!(key = ?id.key, "a session that the store had lost was recovered");
                    return Ok(RecoverOutcome::Found(record));
                }
                RecoverOutcome::Gone => return Ok(RecoverOutcome::Gone),
            }
        }
        Err(vanished.into_error())
    }

    async fn write_back(
        &self,
        key: &RecordKey,
        entry: &CacheEntry,
        missing: RestoreReason,
    ) -> Result<RecoverOutcome, StoreError> {
        let record = Arc::clone(&entry.record());
        let restored = self.inner.store.restore(key, &record, missing).await;
        self.observed(StoreOperation::Restore, restored)
    }

    /// Writes back what the store had lost of a record that lives when it gave `record` at `reading`.
    pub(super) async fn write_back_what_is_lost(
        &self,
        key: &RecordKey,
        record: &Record,
        reading: ReadStamp,
    ) -> Result<Option<RecoverOutcome>, StoreError> {
        match self.inner.cache.peek(key) {
            Some(entry) if entry.knows_more_than(record, reading) => self
                .write_back(key, &entry, RestoreReason::Expired)
                .await
                .map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// Takes over the record that the store had at `reading`. What it has lost of it, and is remembered here, is written back first.
    pub(super) async fn found(&self, key: &RecordKey, record: Record, reading: ReadStamp) -> LookupOutcome {
        let again = self.inner.proof.stamp_now();
        match self.write_back_what_is_lost(key, &record, reading).await? {
            None => Ok(self.inner.cache.put(key, record, reading)),
            Some(RecoverOutcome::Found(record)) => Ok(self.inner.cache.put(key, record, again)),
            Some(RecoverOutcome::Gone | RecoverOutcome::Wait(_) | RecoverOutcome::Vanished { .. }) => {
                self.missing(key, None).await
            }
        }
    }

    /// Takes note of the life of the store's data. In a new one everything that is remembered is written back, in the background.
    pub(super) fn learn(&self, incarnation: Incarnation) {
        if self.inner.proof.learn(incarnation).is_none() {
            return;
        }
        tracing::warn!("the session store has lost its data; what is remembered is written back");
        self.inner.data_lost.notify_one();
        let sessions = self.clone();
        self.inner.tasks.spawn_until_quiet(async move {
            let idle = sessions.inner.settings.lifetimes.idle;
            let entries = sessions.inner.cache.entries();
            let alive = entries.into_iter().filter(|(_, entry)| entry.lives_on(idle));
            let ended = sessions.inner.cache.ended(None);
            tokio::join!(
                sessions.write_all_back(alive.collect(), RestoreReason::Lost),
                sessions.terminate_again(ended)
            );
        });
    }

    /// What is done when the events are heard again.
    pub(super) async fn caught_up(&self, caught_up: CaughtUp) {
        let incarnation = loop {
            match self.observed(StoreOperation::Incarnation, self.inner.store.incarnation().await) {
                Ok(incarnation) => break incarnation,
                // Events come on a connection of their own, which may be back before the other is.
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        };
        self.learn(incarnation);
        let Some(since) = caught_up.since else { return };
        let recent = since.checked_sub(RECENT).unwrap_or(since);
        // What ended in a longer time may be forgotten, so that no record may be created again then.
        let missing = if since.elapsed() + RECENT < REMEMBERED {
            RestoreReason::Lost
        } else {
            RestoreReason::Expired
        };
        let cache = &self.inner.cache;
        let idle = self.inner.settings.lifetimes.idle;
        let written = self.inner.writes.since(recent);
        let entries = written.into_iter().filter_map(|key| match cache.get(&key) {
            CachedSession::Entry(entry) if entry.lives_on(idle) => Some((key, entry)),
            CachedSession::Entry(_) | CachedSession::Ended | CachedSession::Nothing => None,
        });
        let ended = cache.ended(Some(recent.elapsed()));
        tokio::join!(
            self.write_all_back(entries.collect(), missing),
            self.terminate_again(ended)
        );
        // By the clock of a server that has taken over, sessions in use may have expired.
        for (key, entry) in cache.entries() {
            if entry.is_used_within(idle) && entry.begin_touch() {
                self.inner.touches.add(key);
            }
        }
        // Whoever holds a stream or waits for an answer has nobody who asks the store for him.
        let waiting = self
            .inner
            .streams
            .keys()
            .into_iter()
            .chain(self.inner.in_flight.keys());
        let waiting: HashSet<RecordKey> = waiting.collect();
        let reading = waiting
            .into_iter()
            .map(|key| async move { self.look_again(&key).await });
        stream::iter(reading)
            .buffer_unordered(AT_A_TIME)
            .collect::<()>()
            .await;
    }

    async fn write_all_back(&self, entries: Vec<(RecordKey, Arc<CacheEntry>)>, missing: RestoreReason) {
        let writing = entries.into_iter().map(|(key, entry)| async move {
            let reading = self.inner.proof.stamp_now();
            match self.write_back(&key, &entry, missing).await {
                Ok(RecoverOutcome::Found(record)) => {
                    self.inner.metrics.recovered();
                    self.inner.cache.put(&key, record, reading);
                }
                // It was terminated. Whoever asks for it is told.
                Ok(RecoverOutcome::Gone | RecoverOutcome::Wait(_) | RecoverOutcome::Vanished { .. }) => {
                    entry.invalidate();
                }
                // Whoever asks for it brings it back.
                Err(_) => {}
            }
        });
        stream::iter(writing)
            .buffer_unordered(AT_A_TIME)
            .collect::<()>()
            .await;
    }

    /// Terminates these in the store, too. Those of which it does not say that they have ended are tried again in the background, for as
    /// long as a termination is remembered: otherwise a process that knows nothing of it could create the session again from its id.
    async fn terminate_again(&self, ended: Vec<(RecordKey, SessionLife)>) {
        let left = self.terminate_once(ended).await;
        if left.is_empty() {
            return;
        }
        let sessions = self.clone();
        self.inner.tasks.spawn_until_quiet(async move {
            let (mut left, until) = (left, Instant::now() + REMEMBERED);
            while !left.is_empty() && Instant::now() < until {
                tokio::time::sleep(TERMINATE_AGAIN).await;
                left = sessions.terminate_once(left).await;
            }
        });
    }

    /// Terminates these, and returns those of which the store does not say that they have ended.
    async fn terminate_once(&self, ended: Vec<(RecordKey, SessionLife)>) -> Vec<(RecordKey, SessionLife)> {
        let terminating = ended.into_iter().map(|(key, life)| async move {
            let outcome = self.inner.store.terminate(&key, life).await;
            let outcome = self.observed(StoreOperation::Terminate, outcome);
            outcome
                .is_err_and(|unavailable| !unavailable.is_of_record())
                .then_some((key, life))
        });
        stream::iter(terminating)
            .buffer_unordered(AT_A_TIME)
            .filter_map(|left| async move { left })
            .collect()
            .await
    }
}
