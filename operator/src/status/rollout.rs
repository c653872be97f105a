//! What keeps a Deployment from completing its rollout, as `Ready` reports it.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetCondition};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use vmcp_crds::v1alpha1::field_rules::one_line;

use super::assessment::{Assessment, Phase, count, stalled, waiting};
use super::remedy;
use crate::backoff;

/// Maximum number of characters of another controller's message that is repeated.
const MAX_MESSAGE_CHARS: usize = 500;
/// The start of a message about a rollout whose deadline has passed. Ten minutes are the default, which the operator leaves as it is.
pub(super) const NO_PROGRESS: &str = "no progress for ten minutes";
/// What the kubelet puts before the words of a failed attempt to pull an image.
const PULL_FAILURE: &str = "ErrImagePull: ";
/// Reasons for which every container waits at first.
const STARTING_REASONS: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The obstacle in the rollout of the Deployment, if it is not complete. `replica_sets` and `pods` are those of the Deployment, and
/// `applied_generation` is its generation after the operator's last apply. `unready` gives what a running pod says that is not ready, if it says
/// why. `noun` is what one of the pods is called.
pub(super) fn rollout<S, P>(
    deployment: &Deployment,
    applied_generation: Option<i64>,
    replica_sets: &[S],
    pods: &[P],
    unready: impl FnOnce() -> Option<String>,
    noun: &str,
) -> Option<Assessment>
where
    S: AsRef<ReplicaSet>,
    P: AsRef<Pod>,
{
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.replicas.unwrap_or(1);
    // A later generation is a change of others, for example an annotation. If it changes the pods, the counts say so a moment later.
    if status.observed_generation < applied_generation.or(deployment.metadata.generation) {
        let message = "the Deployment has changed, and its controller has not observed the change yet";
        return Some(waiting("DeploymentProgressing", message.to_owned()));
    }
    let updated = status.updated_replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(0);
    let all = status.replicas.unwrap_or(0);
    if wanted == 0 && all == 0 {
        return Some(Assessment {
            phase: Phase::Idle,
            reason: "ScaledToZero",
            message: "scaled to zero replicas: no pod serves the endpoint".to_owned(),
        });
    }
    if updated >= wanted && available >= wanted && all <= updated {
        return None;
    }
    if deployment.spec.paused == Some(true) {
        let name = deployment.name_any();
        let message =
            format!("the Deployment is paused: continue with `kubectl rollout resume deployment/{name}`");
        return Some(stalled("DeploymentPaused", message));
    }
    let obstacle = pod_creation_failure(replica_sets).or_else(|| first_failing_pod(pods));
    if is_deadline_exceeded(deployment) {
        let message = obstacle.map(|obstacle| obstacle.message).or_else(unready);
        let message = message.unwrap_or_else(|| starting_pod(deployment, pods));
        return Some(stalled(
            "ProgressDeadlineExceeded",
            format!("{NO_PROGRESS}: {message}"),
        ));
    }
    obstacle.or_else(|| {
        let wanted = count(usize::try_from(wanted).unwrap_or(0), noun);
        let mut message = format!("waiting for {wanted}: {updated} updated, {available} available");
        if let Some(unready) = unready() {
            message.push_str(&format!("; {unready}"));
        }
        Some(waiting("DeploymentProgressing", message))
    })
}

/// Whether the rollout has made no progress for as long as the Deployment allows.
pub(super) fn is_deadline_exceeded(deployment: &Deployment) -> bool {
    let status = deployment.status.as_ref();
    let mut conditions = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    conditions.any(|condition| {
        condition.type_.as_deref() == Some("Progressing")
            && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    })
}

/// A ReplicaSet that cannot create pods, for example because of a quota, a LimitRange or an admission policy.
fn pod_creation_failure<S: AsRef<ReplicaSet>>(replica_sets: &[S]) -> Option<Assessment> {
    replica_sets.iter().map(AsRef::as_ref).find_map(|set| {
        let failure = creation_failure(set)?;
        let (name, reason) = (set.name_any(), failure.reason.as_deref().unwrap_or("unknown reason"));
        let detail = failure.message.as_deref().unwrap_or_default();
        let seconds = backoff::MAX_DELAY.as_secs();
        let message = format!(
            "ReplicaSet {name} cannot create pods ({reason}): {}{}; Kubernetes tries again within {seconds} seconds; look at \
             `kubectl describe replicaset {name}`",
            one_line(detail, MAX_MESSAGE_CHARS),
            as_clause(remedy::for_pod_creation(detail)),
        );
        Some(waiting("PodCreationFailed", message))
    })
}

/// The condition of a ReplicaSet that cannot create or delete pods.
pub(crate) fn creation_failure(set: &ReplicaSet) -> Option<&ReplicaSetCondition> {
    let conditions = set.status.as_ref()?.conditions.as_ref()?;
    let is_failure = |condition: &&ReplicaSetCondition| {
        condition.type_.as_deref() == Some("ReplicaFailure") && condition.status.as_deref() == Some("True")
    };
    conditions.iter().find(is_failure)
}

/// The first pod that cannot start, or that has ended.
fn first_failing_pod<P: AsRef<Pod>>(pods: &[P]) -> Option<Assessment> {
    let problems = pods.iter().map(AsRef::as_ref).filter_map(|pod| {
        let problem = pod_problem(pod)?;
        Some((pod.name_any(), problem))
    });
    let (name, problem) = problems.min()?;
    Some(waiting("PodNotRunning", format!("pod {name}: {problem}")))
}

/// Why a pod cannot start or has ended, and what to look at; `None` for a pod that is starting, running or terminating.
fn pod_problem(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let describe = format!("look at `kubectl describe pod {}`", pod.name_any());
    if status.phase.as_deref() == Some("Failed") {
        let words = reason_and_message(status.reason.as_deref(), status.message.as_deref());
        return Some(format!("failed{words}; {describe}"));
    }
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unschedulable {
        let words = reason_and_message(condition.reason.as_deref(), condition.message.as_deref());
        return Some(format!("no node for it{words}; {describe}"));
    }
    if let Some(node) = silent_node(pod) {
        return Some(format!(
            "its node {node} does not report any more; look at `kubectl describe node {node}`"
        ));
    }
    let init = status.init_container_statuses.iter().flatten();
    let main = status.container_statuses.iter().flatten();
    init.map(|container| (container, true))
        .chain(main.map(|container| (container, false)))
        .find_map(|(container, is_init)| {
            let problem = container_problem(container, is_init)?;
            let remedy = if ended(container).is_some() {
                format!(
                    "look at `kubectl logs {} --container {}`",
                    pod.name_any(),
                    container.name
                )
            } else {
                describe.clone()
            };
            Some(format!("container {}: {problem}; {remedy}", container.name))
        })
}

/// The node of the pod, if it has stopped reporting. The node controller then sets the condition `Ready` of the pod and leaves what its kubelet has
/// said of its containers.
fn silent_node(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let is = |type_: &str, status: &str| {
        let mut found = conditions.iter().filter(|condition| condition.type_ == type_);
        found.any(|condition| condition.status == status)
    };
    let has_gates = spec
        .readiness_gates
        .as_ref()
        .is_some_and(|gates| !gates.is_empty());
    let is_silent = !has_gates && is("ContainersReady", "True") && is("Ready", "False");
    spec.node_name.as_deref().filter(|_| is_silent)
}

/// Why a container cannot start or has ended. The text does not change while the kubelet restarts the container again and again, because each
/// new text is a write of the status.
fn container_problem(container: &ContainerStatus, is_init: bool) -> Option<String> {
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref();
    if let Some(ended) = ended(container) {
        let is_done = is_init && ended.exit_code == 0;
        // One that runs again, and is not ready yet, is likely to end again.
        return (!container.ready && !is_done).then(|| {
            let words = reason_and_message(ended.reason.as_deref(), ended.message.as_deref());
            format!("ended with exit code {}{words}", ended.exit_code)
        });
    }
    let reason = waiting?.reason.as_deref()?;
    if STARTING_REASONS.contains(&reason) {
        return None;
    }
    let words = waiting?.message.as_deref().unwrap_or_default();
    // Between two attempts, the kubelet puts a prefix before the words of the last one.
    let words = match words.split_once(PULL_FAILURE) {
        Some((_, cause)) if reason == "ImagePullBackOff" => format!("{PULL_FAILURE}{cause}"),
        _ if words.is_empty() => reason.to_owned(),
        _ => format!("{reason}: {words}"),
    };
    let is_pull = ["ErrImagePull", "ImagePullBackOff"].contains(&reason);
    let remedy = remedy::for_image_pull(&words).filter(|_| is_pull);
    let remedy = as_clause(remedy.or_else(|| remedy::for_container_start(&words)));
    Some(format!("{}{remedy}", one_line(&words, MAX_MESSAGE_CHARS)))
}

/// `remedy` as a clause after another.
fn as_clause(remedy: Option<&str>) -> String {
    remedy.map_or_else(String::new, |remedy| format!("; {remedy}"))
}

/// How the container ended, now or before its last restart.
fn ended(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let states = [&container.state, &container.last_state];
    states
        .into_iter()
        .find_map(|state| state.as_ref()?.terminated.as_ref())
}

/// Names the pod to look at while nothing says why pods do not become ready.
fn starting_pod<P: AsRef<Pod>>(deployment: &Deployment, pods: &[P]) -> String {
    let is_not_ready = |pod: &&Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let is_ready = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        !is_ready && pod.metadata.deletion_timestamp.is_none()
    };
    let names = pods
        .iter()
        .map(AsRef::as_ref)
        .filter(is_not_ready)
        .map(ResourceExt::name_any);
    names.min().map_or_else(
        || format!("look at `kubectl describe deployment {}`", deployment.name_any()),
        |name| format!("pod {name} does not become ready; look at `kubectl describe pod {name}`"),
    )
}

/// ` (reason: message)`, or what there is of it.
fn reason_and_message(reason: Option<&str>, message: Option<&str>) -> String {
    let message = message.map(|message| one_line(message, MAX_MESSAGE_CHARS));
    let words: Vec<&str> = reason
        .into_iter()
        .chain(message.as_deref())
        .filter(|text| !text.is_empty())
        .collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(" ({})", words.join(": "))
    }
}
