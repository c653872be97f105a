//! Whether a virtual server serves what its spec says, and if not, what it waits for.

use k8s_openapi::api::apps::v1::Deployment;

use super::{Observed, Refused, Secrets};
use crate::desired::ConfigFiles;
use crate::gateways::Gateway;

/// How many pods a message names.
const NAMED: usize = 3;

/// The first thing that stands between the virtual server and being ready, or that nothing does.
pub(super) struct Outlook {
    pub(super) phase: Phase,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Where a virtual server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It serves what its spec says.
    Serving,
    /// It serves nothing, because that is what was asked for.
    Idle,
    /// The operator works, or waits for something that may come by itself.
    Waiting,
    /// Only a person can help.
    Stalled,
}

pub(super) fn outlook(observed: &Observed<'_>) -> Outlook {
    if let Some((reason, message)) = observed.refused_spec {
        return stalled(reason, message.to_owned());
    }
    let Some(backends) = observed.backends else {
        return waiting("GroupRefNotFound", no_group(&observed.server.spec.group_ref.name));
    };
    let files = match observed.config {
        Ok(files) => files,
        Err(problem) => return stalled("ConfigInvalid", problem.to_owned()),
    };
    if let Secrets::Unresolved {
        reason,
        message,
        stalled,
    } = observed.secrets
    {
        let phase = if stalled { Phase::Stalled } else { Phase::Waiting };
        return Outlook {
            phase,
            reason,
            message: message.to_owned(),
        };
    }
    match observed.refused {
        Some(Refused::ApiServer(words)) => return waiting("ApplyRefused", words.to_owned()),
        Some(Refused::NotOwned { message, stalled }) => {
            return Outlook {
                phase: if stalled { Phase::Stalled } else { Phase::Waiting },
                reason: "ChildNotOwned",
                message: message.to_owned(),
            };
        }
        None => {}
    }
    let Some(deployment) = observed.deployment else {
        return waiting(
            "DeploymentProgressing",
            "the Deployment is not there yet".to_owned(),
        );
    };
    rollout(deployment)
        .or_else(|| configuration(observed.gateways, files))
        .unwrap_or_else(|| Outlook {
            phase: Phase::Serving,
            reason: "Serving",
            message: format!("the gateway serves {}", count(backends.len(), "backend")),
        })
}

/// What the rollout of the Deployment still lacks.
fn rollout(deployment: &Deployment) -> Option<Outlook> {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.replicas.unwrap_or(1);
    if status.observed_generation < deployment.metadata.generation {
        let message = "the Deployment has changed, and its controller has not looked yet";
        return Some(waiting("DeploymentProgressing", message.to_owned()));
    }
    let updated = status.updated_replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(0);
    let all = status.replicas.unwrap_or(0);
    if wanted == 0 && all == 0 {
        return Some(Outlook {
            phase: Phase::Idle,
            reason: "ScaledToZero",
            message: "no replica is wanted, so nothing serves".to_owned(),
        });
    }
    if updated >= wanted && available >= wanted && all <= updated {
        return None;
    }
    let message = format!(
        "of {} wanted, {updated} of the current revision and {available} available",
        count(usize::try_from(wanted).unwrap_or(0), "gateway pod"),
    );
    let exceeded = status.conditions.iter().flatten().any(|condition| {
        condition.type_.as_deref() == Some("Progressing")
            && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    });
    Some(if exceeded {
        stalled(
            "ProgressDeadlineExceeded",
            format!("{message}, and none more for ten minutes: look at the events of the pods"),
        )
    } else {
        waiting("DeploymentProgressing", message)
    })
}

/// What stands between the ready pods and the rendered configuration.
fn configuration(gateways: &[Gateway], files: &ConfigFiles) -> Option<Outlook> {
    if let Some(refusal) = refusal(gateways, files) {
        return Some(waiting("ConfigRefused", refusal));
    }
    let mut silent = Vec::new();
    let mut behind = Vec::new();
    let mut current = 0_usize;
    for gateway in gateways.iter().filter(|gateway| gateway.ready) {
        match &gateway.answer {
            Ok(status) if status.hot_config_hash == files.hot_hash => current += 1,
            Ok(_) => behind.push(gateway.pod.as_str()),
            Err(why) => silent.push(format!("{} {why}", gateway.pod)),
        }
    }
    if !silent.is_empty() {
        silent.truncate(NAMED);
        return Some(waiting("GatewayUnreachable", silent.join("; ")));
    }
    if !behind.is_empty() {
        behind.truncate(NAMED);
        return Some(waiting(
            "ConfigPending",
            format!("the current backends have not reached {}", behind.join(", ")),
        ));
    }
    // The Deployment counts available pods, but the watch on pods may be behind.
    (current == 0).then(|| waiting("DeploymentProgressing", "no gateway pod is ready".to_owned()))
}

/// The words of the first pod that refused the rendered hot configuration.
pub(super) fn refusal(gateways: &[Gateway], files: &ConfigFiles) -> Option<String> {
    gateways.iter().find_map(|gateway| {
        let status = gateway.answer.as_ref().ok()?;
        let error = status.hot_config_error.as_ref()?;
        (status.hot_config_hash != files.hot_hash)
            .then(|| format!("{} refuses the backends: {error}", gateway.pod))
    })
}

pub(super) fn no_group(group: &str) -> String {
    format!(
        "spec.groupRef names MCPGroup {group}, which does not exist in this namespace; gateway pods keep what they have"
    )
}

fn waiting(reason: &'static str, message: String) -> Outlook {
    Outlook {
        phase: Phase::Waiting,
        reason,
        message,
    }
}

fn stalled(reason: &'static str, message: String) -> Outlook {
    Outlook {
        phase: Phase::Stalled,
        reason,
        message,
    }
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
