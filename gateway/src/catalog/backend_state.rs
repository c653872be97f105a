//! One backend's part of the catalogue.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use vmcp_crds::status::Health;

use crate::backend::{Backend, BackendError, BackendList, ListKind};
use crate::catalog::exposure::{AdvertisedOffer, BackendOffer};
use crate::config::{BackendName, ExposurePolicy, HealthSettings};
use crate::runtime::readiness::ReadinessWait;

/// What is known of a backend.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryState {
    /// What it offers, or offered when it last answered; `None` before its first answer.
    pub offer: Option<Arc<BackendOffer>>,
    /// What went wrong the last time, if anything.
    pub error: Option<BackendError>,
    /// Whether it can be reached.
    pub health: Health,
    /// How often in a row it could not.
    failures: u32,
}

/// A backend and what is known of it. No lock guards it: whoever reads takes what is known at that moment.
#[derive(Debug)]
pub(super) struct CatalogBackend {
    pub(super) backend: Backend,
    /// Says that what is known may be out of date. It holds one sign at most: what is told during a look leads to one more look.
    pub(super) stale: Notify,
    known: ArcSwap<BackendCatalog>,
    /// Whoever waits until something is known of the backend.
    first_look: Mutex<Option<ReadinessWait>>,
}

/// What is known of a backend at one moment, and how clients get it.
#[derive(Clone, Debug)]
pub(super) struct BackendCatalog {
    pub(super) state: Arc<DiscoveryState>,
    pub(super) terms: Arc<ExposurePolicy>,
    pub(super) settings: HealthSettings,
    /// `None` before the backend's first answer. It may be that of an offer or of terms before these: see [`CatalogBackend::show`].
    pub(super) shown: Option<Arc<AdvertisedOffer>>,
    /// Of what `shown` is made.
    shown_of: Option<(Arc<BackendOffer>, Arc<ExposurePolicy>)>,
}

impl CatalogBackend {
    pub(super) fn new(backend: Backend, terms: Arc<ExposurePolicy>, settings: HealthSettings) -> Self {
        let known = BackendCatalog {
            state: Arc::default(),
            terms,
            settings,
            shown: None,
            shown_of: None,
        };
        Self {
            backend,
            stale: Notify::new(),
            known: ArcSwap::from_pointee(known),
            first_look: Mutex::default(),
        }
    }

    /// Who waits until something is known of the backend; `None` when nobody has to any more.
    pub(super) fn set_first_look(&self, waiting: Option<ReadinessWait>) {
        *self.first_look.lock().unwrap_or_else(PoisonError::into_inner) = waiting;
    }

    /// What is known, and how clients get it. This may take long: it is for the threads of [`Compute`](crate::runtime::compute::Compute).
    pub(super) fn show(&self) -> Arc<BackendCatalog> {
        loop {
            let known = self.known.load_full();
            let Some(offer) = known.state.offer.clone().filter(|_| !known.is_shown()) else {
                return known;
            };
            let terms = Arc::clone(&known.terms);
            let shown = Arc::new(AdvertisedOffer::new(self.backend.name(), &offer, &terms));
            let of = (offer, terms);
            // Another offer or other terms may have come meanwhile: then this is not what is shown, and the next turn is.
            self.change(|known| BackendCatalog {
                shown: Some(Arc::clone(&shown)),
                shown_of: Some(of.clone()),
                ..known.clone()
            });
        }
    }

    pub(super) fn state(&self) -> Arc<DiscoveryState> {
        Arc::clone(&self.known.load().state)
    }

    pub(super) fn terms(&self) -> Arc<ExposurePolicy> {
        Arc::clone(&self.known.load().terms)
    }

    /// Offers the backend on these terms from now on.
    pub(super) fn set_terms(&self, terms: &Arc<ExposurePolicy>) {
        self.change(|known| {
            let mut known = known.clone();
            if known.terms != *terms {
                known.terms = Arc::clone(terms);
            }
            known
        });
    }

    /// How the backend is looked after.
    pub(super) fn settings(&self) -> HealthSettings {
        self.known.load().settings
    }

    /// Looks after the backend in this way from now on.
    pub(super) fn set_settings(&self, settings: HealthSettings) {
        let before = self.change(|known| BackendCatalog {
            settings,
            ..known.clone()
        });
        if before.settings != settings {
            self.stale.notify_one();
        }
    }

    /// Takes the outcome of a look at the backend, and says whether anything changed. What a backend offered stays known while it
    /// fails.
    pub(super) fn observe(&self, outcome: Result<BackendOffer, BackendError>) -> bool {
        match outcome {
            Ok(offer) => {
                let before = self.state();
                let offer = match &before.offer {
                    Some(same) if **same == offer => Arc::clone(same),
                    _ => Arc::new(offer),
                };
                self.change_state(|_, _| DiscoveryState {
                    offer: Some(Arc::clone(&offer)),
                    error: None,
                    health: Health::Healthy,
                    failures: 0,
                })
            }
            Err(error) => self.change_state(|state, settings| state.after(&error, settings.unhealthy_after)),
        }
    }

    /// Takes what the backend offered to another process, unless it has said itself what it offers. Gives back what is known from now
    /// on, if it is this.
    pub(super) fn remember(&self, offer: BackendOffer) -> Option<Arc<BackendOffer>> {
        let offer = Arc::new(offer);
        let is_taken = self.change_state(|state, _| DiscoveryState {
            offer: state.offer.clone().or_else(|| Some(Arc::clone(&offer))),
            ..state.clone()
        });
        is_taken.then(|| {
            self.set_first_look(None);
            offer
        })
    }

    /// Takes the outcome of a probe, and says whether anything changed.
    pub(super) fn probed(&self, outcome: Result<(), BackendError>) -> bool {
        match outcome {
            // Health itself waits for the look that follows: a backend that answers probes alone is of no use.
            Ok(()) => self.change_state(|state, _| DiscoveryState {
                failures: 0,
                ..state.clone()
            }),
            Err(error) => self.change_state(|state, settings| state.after(&error, settings.unhealthy_after)),
        }
    }

    /// Changes the state, and says whether that is a change to others.
    fn change_state(&self, after: impl Fn(&DiscoveryState, &HealthSettings) -> DiscoveryState) -> bool {
        let mut changed = false;
        self.change(|known| {
            let state = after(&known.state, &known.settings);
            changed = !known.state.looks_like(&state);
            BackendCatalog {
                state: Arc::new(state),
                ..known.clone()
            }
        });
        changed
    }

    /// Makes a change, again where another one comes first, and gives back what was known before.
    fn change(&self, after: impl FnMut(&BackendCatalog) -> BackendCatalog) -> Arc<BackendCatalog> {
        let mut after = after;
        self.known.rcu(|known| after(known))
    }
}

impl DiscoveryState {
    /// Whether the gateway does not know the backend as it should, so that it tries again soon.
    pub(super) fn is_troubled(&self) -> bool {
        self.error.is_some()
    }

    /// Whether the backend answers at all.
    pub(super) fn answers(&self) -> bool {
        self.failures == 0
    }

    /// Whether it is the same to others: how often in a row the backend failed is not.
    fn looks_like(&self, other: &Self) -> bool {
        let same_offer = match (&self.offer, &other.offer) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_offer && self.error == other.error && self.health == other.health
    }

    /// The state after `error`. A refusal is a sign of life.
    fn after(&self, error: &BackendError, unhealthy_after: u32) -> Self {
        let failures = if error.is_backend_failure() {
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
            error: Some(error.clone()),
            health,
            failures,
        }
    }
}

impl BackendCatalog {
    /// The same with `lists` in the place of what is known of their kinds.
    pub(super) fn with_lists<'a>(
        &self,
        backend: &BackendName,
        lists: impl Iterator<Item = (ListKind, &'a BackendList)>,
    ) -> Self {
        let nothing = AdvertisedOffer::default();
        let shown = self.shown.as_deref().unwrap_or(&nothing);
        Self {
            shown: Some(Arc::new(shown.with_lists(backend, lists, &self.terms))),
            ..self.clone()
        }
    }

    /// Whether clients get what is known of the offer and the terms.
    fn is_shown(&self) -> bool {
        let now = (self.state.offer.as_ref(), &self.terms);
        let same = |(offer, terms): &(Arc<BackendOffer>, Arc<ExposurePolicy>)| {
            now.0.is_some_and(|now| Arc::ptr_eq(now, offer)) && Arc::ptr_eq(now.1, terms)
        };
        self.shown_of.as_ref().is_some_and(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::test_util::{backend, offer};

    #[tokio::test]
    async fn what_a_backend_offered_stays_known_while_it_fails() {
        let member = CatalogBackend::new(backend("a"), Arc::default(), HealthSettings::default());
        assert!(member.show().shown.is_none());
        assert!(member.observe(Ok(offer(&["x"]))));
        assert!(!member.observe(Ok(offer(&["x"]))), "nothing changed");
        assert!(member.observe(Err(BackendError::status(500))));
        assert!(!member.observe(Err(BackendError::status(500))), "nothing changed");
        assert_eq!(member.state().offer.as_deref(), Some(&offer(&["x"])));
        assert!(member.observe(Ok(offer(&["x"]))), "it recovered");
    }

    #[tokio::test]
    async fn it_is_degraded_before_it_is_unavailable_and_a_refusal_is_a_sign_of_life() {
        let member = CatalogBackend::new(backend("a"), Arc::default(), HealthSettings::default());
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
        member.observe(Err(BackendError::status(401)));
        assert_eq!(health(), Health::Degraded);
        member.observe(Ok(offer(&["x"])));
        assert_eq!(health(), Health::Healthy);
    }
}
