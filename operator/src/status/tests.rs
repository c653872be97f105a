use serde_json::{Value as Json, json};
use vmcp_crds::condition::find;
use vmcp_crds::status::GatewayStatus;
use vmcp_crds::v1alpha1::BackendState;

use super::*;

fn server(storage: &Json) -> VirtualMCPServer {
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

fn deployment(wanted: i32, updated: i32, available: i32, all: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"generation": 3},
        "spec": {"replicas": wanted, "selector": {}, "template": {}},
        "status": {"observedGeneration": 3, "replicas": all, "updatedReplicas": updated, "availableReplicas": available},
    }))
    .unwrap()
}

fn gateway(pod: &str, hash: &str, backends: &Json) -> Gateway {
    let status: GatewayStatus = serde_json::from_value(json!({
        "server": "tools/everything", "version": "0", "hotConfigHash": hash, "ready": true, "draining": false,
        "sessionStore": {"provider": "redis", "available": true}, "tools": 5,
        "backends": backends, "conflicts": ["time_now hides clock_now"],
    }))
    .unwrap();
    Gateway {
        pod: pod.to_owned(),
        uid: pod.to_owned(),
        ready: true,
        answer: Ok(status),
    }
}

/// A virtual server of which everything is as it should be, to be spoilt by each test.
struct Scene {
    server: VirtualMCPServer,
    refused_spec: Option<(&'static str, &'static str)>,
    backends: Option<Vec<Backend>>,
    files: ConfigFiles,
    deployment: Option<Deployment>,
    gateways: Vec<Gateway>,
    expected_replicas: i32,
    old: VirtualMCPServerStatus,
}

impl Scene {
    fn good() -> Self {
        let server = server(&redis());
        let backends = vec![Backend {
            name: "time".to_owned(),
            url: "http://time/mcp".to_owned(),
        }];
        let files = crate::desired::config_files(&server, &backends).unwrap();
        let seen = json!([{"name": "time", "state": "ready", "tools": 5}]);
        Self {
            gateways: vec![
                gateway("a", &files.hot_hash, &seen),
                gateway("b", &files.hot_hash, &seen),
            ],
            server,
            refused_spec: None,
            backends: Some(backends),
            files,
            deployment: Some(deployment(2, 2, 2, 2)),
            expected_replicas: 2,
            old: VirtualMCPServerStatus::default(),
        }
    }

    fn status_with(&self, secrets: Secrets<'_>, refused: Option<Refused<'_>>) -> VirtualMCPServerStatus {
        let observed = Observed {
            server: &self.server,
            refused_spec: self.refused_spec,
            backends: self.backends.as_deref(),
            config: Ok(&self.files),
            secrets,
            refused,
            deployment: self.deployment.as_ref(),
            gateways: &self.gateways,
            expected_replicas: self.expected_replicas,
        };
        status(&observed, &self.old, Timestamp::UNIX_EPOCH)
    }

    fn status(&self) -> VirtualMCPServerStatus {
        self.status_with(Secrets::Resolved, None)
    }
}

fn says(status: &VirtualMCPServerStatus, type_: &str) -> Option<(String, String)> {
    find(&status.conditions, type_).map(|condition| (condition.status.clone(), condition.reason.clone()))
}

#[track_caller]
fn assert_says(status: &VirtualMCPServerStatus, type_: &str, expected: Option<(&str, &str)>) {
    let expected = expected.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
    assert_eq!(
        says(status, type_),
        expected,
        "{type_} in {:#?}",
        status.conditions
    );
}

#[test]
fn when_all_is_well_the_abnormal_conditions_are_absent() {
    let status = Scene::good().status();
    assert_says(&status, "Ready", Some(("True", "Serving")));
    assert_says(&status, "Reconciling", None);
    assert_says(&status, "Stalled", None);
    insta::assert_yaml_snapshot!(status);
}

#[test]
fn the_same_observation_gives_the_same_status() {
    let mut scene = Scene::good();
    let first = scene.status();
    scene.old = first.clone();
    assert_eq!(scene.status(), first);
}

#[test]
fn without_the_group_it_waits_and_keeps_what_was_known() {
    let mut scene = Scene::good();
    scene.old = scene.status();
    scene.backends = None;
    scene.gateways.clear();
    let status = scene.status_with(Secrets::Unknown, None);
    assert_says(&status, "GroupRefValidated", Some(("False", "GroupRefNotFound")));
    assert_says(&status, "Ready", Some(("False", "GroupRefNotFound")));
    assert_says(&status, "Reconciling", Some(("True", "GroupRefNotFound")));
    assert_eq!(status.backends, scene.old.backends);
}

#[test]
fn a_missing_secret_is_waited_for_and_an_unusable_one_stalls() {
    let unresolved = |stalled| Secrets::Unresolved {
        reason: "SecretNotFound",
        message: "Secret x does not exist",
        stalled,
    };
    let waiting = Scene::good().status_with(unresolved(false), None);
    assert_says(&waiting, "SecretsResolved", Some(("False", "SecretNotFound")));
    assert_says(&waiting, "Reconciling", Some(("True", "SecretNotFound")));
    let stalled = Scene::good().status_with(unresolved(true), None);
    assert_says(&stalled, "Stalled", Some(("True", "SecretNotFound")));
    assert_says(&stalled, "Reconciling", None);
}

#[test]
fn pods_that_were_not_asked_are_not_taken_for_silent() {
    let mut scene = Scene::good();
    scene.old = scene.status();
    scene.gateways.clear();
    let missing = Secrets::Unresolved {
        reason: "SecretNotFound",
        message: "Secret x does not exist",
        stalled: false,
    };
    for status in [
        scene.status_with(missing, None),
        scene.status_with(Secrets::Resolved, Some(Refused::ApiServer("exceeded quota"))),
    ] {
        assert_eq!(status.backends, scene.old.backends);
        assert_eq!((status.backend_count, status.tool_count), (Some(1), Some(5)));
    }
}

#[test]
fn an_object_of_somebody_else_is_said_and_stalls_unless_it_goes_by_itself() {
    for (stalled, type_) in [(true, "Stalled"), (false, "Reconciling")] {
        let refused = Refused::NotOwned {
            message: "Service tools/vmcp-everything is somebody else's",
            stalled,
        };
        let status = Scene::good().status_with(Secrets::Resolved, Some(refused));
        assert_says(&status, "Ready", Some(("False", "ChildNotOwned")));
        assert_says(&status, type_, Some(("True", "ChildNotOwned")));
        assert_eq!(
            status.conditions[0].message,
            "Service tools/vmcp-everything is somebody else's"
        );
    }
}

#[test]
fn what_the_api_server_refused_is_said() {
    let status = Scene::good().status_with(Secrets::Resolved, Some(Refused::ApiServer("exceeded quota")));
    assert_says(&status, "Ready", Some(("False", "ApplyRefused")));
    let ready = find(&status.conditions, "Ready").unwrap();
    assert_eq!(ready.message, "exceeded quota");
}

#[test]
fn a_rollout_is_not_ready_until_the_last_old_pod_is_gone() {
    for (updated, available, all) in [(0, 2, 2), (1, 3, 3), (2, 1, 2), (2, 3, 3)] {
        let mut scene = Scene::good();
        scene.deployment = Some(deployment(2, updated, available, all));
        let status = scene.status();
        assert_says(&status, "Ready", Some(("False", "DeploymentProgressing")));
        assert_says(&status, "Reconciling", Some(("True", "DeploymentProgressing")));
    }
}

#[test]
fn a_deployment_that_is_not_observed_yet_is_not_ready() {
    let mut scene = Scene::good();
    scene.deployment.as_mut().unwrap().metadata.generation = Some(4);
    assert_says(&scene.status(), "Ready", Some(("False", "DeploymentProgressing")));
}

#[test]
fn a_rollout_that_is_stuck_stalls() {
    let mut scene = Scene::good();
    let mut stuck = deployment(2, 1, 1, 2);
    let condition = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
    stuck.status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
    scene.deployment = Some(stuck);
    assert_says(
        &scene.status(),
        "Stalled",
        Some(("True", "ProgressDeadlineExceeded")),
    );
}

#[test]
fn scaled_to_zero_is_neither_ready_nor_at_work() {
    let mut scene = Scene::good();
    scene.deployment = Some(deployment(0, 0, 0, 0));
    scene.gateways.clear();
    let status = scene.status();
    assert_says(&status, "Ready", Some(("False", "ScaledToZero")));
    assert_says(&status, "Reconciling", None);
}

#[test]
fn ready_needs_every_ready_pod_to_report_the_rendered_configuration() {
    let mut scene = Scene::good();
    scene.gateways[1] = gateway("b", "another", &json!([]));
    let status = scene.status();
    assert_says(&status, "Ready", Some(("False", "ConfigPending")));
    assert!(
        find(&status.conditions, "Ready")
            .unwrap()
            .message
            .ends_with("have not reached b")
    );
    scene.gateways[1].ready = false;
    assert_says(&scene.status(), "Ready", Some(("True", "Serving")));
}

#[test]
fn a_ready_pod_that_says_nothing_is_not_taken_for_current() {
    let mut scene = Scene::good();
    scene.gateways[0].answer = Err("does not answer at http://10.0.0.1:9483/status".to_owned());
    let status = scene.status();
    assert_says(&status, "Ready", Some(("False", "GatewayUnreachable")));
    assert!(
        find(&status.conditions, "Ready")
            .unwrap()
            .message
            .contains("a does not answer")
    );
}

#[test]
fn a_configuration_that_a_pod_refuses_is_not_valid_and_the_reason_is_said() {
    let mut scene = Scene::good();
    scene.gateways[0] = gateway("a", "old", &json!([]));
    let answer = scene.gateways[0].answer.as_mut().unwrap();
    answer.hot_config_error = Some("backends.yaml:3: at `backends[0].url`".to_owned());
    let status = scene.status();
    assert_says(&status, "ConfigValid", Some(("False", "ConfigRefused")));
    assert_says(&status, "Ready", Some(("False", "ConfigRefused")));
    assert!(
        find(&status.conditions, "ConfigValid")
            .unwrap()
            .message
            .contains("backends[0].url")
    );
}

#[test]
fn no_ready_pod_is_not_ready_whatever_the_deployment_says() {
    let mut scene = Scene::good();
    scene.gateways.clear();
    assert_says(&scene.status(), "Ready", Some(("False", "DeploymentProgressing")));
}

#[test]
fn memory_with_more_than_one_replica_is_warned_about() {
    let mut scene = Scene::good();
    let warning = "SessionStorageWarning";
    assert_says(
        &scene.status(),
        warning,
        Some(("False", "SessionStorageConfigured")),
    );
    scene.server = server(&json!({"provider": "memory"}));
    assert_says(
        &scene.status(),
        warning,
        Some(("True", "SessionStorageMissingForReplicas")),
    );
    scene.server = server(&Json::Null);
    assert_says(
        &scene.status(),
        warning,
        Some(("True", "SessionStorageMissingForReplicas")),
    );
    scene.expected_replicas = 1;
    assert_says(
        &scene.status(),
        warning,
        Some(("False", "SessionStorageWarningNotApplicable")),
    );
}

#[test]
fn a_backend_that_fails_for_one_pod_fails() {
    let mut scene = Scene::good();
    let failing = json!([{"name": "time", "state": "failing", "tools": 5, "error": "connection refused"}]);
    scene.gateways[1] = gateway("b", &scene.files.hot_hash, &failing);
    let status = scene.status();
    assert_eq!(status.backends[0].state, BackendState::Failing);
    assert_eq!(status.backends[0].message.as_deref(), Some("connection refused"));
    assert_eq!(status.backend_count, Some(0));
    assert_says(&status, "Ready", Some(("True", "Serving")));
}

#[test]
fn the_lists_are_bounded_and_show_what_needs_attention() {
    let mut scene = Scene::good();
    let backend = |number: usize| Backend {
        name: format!("backend-{number:03}"),
        url: "http://x?key=s3cret".to_owned(),
    };
    scene.backends = Some((0..150).map(backend).collect());
    let seen: Vec<Json> = (0..150)
        .map(|number| {
            let state = if number == 149 { "failing" } else { "ready" };
            json!({"name": format!("backend-{number:03}"), "state": state, "tools": 1})
        })
        .collect();
    scene.gateways = vec![gateway("a", &scene.files.hot_hash, &Json::Array(seen))];
    let many = |what| (0..80).map(|number| format!("{what} {number}")).collect();
    let answer = scene.gateways[0].answer.as_mut().unwrap();
    (answer.conflicts, answer.faults) = (many("conflict"), many("fault"));
    let status = scene.status();
    assert_eq!(status.backends.len(), 100);
    assert_eq!(status.backends[99].state, BackendState::Failing);
    assert_eq!(status.backend_count, Some(149));
    assert_eq!(status.backends[0].url, "http://x?key=<hidden>");
    assert_eq!((status.conflicts.len(), status.faults.len()), (50, 50));
    assert_eq!(
        (&*status.conflicts[0], &*status.faults[0]),
        ("conflict 0", "fault 0")
    );
}

#[test]
fn refused_spec_stalls_before_anything_else_is_said() {
    let mut scene = Scene::good();
    scene.backends = None;
    scene.refused_spec = Some(("ImageNotAllowed", "no"));
    let status = scene.status();
    for (type_, value) in [("Ready", "False"), ("Stalled", "True"), ("ConfigValid", "False")] {
        assert_says(&status, type_, Some((value, "ImageNotAllowed")));
    }
    assert_says(&status, "GroupRefValidated", None);
}
