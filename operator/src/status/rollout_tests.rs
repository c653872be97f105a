use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value as Json, json};

use super::assessment::{Assessment, Phase};
use super::rollout;

/// A Deployment that waits for the second of two pods.
fn deployment(spec: &Json, conditions: &Json) -> Deployment {
    let mut object = json!({
        "metadata": {"name": "vmcp-x", "generation": 1},
        "spec": {"replicas": 2, "selector": {}, "template": {}},
        "status": {
            "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1, "conditions": conditions,
        },
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn pod(name: &str, status: &Json) -> Box<Pod> {
    Box::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap())
}

/// A pod whose container `gateway` is not ready, with these states.
fn pod_with_container(name: &str, states: &Json) -> Box<Pod> {
    let mut container =
        json!({"name": "gateway", "image": "", "imageID": "", "ready": false, "restartCount": 1});
    for (field, value) in states.as_object().unwrap() {
        container[field] = value.clone();
    }
    pod(
        name,
        &json!({"phase": "Pending", "containerStatuses": [container]}),
    )
}

fn assess(deployment: &Deployment, sets: &[Box<ReplicaSet>], pods: &[Box<Pod>]) -> Assessment {
    rollout::rollout(deployment, None, sets, pods, || None, "gateway pod").unwrap()
}

fn assess_pods(pods: &[Box<Pod>]) -> (&'static str, String) {
    let found = assess(&deployment(&json!({}), &json!([])), &[], pods);
    (found.reason, found.message)
}

#[test]
fn pod_that_waits_is_reported_with_kubelet_words() {
    let pods = [
        pod_with_container(
            "b",
            &json!({"state": {"waiting": {"reason": "ContainerCreating"}}}),
        ),
        pod_with_container(
            "a",
            &json!({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such\nimage"}}}),
        ),
    ];
    let (reason, message) = assess_pods(&pods);
    assert_eq!(reason, "PodNotRunning");
    assert_eq!(
        message,
        "pod a: container gateway: ImagePullBackOff: no such image; look at `kubectl describe pod a`"
    );
    assert_eq!(assess_pods(&pods[..1]).0, "DeploymentProgressing");
}

// The message is the same during an attempt and between two attempts. It names the field with credentials if the registry asks for them.
#[test]
fn refused_image_pull_leads_to_pull_secrets() {
    let denied = "failed to pull image: pull access denied";
    let phases = [
        json!({"state": {"waiting": {"reason": "ErrImagePull", "message": denied}}}),
        json!({"state": {"waiting": {
            "reason": "ImagePullBackOff",
            "message": format!("Back-off pulling image \"x\": ErrImagePull: {denied}"),
        }}}),
    ];
    for states in &phases {
        let (reason, message) = assess_pods(&[pod_with_container("a", states)]);
        assert_eq!(reason, "PodNotRunning");
        assert_eq!(
            message,
            "pod a: container gateway: ErrImagePull: failed to pull image: pull access denied; if the registry needs credentials, \
             name their Secret in spec.imagePullSecrets; look at `kubectl describe pod a`"
        );
    }
    let denied = json!({"state": {"waiting": {"reason": "CreateContainerError", "message": denied}}});
    let (_, message) = assess_pods(&[pod_with_container("a", &denied)]);
    assert!(!message.contains("imagePullSecrets"), "{message}");
}

// The message is the same in every phase of a crash loop.
#[test]
fn crash_loop_is_reported_with_exit_code() {
    let ended = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
    let phases = [
        json!({"state": ended}),
        json!({"state": {"running": {}}, "lastState": ended}),
        json!({
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, "lastState": ended,
        }),
    ];
    for states in &phases {
        let (reason, message) = assess_pods(&[pod_with_container("a", states)]);
        assert_eq!(reason, "PodNotRunning");
        assert_eq!(
            message,
            "pod a: container gateway: ended with exit code 1 (Error); look at `kubectl logs a --container gateway`"
        );
    }
    let ready = json!({"state": {"running": {}}, "lastState": ended, "ready": true});
    let (reason, _) = assess_pods(&[pod_with_container("a", &ready)]);
    assert_eq!(reason, "DeploymentProgressing");
}

#[test]
fn unschedulable_and_evicted_pods_are_reported() {
    let unschedulable = json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available",
    }]});
    let (reason, message) = assess_pods(&[pod("a", &unschedulable)]);
    assert_eq!(reason, "PodNotRunning");
    assert!(
        message.starts_with("pod a: no node for it (Unschedulable: 0/2 nodes are available)"),
        "{message}"
    );
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"});
    let (_, message) = assess_pods(&[pod("a", &evicted)]);
    assert!(
        message.starts_with("pod a: failed (Evicted: low on memory)"),
        "{message}"
    );
}

// The node controller changes only the condition `Ready` of the pods of a node that is lost. With a readiness gate, `Ready` has another meaning.
#[test]
fn pod_on_lost_node_is_reported_with_node() {
    let lost = |gates: &Json| -> Box<Pod> {
        let spec = json!({"nodeName": "node2", "containers": [], "readinessGates": gates});
        let status = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"},
        ]});
        Box::new(
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec, "status": status}))
                .unwrap(),
        )
    };
    let (reason, message) = assess_pods(&[lost(&json!([]))]);
    assert_eq!(reason, "PodNotRunning");
    assert_eq!(
        message,
        "pod a: its node node2 does not report any more; look at `kubectl describe node node2`"
    );
    let (reason, _) = assess_pods(&[lost(&json!([{"conditionType": "example.com/a"}]))]);
    assert_eq!(reason, "DeploymentProgressing");
}

#[test]
fn pods_that_cannot_be_created_are_reported() {
    let set: ReplicaSet = serde_json::from_value(json!({
        "metadata": {"name": "vmcp-x-1"}, "spec": {"selector": {}},
        "status": {"replicas": 0, "conditions": [{
            "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota",
        }]},
    }))
    .unwrap();
    let found = assess(&deployment(&json!({}), &json!([])), &[Box::new(set)], &[]);
    assert_eq!((found.phase, found.reason), (Phase::Waiting, "PodCreationFailed"));
    assert_eq!(
        found.message,
        "ReplicaSet vmcp-x-1 cannot create pods (FailedCreate): exceeded quota; Kubernetes tries again within 30 seconds; \
         look at `kubectl describe replicaset vmcp-x-1`"
    );
}

#[test]
fn paused_rollout_stalls() {
    let found = assess(&deployment(&json!({"paused": true}), &json!([])), &[], &[]);
    assert_eq!((found.phase, found.reason), (Phase::Stalled, "DeploymentPaused"));
    assert!(
        found.message.contains("kubectl rollout resume deployment/vmcp-x"),
        "{}",
        found.message
    );
}

// After ten minutes, the message still says why, or at least which object to look at.
#[test]
fn rollout_without_progress_stalls_and_says_why() {
    let conditions =
        json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
    let stuck = deployment(&json!({}), &conditions);
    let starting = pod("a", &json!({"phase": "Running"}));
    let failing = pod_with_container(
        "b",
        &json!({"state": {"waiting": {"reason": "InvalidImageName"}}}),
    );
    for (pods, expected) in [
        (vec![], "kubectl describe deployment vmcp-x"),
        (vec![starting.clone()], "kubectl describe pod a"),
        (vec![starting, failing], "container gateway: InvalidImageName"),
    ] {
        let found = assess(&stuck, &[], &pods);
        assert_eq!(
            (found.phase, found.reason),
            (Phase::Stalled, "ProgressDeadlineExceeded")
        );
        assert!(
            found.message.starts_with("no progress for ten minutes: ") && found.message.contains(expected),
            "{}",
            found.message
        );
    }
}

// The kubelet does not know why a pod is not ready. The pod does.
#[test]
fn unready_pod_is_quoted_where_nothing_else_stops_it() {
    let quote = || Some("a cannot use Redis: wrong password".to_owned());
    let progressing = deployment(&json!({}), &json!([]));
    let message = |deployment: &Deployment, pods: &[Box<Pod>]| {
        let found = rollout::rollout(
            deployment,
            None,
            &[] as &[Box<ReplicaSet>],
            pods,
            quote,
            "gateway pod",
        )
        .unwrap();
        (found.reason, found.message)
    };
    assert_eq!(
        message(&progressing, &[]),
        (
            "DeploymentProgressing",
            "waiting for 2 gateway pods: 2 updated, 1 available; a cannot use Redis: wrong password"
                .to_owned()
        )
    );
    let exceeded = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
    assert_eq!(
        message(&deployment(&json!({}), &exceeded), &[]),
        (
            "ProgressDeadlineExceeded",
            "no progress for ten minutes: a cannot use Redis: wrong password".to_owned()
        )
    );
    let failing = pod_with_container(
        "b",
        &json!({"state": {"waiting": {"reason": "InvalidImageName"}}}),
    );
    assert_eq!(message(&progressing, &[failing]).0, "PodNotRunning");
}

// The controller of Deployments has to observe what the operator has applied, and not an annotation that another client has added since.
#[test]
fn unobserved_change_of_others_is_no_rollout() {
    let mut annotated = deployment(&json!({}), &json!([]));
    annotated.metadata.generation = Some(2);
    let reason = |applied| {
        let found = rollout::rollout(
            &annotated,
            applied,
            &[] as &[Box<ReplicaSet>],
            &[] as &[Box<Pod>],
            || None,
            "gateway pod",
        );
        found.map(|found| found.message)
    };
    let unobserved = "the Deployment has changed, and its controller has not observed the change yet";
    assert_eq!(reason(Some(2)).as_deref(), Some(unobserved));
    assert_eq!(reason(None).as_deref(), Some(unobserved));
    let counts = reason(Some(1)).unwrap();
    assert!(counts.starts_with("waiting for 2 gateway pods"), "{counts}");
}
