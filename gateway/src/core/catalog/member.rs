//! One backend's part of the catalogue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::offer::{Offer, Shown};
use crate::backend::{Backend, BackendError};
use crate::config::Terms;

/// What is known of a backend.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What it offers, or offered when it last answered; `None` before its first answer.
    pub offer: Option<Arc<Offer>>,
    /// What went wrong the last time, if anything.
    pub error: Option<BackendError>,
}

/// A backend and what is known of it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) backend: Backend,
    /// Says that what is known may be out of date. It holds one sign at most: what is told during a look leads to one more look.
    pub(super) stale: Notify,
    known: Mutex<Known>,
}

/// What is known of a backend at one moment, and how clients get it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) state: Arc<State>,
    pub(super) terms: Arc<Terms>,
    /// `None` before the backend's first answer.
    pub(super) shown: Option<Arc<Shown>>,
}

impl Member {
    pub(super) fn new(backend: Backend, terms: Arc<Terms>) -> Self {
        let known = Known {
            state: Arc::default(),
            terms,
            shown: None,
        };
        Self {
            backend,
            stale: Notify::new(),
            known: Mutex::new(known),
        }
    }

    pub(super) fn known(&self) -> Known {
        self.lock().clone()
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.lock().state)
    }

    /// Offers the backend on these terms from now on.
    pub(super) fn set_terms(&self, terms: &Arc<Terms>) {
        let mut known = self.lock();
        if known.terms != *terms {
            known.terms = Arc::clone(terms);
            known.show(&self.backend);
        }
    }

    /// Takes the outcome of a look at the backend, and says whether anything changed. What a backend offered stays known while it
    /// fails.
    pub(super) fn observe(&self, outcome: Result<Offer, BackendError>) -> bool {
        let mut known = self.lock();
        let before = Arc::clone(&known.state);
        let (offer, error) = match outcome {
            Ok(offer) if before.offer.as_deref() == Some(&offer) => (before.offer.clone(), None),
            Ok(offer) => (Some(Arc::new(offer)), None),
            Err(error) => (before.offer.clone(), Some(error)),
        };
        let same_offer = match (&before.offer, &offer) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            (before, after) => before.is_none() && after.is_none(),
        };
        let changed = !same_offer || before.error != error;
        known.state = Arc::new(State { offer, error });
        if !same_offer {
            known.show(&self.backend);
        }
        changed
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn show(&mut self, backend: &Backend) {
        let offer = self.state.offer.as_deref();
        self.shown = offer.map(|offer| Arc::new(Shown::new(backend.name(), offer, &self.terms)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalog::scene::{backend, offer};

    #[tokio::test]
    async fn what_a_backend_offered_stays_known_while_it_fails() {
        let member = Member::new(backend("a"), Arc::default());
        assert!(member.known().shown.is_none());
        assert!(member.observe(Ok(offer(&["x"]))));
        assert!(!member.observe(Ok(offer(&["x"]))), "nothing changed");
        assert!(member.observe(Err(BackendError::Status(500))));
        assert!(!member.observe(Err(BackendError::Status(500))), "nothing changed");
        assert_eq!(member.state().offer.as_deref(), Some(&offer(&["x"])));
        assert!(member.observe(Ok(offer(&["x"]))), "it recovered");
    }
}
