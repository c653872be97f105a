//! What is known without asking: from the watches, and from the last write when the watches are behind it.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt as _};
use vmcp_crds::v1alpha1::VirtualMCPServerStatus;

use super::Look;
use crate::desired::{labels, names};
use crate::index;
use crate::memory::{Memory, is_later};

impl Look<'_> {
    /// The status as it is. The watch may still show the one before our last.
    pub(super) fn last_status(&self, memory: &Memory) -> VirtualMCPServerStatus {
        let shown = self.server.metadata.resource_version.as_deref();
        match &memory.written {
            Some((version, status)) if is_later(Some(version), shown) => status.clone(),
            _ => self.server.status.clone().unwrap_or_default(),
        }
    }

    /// The Deployment as it is. The watch may still show the one before our last apply.
    pub(super) fn deployment(&self, memory: &Memory) -> Option<Arc<Deployment>> {
        let name = names::workload(self.server);
        let shown = self
            .context
            .stores
            .deployments
            .get(&ObjectRef::new(&name).within(&self.namespace));
        let version = |deployment: &Deployment| deployment.metadata.resource_version.clone();
        match (&memory.deployment, shown) {
            (Some(applied), Some(shown))
                if is_later(version(applied).as_deref(), version(&shown).as_deref()) =>
            {
                Some(Arc::new(applied.clone()))
            }
            (_, shown) => shown,
        }
    }

    /// How many replicas there are or may soon be: what the spec says, what somebody scaled to, what an autoscaler may.
    pub(super) fn expected_replicas(&self, memory: &Memory) -> i32 {
        let deployment = self.deployment(memory);
        let live = deployment.and_then(|deployment| deployment.spec.replicas);
        let now = self.server.spec.replicas.or(live).unwrap_or(1);
        let autoscalers = self.context.stores.autoscalers.state_filter(|autoscaler| {
            autoscaler.metadata.namespace.as_deref() == Some(&self.namespace)
                && index::scales(autoscaler, self.server)
        });
        let most = autoscalers.iter().map(|autoscaler| autoscaler.spec.max_replicas);
        most.max().unwrap_or(0).max(now)
    }

    /// The objects of a store that carry this server's label.
    pub(super) fn mine<K>(&self, store: &Store<K>) -> Vec<Arc<K>>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        let name = self.server.name_any();
        store.state_filter(|object| {
            object.meta().namespace.as_deref() == Some(&self.namespace)
                && object.labels().get(labels::INSTANCE) == Some(&name)
        })
    }
}
