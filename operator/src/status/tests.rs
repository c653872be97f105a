use serde_json::json;
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::ObservedBackendState;

use super::test_util::{Fixture, assert_condition, backend, deployment, gateway};
use super::*;
use crate::desired::SecretProblem;

#[test]
fn ready_server_has_no_abnormal_conditions() {
    let status = Fixture::ready().status();
    assert_condition(&status, "Ready", Some(("True", "Serving")));
    assert_condition(&status, "Reconciling", None);
    assert_condition(&status, "Stalled", None);
    insta::assert_yaml_snapshot!(status);
}

#[test]
fn unchanged_observation_keeps_status() {
    let mut fixture = Fixture::ready();
    let first = fixture.status();
    fixture.old = first.clone();
    assert_eq!(fixture.status(), first);
}

// Without the group, the server waits, and the status keeps the last known backends.
#[test]
fn missing_group_waits_and_keeps_last_backends() {
    let mut fixture = Fixture::ready();
    fixture.old = fixture.status();
    fixture.backends = None;
    fixture.gateways.clear();
    let status = fixture.status_with(SecretsState::Unknown, None);
    assert_condition(&status, "GroupRefValidated", Some(("False", "GroupRefNotFound")));
    assert_condition(&status, "Ready", Some(("False", "GroupRefNotFound")));
    assert_condition(&status, "Reconciling", Some(("True", "GroupRefNotFound")));
    assert_eq!(status.backends, fixture.old.backends);
}

#[test]
fn missing_secret_waits_and_unusable_secret_stalls() {
    let unresolved = |stalled| SecretsState::Unresolved {
        reason: "SecretNotFound",
        message: "Secret x does not exist",
        stalled,
    };
    let waiting = Fixture::ready().status_with(unresolved(false), None);
    assert_condition(&waiting, "SecretsResolved", Some(("False", "SecretNotFound")));
    assert_condition(&waiting, "Reconciling", Some(("True", "SecretNotFound")));
    let stalled = Fixture::ready().status_with(unresolved(true), None);
    assert_condition(&stalled, "Stalled", Some(("True", "SecretNotFound")));
    assert_condition(&stalled, "Reconciling", None);
}

// A missing Secret of a backend is reported, and does not change that the others are served.
#[test]
fn missing_secret_of_backend_leaves_server_ready() {
    let mut fixture = Fixture::ready();
    let problem = SecretProblem {
        reason: "SecretKeyNotFound",
        message: "spec.headers.X.secretKeyRef names key k of Secret s, which has no such key".to_owned(),
    };
    fixture.backends.as_mut().unwrap().push(Backend {
        secret_problem: Some(problem),
        ..backend("weather", "http://weather/mcp")
    });
    let status = fixture.status();
    assert_condition(&status, "Ready", Some(("True", "Serving")));
    assert_condition(&status, "ConfigValid", Some(("True", "ConfigValid")));
    assert_condition(&status, "SecretsResolved", Some(("False", "SecretKeyNotFound")));
    let message = &find(&status.conditions, "SecretsResolved").unwrap().message;
    assert_eq!(
        message,
        "1 of the 2 backends are left out: MCPServerEntry weather: spec.headers.X.secretKeyRef names key k of Secret s, which has no \
         such key"
    );
    let weather = &status.backends[1];
    assert_eq!(weather.state, ObservedBackendState::LeftOut);
    assert!(
        weather.message.as_ref().unwrap().contains("Secret s"),
        "{weather:?}"
    );
}

#[test]
fn warning_is_part_of_resolved_secrets() {
    let mut fixture = Fixture::ready();
    fixture
        .secret_warnings
        .push("the password ends with a line break".to_owned());
    let status = fixture.status();
    assert_condition(&status, "SecretsResolved", Some(("True", "SecretsResolved")));
    let message = &find(&status.conditions, "SecretsResolved").unwrap().message;
    assert_eq!(
        message,
        "all required Secrets exist; the password ends with a line break"
    );
}

// If pods were not polled, the last known backends stay.
#[test]
fn unpolled_pods_keep_last_backends() {
    let mut fixture = Fixture::ready();
    fixture.old = fixture.status();
    fixture.gateways.clear();
    let missing = SecretsState::Unresolved {
        reason: "SecretNotFound",
        message: "Secret x does not exist",
        stalled: false,
    };
    for status in [
        fixture.status_with(missing, None),
        fixture.status_with(
            SecretsState::Resolved,
            Some(ApplyFailure::Refused("exceeded quota")),
        ),
    ] {
        assert_eq!(status.backends, fixture.old.backends);
        assert_eq!((status.backend_count, status.tool_count), (Some(1), Some(5)));
    }
}

// A foreign object with a child's name stalls the server, unless the garbage collector will delete it.
#[test]
fn foreign_object_stalls_unless_temporary() {
    for (stalled, type_) in [(true, "Stalled"), (false, "Reconciling")] {
        let apply_failure = ApplyFailure::NotOwned {
            message: "Service tools/vmcp-everything already exists",
            stalled,
        };
        let status = Fixture::ready().status_with(SecretsState::Resolved, Some(apply_failure));
        assert_condition(&status, "Ready", Some(("False", "ChildNotOwned")));
        assert_condition(&status, type_, Some(("True", "ChildNotOwned")));
        assert_eq!(
            status.conditions[0].message,
            "Service tools/vmcp-everything already exists"
        );
    }
}

#[test]
fn api_server_rejection_is_reported() {
    let status = Fixture::ready().status_with(
        SecretsState::Resolved,
        Some(ApplyFailure::Refused("exceeded quota")),
    );
    assert_condition(&status, "Ready", Some(("False", "ApplyRefused")));
    let ready = find(&status.conditions, "Ready").unwrap();
    assert_eq!(
        ready.message,
        "exceeded quota; the operator tries again within 30 seconds"
    );
    let failed = Some(ApplyFailure::Failed("the webhook does not answer"));
    let status = Fixture::ready().status_with(SecretsState::Resolved, failed);
    assert_condition(&status, "Ready", Some(("False", "ApplyFailed")));
    assert_condition(&status, "Reconciling", Some(("True", "ApplyFailed")));
}

#[test]
fn rollout_is_not_ready_until_old_pods_are_gone() {
    for (updated, available, all) in [(0, 2, 2), (1, 3, 3), (2, 1, 2), (2, 3, 3)] {
        let mut fixture = Fixture::ready();
        fixture.deployment = Some(deployment(2, updated, available, all));
        let status = fixture.status();
        assert_condition(&status, "Ready", Some(("False", "DeploymentProgressing")));
        assert_condition(&status, "Reconciling", Some(("True", "DeploymentProgressing")));
    }
}

#[test]
fn unobserved_deployment_is_not_ready() {
    let mut fixture = Fixture::ready();
    fixture.deployment.as_mut().unwrap().metadata.generation = Some(4);
    assert_condition(
        &fixture.status(),
        "Ready",
        Some(("False", "DeploymentProgressing")),
    );
}

#[test]
fn scaled_to_zero_is_ready_and_not_reconciling() {
    let mut fixture = Fixture::ready();
    fixture.deployment = Some(deployment(0, 0, 0, 0));
    fixture.gateways.clear();
    let status = fixture.status();
    assert_condition(&status, "Ready", Some(("True", "ScaledToZero")));
    assert_condition(&status, "Reconciling", None);
}

// A server without a backend that answers says so.
#[test]
fn serving_message_counts_backends_that_answer() {
    let message = |fixture: &Fixture| fixture.status().conditions[0].message.clone();
    let mut fixture = Fixture::ready();
    assert_eq!(message(&fixture), "the gateway serves 1 backend");
    let failing = json!([{"name": "time", "state": "failing", "tools": 0}]);
    for index in 0..2 {
        let pod = gateway("a", &fixture.files.hot_hash, &failing);
        fixture.gateways[index] = pod;
    }
    assert_condition(&fixture.status(), "Ready", Some(("True", "Serving")));
    assert_eq!(message(&fixture), "the gateway serves; 0 of 1 backends answer");
}

#[test]
fn terminating_server_keeps_its_other_conditions() {
    let fixture = Fixture::ready();
    let old = fixture.status();
    let status = derive_terminating(&["a/b", "c/d"], Some(7), &old, Timestamp::UNIX_EPOCH);
    assert_condition(&status, "Ready", Some(("False", "Terminating")));
    assert_condition(&status, "Reconciling", Some(("True", "Terminating")));
    assert!(status.conditions[0].message.contains("a/b, c/d"));
    assert_eq!(
        find(&status.conditions, "ConfigValid"),
        find(&old.conditions, "ConfigValid")
    );
    assert_eq!(status.backends, old.backends);
    let again = derive_terminating(&["a/b", "c/d"], Some(7), &status, Timestamp::UNIX_EPOCH);
    assert_eq!(again, status);
}

// The server is ready only when every ready pod reports the rendered configuration.
#[test]
fn outdated_ready_pod_makes_server_not_ready() {
    let mut fixture = Fixture::ready();
    fixture.gateways[1] = gateway("b", "another", &json!([]));
    let status = fixture.status();
    assert_condition(&status, "Ready", Some(("False", "ConfigPending")));
    assert!(
        find(&status.conditions, "Ready")
            .unwrap()
            .message
            .ends_with("have not yet reached b")
    );
    fixture.gateways[1].ready = false;
    assert_condition(&fixture.status(), "Ready", Some(("True", "Serving")));
}

// A ready pod whose status cannot be fetched does not count as current.
#[test]
fn unreachable_ready_pod_makes_server_not_ready() {
    let mut fixture = Fixture::ready();
    fixture.gateways[0].status = Err("does not respond at http://10.0.0.1:9483/status".to_owned());
    let status = fixture.status();
    assert_condition(&status, "Ready", Some(("False", "GatewayUnreachable")));
    assert!(
        find(&status.conditions, "Ready")
            .unwrap()
            .message
            .contains("a does not respond")
    );
}

// If a pod rejects the configuration, it is not valid, and the message says why.
#[test]
fn config_rejected_by_pod_is_invalid_with_reason() {
    let mut fixture = Fixture::ready();
    fixture.gateways[0] = gateway("a", "old", &json!([]));
    let reported = fixture.gateways[0].status.as_mut().unwrap();
    reported.hot_config_error = Some("backends.yaml:3: at `backends[0].url`".to_owned());
    let status = fixture.status();
    assert_condition(&status, "ConfigValid", Some(("False", "ConfigRefused")));
    assert_condition(&status, "Ready", Some(("False", "ConfigRefused")));
    assert!(
        find(&status.conditions, "ConfigValid")
            .unwrap()
            .message
            .contains("backends[0].url")
    );
}

// Without a ready pod the server is not ready, even if the Deployment counts available pods.
#[test]
fn no_ready_pod_is_not_ready() {
    let mut fixture = Fixture::ready();
    fixture.gateways.clear();
    assert_condition(
        &fixture.status(),
        "Ready",
        Some(("False", "DeploymentProgressing")),
    );
}

// A rejected spec stalls the server, and no other condition is derived.
#[test]
fn rejected_spec_stalls_before_other_conditions() {
    let mut fixture = Fixture::ready();
    fixture.backends = None;
    fixture.rejected_spec = Some(("ImageNotAllowed", "no"));
    let status = fixture.status();
    for (type_, value) in [("Ready", "False"), ("Stalled", "True"), ("ConfigValid", "False")] {
        assert_condition(&status, type_, Some((value, "ImageNotAllowed")));
    }
    assert_condition(&status, "GroupRefValidated", None);
}

#[test]
fn pod_template_has_its_own_condition() {
    let type_ = "PodTemplateValid";
    let mut fixture = Fixture::ready();
    assert_condition(&fixture.status(), type_, None);
    let template = json!({"spec": {"priorityClassName": "high"}});
    fixture.server.spec.pod_template = serde_json::from_value(template).unwrap();
    assert_condition(&fixture.status(), type_, Some(("True", "PodTemplateValid")));
    fixture.rejected_pod_template = Some(("PodTemplateInvalid", "spec.podTemplate.spec.hostNetwork: no"));
    assert_condition(&fixture.status(), type_, Some(("False", "PodTemplateInvalid")));
}
