//! Stand-ins for the Deployment's controller and the kubelet.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Resource;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use vmcp_crds::session_key::SessionKey;
use vmcp_operator::desired::labels;

use super::Harness;
use crate::fake_gateway::FakeGateway;

impl Harness {
    /// Stands in for the Deployment's controller and the kubelet: one ready pod per gateway, all of the current revision.
    pub(crate) async fn roll_out(&self, gateways: &[&FakeGateway]) {
        let set = self.replica_set("x").await;
        for gateway in gateways {
            self.apply_pod(gateway, "ReplicaSet", set.metadata.uid.as_deref().unwrap())
                .await;
        }
        self.observe_deployment(gateways.len()).await;
    }

    /// As [`Self::roll_out`], for one pod of the virtual server `name`.
    pub(crate) async fn roll_out_one(&self, name: &str, address: &str) {
        let set = self.replica_set(name).await;
        let pod = format!("vmcp-{name}-pod");
        let owner = owner(name, "ReplicaSet", set.metadata.uid.as_deref().unwrap());
        self.create_pod(name, &pod, &owner).await;
        self.mark_pod(&pod, address, "True").await;
        self.observe_deployment_of(name, 1).await;
    }

    /// Stands in for the Deployment's controller: `count` pods, all updated and available.
    pub(crate) async fn observe_deployment(&self, count: usize) {
        self.observe_deployment_of("x", count).await;
    }

    async fn observe_deployment_of(&self, name: &str, count: usize) {
        let workload = format!("vmcp-{name}");
        let deployment: Deployment = self.wait_for_object(&workload).await;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": count, "updatedReplicas": count,
            "readyReplicas": count, "availableReplicas": count,
        }});
        self.patch_status::<Deployment>(&workload, &status).await;
    }

    /// Creates the ReplicaSet of a virtual server in place of the Deployment's controller.
    async fn replica_set(&self, name: &str) -> ReplicaSet {
        let workload = format!("vmcp-{name}");
        let deployment: Deployment = self.wait_for_object(&workload).await;
        let template = &deployment.spec.template;
        let set = format!("{workload}-current");
        self.apply(&json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": set, "labels": template.metadata.as_ref().unwrap().labels,
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "Deployment", "name": workload, "uid": deployment.metadata.uid,
                    "controller": true,
                }],
            },
            "spec": {"replicas": 0, "template": template, "selector": {"matchLabels": {labels::INSTANCE: name}}},
        }))
        .await;
        self.wait_for_object(&set).await
    }

    /// Stands in for the Deployment's controller and the kubelet in a rollout of one replica: an old pod that is ready, and a new one that is
    /// not.
    pub(crate) async fn stop_rollout(&self, old: &FakeGateway, new: &FakeGateway) {
        let set = self.replica_set("x").await;
        for gateway in [old, new] {
            self.apply_pod(gateway, "ReplicaSet", set.metadata.uid.as_deref().unwrap())
                .await;
        }
        self.mark_pod(&new.pod, &new.address, "False").await;
        let deployment: Deployment = self.wait_for_object("vmcp-x").await;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": 2, "updatedReplicas": 1,
            "readyReplicas": 1, "availableReplicas": 1,
        }});
        self.patch_status::<Deployment>("vmcp-x", &status).await;
    }

    /// Stands in for the Deployment's controller after the progress deadline: one pod, which is not ready.
    pub(crate) async fn exceed_progress_deadline(&self) {
        let deployment: Deployment = self.wait_for_object("vmcp-x").await;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": 1, "updatedReplicas": 1,
            "conditions": [{
                "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out",
            }],
        }});
        self.patch_status::<Deployment>("vmcp-x", &status).await;
    }

    /// Creates a ready pod with the labels of a gateway and a controller of this kind and uid.
    pub(crate) async fn apply_pod(&self, gateway: &FakeGateway, kind: &str, uid: &str) {
        self.create_pod("x", &gateway.pod, &owner("x", kind, uid)).await;
        self.mark_pod_ready(&gateway.pod, gateway).await;
    }

    async fn create_pod(&self, server: &str, name: &str, owner: &Json) {
        let mut labels = json!({labels::MANAGED_BY: labels::OPERATOR});
        labels[labels::NAME] = json!(labels::GATEWAY);
        labels[labels::INSTANCE] = json!(server);
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "gateway", "image": "x"}]},
        }))
        .await;
    }

    /// Stands in for the kubelet: the pod `name` is ready, and has the address of `gateway`.
    pub(crate) async fn mark_pod_ready(&self, name: &str, gateway: &FakeGateway) {
        self.mark_pod(name, &gateway.address, "True").await;
    }

    async fn mark_pod(&self, name: &str, address: &str, ready: &str) {
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready}],
        }});
        self.patch_status::<Pod>(name, &status).await;
    }

    pub(super) async fn patch_status<K>(&self, name: &str, status: &Json)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let api = self.api::<K>();
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    /// The bearer token for the status of the virtual server `x`.
    pub(crate) async fn status_token(&self) -> String {
        self.status_token_of("x").await
    }

    pub(crate) async fn status_token_of(&self, name: &str) -> String {
        let secret: Secret = self.wait_for_object(&format!("vmcp-{name}-session-keys")).await;
        let text = String::from_utf8(secret.data.unwrap()["current"].0.clone()).unwrap();
        SessionKey::parse(&text)
            .unwrap()
            .status_token(&self.namespace, name)
    }
}

/// The owner reference of a pod.
fn owner(server: &str, kind: &str, uid: &str) -> Json {
    let name = format!("vmcp-{server}-current");
    json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true})
}
