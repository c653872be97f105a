//! Finds the gateway pods, and nudges those with an outdated configuration.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use serde_json::json;

use super::Reconciler;
use crate::api_server::ObjectName;
use crate::apply::FIELD_MANAGER;
use crate::config_nudge::NudgeStep;
use crate::desired::labels;
use crate::error::Error;
use crate::owner;
use crate::server_state::ServerState;
use crate::status_client::{GatewayPod, is_running};
use crate::workload::Workload;

/// The field manager of the annotation with the MAC of mounted values.
const SECRETS_MANAGER: &str = "vmcp-operator-secrets";

impl<W: Workload> Reconciler<'_, W> {
    /// The pods: those that are owned by this server's Deployment through a ReplicaSet. Labels alone are not enough: anyone who
    /// can create pods can set them, and the operator sends the status token of a virtual server to these pods.
    pub(super) fn pods(&self, state: &ServerState<W::Status>) -> Vec<Arc<Pod>> {
        let sets = self.replica_sets(state);
        let sets: Vec<String> = sets.iter().filter_map(|set| set.uid()).collect();
        let mut pods = self.labeled_objects(&self.context.stores.pods);
        pods.retain(|pod| is_controlled(&pod.metadata, &sets));
        pods
    }

    /// The ReplicaSets that are owned by this server's Deployment.
    pub(super) fn replica_sets(&self, state: &ServerState<W::Status>) -> Vec<Arc<ReplicaSet>> {
        let deployment = self.deployment(state);
        let Some(deployment) = deployment.filter(|found| owner::is_controlled_by(&**found, self.server))
        else {
            return Vec::new();
        };
        let mut sets = self.labeled_objects(&self.context.stores.replica_sets);
        sets.retain(|set| is_controlled(&set.metadata, deployment.uid().as_slice()));
        sets
    }
}

impl Reconciler<'_> {
    /// Nudges the pods whose hot configuration is not `hash`. Returns whether a pod has had the maximum number of nudges.
    pub(super) async fn nudge_outdated_pods(
        &self,
        state: &mut ServerState,
        gateways: &[GatewayPod],
        hash: &str,
    ) -> Result<bool, Error> {
        state
            .config_nudges
            .retain(|uid| gateways.iter().any(|gateway| gateway.uid == uid));
        let mut nudges_exhausted = false;
        for gateway in gateways {
            let is_outdated = match &gateway.status {
                Ok(status) => status.hot_config_hash != hash,
                // A pod that is still starting does not report yet, but has mounted the current configuration.
                Err(_) => gateway.ready,
            };
            if is_outdated {
                match state.config_nudges.next_step(&gateway.uid, hash, Instant::now()) {
                    NudgeStep::Annotate(value) => {
                        let change = (labels::CONFIG_HASH, value.as_str());
                        self.annotate(&gateway.name, &gateway.uid, FIELD_MANAGER, change)
                            .await?;
                    }
                    NudgeStep::Wait => {}
                    NudgeStep::GiveUp => nudges_exhausted = true,
                }
            }
        }
        Ok(nudges_exhausted)
    }

    /// Nudges the pods that do not have `mac`, the MAC of the values to mount, in their annotation: once for each pod and change.
    pub(super) async fn nudge_pods_with_old_secrets(
        &self,
        state: &mut ServerState,
        mac: &str,
    ) -> Result<(), Error> {
        let mut pods = self.pods(state);
        pods.retain(|pod| is_running(pod));
        let is_known = |uid: &str| pods.iter().any(|pod| pod.metadata.uid.as_deref() == Some(uid));
        state.secret_nudges.retain(|uid, _| is_known(uid));
        for pod in &pods {
            let uid = pod.uid().unwrap_or_default();
            let is_nudged = pod.annotations().get(labels::SECRETS_MAC).map(String::as_str) == Some(mac)
                || state.secret_nudges.get(&uid).map(String::as_str) == Some(mac);
            if !is_nudged {
                let change = (labels::SECRETS_MAC, mac);
                self.annotate(&pod.name_any(), &uid, SECRETS_MANAGER, change)
                    .await?;
                state.secret_nudges.insert(uid, mac.to_owned());
            }
        }
        Ok(())
    }

    /// Changes an annotation of a pod, so that the kubelet mounts its volumes again. Each annotation has a field manager of its own: an apply
    /// removes the manager's other annotations.
    async fn annotate(
        &self,
        pod: &str,
        uid: &str,
        manager: &str,
        (annotation, value): (&str, &str),
    ) -> Result<(), Error> {
        // With the uid, the apply fails for a deleted pod instead of creating a new one.
        let body = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod,
                "uid": uid,
                "annotations": {annotation: value},
            },
        });
        let name = ObjectName::parse(pod)?;
        match self
            .objects::<Pod>()?
            .apply("annotate", &name, manager, &body)
            .await
        {
            Ok(_) => {
                self.context.metrics.record_apply("Pod");
                tracing::debug!(
                    namespace = self.namespace,
                    pod,
                    annotation,
                    "nudged pod to remount its volumes"
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
