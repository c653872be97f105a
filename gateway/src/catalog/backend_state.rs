//! What the catalog knows of one backend: its last offer, its health, and the items that clients are shown.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use vmcp_crds::status::Health;

use crate::backend::{Backend, BackendError, BackendList, ListKind};
use crate::catalog::exposure::{AdvertisedOffer, BackendOffer};
use crate::config::{BackendName, ExposurePolicy, HealthSettings};
use crate::runtime::readiness::ReadinessWait;

/// Result of the discovery of one backend: its last offer, its last error, and its health.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryState {
    /// The last successful offer. It is kept while the backend fails, so that its names stay; `None` before the first answer.
    pub offer: Option<Arc<BackendOffer>>,
    /// The error of the last discovery or probe; `None` after a success.
    pub error: Option<BackendError>,
    /// Health as discovery and probes see it. [`Catalog::health`](super::Catalog::health) adds the state of the circuit breaker.
    pub health: Health,
    /// Consecutive failed attempts to reach the backend. Zero after any answer, also after a JSON-RPC error.
    failures: u32,
}

/// One backend and its current [`BackendCatalog`], which readers load without a lock.
#[derive(Debug)]
pub(super) struct CatalogBackend {
    pub(super) backend: Backend,
    /// Requests another discovery. It stores one permit at most, so that any number of requests during a discovery lead to one more.
    pub(super) stale: Notify,
    known: ArcSwap<BackendCatalog>,
    /// Holds back readiness until the first discovery ends, or the stored catalog is read.
    first_discovery: Mutex<Option<ReadinessWait>>,
}

/// Everything that is known of a backend at one moment.
#[derive(Clone, Debug)]
pub(super) struct BackendCatalog {
    pub(super) state: Arc<DiscoveryState>,
    pub(super) policy: Arc<ExposurePolicy>,
    pub(super) settings: HealthSettings,
    /// `None` before the backend's first answer. May have been made of an older offer or policy: [`CatalogBackend::advertise`] updates it.
    pub(super) advertised: Option<Arc<AdvertisedOffer>>,
    /// The offer and the policy of which `advertised` was made.
    advertised_of: Option<(Arc<BackendOffer>, Arc<ExposurePolicy>)>,
}

impl CatalogBackend {
    pub(super) fn new(backend: Backend, policy: Arc<ExposurePolicy>, settings: HealthSettings) -> Self {
        let known = BackendCatalog {
            state: Arc::default(),
            policy,
            settings,
            advertised: None,
            advertised_of: None,
        };
        Self {
            backend,
            stale: Notify::new(),
            known: ArcSwap::from_pointee(known),
            first_discovery: Mutex::default(),
        }
    }

    /// Sets what readiness waits for; `None` ends the wait.
    pub(super) fn set_first_discovery(&self, waiting: Option<ReadinessWait>) {
        *self
            .first_discovery
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = waiting;
    }

    /// Returns the current state, with `advertised` made of the current offer and policy. CPU-heavy for a large offer: call it on the threads of
    /// [`ComputePool`](crate::runtime::compute::ComputePool).
    pub(super) fn advertise(&self) -> Arc<BackendCatalog> {
        loop {
            let known = self.known.load_full();
            let Some(offer) = known
                .state
                .offer
                .clone()
                .filter(|_| !known.is_advertised_current())
            else {
                return known;
            };
            let policy = Arc::clone(&known.policy);
            let advertised = Arc::new(AdvertisedOffer::new(self.backend.name(), &offer, &policy));
            let of = (offer, policy);
            // Loop: the offer or the policy may have changed while this was computed.
            self.change(|known| BackendCatalog {
                advertised: Some(Arc::clone(&advertised)),
                advertised_of: Some(of.clone()),
                ..known.clone()
            });
        }
    }

    pub(super) fn state(&self) -> Arc<DiscoveryState> {
        Arc::clone(&self.known.load().state)
    }

    pub(super) fn policy(&self) -> Arc<ExposurePolicy> {
        Arc::clone(&self.known.load().policy)
    }

    /// Replaces the exposure policy. An equal one is ignored, so that the offer is not computed again.
    pub(super) fn set_policy(&self, policy: &Arc<ExposurePolicy>) {
        self.change(|known| {
            let mut known = known.clone();
            if known.policy != *policy {
                known.policy = Arc::clone(policy);
            }
            known
        });
    }

    /// Interval, timeout and threshold of the health checks.
    pub(super) fn settings(&self) -> HealthSettings {
        self.known.load().settings
    }

    /// Replaces the settings of the health checks; a change requests another discovery.
    pub(super) fn set_settings(&self, settings: HealthSettings) {
        let before = self.change(|known| BackendCatalog {
            settings,
            ..known.clone()
        });
        if before.settings != settings {
            self.stale.notify_one();
        }
    }

    /// Records the outcome of a discovery, and returns whether anything changed for others. A failed backend keeps its last offer.
    pub(super) fn record_discovery(&self, outcome: Result<BackendOffer, BackendError>) -> bool {
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
            Err(error) => {
                self.change_state(|state, settings| state.after_failure(&error, settings.unhealthy_after))
            }
        }
    }

    /// Takes an offer that another process stored, unless this process has an answer of the backend already. Returns the offer if it was
    /// taken.
    pub(super) fn restore(&self, offer: BackendOffer) -> Option<Arc<BackendOffer>> {
        let offer = Arc::new(offer);
        let is_taken = self.change_state(|state, _| DiscoveryState {
            offer: state.offer.clone().or_else(|| Some(Arc::clone(&offer))),
            ..state.clone()
        });
        is_taken.then(|| {
            self.set_first_discovery(None);
            offer
        })
    }

    /// Records the outcome of a probe, and returns whether anything changed for others.
    pub(super) fn record_probe(&self, outcome: Result<(), BackendError>) -> bool {
        match outcome {
            // A successful ping does not make the backend healthy, because one that answers only pings is of no use: the discovery that
            // follows decides.
            Ok(()) => self.change_state(|state, _| DiscoveryState {
                failures: 0,
                ..state.clone()
            }),
            Err(error) => {
                self.change_state(|state, settings| state.after_failure(&error, settings.unhealthy_after))
            }
        }
    }

    /// Changes the state, and returns whether the change is visible to others.
    fn change_state(&self, after: impl Fn(&DiscoveryState, &HealthSettings) -> DiscoveryState) -> bool {
        let mut changed = false;
        self.change(|known| {
            let state = after(&known.state, &known.settings);
            changed = !known.state.is_same_for_clients(&state);
            BackendCatalog {
                state: Arc::new(state),
                ..known.clone()
            }
        });
        changed
    }

    /// Applies `after` until no other change comes in between (`ArcSwap::rcu`), and returns the previous state.
    fn change(&self, after: impl FnMut(&BackendCatalog) -> BackendCatalog) -> Arc<BackendCatalog> {
        let mut after = after;
        self.known.rcu(|known| after(known))
    }
}

impl DiscoveryState {
    /// Whether the last attempt failed, so that discovery tries again soon.
    pub(super) fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// Whether the backend answered the last attempt, if only with an error.
    pub(super) fn is_answering(&self) -> bool {
        self.failures == 0
    }

    /// Whether both states are the same for others. The count of failures is internal.
    fn is_same_for_clients(&self, other: &Self) -> bool {
        let same_offer = match (&self.offer, &other.offer) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_offer && self.error == other.error && self.health == other.health
    }

    /// The state after `error`. An error response counts as a sign of life: such a backend is degraded and not unavailable.
    fn after_failure(&self, error: &BackendError, unhealthy_after: u32) -> Self {
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
    /// Replaces the items of the kinds in `lists`, and keeps those of the other kinds.
    pub(super) fn with_lists<'a>(
        &self,
        backend: &BackendName,
        lists: impl Iterator<Item = (ListKind, &'a BackendList)>,
    ) -> Self {
        let nothing = AdvertisedOffer::default();
        let advertised = self.advertised.as_deref().unwrap_or(&nothing);
        Self {
            advertised: Some(Arc::new(advertised.with_lists(backend, lists, &self.policy))),
            ..self.clone()
        }
    }

    /// Whether `advertised` was made of the current offer and policy.
    fn is_advertised_current(&self) -> bool {
        let now = (self.state.offer.as_ref(), &self.policy);
        let same = |(offer, policy): &(Arc<BackendOffer>, Arc<ExposurePolicy>)| {
            now.0.is_some_and(|now| Arc::ptr_eq(now, offer)) && Arc::ptr_eq(now.1, policy)
        };
        self.advertised_of.as_ref().is_some_and(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::test_util::{backend, offer};

    #[tokio::test]
    async fn failing_backend_keeps_its_last_offer() {
        let member = CatalogBackend::new(backend("a"), Arc::default(), HealthSettings::default());
        assert!(member.advertise().advertised.is_none());
        assert!(member.record_discovery(Ok(offer(&["x"]))));
        assert!(!member.record_discovery(Ok(offer(&["x"]))), "nothing changed");
        assert!(member.record_discovery(Err(BackendError::status(500))));
        assert!(
            !member.record_discovery(Err(BackendError::status(500))),
            "nothing changed"
        );
        assert_eq!(member.state().offer.as_deref(), Some(&offer(&["x"])));
        assert!(member.record_discovery(Ok(offer(&["x"]))), "it recovered");
    }

    /// A backend is degraded before it is unavailable, and an error response counts as a sign of life.
    #[tokio::test]
    async fn backend_is_degraded_before_unavailable() {
        let member = CatalogBackend::new(backend("a"), Arc::default(), HealthSettings::default());
        let health = || member.state().health;
        let fail = || member.record_probe(Err(BackendError::Unreachable("refused".to_owned())));
        member.set_settings(HealthSettings {
            unhealthy_after: 3,
            ..HealthSettings::default()
        });
        fail();
        assert_eq!(health(), Health::Unknown, "nothing was ever known of it");
        member.record_discovery(Ok(offer(&["x"])));
        assert_eq!(health(), Health::Healthy);
        fail();
        fail();
        assert_eq!(health(), Health::Degraded);
        assert!(fail(), "a change");
        assert_eq!(health(), Health::Unavailable);
        member.record_probe(Ok(()));
        fail();
        assert_eq!(health(), Health::Unavailable, "only a look makes it healthy");
        member.record_discovery(Err(BackendError::status(401)));
        assert_eq!(health(), Health::Degraded);
        member.record_discovery(Ok(offer(&["x"])));
        assert_eq!(health(), Health::Healthy);
    }
}
