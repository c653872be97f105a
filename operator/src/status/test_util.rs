//! A virtual server that is ready, and what tests of its status say about it.

use serde_json::{Value as Json, json};
use vmcp_crds::condition::find;
use vmcp_crds::config::BackendConfig;
use vmcp_crds::status::GatewayStatus;

use super::*;

pub(super) fn server(storage: &Json) -> VirtualMCPServer {
    serde_json::from_value(json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer",
        "metadata": {"name": "everything", "namespace": "tools", "uid": "u", "generation": 7},
        "spec": {"groupRef": {"name": "group"}, "sessionStorage": storage},
    }))
    .unwrap()
}

fn redis() -> Json {
    json!({"provider": "redis", "address": "redis:6379"})
}

pub(super) fn backend(name: &str, url: &str) -> Backend {
    Backend {
        config: BackendConfig {
            name: name.to_owned(),
            url: url.to_owned(),
            ..BackendConfig::default()
        },
        ..Backend::default()
    }
}

pub(super) fn deployment(wanted: i32, updated: i32, available: i32, all: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"generation": 3},
        "spec": {"replicas": wanted, "selector": {}, "template": {}},
        "status": {"observedGeneration": 3, "replicas": all, "updatedReplicas": updated, "availableReplicas": available},
    }))
    .unwrap()
}

pub(super) fn gateway(pod: &str, hash: &str, backends: &Json) -> GatewayPod {
    let status: GatewayStatus = serde_json::from_value(json!({
        "server": "tools/everything", "version": "0", "hotConfigHash": hash, "ready": true, "draining": false,
        "sessionStore": {"provider": "redis", "available": true}, "tools": 5,
        "backends": backends, "conflicts": ["time_now hides clock_now"],
    }))
    .unwrap();
    GatewayPod {
        name: pod.to_owned(),
        uid: pod.to_owned(),
        ready: true,
        status: Ok(status),
    }
}

/// Input of [`derive`]: a virtual server that is ready. Each test changes what it is about.
pub(super) struct Fixture {
    pub(super) server: VirtualMCPServer,
    pub(super) rejected_spec: Option<(&'static str, &'static str)>,
    pub(super) rejected_pod_template: Option<(&'static str, &'static str)>,
    pub(super) backends: Option<Vec<Backend>>,
    pub(super) files: ConfigFiles,
    pub(super) deployment: Option<Deployment>,
    pub(super) gateways: Vec<GatewayPod>,
    pub(super) http_route: Option<OptionalChild<HTTPRoute>>,
    pub(super) service_monitor: Option<OptionalChild<ServiceMonitor>>,
    pub(super) expected_replicas: i32,
    pub(super) secret_warnings: Vec<String>,
    pub(super) old: VirtualMCPServerStatus,
}

impl Fixture {
    pub(super) fn ready() -> Self {
        let server = server(&redis());
        let backends = vec![backend("time", "http://time/mcp")];
        let files = crate::desired::config_files(&server, &backends).unwrap();
        let reports = json!([{"name": "time", "state": "ready", "tools": 5}]);
        Self {
            gateways: vec![
                gateway("a", &files.hot_hash, &reports),
                gateway("b", &files.hot_hash, &reports),
            ],
            server,
            rejected_spec: None,
            rejected_pod_template: None,
            backends: Some(backends),
            files,
            deployment: Some(deployment(2, 2, 2, 2)),
            http_route: Some(OptionalChild::NotWanted),
            service_monitor: Some(OptionalChild::NotWanted),
            expected_replicas: 2,
            secret_warnings: Vec::new(),
            old: VirtualMCPServerStatus::default(),
        }
    }

    pub(super) fn status_with(
        &self,
        secrets: SecretsState<'_>,
        apply_failure: Option<ApplyFailure<'_>>,
    ) -> VirtualMCPServerStatus {
        let observed = Observed {
            server: &self.server,
            rejected_spec: self.rejected_spec,
            rejected_pod_template: self.rejected_pod_template,
            refused_watch: None,
            installation_conflict: None,
            backends: self.backends.as_deref(),
            config: Ok(&self.files),
            secrets,
            secret_warnings: &self.secret_warnings,
            apply_failure,
            deployment: self.deployment.as_ref(),
            applied_generation: None,
            replica_sets: &[],
            pods: &[],
            gateways: &self.gateways,
            http_route: self.http_route.as_ref(),
            service_monitor: self.service_monitor.as_ref(),
            expected_replicas: self.expected_replicas,
            overriding_autoscaler: None,
        };
        derive(&observed, &self.old, Timestamp::UNIX_EPOCH)
    }

    pub(super) fn status(&self) -> VirtualMCPServerStatus {
        self.status_with(SecretsState::Resolved, None)
    }
}

/// The status and the reason of a condition.
fn condition_of(status: &VirtualMCPServerStatus, type_: &str) -> Option<(String, String)> {
    find(&status.conditions, type_).map(|condition| (condition.status.clone(), condition.reason.clone()))
}

#[track_caller]
pub(super) fn assert_condition(status: &VirtualMCPServerStatus, type_: &str, expected: Option<(&str, &str)>) {
    let expected = expected.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
    assert_eq!(
        condition_of(status, type_),
        expected,
        "{type_} in {:#?}",
        status.conditions
    );
}
