//! Derives the status of a server from what was observed. Pure functions.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use vmcp_crds::condition::{ConditionUpdate, merge};
use vmcp_crds::v1alpha1::field_rules::one_line;
use vmcp_crds::v1alpha1::{
    LastExit, MAX_SERVER_REPLICAS, MCPServer, MCPServerStatus, ServerPhase, ServerTransport, condition_type,
};

use super::ApplyFailure;
use super::assessment::{Assessment, Phase, apply_obstacle, count, stalled, waiting};
use super::rollout::rollout;
use crate::desired::labels;
use crate::desired::mcp_server::SERVER_CONTAINER;
use crate::status_client::{BridgePod, is_ready, is_running};
use crate::workload::Workload as _;

/// Maximum number of characters of a bridge's message that is repeated.
const MAX_MESSAGE_CHARS: usize = 500;

/// Everything that the status of a server is derived from.
#[derive(Clone, Copy, Debug)]
pub struct ObservedServer<'a> {
    /// The server with its spec.
    pub server: &'a MCPServer,
    /// Why the spec was rejected. Nothing was applied then.
    pub rejection: Option<&'a Rejection>,
    /// The right that is missing to watch a kind.
    pub refused_watch: Option<&'a str>,
    /// The message about another installation of the operator that writes the same objects.
    pub installation_conflict: Option<&'a str>,
    /// Why an object could not be applied.
    pub apply_failure: Option<ApplyFailure<'a>>,
    /// The current Deployment, if it exists.
    pub deployment: Option<&'a Deployment>,
    /// The generation of the Deployment after the operator's last apply.
    pub applied_generation: Option<i64>,
    /// The ReplicaSets of the Deployment.
    pub replica_sets: &'a [Arc<ReplicaSet>],
    /// The pods of these ReplicaSets.
    pub pods: &'a [Arc<Pod>],
    /// What the bridges in these pods report.
    pub bridges: &'a [BridgePod],
    /// The number of tools that gateways have found.
    pub tools_of_gateways: Option<i32>,
}

/// Why a spec is rejected before anything is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The reason of the condition, in CamelCase.
    pub reason: &'static str,
    /// The message of the condition.
    pub message: String,
    /// Whether a user has to change the server; otherwise the operator waits for another object.
    pub stalled: bool,
}

/// Derives the status from `observed`. Transition times of unchanged conditions come from `old`.
#[must_use]
pub fn derive_server(
    observed: &ObservedServer<'_>,
    old: &MCPServerStatus,
    now: Timestamp,
) -> MCPServerStatus {
    let server = observed.server;
    let assessment = assess(observed);
    let updates: Vec<ConditionUpdate> = [
        Some(super::ready(&assessment)),
        super::progress(&assessment),
        Some(config(observed)),
        Some(available(observed)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let counts = observed
        .deployment
        .and_then(|deployment| deployment.status.as_ref());
    let ready = counts.and_then(|counts| counts.ready_replicas).unwrap_or(0);
    let is_url_known = old.url.is_some() || ready > 0;
    let is_bridged = server.spec.transport() == ServerTransport::Stdio;
    let reported = observed
        .bridges
        .iter()
        .filter_map(|bridge| bridge.status.as_ref().ok()?.backends.first())
        .find(|backend| backend.error.is_none());
    let tools = if is_bridged {
        reported.map(|backend| i32::try_from(backend.tools).unwrap_or(i32::MAX))
    } else {
        observed.tools_of_gateways
    };
    MCPServerStatus {
        observed_generation: server.metadata.generation,
        conditions: merge(&old.conditions, &updates, server.metadata.generation, now),
        phase: Some(phase(&assessment)),
        url: is_url_known.then(|| server.url()),
        addresses: addresses(observed.pods),
        replicas: Some(counts.and_then(|counts| counts.replicas).unwrap_or(0)),
        ready_replicas: Some(ready),
        selector: Some(labels::selector_text(server)),
        revision: is_bridged
            .then(|| {
                reported
                    .and_then(|backend| backend.revision.clone())
                    .or_else(|| old.revision.clone())
            })
            .flatten(),
        tools: tools.or(old.tools),
        restarts: Some(restarts(observed.pods)),
        last_exit: last_exit(observed.pods),
    }
}

/// The status of a server that is being deleted, while `finalizers` of other controllers keep it.
#[must_use]
pub fn derive_terminating_server(
    finalizers: &[&str],
    generation: Option<i64>,
    old: &MCPServerStatus,
    now: Timestamp,
) -> MCPServerStatus {
    let message = format!(
        "the MCPServer is being deleted, and waits for the controllers of these finalizers: {}. Its pods run until then",
        finalizers.join(", ")
    );
    MCPServerStatus {
        observed_generation: generation,
        conditions: super::with_assessment(
            &waiting("Terminating", message),
            &old.conditions,
            generation,
            now,
        ),
        phase: Some(ServerPhase::Terminating),
        ..old.clone()
    }
}

/// Checks the prerequisites in order and returns the first obstacle, or that the server is ready.
fn assess(observed: &ObservedServer<'_>) -> Assessment {
    if let Some(rejection) = observed.rejection {
        let phase = if rejection.stalled {
            Phase::Stalled
        } else {
            Phase::Waiting
        };
        return Assessment {
            phase,
            reason: rejection.reason,
            message: rejection.message.clone(),
        };
    }
    if let Some(message) = observed.refused_watch {
        return waiting("WatchRefused", message.to_owned());
    }
    if let Some(message) = observed.installation_conflict {
        return stalled("OtherInstallation", message.to_owned());
    }
    if let Some(obstacle) = apply_obstacle(observed.apply_failure) {
        return obstacle;
    }
    let Some(deployment) = observed.deployment else {
        return waiting(
            "DeploymentProgressing",
            "the Deployment does not exist yet".to_owned(),
        );
    };
    let failure = || initialize_failure(observed);
    match rollout(
        deployment,
        observed.applied_generation,
        observed.replica_sets,
        observed.pods,
        failure,
        MCPServer::POD,
    ) {
        // A pod that runs says more than its Deployment.
        Some(obstacle) if obstacle.reason == "DeploymentProgressing" => match failure() {
            Some(message) => waiting("InitializeFailed", message),
            None => obstacle,
        },
        Some(obstacle) => obstacle,
        None => Assessment {
            phase: Phase::Serving,
            reason: "Serving",
            message: format!("{} ready", count(ready_pods(observed), "pod")),
        },
    }
}

/// What the first bridge says whose server has not answered `initialize`.
fn initialize_failure(observed: &ObservedServer<'_>) -> Option<String> {
    observed.bridges.iter().find_map(|bridge| {
        let status = bridge.status.as_ref().ok()?;
        let error = status.backends.first()?.error.as_ref()?;
        Some(format!(
            "pod {}: the server does not answer `initialize`: {}; look at `kubectl logs {} --container {SERVER_CONTAINER}`",
            bridge.name,
            one_line(error, MAX_MESSAGE_CHARS),
            bridge.name
        ))
    })
}

fn ready_pods(observed: &ObservedServer<'_>) -> usize {
    let status = observed
        .deployment
        .and_then(|deployment| deployment.status.as_ref());
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    usize::try_from(ready).unwrap_or(0)
}

fn phase(assessment: &Assessment) -> ServerPhase {
    match assessment.phase {
        Phase::Serving => ServerPhase::Ready,
        Phase::Idle => ServerPhase::Stopped,
        Phase::Stalled => ServerPhase::Failed,
        Phase::Waiting => match assessment.reason {
            "PodNotRunning" | "PodCreationFailed" | "InitializeFailed" | "ApplyRefused" => {
                ServerPhase::Failed
            }
            _ => ServerPhase::Pending,
        },
    }
}

fn config(observed: &ObservedServer<'_>) -> ConditionUpdate {
    let (status, reason, message) = match observed.rejection {
        Some(rejection) => (false, rejection.reason, rejection.message.clone()),
        None => (true, "ConfigValid", "the spec is accepted".to_owned()),
    };
    ConditionUpdate {
        type_: condition_type::CONFIG_VALID,
        status: Some(status),
        reason,
        message,
    }
}

fn available(observed: &ObservedServer<'_>) -> ConditionUpdate {
    let ready = ready_pods(observed);
    let (status, reason, message) = match ready {
        0 => (
            false,
            "NoPodReady",
            "no pod is ready, so calls to the server fail".to_owned(),
        ),
        ready => (
            true,
            "PodsReady",
            format!("{} can serve calls", count(ready, "pod")),
        ),
    };
    ConditionUpdate {
        type_: condition_type::AVAILABLE,
        status: Some(status),
        reason,
        message,
    }
}

/// The addresses of the ready pods or, while none is ready, of the running ones: a container that restarts keeps the address of its pod.
fn addresses(pods: &[Arc<Pod>]) -> Vec<String> {
    let of = |is_wanted: &dyn Fn(&Pod) -> bool| {
        let wanted = pods.iter().filter(|pod| is_running(pod) && is_wanted(pod));
        let addresses = wanted.filter_map(|pod| pod.status.as_ref()?.pod_ip.clone());
        let mut addresses: Vec<String> = addresses.collect();
        addresses.sort_unstable();
        addresses.truncate(MAX_SERVER_REPLICAS);
        addresses
    };
    let ready = of(&is_ready);
    if ready.is_empty() { of(&|_| true) } else { ready }
}

fn restarts(pods: &[Arc<Pod>]) -> i32 {
    let containers = pods.iter().filter_map(|pod| server_container(pod));
    containers
        .map(|container| container.restart_count)
        .fold(0, i32::saturating_add)
}

fn last_exit(pods: &[Arc<Pod>]) -> Option<LastExit> {
    let exits = pods.iter().filter_map(|pod| {
        let container = server_container(pod)?;
        let states = [&container.state, &container.last_state];
        let ended = states
            .into_iter()
            .find_map(|state| state.as_ref()?.terminated.as_ref())?;
        Some(LastExit {
            pod: pod.name_any(),
            exit_code: ended.exit_code,
            reason: ended.reason.clone(),
            finished_at: ended.finished_at.clone(),
        })
    });
    exits.max_by_key(|exit| exit.finished_at.as_ref().map(|time| time.0))
}

fn server_container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses
        .iter()
        .find(|container| container.name == SERVER_CONTAINER)
}
