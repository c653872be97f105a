//! The observed state: from the watches, or from the last write while the watches have not caught up with it.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt as _};

use super::Reconciler;
use crate::desired::{labels, names};
use crate::server_state::{ServerState, is_later};
use crate::workload::Workload;
use crate::{mappers, owner};

impl<W: Workload> Reconciler<'_, W> {
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
        let name = names::workload(self.server);
        let watched = self
            .context
            .stores
            .deployments
            .get(&ObjectRef::new(&name).within(&self.namespace));
        let version = |deployment: &Deployment| deployment.metadata.resource_version.clone();
        match (&state.deployment, watched) {
            (Some(applied), Some(watched))
                if is_later(version(applied).as_deref(), version(&watched).as_deref()) =>
            {
                Some(Arc::new(applied.clone()))
            }
            (_, watched) => watched,
        }
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
    /// An autoscaler neither leaves nor changes a count of zero, so `spec.replicas` is used to reach it and to leave it.
    pub(super) fn overriding_autoscaler(&self, state: &ServerState<W::Status>) -> Option<String> {
        let current = self.deployment(state)?.spec.replicas;
        if [current, self.server.replicas()]
            .iter()
            .any(|count| count.unwrap_or(0) == 0)
        {
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
