//! Applies the children of a virtual server, or of a server, and deletes those that are no longer needed.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use kube::runtime::reflector::{ObjectRef, Store};
use serde::Serialize;

use super::Reconciler;
use crate::api_server::NamespacedObject;
use crate::apply::apply;
use crate::desired::{Children, labels, names};
use crate::error::Error;
use crate::server_state::ServerState;
use crate::workload::Workload;
use crate::{events, owned_fields, owner, prune, replica_handover, undone_changes};

impl Reconciler<'_> {
    pub(super) async fn apply_children(
        &self,
        state: &mut ServerState,
        children: &Children,
    ) -> Result<(), Error> {
        let stores = &self.context.stores;
        self.note_adoption(state);
        let workload = names::workload(self.server);
        if let Some(account) = &children.service_account {
            self.apply_child(state, &stores.service_accounts, account).await?;
        }
        self.apply_child(state, &stores.config_maps, &children.startup)
            .await?;
        // The first part names the hash of the whole, so it is the last.
        for part in children.hot.iter().rev() {
            self.apply_child(state, &stores.config_maps, part).await?;
        }
        self.apply_child(state, &stores.services, &children.service)
            .await?;
        match &children.disruption_budget {
            Some(budget) => drop(
                self.apply_child(state, &stores.disruption_budgets, budget)
                    .await?,
            ),
            None => self.remove_child(&stores.disruption_budgets, &workload).await?,
        }
        match &children.network_policy {
            Some(policy) => drop(self.apply_child(state, &stores.network_policies, policy).await?),
            None => self.remove_child(&stores.network_policies, &workload).await?,
        }
        match &children.autoscaler {
            Some(autoscaler) => drop(
                self.apply_child(state, &stores.own_autoscalers, autoscaler)
                    .await?,
            ),
            None => self.remove_child(&stores.own_autoscalers, &workload).await?,
        }
        match &children.metrics_service {
            Some(service) => drop(self.apply_child(state, &stores.services, service).await?),
            None => {
                let name = names::metrics_service(self.server);
                self.remove_child(&stores.services, &name).await?;
            }
        }
        self.apply_deployment(state, &children.deployment).await
    }

    pub(super) async fn remove_unused_configs(
        &self,
        state: &ServerState,
        hot: &[ConfigMap],
    ) -> Result<(), Error> {
        let Some(deployment) = self.deployment(state) else {
            return Ok(());
        };
        // A ReplicaSet that is not known may use a ConfigMap.
        if self.context.stores.health.refusal::<ReplicaSet>().is_some() {
            return Ok(());
        }
        let sets = self.labeled_objects(&self.context.stores.replica_sets);
        let config_maps = self.labeled_objects(&self.context.stores.config_maps);
        let sets = sets.iter().map(|set| &**set);
        let config_maps = config_maps.iter().map(|config_map| &**config_map);
        let unused = prune::unused_startup_configs(self.server, &deployment, sets, config_maps.clone());
        let unused_parts = prune::unused_hot_parts(self.server, hot, config_maps);
        for unused in unused.into_iter().chain(unused_parts) {
            self.delete::<ConfigMap>(unused).await?;
        }
        Ok(())
    }
}

impl<W: Workload> Reconciler<'_, W> {
    /// Takes over orphans in this reconcile, if an annotation asks for it.
    pub(super) fn note_adoption(&self, state: &mut ServerState<W::Status>) {
        let adopts = self.server.annotations().get(labels::ADOPT_ORPHANS);
        state.applied.adopts_orphans = adopts.is_some_and(|value| value == "true");
    }

    /// Applies one child, unless it is unchanged since the last apply.
    pub(super) async fn apply_child<K>(
        &self,
        state: &mut ServerState<W::Status>,
        store: &Store<K>,
        child: &K,
    ) -> Result<Option<K>, Error>
    where
        K: NamespacedObject + Serialize + 'static,
    {
        let child = self.marked(child);
        // A child that is not known would be applied in every reconcile.
        if self.context.stores.health.refusal::<K>().is_some() && state.applied.has_intent(&child) {
            return Ok(None);
        }
        let live = store.get(&ObjectRef::from_obj(&child));
        if self.yields_to_other_installation(state, live.as_deref()) {
            return Ok(None);
        }
        self.write_child(state, &child, live.as_deref()).await
    }

    /// Applies the Deployment. If it stops setting the replica count, the count is handed over first.
    pub(super) async fn apply_deployment(
        &self,
        state: &mut ServerState<W::Status>,
        deployment: &Deployment,
    ) -> Result<(), Error> {
        if let Some(live) = self.deployment(state)
            && let Some(count) = replica_handover::replicas_to_hand_over(deployment.spec.replicas, &live)
        {
            replica_handover::hand_over(&self.context.client, &live, count).await?;
        }
        let deployments = &self.context.stores.deployments;
        if let Some(mut applied) = self.apply_child(state, deployments, deployment).await? {
            owned_fields::compact(&mut applied);
            state.deployment_generation = applied.metadata.generation;
            state.deployment = Some(Arc::new(applied));
        }
        Ok(())
    }

    /// `child` with the mark of this installation.
    pub(super) fn marked<K: NamespacedObject>(&self, child: &K) -> K {
        let mut child = child.clone();
        let annotations = child.meta_mut().annotations.get_or_insert_default();
        annotations.insert(labels::INSTALLATION.to_owned(), self.context.installation.clone());
        child
    }

    /// Whether this installation leaves the children to another one, after a look at the mark of `live`.
    pub(super) fn yields_to_other_installation<K>(
        &self,
        state: &mut ServerState<W::Status>,
        live: Option<&K>,
    ) -> bool
    where
        K: NamespacedObject + Serialize,
    {
        if let Some(live) = live
            && let Some(mark) = live.annotations().get(labels::INSTALLATION)
            && *mark != self.context.installation
            && state.applied.is_overwritten(live)
        {
            state.installation_conflict.record(mark);
        }
        state.installation_conflict.yields()
    }

    /// Applies a marked child, unless it is unchanged since the last apply. An Event reports a change of another client that this undoes.
    pub(super) async fn write_child<K>(
        &self,
        state: &mut ServerState<W::Status>,
        child: &K,
        live: Option<&K>,
    ) -> Result<Option<K>, Error>
    where
        K: NamespacedObject + Serialize,
    {
        let is_other = |mark: &String| *mark != self.context.installation;
        let edited = live.filter(|live| {
            !live.annotations().get(labels::INSTALLATION).is_some_and(is_other)
                && state.applied.is_overwritten(*live)
                && state.applied.has_intent(child)
        });
        let applied = apply(&self.context.client, &mut state.applied, child, live).await?;
        if let Some(applied) = &applied {
            self.context.metrics.record_apply(&K::kind(&()));
            if let Some(change) = edited.and_then(|edited| undone_changes::describe(child, edited, applied)) {
                self.publish_event(&events::change_undone(&change, applied.object_ref(&())))
                    .await;
            }
        }
        Ok(applied)
    }

    /// Deletes the child of this kind and name, if it exists.
    pub(super) async fn remove_child<K: NamespacedObject + 'static>(
        &self,
        store: &Store<K>,
        name: &str,
    ) -> Result<(), Error> {
        match store.get(&ObjectRef::new(name).within(&self.namespace)) {
            Some(child) if owner::is_controlled_by(&*child, self.server) => self.delete::<K>(&child).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn delete<K: NamespacedObject>(&self, object: &K) -> Result<(), Error> {
        let name = object.name_any();
        match self.objects::<K>()?.delete(object).await {
            Ok(()) => {
                tracing::info!(kind = %K::kind(&()), namespace = self.namespace, name, "deleted unused object");
                Ok(())
            }
            Err(gone) if gone.is_conflict() => Ok(()),
            Err(failed) => Err(failed),
        }
    }
}
