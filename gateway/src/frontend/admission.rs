//! Admission: limits how many requests the endpoint runs at a time. The budget limits how many bytes it
//! buffers.
//!
//! A request holds a permit from before its body is read until its response has been sent. When all permits
//! are taken, the next request is rejected without reading its body, so that rejecting is cheap. A small body
//! is still read, within a second limit of the same size: it may be a cancellation or the client's response
//! to a backend's request, and those free permits. If it turns out to be a request, it is rejected with its
//! id.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::budget::{Account, Budget};
use crate::core::Principal;

/// The largest body that is read when all permits are taken.
pub(super) const SMALL_BODY_BYTES: u64 = 64 * 1024;
/// Number of remembered principals above which the idle ones are forgotten.
const MAX_PRINCIPALS: usize = 1024;

/// Counts the requests that run at the moment. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestAdmission {
    counters: Arc<AdmissionCounters>,
}

#[derive(Debug, Default)]
struct AdmissionCounters {
    requests: AtomicUsize,
    /// Small bodies that are read beyond the limit.
    small_bodies: AtomicUsize,
}

/// The right to read one body, or to run one request. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct RequestPermit {
    admission: RequestAdmission,
    is_beyond_limit: bool,
}

impl RequestAdmission {
    /// Takes one of `limit` permits; for a small body, if need be, one beyond the limit.
    pub(super) fn try_acquire(&self, limit: usize, is_small: bool) -> Option<RequestPermit> {
        let limits = [
            (&self.counters.requests, false),
            (&self.counters.small_bodies, true),
        ];
        let tried = if is_small { &limits[..] } else { &limits[..1] };
        let below = |count: usize| (count < limit).then_some(count + 1);
        let acquired = tried.iter().find(|(counter, _)| {
            counter
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
                .is_ok()
        });
        acquired.map(|(_, beyond)| RequestPermit {
            admission: self.clone(),
            is_beyond_limit: *beyond,
        })
    }
}

impl RequestPermit {
    /// Whether a request may run with this permit. Other messages may use any permit.
    pub(super) fn can_run_request(&self) -> bool {
        !self.is_beyond_limit
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        let counters = &self.admission.counters;
        let counter = if self.is_beyond_limit {
            &counters.small_bodies
        } else {
            &counters.requests
        };
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The budget accounts of the authenticated principals that use memory at the moment. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct PrincipalAccounts {
    accounts: Arc<Mutex<HashMap<Principal, Account>>>,
}

impl PrincipalAccounts {
    /// The account that the requests of `principal` are charged to. Anonymous clients cannot be told apart
    /// and share the account of all requests.
    pub(super) fn account(&self, budget: &Budget, principal: &Principal) -> Account {
        if principal.is_anonymous() {
            return budget.requests().clone();
        }
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(principal).filter(|account| account.is_in_use()) {
            return account.clone();
        }
        if accounts.len() >= MAX_PRINCIPALS {
            accounts.retain(|_, account| account.is_in_use());
        }
        let account = budget.principal();
        accounts.insert(principal.clone(), account.clone());
        account
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beyond the limit only small bodies are admitted, and they cannot run requests. A raised limit
    /// applies at once.
    #[test]
    fn admission_full_admits_only_small_bodies() {
        let admission = RequestAdmission::default();
        let first = admission.try_acquire(1, false).unwrap();
        assert!(first.can_run_request());
        assert!(admission.try_acquire(1, false).is_none());
        let beyond = admission.try_acquire(1, true).unwrap();
        assert!(!beyond.can_run_request());
        assert!(admission.try_acquire(1, true).is_none());
        // A raised limit applies at once.
        assert!(admission.try_acquire(2, false).unwrap().can_run_request());
        drop(first);
        assert!(admission.try_acquire(1, false).unwrap().can_run_request());
        drop(beyond);
        assert_eq!(admission.counters.requests.load(Ordering::Relaxed), 0);
        assert_eq!(admission.counters.small_bodies.load(Ordering::Relaxed), 0);
    }

    /// All requests of a principal share one account, even before anything is reserved in it.
    #[test]
    fn principal_has_one_account_before_reserving() {
        let (budget, principals) = (Budget::new(1000), PrincipalAccounts::default());
        budget.set(Some(1000), Some(800), 100);
        let accounts = [(); 2].map(|()| principals.account(&budget, &subject("a")));
        let held = accounts[0].reserve(150).unwrap();
        assert!(accounts[1].reserve(51).is_none());
        drop((held, accounts));
        budget.set(Some(1000), Some(800), 300);
        let account = principals.account(&budget, &subject("a"));
        assert!(
            account.reserve(300).is_some(),
            "one that nobody has takes on the new limits"
        );
    }

    fn subject(name: &str) -> Principal {
        Principal::subject("issuer".into(), name)
    }

    /// A principal keeps its account as long as something is reserved in it.
    #[test]
    fn principal_keeps_its_account_while_reserved() {
        let (budget, principals) = (Budget::new(1000), PrincipalAccounts::default());
        budget.set(Some(1000), Some(800), 100);
        let account = principals.account(&budget, &subject("a"));
        let held = account.reserve(150).unwrap();
        assert!(principals.account(&budget, &subject("a")).reserve(51).is_none());
        assert!(principals.account(&budget, &subject("b")).reserve(200).is_some());
        assert!(
            principals
                .account(&budget, &Principal::Anonymous)
                .reserve(650)
                .is_some(),
            "those who cannot be told apart have no share"
        );
        drop(held);
        for number in 0..3 * MAX_PRINCIPALS {
            drop(principals.account(&budget, &subject(&number.to_string())));
        }
        assert!(principals.accounts.lock().unwrap().len() <= MAX_PRINCIPALS);
    }
}
