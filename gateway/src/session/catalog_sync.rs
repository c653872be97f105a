//! What backends offer, kept in the store for processes that start.
//!
//! A process that starts asks each backend itself what it offers, and one that hangs does not say. So every process keeps in the store
//! what it was told, and a new one begins with that: it lists the tools of such a backend, and knows which of them a call names. What
//! the backend says itself replaces it.
//!
//! Every process writes what is new to it, and they all write the same. When the store has lost its data, everything is written again,
//! and so it is once a day, so that it does not expire. What is there of a backend that is not configured any more is removed by whoever
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

/// How often everything is written again.
const ROUND: Duration = Duration::from_secs(24 * 60 * 60);
/// How long changes wait to be written together.
const GATHER: Duration = Duration::from_secs(1);
/// The pause before a store that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What the store has, as far as this process knows: of each backend the offer, or `None` where it is not known to be right.
type Kept = HashMap<String, Option<Arc<BackendOffer>>>;

impl Sessions {
    /// Gives the catalogue what the store knows, and the store what the catalogue learns.
    pub(super) async fn share_offers(self, loading: ReadinessWait) {
        let inner = &*self.inner;
        let mut news = inner.core.catalog().news();
        let mut kept = loop {
            match self.load_offers().await {
                Ok(kept) => break kept,
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        };
        drop(loading);
        let mut removes_strangers = false;
        loop {
            tokio::time::sleep(GATHER).await;
            news.mark_unchanged();
            let failed = self.keep_offers(&mut kept, removes_strangers).await.is_err();
            let pause = if failed { ASK_AGAIN } else { ROUND };
            removes_strangers &= failed;
            tokio::select! {
                // It cannot fail: the catalogue lives as long as we do.
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
                "the store knows what the backend offers"
            );
        }
        Ok(remembered.into_iter().collect())
    }

    async fn keep_offers(&self, kept: &mut Kept, removes_strangers: bool) -> Result<(), StoreError> {
        let store = &self.inner.store;
        let catalog = self.inner.core.catalog();
        for (backend, offer) in catalog.offers() {
            let name = backend.name().as_str();
            if matches!(kept.get(name), Some(Some(same)) if Arc::ptr_eq(same, &offer)) {
                continue;
            }
            let bytes = written(&backend, &offer).await;
            if bytes.is_none() {
                tracing::warn!(
                    backend = name,
                    "the backend offers too much to be kept in the store"
                );
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
