//! Exponential backoff with jitter, per resource.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::workload::Workload;

/// Delay after the first failure.
const BASE_DELAY: Duration = Duration::from_millis(500);
/// Upper bound of the delay. Messages of conditions name it: no watch reports that the cause of a failure is gone.
pub const MAX_DELAY: Duration = Duration::from_secs(30);

/// Counts the consecutive failures of each resource of one kind.
#[derive(Debug)]
pub struct Backoff<W: Workload = VirtualMCPServer>(Mutex<HashMap<ObjectRef<W>, u32>>);

impl<W: Workload> Default for Backoff<W> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<W: Workload> Backoff<W> {
    /// Counts a failure and returns the delay before the next attempt.
    pub fn record_failure(&self, server: &ObjectRef<W>) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(server.clone()).or_default();
        *count = count.saturating_add(1);
        delay(*count, &server.name)
    }

    /// Resets the count, after a success or when the resource is gone.
    pub fn clear(&self, server: &ObjectRef<W>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(server);
    }
}

/// Exponential delay with a jitter of up to minus 25 %, so that servers that failed together are not retried together. The jitter
/// is a hash of the name, so that the function needs no randomness.
fn delay(failures: u32, name: &str) -> Duration {
    let exponential = BASE_DELAY
        .saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX))
        .min(MAX_DELAY);
    let jitter = name.bytes().fold(failures, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(byte))
    }) % 256;
    exponential - exponential / 4 * jitter / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_thirty_seconds() {
        for failures in 1..100 {
            let wait = delay(failures, "everything");
            let whole = Duration::from_millis(500 * 2_u64.pow(failures.min(20) - 1)).min(MAX_DELAY);
            assert!(wait <= whole && wait >= whole * 3 / 4, "{failures}: {wait:?}");
            assert!(wait <= Duration::from_secs(30), "{failures}: {wait:?}");
        }
    }

    #[test]
    fn success_resets_delay() {
        let (backoff, server) = (
            Backoff::<VirtualMCPServer>::default(),
            ObjectRef::new("everything").within("tools"),
        );
        let first = backoff.record_failure(&server);
        assert!(backoff.record_failure(&server) > first);
        backoff.clear(&server);
        assert_eq!(backoff.record_failure(&server), first);
    }
}
