//! Servers that the operator runs: their resource, and stand-ins for the controllers and the kubelet that run their pods.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::{Value as Json, json};
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::MCPServer;

use super::{Harness, eventually};

impl Harness {
    /// Applies the server `name` with `spec` as a member of the group.
    pub(crate) async fn apply_mcp_server(&self, name: &str, mut spec: Json) {
        spec["groupRef"] = json!({"name": "group"});
        self.apply(&json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServer", "metadata": {"name": name}, "spec": spec,
        }))
        .await;
    }

    /// Stands in for the controllers and the kubelet: one pod of the server for each address, all of the current revision and ready. Other
    /// pods are deleted.
    pub(crate) async fn roll_out_server(&self, name: &str, addresses: &[&str]) {
        let pods = self.api::<Pod>();
        let wanted: Vec<String> = (0..addresses.len())
            .map(|number| format!("mcp-{name}-{number}"))
            .collect();
        for pod in pods.list(&Default::default()).await.unwrap() {
            let pod = pod.name_any();
            if pod.starts_with(&format!("mcp-{name}-")) && !wanted.contains(&pod) {
                pods.delete(&pod, &DeleteParams::default().grace_period(0))
                    .await
                    .unwrap();
            }
        }
        for (pod, address) in wanted.iter().zip(addresses) {
            self.create_server_pod(name, pod).await;
            self.set_server_pod(
                pod,
                &json!({
                    "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                }),
            )
            .await;
        }
        self.observe_server_deployment(name, addresses.len()).await;
    }

    /// Stands in for the Deployment's controller: `count` pods, all updated and available.
    pub(crate) async fn observe_server_deployment(&self, name: &str, count: usize) {
        let workload = format!("mcp-{name}");
        let deployment: Deployment = self.wait_for_object(&workload).await;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": count, "updatedReplicas": count,
            "readyReplicas": count, "availableReplicas": count,
        }});
        self.patch_status::<Deployment>(&workload, &status).await;
    }

    /// Stands in for the controllers: one pod of the server that is not available.
    pub(crate) async fn start_server_pod(&self, name: &str) -> String {
        let workload = format!("mcp-{name}");
        let pod = format!("{workload}-0");
        self.create_server_pod(name, &pod).await;
        let deployment: Deployment = self.wait_for_object(&workload).await;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 0,
            "availableReplicas": 0,
        }});
        self.patch_status::<Deployment>(&workload, &status).await;
        pod
    }

    /// Sets the status of a pod of a server in place of the kubelet.
    pub(crate) async fn set_server_pod(&self, pod: &str, status: &Json) {
        self.patch_status::<Pod>(pod, &json!({"status": status})).await;
    }

    async fn create_server_pod(&self, name: &str, pod: &str) {
        let set = self.server_replica_set(name).await;
        let template = set.spec.template.as_ref().unwrap();
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod, "labels": template.metadata.as_ref().unwrap().labels,
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set.name_any(), "uid": set.metadata.uid, "controller": true,
                }],
            },
            "spec": {"containers": [{"name": "mcp", "image": "x"}]},
        }))
        .await;
    }

    async fn server_replica_set(&self, name: &str) -> ReplicaSet {
        let workload = format!("mcp-{name}");
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
            "spec": {"replicas": 0, "template": template, "selector": deployment.spec.selector},
        }))
        .await;
        self.wait_for_object(&set).await
    }

    /// Waits until a condition of the server `name` has this status and reason, and returns the server.
    pub(crate) async fn wait_for_server_condition(
        &self,
        name: &str,
        type_: &str,
        expected: &str,
        reason: &str,
    ) -> MCPServer {
        let servers = self.api::<MCPServer>();
        let mut last = None;
        let what = format!("{type_} of {name} is {expected}: {reason}");
        eventually(&what, async || {
            let server = servers.get_opt(name).await.unwrap()?;
            let status = server.status.as_ref()?;
            let condition = find(&status.conditions, type_)?;
            if last.as_ref() != Some(&status.conditions) {
                println!("{:?}", status.conditions);
                last = Some(status.conditions.clone());
            }
            let is_current = status.observed_generation == server.metadata.generation;
            (is_current && condition.status == expected && condition.reason == reason).then_some(server)
        })
        .await
    }
}

/// The message of a condition of a server.
pub(crate) fn message_of(server: &MCPServer, type_: &str) -> String {
    let conditions = &server.status.as_ref().unwrap().conditions;
    find(conditions, type_).unwrap().message.clone()
}
