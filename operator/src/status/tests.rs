use serde_json::{Value as Json, json};
use vmcp_crds::condition::find;
use vmcp_crds::config::BackendConfig;
use vmcp_crds::status::GatewayStatus;
use vmcp_crds::v1alpha1::{ObservedBackendState, ObservedBreaker, ObservedHealth};

use super::*;
use crate::desired::SecretProblem;

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

fn backend(name: &str, url: &str) -> Backend {
    Backend {
        config: BackendConfig {
            name: name.to_owned(),
            url: url.to_owned(),
            ..BackendConfig::default()
        },
        ..Backend::default()
    }
}

fn deployment(wanted: i32, updated: i32, available: i32, all: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"generation": 3},
        "spec": {"replicas": wanted, "selector": {}, "template": {}},
        "status": {"observedGeneration": 3, "replicas": all, "updatedReplicas": updated, "availableReplicas": available},
    }))
    .unwrap()
}

fn gateway(pod: &str, hash: &str, backends: &Json) -> GatewayPod {
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
struct Fixture {
    server: VirtualMCPServer,
    rejected_spec: Option<(&'static str, &'static str)>,
    rejected_pod_template: Option<(&'static str, &'static str)>,
    backends: Option<Vec<Backend>>,
    files: ConfigFiles,
    deployment: Option<Deployment>,
    gateways: Vec<GatewayPod>,
    http_route: Option<OptionalChild<HTTPRoute>>,
    service_monitor: Option<OptionalChild<ServiceMonitor>>,
    expected_replicas: i32,
    secret_warnings: Vec<String>,
    old: VirtualMCPServerStatus,
}

impl Fixture {
    fn ready() -> Self {
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

    fn status_with(
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

    fn status(&self) -> VirtualMCPServerStatus {
        self.status_with(SecretsState::Resolved, None)
    }
}

/// The status and the reason of a condition.
fn condition_of(status: &VirtualMCPServerStatus, type_: &str) -> Option<(String, String)> {
    find(&status.conditions, type_).map(|condition| (condition.status.clone(), condition.reason.clone()))
}

#[track_caller]
fn assert_condition(status: &VirtualMCPServerStatus, type_: &str, expected: Option<(&str, &str)>) {
    let expected = expected.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
    assert_eq!(
        condition_of(status, type_),
        expected,
        "{type_} in {:#?}",
        status.conditions
    );
}

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
    assert_eq!(weather.state, ObservedBackendState::Failing);
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

#[test]
fn memory_storage_with_replicas_gives_warning() {
    let mut fixture = Fixture::ready();
    let warning = "SessionStorageWarning";
    assert_condition(
        &fixture.status(),
        warning,
        Some(("False", "SessionStorageConfigured")),
    );
    fixture.server = server(&json!({"provider": "memory"}));
    assert_condition(
        &fixture.status(),
        warning,
        Some(("True", "SessionStorageMissingForReplicas")),
    );
    fixture.server = server(&Json::Null);
    assert_condition(
        &fixture.status(),
        warning,
        Some(("True", "SessionStorageMissingForReplicas")),
    );
    fixture.expected_replicas = 1;
    assert_condition(
        &fixture.status(),
        warning,
        Some(("False", "SessionStorageWarningNotApplicable")),
    );
}

#[test]
fn redis_that_may_drop_sessions_gives_warning() {
    let mut fixture = Fixture::ready();
    let store = &mut fixture.gateways[1].status.as_mut().unwrap().session_store;
    store.warning = Some("Redis drops sessions".to_owned());
    let warning = "SessionStorageWarning";
    let status = fixture.status();
    assert_condition(&status, warning, Some(("True", "SessionsMayBeEvicted")));
    assert_eq!(
        find(&status.conditions, warning).unwrap().message,
        "Redis drops sessions"
    );
    // A pod that still runs with Redis says nothing about memory.
    fixture.server = server(&json!({"provider": "memory"}));
    assert_condition(
        &fixture.status(),
        warning,
        Some(("True", "SessionStorageMissingForReplicas")),
    );
}

#[test]
fn backend_failing_for_one_pod_is_failing() {
    let mut fixture = Fixture::ready();
    let failing = json!([{"name": "time", "state": "failing", "tools": 5, "error": "connection refused"}]);
    fixture.gateways[1] = gateway("b", &fixture.files.hot_hash, &failing);
    let status = fixture.status();
    assert_eq!(status.backends[0].state, ObservedBackendState::Failing);
    assert_eq!(status.backends[0].message.as_deref(), Some("connection refused"));
    assert_eq!(status.backend_count, Some(0));
    assert_condition(&status, "Ready", Some(("True", "Serving")));
}

// The lists in the status are bounded, and failing backends are kept.
#[test]
fn status_lists_are_bounded_and_keep_failures() {
    let mut fixture = Fixture::ready();
    let backend = |number: usize| backend(&format!("backend-{number:03}"), "http://x?key=s3cret");
    fixture.backends = Some((0..150).map(backend).collect());
    let reports: Vec<Json> = (0..150)
        .map(|number| {
            let state = if number == 149 { "failing" } else { "ready" };
            json!({"name": format!("backend-{number:03}"), "state": state, "tools": 1})
        })
        .collect();
    fixture.gateways = vec![gateway("a", &fixture.files.hot_hash, &Json::Array(reports))];
    let many = |message| (0..80).map(|number| format!("{message} {number}")).collect();
    let reported = fixture.gateways[0].status.as_mut().unwrap();
    (reported.conflicts, reported.faults) = (many("conflict"), many("fault"));
    let status = fixture.status();
    assert_eq!(status.backends.len(), 100);
    assert_eq!(status.backends[99].state, ObservedBackendState::Failing);
    assert_eq!(status.backend_count, Some(149));
    assert_eq!(status.backends[0].url, "http://x?key=<hidden>");
    assert_eq!((status.conflicts.len(), status.faults.len()), (50, 50));
    assert_eq!(
        (&*status.conflicts[0], &*status.faults[0]),
        ("conflict 0", "fault 0")
    );
}

// A backend that cannot be used is left out alone, and the condition says which field is invalid.
#[test]
fn unusable_backend_is_named_by_condition() {
    let mut fixture = Fixture::ready();
    let problem = Some("spec.prefix: has no effect".to_owned());
    fixture.backends.as_mut().unwrap().push(Backend {
        problem,
        ..backend("zoo", "http://zoo/mcp")
    });
    let status = fixture.status();
    assert_condition(&status, "Ready", Some(("True", "Serving")));
    assert_condition(&status, "ConfigValid", Some(("True", "ConfigValid")));
    let message = &find(&status.conditions, "ConfigValid").unwrap().message;
    assert!(
        message.ends_with("without 1 of the 2 backends: MCPServerEntry zoo: spec.prefix: has no effect"),
        "{message}"
    );
    assert_eq!(status.backends[1].state, ObservedBackendState::Failing);
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

fn route(parents: &Json) -> OptionalChild<HTTPRoute> {
    let route = serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "vmcp-everything", "generation": 2},
        "spec": {"parentRefs": [{"name": "public"}, {"name": "private"}], "hostnames": ["tools.example.com"], "rules": []},
        "status": {"parents": parents},
    }));
    OptionalChild::Applied(route.unwrap())
}

// The route is ready when every Gateway has accepted it; otherwise the condition says which one has not, and why. It does not affect `Ready`.
#[test]
fn route_is_ready_when_every_gateway_accepts() {
    let parent = |name: &str, type_: &str, status: &str| {
        json!({
            "parentRef": {"name": name}, "controllerName": "example.com/x",
            "conditions": [{"type": type_, "status": status, "reason": "Why", "message": "in words"}],
        })
    };
    for (route, status, reason, message) in [
        (route(&json!([])), "Unknown", "Pending", "no Gateway has accepted"),
        (
            route(&json!([parent("public", "Accepted", "True")])),
            "Unknown",
            "Pending",
            "no Gateway has accepted",
        ),
        (
            route(&json!([
                parent("public", "Accepted", "True"),
                parent("private", "Accepted", "True")
            ])),
            "True",
            "Accepted",
            "have accepted",
        ),
        (
            route(&json!([parent("public", "Accepted", "False")])),
            "False",
            "NotAccepted",
            "public: Why: in words",
        ),
        (
            route(&json!([parent("private", "ResolvedRefs", "False")])),
            "False",
            "NotAccepted",
            "private: Why: in words",
        ),
        (
            OptionalChild::KindMissing,
            "False",
            "GatewayAPIMissing",
            "install the Gateway API",
        ),
        (
            OptionalChild::Failed("ChildNotOwned", "theirs".to_owned()),
            "False",
            "ChildNotOwned",
            "theirs",
        ),
        (
            OptionalChild::Failed("ApplyFailed", "it is down".to_owned()),
            "False",
            "ApplyFailed",
            "it is down; the operator tries again within 30 seconds",
        ),
    ] {
        let mut fixture = Fixture::ready();
        fixture.http_route = Some(route);
        let conditions = fixture.status().conditions;
        let found = find(&conditions, condition_type::HTTP_ROUTE_READY).unwrap();
        assert_eq!((found.status.as_str(), found.reason.as_str()), (status, reason));
        assert!(found.message.contains(message), "{}", found.message);
        assert_eq!(find(&conditions, "Ready").unwrap().status, "True");
    }
}

// What a Gateway has said about an earlier generation of the route counts neither for it nor against it.
#[test]
fn outdated_acceptance_of_route_does_not_count() {
    let parent = |name: &str, status: &str, generation: i64| {
        let condition = json!({
            "type": "Accepted", "status": status, "reason": "Why", "message": "in words", "observedGeneration": generation,
        });
        json!({"parentRef": {"name": name}, "controllerName": "example.com/x", "conditions": [condition]})
    };
    for (private, reason) in [
        (parent("private", "True", 2), "Accepted"),
        (parent("private", "True", 1), "Pending"),
        (parent("private", "False", 1), "Pending"),
        (parent("private", "False", 2), "NotAccepted"),
    ] {
        let mut fixture = Fixture::ready();
        fixture.http_route = Some(route(&json!([parent("public", "True", 2), private])));
        let conditions = fixture.status().conditions;
        let found = find(&conditions, condition_type::HTTP_ROUTE_READY).unwrap();
        assert_eq!(found.reason, reason, "{private}");
    }
}

// A reconcile that stops early keeps the conditions of the route and the monitor, which also say that the objects may exist.
#[test]
fn unreached_route_keeps_its_condition() {
    let mut fixture = Fixture::ready();
    fixture.http_route = Some(OptionalChild::KindMissing);
    fixture.service_monitor = Some(OptionalChild::KindMissing);
    fixture.old = fixture.status();
    fixture.rejected_spec = Some(("ConfigInvalid", "x"));
    (fixture.http_route, fixture.service_monitor) = (None, None);
    let kept = fixture.status().conditions;
    for type_ in [
        condition_type::HTTP_ROUTE_READY,
        condition_type::SERVICE_MONITOR_READY,
    ] {
        assert_eq!(
            find(&kept, type_),
            find(&fixture.old.conditions, type_),
            "{type_}"
        );
        assert!(find(&kept, type_).is_some());
    }
    fixture.http_route = Some(OptionalChild::NotWanted);
    let conditions = fixture.status().conditions;
    assert!(find(&conditions, condition_type::HTTP_ROUTE_READY).is_none());
}

/// A fixture in which the two pods report these states of the backend `time`.
fn reporting(first: &Json, second: &Json) -> Fixture {
    let mut fixture = Fixture::ready();
    let hash = fixture.files.hot_hash.clone();
    fixture.gateways = vec![
        gateway("a", &hash, &json!([first])),
        gateway("b", &hash, &json!([second])),
    ];
    fixture
}

// The worst health and breaker, and the largest counts, of all pods.
#[test]
fn health_breaker_and_counts_are_merged() {
    let first = json!({
        "name": "time", "state": "ready", "tools": 5, "prompts": 2, "resources": 1, "health": "healthy", "breaker": "closed",
    });
    let mut second = first.clone();
    let backend = |second: &Json| reporting(&first, second).status().backends.remove(0);
    let good = backend(&second);
    assert_eq!(good.health, Some(ObservedHealth::Healthy));
    assert_eq!(good.breaker, Some(ObservedBreaker::Closed));
    assert_eq!((good.prompts, good.resources), (Some(2), Some(1)));
    second["health"] = json!("degraded");
    second["breaker"] = json!("open");
    second["resources"] = json!(3);
    let bad = backend(&second);
    assert_eq!(bad.health, Some(ObservedHealth::Degraded));
    assert_eq!(bad.breaker, Some(ObservedBreaker::Open));
    assert_eq!(bad.resources, Some(3));
    second["breaker"] = json!("halfOpen");
    assert_eq!(backend(&second), bad, "a trial call changes nothing");
    second["health"] = json!("unavailable");
    assert_eq!(backend(&second).health, Some(ObservedHealth::Unavailable));
}

#[test]
fn unreported_health_and_breaker_are_absent() {
    let mut fixture = Fixture::ready();
    assert_eq!(fixture.status().backends[0].breaker, None);
    fixture.gateways.clear();
    let backend = fixture.status().backends.remove(0);
    assert_eq!((backend.health, backend.breaker), (None, None));
    assert_eq!((backend.prompts, backend.resources), (None, None));
}

#[test]
fn backends_are_discovered_when_all_are_ready() {
    let type_ = "BackendsDiscovered";
    let mut fixture = Fixture::ready();
    assert_condition(&fixture.status(), type_, Some(("True", "AllBackendsReady")));
    // A backend that is left out of the configuration does not count.
    fixture.backends.as_mut().unwrap().push(Backend {
        problem: Some("spec.prefix: has no effect".to_owned()),
        ..backend("zoo", "http://zoo/mcp")
    });
    assert_condition(&fixture.status(), type_, Some(("True", "AllBackendsReady")));
    let other = backend("weather", "http://weather/mcp");
    fixture.backends.as_mut().unwrap().push(other);
    let pending = fixture.status();
    assert_condition(&pending, type_, Some(("Unknown", "DiscoveryPending")));
    let message = &find(&pending.conditions, type_).unwrap().message;
    assert_eq!(message, "1 of 2 backends not discovered yet: weather");
    fixture.gateways.clear();
    assert_condition(&fixture.status(), type_, Some(("Unknown", "AwaitingGateways")));
}

#[test]
fn failing_backend_is_named_and_server_stays_ready() {
    let failing =
        json!({"name": "time", "state": "failing", "tools": 0, "error": "it refused the connection"});
    let status = reporting(&json!({"name": "time", "state": "ready", "tools": 1}), &failing).status();
    assert_condition(&status, "BackendsDiscovered", Some(("False", "BackendsFailing")));
    assert_condition(&status, "Ready", Some(("True", "Serving")));
    let message = &find(&status.conditions, "BackendsDiscovered").unwrap().message;
    let expected = "1 of 1 backends failing: time (time: it refused the connection); check";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn backend_that_loses_sessions_needs_affinity() {
    let type_ = "BackendNeedsAffinity";
    let ready = json!({"name": "time", "state": "ready", "tools": 1});
    let mut losing = ready.clone();
    losing["needsAffinity"] = json!(true);
    assert_condition(
        &reporting(&ready, &ready).status(),
        type_,
        Some(("False", "SessionsKept")),
    );
    let status = reporting(&ready, &losing).status();
    assert_condition(&status, type_, Some(("True", "BackendLosesSessions")));
    let message = &find(&status.conditions, type_).unwrap().message;
    assert!(message.contains("repeatedly: time."), "{message}");
    let mut fixture = Fixture::ready();
    fixture.gateways.clear();
    assert_condition(&fixture.status(), type_, None);
}

#[test]
fn unreachable_redis_is_named_by_condition() {
    let type_ = "SessionStorageReady";
    let mut fixture = Fixture::ready();
    assert_condition(
        &fixture.status(),
        type_,
        Some(("True", "SessionStorageAvailable")),
    );
    // A pod may be unready because of Redis.
    fixture.gateways[1].ready = false;
    let store = &mut fixture.gateways[1].status.as_mut().unwrap().session_store;
    store.available = false;
    store.error = Some("connection refused".to_owned());
    let status = fixture.status();
    assert_condition(&status, type_, Some(("False", "SessionStorageUnavailable")));
    let message = &find(&status.conditions, type_).unwrap().message;
    assert!(
        message.starts_with("b cannot use Redis: connection refused; check"),
        "{message}"
    );
    fixture.gateways.clear();
    assert_condition(&fixture.status(), type_, Some(("Unknown", "AwaitingGateways")));
    fixture.server = server(&json!({"provider": "memory"}));
    assert_condition(&fixture.status(), type_, None);
}

#[test]
fn unpolled_pods_keep_their_conditions() {
    let failing = json!({"name": "time", "state": "failing", "tools": 0, "needsAffinity": true});
    let mut fixture = reporting(&failing, &failing);
    fixture.old = fixture.status();
    fixture.gateways.clear();
    fixture.backends = None;
    let status = fixture.status_with(SecretsState::Unknown, None);
    for type_ in [
        "BackendsDiscovered",
        "BackendNeedsAffinity",
        "SessionStorageReady",
    ] {
        assert_eq!(
            find(&status.conditions, type_),
            find(&fixture.old.conditions, type_)
        );
        assert!(find(&status.conditions, type_).is_some(), "{type_}");
    }
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
