//! Assesses whether a virtual server is ready, and if not, what it is waiting for.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use vmcp_crds::v1alpha1::{ObservedBackend, VirtualMCPServer};

use super::rollout::{NO_PROGRESS, is_deadline_exceeded, rollout};
use super::{ApplyFailure, Observed, SecretsState, backends, gateway_conditions, remedy};
use crate::backoff;
use crate::desired::ConfigFiles;
use crate::status_client::GatewayPod;
use crate::workload::Workload as _;

/// Maximum number of pods that a message names.
const MAX_NAMED_PODS: usize = 3;

/// The phase of a virtual server, with the reason and message of its `Ready` condition: the first obstacle, if there is one.
pub(super) struct Assessment {
    pub(super) phase: Phase,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Progress of a virtual server towards its spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The gateway serves the current spec.
    Serving,
    /// The virtual server is scaled to zero, as its spec says: there is nothing to wait for.
    Idle,
    /// The operator is at work, or waits for a change that may happen without a user.
    Waiting,
    /// A user has to act.
    Stalled,
}

/// Checks the prerequisites in order and returns the first obstacle, or that the server is serving.
pub(super) fn assess(observed: &Observed<'_>, observed_backends: Option<&[ObservedBackend]>) -> Assessment {
    if let Some((reason, message)) = observed.rejected_spec {
        return stalled(reason, message.to_owned());
    }
    if let Some(message) = observed.refused_watch {
        return waiting("WatchRefused", message.to_owned());
    }
    if let Some(message) = observed.installation_conflict {
        return stalled("OtherInstallation", message.to_owned());
    }
    let Some(members) = observed.backends else {
        let message = missing_group_message(&observed.server.spec.group_ref.name);
        return waiting("GroupRefNotFound", message);
    };
    let files = match observed.config {
        Ok(files) => files,
        Err(problem) => return stalled("ConfigInvalid", problem.to_owned()),
    };
    if let SecretsState::Unresolved {
        reason,
        message,
        stalled,
    } = observed.secrets
    {
        let phase = if stalled { Phase::Stalled } else { Phase::Waiting };
        return Assessment {
            phase,
            reason,
            message: message.to_owned(),
        };
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
    let unready = || gateway_conditions::store_of_unready_pod(observed);
    store_outage(observed, deployment)
        .or_else(|| {
            rollout(
                deployment,
                observed.applied_generation,
                observed.replica_sets,
                observed.pods,
                unready,
                VirtualMCPServer::POD,
            )
        })
        .or_else(|| config_rollout(observed.gateways, observed.pods, files))
        .unwrap_or_else(|| Assessment {
            phase: Phase::Serving,
            reason: "Serving",
            message: serving_message(members.len(), observed_backends.unwrap_or_default()),
        })
}

/// The obstacle if an object could not be applied.
pub(super) fn apply_obstacle(failure: Option<ApplyFailure<'_>>) -> Option<Assessment> {
    Some(match failure? {
        ApplyFailure::Refused(message) => {
            let remedy = remedy::for_refused_object(message);
            let message = remedy.map_or_else(|| message.to_owned(), |remedy| format!("{message}; {remedy}"));
            waiting("ApplyRefused", with_retry(&message))
        }
        ApplyFailure::Failed(message) => waiting("ApplyFailed", with_retry(message)),
        ApplyFailure::NotOwned { message, stalled } => Assessment {
            phase: if stalled { Phase::Stalled } else { Phase::Waiting },
            reason: "ChildNotOwned",
            message: message.to_owned(),
        },
    })
}

/// The obstacle while no pod reaches its session store.
fn store_outage(observed: &Observed<'_>, deployment: &Deployment) -> Option<Assessment> {
    let message = gateway_conditions::unavailable_store(observed)?;
    let reason = "SessionStoreUnavailable";
    Some(if is_deadline_exceeded(deployment) {
        stalled(reason, format!("{NO_PROGRESS}: {message}"))
    } else {
        waiting(reason, message)
    })
}

fn serving_message(total: usize, observed: &[ObservedBackend]) -> String {
    match backends::count_ready(observed) {
        ready if usize::try_from(ready) == Ok(total) => {
            format!("the gateway serves {}", count(total, "backend"))
        }
        ready => format!("the gateway serves; {ready} of {total} backends answer"),
    }
}

/// The obstacle until all ready pods have loaded the rendered configuration.
fn config_rollout(gateways: &[GatewayPod], pods: &[Arc<Pod>], files: &ConfigFiles) -> Option<Assessment> {
    if let Some(rejection) = config_rejection(gateways, files) {
        return Some(waiting("ConfigRefused", rejection));
    }
    let mut unreachable = Vec::new();
    let mut outdated = Vec::new();
    let mut current = 0_usize;
    for gateway in gateways.iter().filter(|gateway| gateway.ready) {
        match &gateway.status {
            Ok(status) if status.hot_config_hash == files.hot_hash => current += 1,
            Ok(_) => outdated.push(gateway.name.as_str()),
            Err(problem) => {
                let node = node_of(pods, &gateway.name);
                let node = node.map_or_else(String::new, |node| format!(" on node {node}"));
                unreachable.push(format!("{}{node} {problem}", gateway.name));
            }
        }
    }
    if !unreachable.is_empty() {
        unreachable.truncate(MAX_NAMED_PODS);
        return Some(waiting("GatewayUnreachable", unreachable.join("; ")));
    }
    if !outdated.is_empty() {
        outdated.truncate(MAX_NAMED_PODS);
        return Some(waiting(
            "ConfigPending",
            format!(
                "the current backends have not yet reached {}",
                outdated.join(", ")
            ),
        ));
    }
    // The Deployment may count pods as available that the watch on pods has not shown yet.
    (current == 0).then(|| waiting("DeploymentProgressing", "no gateway pod is ready".to_owned()))
}

fn node_of<'a>(pods: &'a [Arc<Pod>], name: &str) -> Option<&'a str> {
    let pod = pods
        .iter()
        .find(|pod| pod.metadata.name.as_deref() == Some(name))?;
    pod.spec.as_ref()?.node_name.as_deref()
}

/// The message of the first pod that has rejected the rendered hot configuration.
pub(super) fn config_rejection(gateways: &[GatewayPod], files: &ConfigFiles) -> Option<String> {
    gateways.iter().find_map(|gateway| {
        let status = gateway.status.as_ref().ok()?;
        let error = status.hot_config_error.as_ref()?;
        (status.hot_config_hash != files.hot_hash)
            .then(|| format!("{} rejected the backends: {error}", gateway.name))
    })
}

/// Adds when the next attempt is. The bound instead of the time of the attempt, because each new time would be a write.
pub(super) fn with_retry(message: &str) -> String {
    let seconds = backoff::MAX_DELAY.as_secs();
    format!("{message}; the operator tries again within {seconds} seconds")
}

pub(super) fn missing_group_message(group: &str) -> String {
    format!(
        "spec.groupRef names MCPGroup {group}, which does not exist in this namespace; running gateway pods keep their \
         configuration"
    )
}

pub(super) fn waiting(reason: &'static str, message: String) -> Assessment {
    Assessment {
        phase: Phase::Waiting,
        reason,
        message,
    }
}

pub(super) fn stalled(reason: &'static str, message: String) -> Assessment {
    Assessment {
        phase: Phase::Stalled,
        reason,
        message,
    }
}

pub(super) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
