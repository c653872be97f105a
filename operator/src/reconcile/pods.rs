//! How gateway pods learn that their configuration is old.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use serde_json::json;

use super::Look;
use crate::api_server::ObjectName;
use crate::apply::FIELD_MANAGER;
use crate::desired::labels;
use crate::error::Error;
use crate::gateways::Gateway;
use crate::memory::Memory;
use crate::owner;
use crate::reminder::Step;

impl Look<'_> {
    /// The gateway pods: those of the ReplicaSets of the Deployment of this virtual server. Whoever may create a pod can give it
    /// our labels, and would be sent the token of the status.
    pub(super) fn pods(&self, memory: &Memory) -> Vec<Arc<Pod>> {
        let deployment = self.deployment(memory);
        let Some(deployment) = deployment.filter(|found| owner::is_controlled_by(&**found, self.server))
        else {
            return Vec::new();
        };
        let sets = self.mine(&self.context.stores.replica_sets);
        let sets: Vec<String> = sets
            .iter()
            .filter(|set| is_controlled(&set.metadata, deployment.uid().as_slice()))
            .filter_map(|set| set.uid())
            .collect();
        let mut pods = self.mine(&self.context.stores.pods);
        pods.retain(|pod| is_controlled(&pod.metadata, &sets));
        pods
    }

    /// Tells the pods that have an old hot configuration to look. Says whether one of them was told often enough.
    pub(super) async fn remind(
        &self,
        memory: &mut Memory,
        gateways: &[Gateway],
        hash: &str,
    ) -> Result<bool, Error> {
        memory
            .reminders
            .retain(|uid| gateways.iter().any(|gateway| gateway.uid == uid));
        let mut gave_up = false;
        for gateway in gateways {
            let behind = match &gateway.answer {
                Ok(status) => status.hot_config_hash != hash,
                // A pod that starts says nothing yet, and has mounted what is current.
                Err(_) => gateway.ready,
            };
            if behind {
                match memory.reminders.step(&gateway.uid, hash, Instant::now()) {
                    Step::Annotate(value) => self.annotate(gateway, &value).await?,
                    Step::Wait => {}
                    Step::GiveUp => gave_up = true,
                }
            }
        }
        Ok(gave_up)
    }

    pub(super) async fn annotate(&self, gateway: &Gateway, value: &str) -> Result<(), Error> {
        // The uid keeps a pod that is gone from being made anew, as a pod without containers.
        let body = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": gateway.pod,
                "uid": gateway.uid,
                "annotations": {labels::CONFIG_HASH: value},
            },
        });
        let name = ObjectName::parse(&gateway.pod)?;
        match self
            .objects::<Pod>()?
            .apply("annotate", &name, FIELD_MANAGER, &body)
            .await
        {
            Ok(_) => {
                self.context.metrics.applied("Pod");
                tracing::debug!(
                    namespace = self.namespace,
                    pod = gateway.pod,
                    "told of a new configuration"
                );
                Ok(())
            }
            Err(gone) if gone.is_conflict() => Ok(()),
            Err(failed) => Err(failed),
        }
    }
}

/// Whether the controller of the object with this metadata is one of `uids`.
fn is_controlled(metadata: &ObjectMeta, uids: &[String]) -> bool {
    owner::controller(metadata).is_some_and(|owner| uids.contains(&owner.uid))
}
