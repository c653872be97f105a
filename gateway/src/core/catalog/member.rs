//! One backend's part of the catalogue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use vmcp_crds::status::Health;

use super::offer::{Offer, Shown};
use crate::backend::{Backend, BackendError};
use crate::config::{HealthSettings, Terms};
use crate::readiness::Pending;

/// What is known of a backend.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What it offers, or offered when it last answered; `None` before its first answer.
    pub offer: Option<Arc<Offer>>,
    /// What went wrong the last time, if anything.
    pub error: Option<BackendError>,
    /// Whether it can be reached.
    pub health: Health,
    /// How often in a row it could not.
    failures: u32,
}

/// A backend and what is known of it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) backend: Backend,
    /// Says that what is known may be out of date. It holds one sign at most: what is told during a look leads to one more look.
    pub(super) stale: Notify,
    known: Mutex<Known>,
    /// Whoever waits until something is known of the backend.
    first_look: Mutex<Option<Pending>>,
}

/// What is known of a backend at one moment, and how clients get it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) state: Arc<State>,
    pub(super) terms: Arc<Terms>,
    pub(super) settings: HealthSettings,
    /// `None` before the backend's first answer.
    pub(super) shown: Option<Arc<Shown>>,
}

impl Member {
    pub(super) fn new(backend: Backend, terms: Arc<Terms>, settings: HealthSettings) -> Self {
        let known = Known {
            state: Arc::default(),
            terms,
            settings,
            shown: None,
        };
        Self {
            backend,
            stale: Notify::new(),
            known: Mutex::new(known),
            first_look: Mutex::default(),
        }
    }

    /// Who waits until something is known of the backend; `None` when nobody has to any more.
    pub(super) fn set_first_look(&self, waiting: Option<Pending>) {
        *self.first_look.lock().unwrap_or_else(PoisonError::into_inner) = waiting;
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

    /// How the backend is looked after.
    pub(super) fn settings(&self) -> HealthSettings {
        self.lock().settings
    }

    /// Looks after the backend in this way from now on.
    pub(super) fn set_settings(&self, settings: HealthSettings) {
        let mut known = self.lock();
        if known.settings != settings {
            known.settings = settings;
            self.stale.notify_one();
        }
    }

    /// Takes the outcome of a look at the backend, and says whether anything changed. What a backend offered stays known while it
    /// fails.
    pub(super) fn observe(&self, outcome: Result<Offer, BackendError>) -> bool {
        let mut known = self.lock();
        let before = Arc::clone(&known.state);
        let after = match outcome {
            Ok(offer) => State {
                offer: match &before.offer {
                    Some(same) if **same == offer => Some(Arc::clone(same)),
                    _ => Some(Arc::new(offer)),
                },
                error: None,
                health: Health::Healthy,
                failures: 0,
            },
            Err(error) => before.after(error, known.settings.unhealthy_after),
        };
        known.change(&self.backend, after)
    }

    /// Takes what the backend offered to another process, unless it has said itself what it offers. Gives back what is known from now
    /// on, if it is this.
    pub(super) fn remember(&self, offer: Offer) -> Option<Arc<Offer>> {
        let mut known = self.lock();
        if known.state.offer.is_some() {
            return None;
        }
        let offer = Arc::new(offer);
        let after = State {
            offer: Some(Arc::clone(&offer)),
            ..State::clone(&known.state)
        };
        known.change(&self.backend, after);
        drop(known);
        self.set_first_look(None);
        Some(offer)
    }

    /// Takes the outcome of a probe, and says whether anything changed.
    pub(super) fn probed(&self, outcome: Result<(), BackendError>) -> bool {
        let mut known = self.lock();
        let after = match outcome {
            // Health itself waits for the look that follows: a backend that answers probes alone is of no use.
            Ok(()) => State {
                failures: 0,
                ..State::clone(&known.state)
            },
            Err(error) => known.state.after(error, known.settings.unhealthy_after),
        };
        known.change(&self.backend, after)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the gateway does not know the backend as it should, so that it tries again soon.
    pub(super) fn is_troubled(&self) -> bool {
        self.error.is_some()
    }

    /// Whether the backend answers at all.
    pub(super) fn answers(&self) -> bool {
        self.failures == 0
    }

    /// The state after `error`. A refusal is a sign of life.
    fn after(&self, error: BackendError, unhealthy_after: u32) -> Self {
        let failures = if error.says_unreachable() {
            self.failures.saturating_add(1)
        } else {
            0
        };
        let health = match self.health {
            _ if failures == 0 => Health::Degraded,
            _ if failures >= unhealthy_after => Health::Unavailable,
            Health::Healthy => Health::Degraded,
            same => same,
        };
        Self {
            offer: self.offer.clone(),
            error: Some(error),
            health,
            failures,
        }
    }
}

impl Known {
    fn change(&mut self, backend: &Backend, after: State) -> bool {
        let before = std::mem::replace(&mut self.state, Arc::new(after));
        let same_offer = match (&before.offer, &self.state.offer) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            (before, after) => before.is_none() && after.is_none(),
        };
        if !same_offer {
            self.show(backend);
        }
        !same_offer || before.error != self.state.error || before.health != self.state.health
    }

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
        let member = Member::new(backend("a"), Arc::default(), HealthSettings::default());
        assert!(member.known().shown.is_none());
        assert!(member.observe(Ok(offer(&["x"]))));
        assert!(!member.observe(Ok(offer(&["x"]))), "nothing changed");
        assert!(member.observe(Err(BackendError::Status(500))));
        assert!(!member.observe(Err(BackendError::Status(500))), "nothing changed");
        assert_eq!(member.state().offer.as_deref(), Some(&offer(&["x"])));
        assert!(member.observe(Ok(offer(&["x"]))), "it recovered");
    }

    #[tokio::test]
    async fn it_is_degraded_before_it_is_unavailable_and_a_refusal_is_a_sign_of_life() {
        let member = Member::new(backend("a"), Arc::default(), HealthSettings::default());
        let health = || member.state().health;
        let fail = || member.probed(Err(BackendError::Unreachable("refused".to_owned())));
        member.set_settings(HealthSettings {
            unhealthy_after: 3,
            ..HealthSettings::default()
        });
        fail();
        assert_eq!(health(), Health::Unknown, "nothing was ever known of it");
        member.observe(Ok(offer(&["x"])));
        assert_eq!(health(), Health::Healthy);
        fail();
        fail();
        assert_eq!(health(), Health::Degraded);
        assert!(fail(), "a change");
        assert_eq!(health(), Health::Unavailable);
        member.probed(Ok(()));
        fail();
        assert_eq!(health(), Health::Unavailable, "only a look makes it healthy");
        member.observe(Err(BackendError::Status(401)));
        assert_eq!(health(), Health::Degraded);
        member.observe(Ok(offer(&["x"])));
        assert_eq!(health(), Health::Healthy);
    }
}
