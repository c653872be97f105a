//! What goes on beside the requests: other processes' changes are followed, idle deadlines are moved, and a store that does not answer
//! is asked for a sign of life.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::Notify;

use super::Sessions;
use super::cache::CachedSession;
use super::record::RecordKey;
use super::store::{LoadOutcome, SessionLife, StoreError, StoreEvent, TouchOutcome};
use crate::runtime::readiness::ReadinessWait;
use crate::session::recovery::outage::StoreOperation;

/// How often a store that does not answer is asked for a sign of life.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// How long deadlines wait to be moved together.
const GATHER: Duration = Duration::from_millis(200);
/// How many deadlines are moved at a time.
const TOUCH_AT_A_TIME: usize = 256;

/// The sessions whose idle deadline is to be moved. Each is there at most once, so that there are never more than are remembered.
#[derive(Debug, Default)]
pub(super) struct PendingTouches {
    due: Mutex<Vec<RecordKey>>,
    some: Notify,
}

impl PendingTouches {
    /// Adds one.
    pub(super) fn add(&self, key: RecordKey) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        self.some.notify_one();
    }

    fn take(&self) -> Vec<RecordKey> {
        std::mem::take(&mut *self.due.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts some back, without saying so.
    fn put_back(&self, keys: &[RecordKey]) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.extend_from_slice(keys);
    }
}

impl Sessions {
    /// Begins what goes on beside the requests, until the process drains and the last of them has ended. `loading` is dropped when the
    /// catalogue knows what the store does.
    pub fn run(&self, loading: ReadinessWait) {
        let tasks = &self.inner.tasks;
        match self.inner.store.events(self.inner.proof.renewal_interval()) {
            Some(events) => {
                tasks.spawn_until_quiet(self.clone().follow(events));
                tasks.spawn_until_drain(self.clone().share_offers(loading));
            }
            None => self.inner.proof.alone(),
        }
        tasks.spawn_until_drain(self.clone().share_upstream_sessions());
        tasks.spawn_until_quiet(self.clone().touch());
        tasks.spawn_until_quiet(self.clone().attend());
        tasks.spawn_until_quiet(self.clone().probe());
        tasks.spawn_until_drain(self.clone().look_after_connections());
        let (sessions, drained) = (self.clone(), tasks.drained());
        tasks.spawn(async move {
            drained.await;
            sessions.reconcile().await;
        });
    }

    async fn follow(self, mut events: BoxStream<'static, StoreEvent>) {
        let inner = &*self.inner;
        while let Some(event) = events.next().await {
            match event {
                StoreEvent::Records(records) => {
                    let told = inner.proof.stamp_of_event();
                    for (key, record) in records {
                        match inner.cache.peek(&key) {
                            // It is written back when it is read.
                            Some(entry) if entry.knows_more_than(&record, told) => entry.invalidate(),
                            Some(_) | None => drop(inner.cache.put(&key, record, told)),
                        }
                        inner.streams.changed(&key);
                    }
                }
                StoreEvent::Changed(key) => {
                    inner.cache.changed(&key);
                    // Nobody asks for it in the place of those who wait.
                    if inner.streams.is_open(&key) || !inner.in_flight.is_quiet(&key) {
                        let sessions = self.clone();
                        inner.tasks.spawn(async move { sessions.look_again(&key).await });
                    }
                }
                StoreEvent::Terminated(key, life) => self.ended(&key, life),
                StoreEvent::StreamOwner { key, owner, number } => {
                    if owner != inner.owner {
                        inner.streams.taken(&key, number);
                    }
                }
                StoreEvent::Proved(at) => {
                    if let Some(caught_up) = inner.proof.proved(at) {
                        let sessions = self.clone();
                        inner
                            .tasks
                            .spawn_until_quiet(async move { sessions.caught_up(caught_up).await });
                    }
                }
                StoreEvent::Interrupted => {
                    tracing::info!(
                        "what other processes do is not heard; sessions are read again before use"
                    );
                    inner.proof.interrupted();
                }
            }
        }
    }

    /// The session was terminated, here or elsewhere: nobody may use it any more.
    pub(super) fn ended(&self, key: &RecordKey, life: SessionLife) {
        let inner = &*self.inner;
        inner.cache.end(key, life);
        inner.streams.close(key);
        inner.in_flight.end(key);
        self.close_connections(key);
        self.close_ended(key);
    }

    /// The store has no record of the session any more: what runs of it here ends.
    pub(super) fn forget(&self, key: &RecordKey) {
        let inner = &*self.inner;
        inner.cache.remove(key);
        inner.streams.close(key);
        inner.in_flight.end(key);
        self.close_connections(key);
    }

    /// Reads a session again whose stream is open here, or whose request is running.
    pub(super) async fn look_again(&self, key: &RecordKey) {
        let inner = &*self.inner;
        let reading = inner.proof.stamp_now();
        let lives = match self.observed(StoreOperation::Load, inner.store.load(key).await) {
            Ok(LoadOutcome::Found(record)) => match self.found(key, record, reading).await {
                Ok(found) => found.is_some(),
                Err(_) => return,
            },
            Ok(LoadOutcome::Gone) => match self.missing(key, None).await {
                Ok(found) => found.is_some(),
                Err(_) => return,
            },
            // A store that is unavailable ends nothing.
            Err(_) => return,
        };
        if lives {
            inner.streams.changed(key);
            if inner.streams.is_unowned(key) {
                // One that is not told now is told after the next interruption.
                drop(self.own_stream(key).await);
            }
        } else {
            self.forget(key);
        }
    }

    /// Moves deadlines. What cannot be moved because the store does not answer is moved as soon as it does, also where nobody uses the
    /// session then: those who end expired sessions wait for it.
    async fn touch(self) {
        let touches = &self.inner.touches;
        loop {
            touches.some.notified().await;
            tokio::time::sleep(GATHER).await;
            let mut unavailable = false;
            for keys in touches.take().chunks(TOUCH_AT_A_TIME) {
                unavailable = unavailable || self.touch_now(keys).await.is_err();
                if unavailable {
                    touches.put_back(keys);
                }
            }
            if unavailable {
                tokio::time::sleep(PROBE_EVERY).await;
                touches.some.notify_one();
            }
        }
    }

    async fn touch_now(&self, keys: &[RecordKey]) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let reading = inner.proof.stamp_now();
        let touched = self.observed(StoreOperation::Touch, inner.store.touch(keys).await)?;
        for (index, key) in keys.iter().enumerate() {
            let CachedSession::Entry(entry) = inner.cache.get(key) else {
                continue;
            };
            match touched.get(index) {
                Some(TouchOutcome::Alive { version, left }) => entry.touched(*version, *left, reading),
                Some(TouchOutcome::Gone) => {
                    entry.not_touched();
                    // It has ended, or it was lost and is needed.
                    entry.invalidate();
                    drop(self.missing(key, None).await);
                }
                None => entry.not_touched(),
            }
        }
        Ok(())
    }

    /// Moves the deadlines of sessions whose requests are running: one that is answered in JSON says nothing until it is done.
    async fn attend(self) {
        let inner = &*self.inner;
        let every = inner.settings.lifetimes.touch_every();
        loop {
            tokio::time::sleep(every).await;
            for key in inner.in_flight.keys() {
                if let CachedSession::Entry(entry) = inner.cache.get(&key)
                    && entry.used(every)
                {
                    inner.touches.add(key);
                }
            }
        }
    }

    /// Probes the store while something fails or nothing else tells of it, so that [`Sessions::store_error`] is true also when nobody
    /// calls; and ends what had to wait until it answers.
    async fn probe(self) {
        let store = &self.inner.store;
        loop {
            if self.inner.outage.is_down() || !self.inner.proof.is_current() {
                let read = self.observed(StoreOperation::ProbeReads, store.probe_reads().await);
                if read.is_ok() && self.inner.outage.is_down() {
                    // The outcome is kept where it is observed.
                    drop(self.observed(StoreOperation::ProbeWrites, store.probe_writes().await));
                }
            }
            if self.inner.outage.now().is_none() && self.has_to_reconcile() {
                let sessions = self.clone();
                self.inner.tasks.spawn(async move { sessions.reconcile().await });
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }
}
