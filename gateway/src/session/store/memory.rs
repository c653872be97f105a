//! Records in the memory of this process. They end with it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use tokio::time::Instant;

use super::{
    Bound, Created, Incarnation, Loaded, MAX_SUBSCRIPTIONS, SessionStore, SetOutcome, Setting, Terminated,
    Touched, Unavailable,
};
use crate::clock;
use crate::session::record::{Binding, Lifetimes, NewRecord, Record, RecordKey};

/// How many records are created between two searches for expired ones. The search costs a look at each record, so that its cost
/// per creation is bounded by the number of live records over this.
const SWEEP_EVERY: usize = 1024;

/// Records in the memory of this process.
#[derive(Debug)]
pub struct MemoryStore {
    /// No await happens under the lock, and no operation looks at more than a few records but the sweep.
    shared: Mutex<Shared>,
    incarnation: Incarnation,
    lifetimes: Lifetimes,
}

#[derive(Debug, Default)]
struct Shared {
    records: HashMap<RecordKey, Entry>,
    created_since_sweep: usize,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    touched: Instant,
    idle_deadline: Instant,
    end: Instant,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(lifetimes: Lifetimes) -> Self {
        Self {
            shared: Mutex::default(),
            incarnation: Incarnation(crate::random::bytes()),
            lifetimes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create_now(&self, key: RecordKey, new: &NewRecord) -> Created {
        let now = Instant::now();
        let mut shared = self.lock();
        if shared.records.get(&key).is_some_and(|entry| entry.lives(now)) {
            return Created::Taken;
        }
        shared.created_since_sweep += 1;
        if shared.created_since_sweep >= SWEEP_EVERY {
            shared.created_since_sweep = 0;
            shared.records.retain(|_, entry| entry.lives(now));
        }
        let record = Record {
            principal_tag: new.principal_tag,
            revision: new.revision,
            capabilities: new.capabilities.clone(),
            client_info: new.client_info.clone(),
            untouched: std::time::Duration::ZERO,
            log_level: None,
            subscriptions: std::collections::BTreeMap::new(),
            bindings: std::collections::BTreeMap::new(),
        };
        let end = now + self.lifetimes.max;
        let idle_deadline = (now + self.lifetimes.idle).min(end);
        shared.records.insert(
            key,
            Entry {
                record,
                touched: now,
                idle_deadline,
                end,
            },
        );
        let created = clock::unix_millis() / 1000;
        let seconds = |seconds: u64| u32::try_from(seconds).unwrap_or(u32::MAX);
        Created::Created {
            incarnation: self.incarnation,
            created: seconds(created),
            end: seconds(created + self.lifetimes.max.as_secs()),
        }
    }

    fn with_live<T>(&self, key: &RecordKey, change: impl FnOnce(&mut Entry, Instant) -> T) -> Option<T> {
        let now = Instant::now();
        let mut shared = self.lock();
        let entry = shared.records.get_mut(key).filter(|entry| entry.lives(now))?;
        Some(change(entry, now))
    }

    fn bind_now(&self, key: &RecordKey, backend: &str, expected: u64, binding: &Binding) -> Bound {
        let bound = self.with_live(key, |entry, now| {
            if entry.record.generation(backend) != expected {
                return Bound::Lost(entry.read(now));
            }
            entry.record.bindings.insert(backend.to_owned(), binding.clone());
            Bound::Bound(entry.read(now))
        });
        bound.unwrap_or(Bound::Gone)
    }

    fn set_now(&self, key: &RecordKey, setting: &Setting) -> SetOutcome {
        let set = self.with_live(key, |entry, now| {
            let record = &mut entry.record;
            match setting {
                Setting::LogLevel(level) => record.log_level = Some(level.clone()),
                Setting::Subscribe { uri, backend } => {
                    let watched = &mut record.subscriptions;
                    if watched.len() >= MAX_SUBSCRIPTIONS && !watched.contains_key(uri) {
                        return SetOutcome::Full;
                    }
                    watched.insert(uri.clone(), backend.clone());
                }
                Setting::Unsubscribe { uri } => drop(record.subscriptions.remove(uri)),
            }
            SetOutcome::Set(entry.read(now))
        });
        set.unwrap_or(SetOutcome::Gone)
    }

    fn touch_now(&self, key: &RecordKey) -> Touched {
        let touched = self.with_live(key, |entry, now| {
            entry.touched = now;
            entry.idle_deadline = (now + self.lifetimes.idle).min(entry.end);
        });
        touched.map_or(Touched::Gone, |()| Touched::Alive)
    }

    fn terminate_now(&self, key: &RecordKey) -> Terminated {
        let now = Instant::now();
        match self.lock().records.remove(key) {
            Some(entry) if entry.lives(now) => Terminated::Terminated(entry.read(now)),
            Some(_) | None => Terminated::Gone,
        }
    }
}

impl Entry {
    fn lives(&self, now: Instant) -> bool {
        now < self.idle_deadline
    }

    fn read(&self, now: Instant) -> Record {
        Record {
            untouched: now.duration_since(self.touched),
            ..self.record.clone()
        }
    }
}

impl SessionStore for MemoryStore {
    fn create<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a NewRecord,
    ) -> BoxFuture<'a, Result<Created, Unavailable>> {
        ready(Ok(self.create_now(*key, record))).boxed()
    }

    fn load<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Loaded, Unavailable>> {
        let found = self.with_live(key, |entry, now| Loaded::Found(entry.read(now)));
        ready(Ok(found.unwrap_or(Loaded::Gone))).boxed()
    }

    fn bind_backend<'a>(
        &'a self,
        key: &'a RecordKey,
        backend: &'a str,
        expected: u64,
        binding: &'a Binding,
    ) -> BoxFuture<'a, Result<Bound, Unavailable>> {
        ready(Ok(self.bind_now(key, backend, expected, binding))).boxed()
    }

    fn set<'a>(
        &'a self,
        key: &'a RecordKey,
        setting: &'a Setting,
    ) -> BoxFuture<'a, Result<SetOutcome, Unavailable>> {
        ready(Ok(self.set_now(key, setting))).boxed()
    }

    fn touch<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<Vec<Touched>, Unavailable>> {
        ready(Ok(keys.iter().map(|key| self.touch_now(key)).collect())).boxed()
    }

    fn terminate<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Terminated, Unavailable>> {
        ready(Ok(self.terminate_now(key))).boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Unavailable>> {
        ready(Ok(())).boxed()
    }

    fn provider(&self) -> &'static str {
        "memory"
    }
}
