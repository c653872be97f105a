//! Tracks whether this process is ready for traffic.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The startup steps that must finish before the process is ready. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    steps: Arc<Mutex<StartupSteps>>,
}

#[derive(Debug, Default)]
struct StartupSteps {
    next: u64,
    pending: BTreeMap<u64, (String, Option<Instant>)>,
}

/// A pending startup step. The step is finished when this value is dropped.
#[derive(Debug)]
pub struct ReadinessWait {
    id: u64,
    readiness: Readiness,
}

impl Readiness {
    /// Adds the startup step `name`. The process is not ready until the returned value is dropped.
    #[must_use]
    pub fn wait_for(&self, name: impl Into<String>) -> ReadinessWait {
        self.add(name.into(), None)
    }

    /// As [`Self::wait_for`], but for at most `limit`.
    #[must_use]
    pub fn wait_at_most(&self, name: impl Into<String>, limit: Duration) -> ReadinessWait {
        self.add(name.into(), Some(Instant::now() + limit))
    }

    /// The names of the pending steps. The process is ready if there are none.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        let now = Instant::now();
        let is_pending = |deadline: &Option<Instant>| deadline.is_none_or(|deadline| now < deadline);
        let steps = self.lock();
        let names = steps
            .pending
            .values()
            .filter(|(_, deadline)| is_pending(deadline));
        names.map(|(name, _)| name.clone()).collect()
    }

    fn add(&self, name: String, deadline: Option<Instant>) -> ReadinessWait {
        let mut steps = self.lock();
        let id = steps.next;
        steps.next += 1;
        steps.pending.insert(id, (name, deadline));
        ReadinessWait {
            id,
            readiness: self.clone(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, StartupSteps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
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
    async fn ready_when_steps_have_finished_or_timed_out() {
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
