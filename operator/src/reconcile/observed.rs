//! The observed state: from the watches, or from the last write while the watches have not caught up with it.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt as _};

use super::Reconciler;
use crate::desired::{labels, names};
use crate::replica_handover::owns_replicas;
use crate::server_state::{ServerState, is_later};
use crate::workload::Workload;
use crate::{mappers, owner};

impl<W: Workload> Reconciler<'_, W> {
    /// Drops the results of writes that the watches show by now. They would be in memory twice.
    pub(super) fn forget_watched_writes(&self, state: &mut ServerState<W::Status>) {
        let watched = self.server.meta().resource_version.as_deref();
        state.written_status = state
            .written_status
            .take()
            .filter(|(version, _)| is_later(Some(version), watched));
        let watched = self.watched_deployment();
        state.deployment = state
            .deployment
            .take()
            // Without a watched one it may be deleted. If so, this reconcile creates it again.
            .filter(|applied| watched.is_some_and(|watched| is_newer(applied, &watched)));
    }

    /// The current status: the one that the watch shows, or the one last written if it is newer. Without the conditions of other writers, which
    /// the operator neither changes nor removes.
    pub(super) fn current_status(&self, state: &ServerState<W::Status>) -> W::Status {
        let watched = self.server.meta().resource_version.as_deref();
        match &state.written_status {
            Some((version, status)) if is_later(Some(version), watched) => status.clone(),
            _ => {
                let mut status = self.server.status().cloned().unwrap_or_default();
                W::conditions_mut(&mut status)
                    .retain(|condition| W::CONDITIONS.contains(&condition.type_.as_str()));
                status
            }
        }
    }

    /// The current Deployment: the one that the watch shows, or the one last applied if it is newer.
    pub(super) fn deployment(&self, state: &ServerState<W::Status>) -> Option<Arc<Deployment>> {
        let watched = self.watched_deployment();
        match &state.deployment {
            Some(applied) if watched.as_ref().is_none_or(|watched| is_newer(applied, watched)) => {
                Some(applied.clone())
            }
            _ => watched,
        }
    }

    fn watched_deployment(&self) -> Option<Arc<Deployment>> {
        let name = names::workload(self.server);
        let deployments = &self.context.stores.deployments;
        deployments.get(&ObjectRef::new(&name).within(&self.namespace))
    }

    /// The highest replica count to expect: from the spec, the live Deployment, or an autoscaler's maximum.
    pub(super) fn expected_replicas(&self, state: &ServerState<W::Status>) -> i32 {
        let deployment = self.deployment(state);
        let live = deployment.and_then(|deployment| deployment.spec.replicas);
        let current = self.server.replicas().or(live).unwrap_or(1);
        let autoscalers = self.context.stores.autoscalers.state_filter(|autoscaler| {
            autoscaler.metadata.namespace.as_deref() == Some(&self.namespace)
                && mappers::scales(autoscaler, self.server)
        });
        let maximums = autoscalers.iter().map(|autoscaler| autoscaler.spec.max_replicas);
        maximums.max().unwrap_or(0).max(current)
    }

    /// The name of an autoscaler of another owner that scales the Deployment instead of `spec.replicas`: each would undo the count of the other.
    /// A HorizontalPodAutoscaler neither leaves nor changes a count of zero, so `spec.replicas` is used to reach zero, and to leave a zero that it
    /// has set. A zero of another client stays: tools such as KEDA scale to zero beside a HorizontalPodAutoscaler.
    pub(super) fn overriding_autoscaler(&self, state: &ServerState<W::Status>) -> Option<String> {
        let live = self.deployment(state)?;
        let is_own_zero = live.spec.replicas.unwrap_or(0) == 0 && owns_replicas(&live);
        if self.server.replicas().unwrap_or(0) == 0 || is_own_zero {
            return None;
        }
        let autoscalers = self.context.stores.autoscalers.state_filter(|autoscaler| {
            autoscaler.metadata.namespace.as_deref() == Some(&self.namespace)
                && mappers::scales_deployment(autoscaler, self.server)
                && !owner::is_controlled_by(autoscaler, self.server)
        });
        autoscalers.iter().map(|autoscaler| autoscaler.name_any()).min()
    }

    /// The objects in a store that have this resource's labels.
    pub(super) fn labeled_objects<K>(&self, store: &Store<K>) -> Vec<Arc<K>>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        let name = self.server.name_any();
        store.state_filter(|object| {
            object.meta().namespace.as_deref() == Some(&self.namespace)
                && object.labels().get(labels::INSTANCE) == Some(&name)
                && object.labels().get(labels::NAME).map(String::as_str) == Some(W::APPLICATION)
        })
    }
}

/// Whether `applied` is a later version of the Deployment than `watched`.
fn is_newer(applied: &Deployment, watched: &Deployment) -> bool {
    let (applied, watched) = (&applied.metadata, &watched.metadata);
    is_later(
        applied.resource_version.as_deref(),
        watched.resource_version.as_deref(),
    )
}
