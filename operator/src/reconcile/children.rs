//! The writes of a look: children that are wanted, and those that are not.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::runtime::reflector::{ObjectRef, Store};
use serde::Serialize;

use super::Look;
use crate::api_server::Object;
use crate::apply::apply;
use crate::desired::{Children, names};
use crate::error::Error;
use crate::memory::Memory;
use crate::{owner, replicas, unused};

impl Look<'_> {
    pub(super) async fn apply_children(&self, memory: &mut Memory, children: &Children) -> Result<(), Error> {
        let stores = &self.context.stores;
        self.put(memory, &stores.service_accounts, &children.service_account)
            .await?;
        self.put(memory, &stores.config_maps, &children.startup).await?;
        self.put(memory, &stores.config_maps, &children.hot).await?;
        self.put(memory, &stores.services, &children.service).await?;
        match &children.disruption_budget {
            Some(budget) => drop(self.put(memory, &stores.disruption_budgets, budget).await?),
            None => self.remove_disruption_budget().await?,
        }
        if let Some(live) = self.deployment(memory)
            && let Some(count) = replicas::to_hand_over(self.server.spec.replicas, &live)
        {
            replicas::hand_over(&self.context.client, &live, count).await?;
        }
        if let Some(applied) = self
            .put(memory, &stores.deployments, &children.deployment)
            .await?
        {
            memory.deployment = Some(applied);
        }
        Ok(())
    }

    /// Applies one child, unless nothing of it has changed.
    pub(super) async fn put<K>(
        &self,
        memory: &mut Memory,
        store: &Store<K>,
        child: &K,
    ) -> Result<Option<K>, Error>
    where
        K: Object + Serialize + 'static,
    {
        let live = store.get(&ObjectRef::from_obj(child));
        let applied = apply(&self.context.client, &mut memory.applied, child, live.as_deref()).await?;
        if applied.is_some() {
            self.context.metrics.applied(&K::kind(&()));
        }
        Ok(applied)
    }

    pub(super) async fn remove_disruption_budget(&self) -> Result<(), Error> {
        let name = names::workload(self.server);
        let store = &self.context.stores.disruption_budgets;
        match store.get(&ObjectRef::new(&name).within(&self.namespace)) {
            Some(budget) if owner::is_controlled_by(&*budget, self.server) => {
                self.delete::<PodDisruptionBudget>(&budget).await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn remove_unused_configs(&self, memory: &Memory) -> Result<(), Error> {
        let Some(deployment) = self.deployment(memory) else {
            return Ok(());
        };
        let sets = self.mine(&self.context.stores.replica_sets);
        let config_maps = self.mine(&self.context.stores.config_maps);
        let sets = sets.iter().map(|set| &**set);
        let config_maps = config_maps.iter().map(|config_map| &**config_map);
        for unused in unused::startup_configs(self.server, &deployment, sets, config_maps) {
            self.delete::<ConfigMap>(unused).await?;
        }
        Ok(())
    }

    pub(super) async fn delete<K: Object>(&self, object: &K) -> Result<(), Error> {
        let name = object.name_any();
        match self.objects::<K>()?.delete(object).await {
            Ok(()) => {
                tracing::info!(kind = %K::kind(&()), namespace = self.namespace, name, "deleted what is not needed");
                Ok(())
            }
            Err(gone) if gone.is_conflict() => Ok(()),
            Err(failed) => Err(failed),
        }
    }
}
