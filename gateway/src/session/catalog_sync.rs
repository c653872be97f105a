//! Persisted catalog: keeps each backend's lists in the store for processes that start.
//!
//! A starting process asks every backend for its lists, and a backend that hangs does not answer. With the persisted
//! lists the process can still list that backend's tools and route calls to them. The backend's own answer replaces
//! them.
//!
//! Every process writes what is new to it; all write the same. Everything is written again after the store has lost
//! its data, and once a day so that it does not expire. The lists of a backend that is no longer configured are
//! removed by a process that had it, and otherwise in the daily round: during a rollout some processes have backends
//! that others do not know yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::recovery::lost_data::Recovery;
use super::recovery::observed_store::ObservedStore;
use super::store::StoreError;
use crate::catalog::{BackendOffer, encode_offer};
use crate::core::Core;
use crate::runtime::readiness::ReadinessWait;

/// Interval at which everything is written again.
const REWRITE_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// Time for which changes are collected before they are written.
const BATCH_WINDOW: Duration = Duration::from_secs(1);
/// Pause before a failed store operation is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Per backend, the lists that this process knows to be in the store; `None` if it cannot be sure.
type SavedLists = HashMap<String, Option<Arc<BackendOffer>>>;

/// Keeps the lists in the store equal to the catalog's.
#[derive(Debug)]
pub(super) struct CatalogSync {
    store: Arc<ObservedStore>,
    core: Core,
    recovery: Recovery,
}

impl CatalogSync {
    pub(super) fn new(store: Arc<ObservedStore>, core: Core, recovery: Recovery) -> Self {
        Self {
            store,
            core,
            recovery,
        }
    }

    /// Loads the persisted lists into the catalog, then drops `loading` and writes the catalog's changes to the
    /// store. Runs until the process drains.
    pub(super) async fn run(self, loading: ReadinessWait) {
        let mut news = self.core.catalog().any_changes();
        let mut saved = loop {
            match self.load_offers().await {
                Ok(saved) => break saved,
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        };
        drop(loading);
        let mut removes_unconfigured = false;
        loop {
            tokio::time::sleep(BATCH_WINDOW).await;
            news.mark_unchanged();
            let failed = self.save_offers(&mut saved, removes_unconfigured).await.is_err();
            let pause = if failed { RETRY_PAUSE } else { REWRITE_INTERVAL };
            removes_unconfigured &= failed;
            tokio::select! {
                // Cannot fail: the catalog holds the sender and outlives this task.
                _ = news.changed() => {}
                () = self.recovery.data_lost() => saved.clear(),
                () = tokio::time::sleep(pause) => {
                    if !failed {
                        saved.values_mut().for_each(|offer| *offer = None);
                        removes_unconfigured = true;
                    }
                }
            }
        }
    }

    async fn load_offers(&self) -> Result<SavedLists, StoreError> {
        let stored = self.store.offers().await?;
        let loaded = self.core.catalog().restore(stored).await;
        for (backend, offer) in &loaded {
            tracing::debug!(
                backend,
                used = offer.is_some(),
                "loaded persisted lists of backend"
            );
        }
        Ok(loaded.into_iter().collect())
    }

    async fn save_offers(
        &self,
        saved: &mut SavedLists,
        removes_unconfigured: bool,
    ) -> Result<(), StoreError> {
        let catalog = self.core.catalog();
        for (backend, offer) in catalog.offers() {
            let name = backend.name().as_str();
            if matches!(saved.get(name), Some(Some(same)) if Arc::ptr_eq(same, &offer)) {
                continue;
            }
            let bytes = encode_offer(&backend, &offer).await;
            if bytes.is_none() {
                tracing::warn!(backend = name, "lists of backend are too large to persist");
            }
            self.store.keep_offer(name, bytes.as_deref()).await?;
            saved.insert(name.to_owned(), Some(offer));
        }
        let unconfigured = saved.iter().filter(|(name, offer)| {
            (offer.is_some() || removes_unconfigured) && catalog.backend(name).is_none()
        });
        let unconfigured: Vec<_> = unconfigured.map(|(name, _)| name.clone()).collect();
        for name in unconfigured {
            self.store.keep_offer(&name, None).await?;
            saved.remove(&name);
        }
        Ok(())
    }
}
