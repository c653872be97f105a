//! How many requests the endpoint takes on at a time. How many bytes of them it buffers is the budget's business.
//!
//! A request has a place from before its body is read until its answer has gone out. When all places are taken, the next one is refused
//! without its body, which is what makes refusing cheap. A small body is read all the same, as long as there are not as many of those
//! too: it may be a cancellation, or the client's answer to a backend's question, and those free places. What turns out to be a request
//! is refused then, with its id.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::budget::{Account, Budget};
use crate::core::Principal;

/// The largest body that is read when all places are taken.
pub(super) const SMALL_BODY_BYTES: u64 = 64 * 1024;
/// How many principals are remembered before those are forgotten of which nothing is buffered.
const MAX_PRINCIPALS: usize = 1024;

/// Places for requests. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestAdmission {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    taken: AtomicUsize,
    /// How many small bodies are read beyond the places.
    beyond: AtomicUsize,
}

/// One place; dropping it frees it.
#[derive(Debug)]
pub(super) struct RequestPermit {
    places: RequestAdmission,
    beyond: bool,
}

impl RequestAdmission {
    /// A place among `limit`, or, where the body is small, one beyond them.
    pub(super) fn take(&self, limit: usize, is_small: bool) -> Option<RequestPermit> {
        let counters = [(&self.shared.taken, false), (&self.shared.beyond, true)];
        let tried = if is_small { &counters[..] } else { &counters[..1] };
        let below = |count: usize| (count < limit).then_some(count + 1);
        let taken = tried.iter().find(|(counter, _)| {
            counter
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
                .is_ok()
        });
        taken.map(|(_, beyond)| RequestPermit {
            places: self.clone(),
            beyond: *beyond,
        })
    }
}

impl RequestPermit {
    /// Whether a request may run in it. Other messages may in any.
    pub(super) fn is_for_requests(&self) -> bool {
        !self.beyond
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        let shared = &self.places.shared;
        let counter = if self.beyond {
            &shared.beyond
        } else {
            &shared.taken
        };
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The shares of the budget that authenticated principals use at the moment. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct PrincipalAccounts {
    shares: Arc<Mutex<HashMap<Principal, Account>>>,
}

impl PrincipalAccounts {
    /// The account in which the requests of `principal` are counted. Anonymous clients, who cannot be told apart, have that of all
    /// requests.
    pub(super) fn account(&self, budget: &Budget, principal: &Principal) -> Account {
        if principal.is_anonymous() {
            return budget.requests().clone();
        }
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = shares.get(principal).filter(|account| account.is_in_use()) {
            return account.clone();
        }
        if shares.len() >= MAX_PRINCIPALS {
            shares.retain(|_, account| account.is_in_use());
        }
        let account = budget.principal();
        shares.insert(principal.clone(), account.clone());
        account
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_places_only_small_bodies_are_read_and_not_for_requests() {
        let places = RequestAdmission::default();
        let first = places.take(1, false).unwrap();
        assert!(first.is_for_requests());
        assert!(places.take(1, false).is_none());
        let beyond = places.take(1, true).unwrap();
        assert!(!beyond.is_for_requests());
        assert!(places.take(1, true).is_none());
        // A limit that is raised holds at once.
        assert!(places.take(2, false).unwrap().is_for_requests());
        drop(first);
        assert!(places.take(1, false).unwrap().is_for_requests());
        drop(beyond);
        assert_eq!(places.shared.taken.load(Ordering::Relaxed), 0);
        assert_eq!(places.shared.beyond.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn principal_has_one_share_before_anything_is_reserved_in_it() {
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

    #[test]
    fn principal_has_one_share_as_long_as_something_is_reserved_in_it() {
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
        assert!(principals.shares.lock().unwrap().len() <= MAX_PRINCIPALS);
    }
}
