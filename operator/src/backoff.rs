//! How long to wait after a failure, per virtual server.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use vmcp_crds::v1alpha1::VirtualMCPServer;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(300);

/// Counts the failures in a row of each virtual server.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<HashMap<ObjectRef<VirtualMCPServer>, u32>>);

impl Backoff {
    /// One more failure: how long to wait before the next attempt.
    pub fn failed(&self, server: &ObjectRef<VirtualMCPServer>) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(server.clone()).or_default();
        *count = count.saturating_add(1);
        delay(*count, &server.name)
    }

    /// A success, or the end of the server.
    pub fn clear(&self, server: &ObjectRef<VirtualMCPServer>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(server);
    }
}

/// Twice as long each time, up to five minutes, and up to a quarter less, so that servers that failed together do not come
/// back together. The part that is less depends on the name, so that the function needs no randomness.
fn delay(failures: u32, name: &str) -> Duration {
    let whole = FIRST
        .saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX))
        .min(LONGEST);
    let spread = name.bytes().fold(failures, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(byte))
    }) % 256;
    whole - whole / 4 * spread / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_five_minutes() {
        for failures in 1..100 {
            let wait = delay(failures, "everything");
            let whole = Duration::from_millis(500 * 2_u64.pow(failures.min(20) - 1)).min(LONGEST);
            assert!(wait <= whole && wait >= whole * 3 / 4, "{failures}: {wait:?}");
        }
    }

    #[test]
    fn a_success_begins_anew() {
        let (backoff, server) = (Backoff::default(), ObjectRef::new("everything").within("tools"));
        let first = backoff.failed(&server);
        assert!(backoff.failed(&server) > first);
        backoff.clear(&server);
        assert_eq!(backoff.failed(&server), first);
    }
}
