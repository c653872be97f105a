//! Whether this process should get traffic.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What must happen before the process is ready. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    next: u64,
    pending: BTreeMap<u64, (String, Option<Instant>)>,
}

/// One thing that must happen; dropping it says that it has happened.
#[derive(Debug)]
pub struct ReadinessWait {
    id: u64,
    readiness: Readiness,
}

impl Readiness {
    /// Says that the process is not ready before the result is dropped.
    #[must_use]
    pub fn wait_for(&self, name: impl Into<String>) -> ReadinessWait {
        self.add(name.into(), None)
    }

    /// Says that the process is not ready before the result is dropped or `patience` has passed.
    #[must_use]
    pub fn wait_at_most(&self, name: impl Into<String>, patience: Duration) -> ReadinessWait {
        self.add(name.into(), Some(Instant::now() + patience))
    }

    /// What has still to happen; empty means ready.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        let now = Instant::now();
        let waited_for = |deadline: &Option<Instant>| deadline.is_none_or(|deadline| now < deadline);
        let shared = self.lock();
        let names = shared
            .pending
            .values()
            .filter(|(_, deadline)| waited_for(deadline));
        names.map(|(name, _)| name.clone()).collect()
    }

    fn add(&self, name: String, deadline: Option<Instant>) -> ReadinessWait {
        let mut shared = self.lock();
        let id = shared.next;
        shared.next += 1;
        shared.pending.insert(id, (name, deadline));
        ReadinessWait {
            id,
            readiness: self.clone(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReadinessWait {
    fn drop(&mut self) {
        self.readiness.lock().pending.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ready_when_all_has_happened_or_patience_is_over() {
        let readiness = Readiness::default();
        let listener = readiness.wait_for("listener");
        let _slow = readiness.wait_at_most("slow", Duration::from_secs(3));
        assert_eq!(readiness.pending(), ["listener", "slow"]);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(readiness.pending(), ["listener"]);
        drop(listener);
        assert!(readiness.pending().is_empty());
    }
}
