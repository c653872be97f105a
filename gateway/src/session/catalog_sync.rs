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
//! had it, and otherwise by the daily round: while a configuration is being rolled out, some processes have backends that others do not
//! know yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Sessions;
use super::store::StoreError;
use crate::catalog::{BackendOffer, written};
use crate::runtime::readiness::ReadinessWait;
use crate::session::recovery::outage::StoreOperation;

/// Interval at which everything is written again.
const ROUND: Duration = Duration::from_secs(24 * 60 * 60);
/// Time for which changes are collected before they are written.
const BATCH_WINDOW: Duration = Duration::from_secs(1);
/// Pause before a failed store operation is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Per backend, the lists that this process knows to be in the store; `None` if it cannot be sure.
type Kept = HashMap<String, Option<Arc<BackendOffer>>>;

impl Sessions {
    /// Loads the persisted lists into the catalog, then writes the catalog's changes to the store.
    pub(super) async fn sync_catalog(self, loading: ReadinessWait) {
        let inner = &*self.inner;
        let mut news = inner.core.catalog().news();
        let mut kept = loop {
            match self.load_offers().await {
                Ok(kept) => break kept,
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        };
        drop(loading);
        let mut removes_strangers = false;
        loop {
            tokio::time::sleep(BATCH_WINDOW).await;
            news.mark_unchanged();
            let failed = self.save_offers(&mut kept, removes_strangers).await.is_err();
            let pause = if failed { RETRY_PAUSE } else { ROUND };
            removes_strangers &= failed;
            tokio::select! {
                // Cannot fail: the catalog holds the sender and outlives this task.
                _ = news.changed() => {}
                () = inner.data_lost.notified() => kept.clear(),
                () = tokio::time::sleep(pause) => {
                    if !failed {
                        kept.values_mut().for_each(|offer| *offer = None);
                        removes_strangers = true;
                    }
                }
            }
        }
    }

    async fn load_offers(&self) -> Result<Kept, StoreError> {
        let stored = self.observed(StoreOperation::Offers, self.inner.store.offers().await)?;
        let remembered = self.inner.core.catalog().remember(stored).await;
        for (backend, offer) in &remembered {
            tracing::debug!(
                backend,
                used = offer.is_some(),
                "loaded persisted lists of backend"
            );
        }
        Ok(remembered.into_iter().collect())
    }

    async fn save_offers(&self, kept: &mut Kept, removes_strangers: bool) -> Result<(), StoreError> {
        let store = &self.inner.store;
        let catalog = self.inner.core.catalog();
        for (backend, offer) in catalog.offers() {
            let name = backend.name().as_str();
            if matches!(kept.get(name), Some(Some(same)) if Arc::ptr_eq(same, &offer)) {
                continue;
            }
            let bytes = written(&backend, &offer).await;
            if bytes.is_none() {
                tracing::warn!(backend = name, "lists of backend are too large to persist");
            }
            self.observed(
                StoreOperation::Offers,
                store.keep_offer(name, bytes.as_deref()).await,
            )?;
            kept.insert(name.to_owned(), Some(offer));
        }
        let strangers = kept.iter().filter(|(name, offer)| {
            (offer.is_some() || removes_strangers) && catalog.backend(name).is_none()
        });
        let strangers: Vec<_> = strangers.map(|(name, _)| name.clone()).collect();
        for name in strangers {
            self.observed(StoreOperation::Offers, store.keep_offer(&name, None).await)?;
            kept.remove(&name);
        }
        Ok(())
    }
}
