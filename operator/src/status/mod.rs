//! Derives the status of a virtual server, and of a server, from what was observed: conditions and counts. Pure functions.

mod backends;
mod gateway_conditions;
mod mcp_server_status;
mod optional;
mod remedy;
mod rollout;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use vmcp_crds::condition::{ConditionUpdate, merge};
use vmcp_crds::config::SessionStorageProvider;
use vmcp_crds::v1alpha1::{MAX_CONFLICTS, VirtualMCPServer, VirtualMCPServerStatus, condition_type};

use crate::desired::{Backend, ConfigFiles, labels, names};
use crate::optional_kinds::{HTTPRoute, ServiceMonitor};
use crate::reconcile::OptionalChild;
use crate::status_client::GatewayPod;
use assessment::{Assessment, Phase};

pub use mcp_server_status::{ObservedServer, Rejection, derive_server, derive_terminating_server};
pub(crate) use rollout::creation_failure;

/// Everything that the status is derived from.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The virtual server with its spec.
    pub server: &'a VirtualMCPServer,
    /// Reason and message if the spec was rejected. Nothing below was observed then.
    pub rejected_spec: Option<(&'static str, &'a str)>,
    /// Reason and message if `spec.podTemplate` was rejected.
    pub rejected_pod_template: Option<(&'static str, &'a str)>,
    /// The right that is missing to watch a kind. Without the members of the group, nothing else was observed.
    pub refused_watch: Option<&'a str>,
    /// The message about another installation of the operator that writes the same objects.
    pub installation_conflict: Option<&'a str>,
    /// The members of its group; `None` if the group does not exist.
    pub backends: Option<&'a [Backend]>,
    /// The rendered configuration, or why it cannot be rendered. Ignored without a group.
    pub config: Result<&'a ConfigFiles, &'a str>,
    /// Whether the Secrets that the spec needs are usable.
    pub secrets: SecretsState<'a>,
    /// What a user should know about Secrets that are resolved.
    pub secret_warnings: &'a [String],
    /// Why an object could not be applied.
    pub apply_failure: Option<ApplyFailure<'a>>,
    /// What became of the HTTPRoute; `None` if the reconcile did not reach it.
    pub http_route: Option<&'a OptionalChild<HTTPRoute>>,
    /// What became of the ServiceMonitor; `None` if the reconcile did not reach it.
    pub service_monitor: Option<&'a OptionalChild<ServiceMonitor>>,
    /// The current Deployment, if it exists.
    pub deployment: Option<&'a Deployment>,
    /// The generation of the Deployment after the operator's last apply.
    pub applied_generation: Option<i64>,
    /// The ReplicaSets of the Deployment.
    pub replica_sets: &'a [Arc<ReplicaSet>],
    /// The pods of these ReplicaSets.
    pub pods: &'a [Arc<Pod>],
    /// The running gateway pods.
    pub gateways: &'a [GatewayPod],
    /// The highest replica count to expect: from the spec, the live Deployment, or an autoscaler.
    pub expected_replicas: i32,
    /// The autoscaler because of which `spec.replicas` is ignored.
    pub overriding_autoscaler: Option<&'a str>,
}

/// State of the Secrets that the virtual server needs.
#[derive(Clone, Copy, Debug)]
pub enum SecretsState<'a> {
    /// They were not read, because an earlier prerequisite is missing.
    Unknown,
    /// All Secrets exist and are valid.
    Resolved,
    /// A Secret is missing, invalid, or not allowed.
    Unresolved {
        /// The reason of the condition, in CamelCase.
        reason: &'static str,
        /// The message of the condition.
        message: &'a str,
        /// Whether a user has to act.
        stalled: bool,
    },
}

/// Why an object could not be applied.
#[derive(Clone, Copy, Debug)]
pub enum ApplyFailure<'a> {
    /// The API server rejected it, with this message.
    Refused(&'a str),
    /// Two attempts in a row have failed, with this message: the API server, or a webhook that it asks, does not work.
    Failed(&'a str),
    /// An object of that name exists and belongs to another owner.
    NotOwned {
        /// The message of the condition, which names the object and its owner.
        message: &'a str,
        /// Whether a user has to act.
        stalled: bool,
    },
}

/// Derives the status from `observed`. Transition times of unchanged conditions come from `old`.
#[must_use]
pub fn derive(
    observed: &Observed<'_>,
    old: &VirtualMCPServerStatus,
    now: Timestamp,
) -> VirtualMCPServerStatus {
    let generation = observed.server.metadata.generation;
    // While a prerequisite is missing, pods are not polled, and the last known values stay.
    let polled = observed.backends.filter(|_| were_polled(observed));
    let all = polled.map(|members| backends::summarize(members, observed.gateways));
    let assessment = assessment::assess(observed, all.as_deref());
    let updates: Vec<ConditionUpdate> = [
        Some(ready(&assessment)),
        progress(&assessment),
        group_ref(observed),
        config(observed),
        secrets(observed),
        polled
            .zip(all.as_deref())
            .map(|(members, all)| gateway_conditions::backends_discovered(members, all, observed.gateways)),
        polled.and_then(|members| gateway_conditions::backend_needs_affinity(members, observed.gateways)),
        pod_template(observed),
        polled.and_then(|_| gateway_conditions::session_storage_ready(observed)),
        optional::http_route(observed),
        optional::service_monitor(observed),
        replicas_ignored(observed),
        Some(session_storage(observed)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let counts = observed
        .deployment
        .and_then(|deployment| deployment.status.as_ref());
    let mut conditions = merge(&old.conditions, &updates, generation, now);
    conditions.extend(optional::unreached(observed, &old.conditions));
    if polled.is_none() {
        conditions.extend(gateway_conditions::last_known(&old.conditions));
    }
    let mut status = VirtualMCPServerStatus {
        observed_generation: generation,
        conditions,
        url: Some(names::url(observed.server)),
        replicas: Some(counts.and_then(|counts| counts.replicas).unwrap_or(0)),
        selector: Some(labels::selector_text(observed.server)),
        backend_count: old.backend_count,
        tool_count: old.tool_count,
        backends: old.backends.clone(),
        conflicts: old.conflicts.clone(),
        faults: old.faults.clone(),
    };
    if let Some(all) = all {
        status.backend_count = Some(backends::count_ready(&all));
        status.backends = backends::truncate(all);
        status.tool_count = Some(backends::count_tools(observed.gateways));
        status.conflicts =
            backends::merge_messages(observed.gateways, MAX_CONFLICTS, |gateway| &gateway.conflicts);
        status.faults = backends::merge_messages(observed.gateways, MAX_CONFLICTS, |gateway| &gateway.faults);
    }
    status
}

/// The status of a virtual server that is being deleted, while `finalizers` of other controllers keep it. The garbage collector deletes the pods
/// only after that, so they still serve.
#[must_use]
pub fn derive_terminating(
    finalizers: &[&str],
    generation: Option<i64>,
    old: &VirtualMCPServerStatus,
    now: Timestamp,
) -> VirtualMCPServerStatus {
    let message = format!(
        "the VirtualMCPServer is being deleted, and waits for the controllers of these finalizers: {}. Its pods run until then",
        finalizers.join(", ")
    );
    let assessment = Assessment {
        phase: Phase::Waiting,
        reason: "Terminating",
        message,
    };
    VirtualMCPServerStatus {
        observed_generation: generation,
        conditions: with_assessment(&assessment, &old.conditions, generation, now),
        ..old.clone()
    }
}

/// The conditions `old`, with those that follow from `assessment`.
fn with_assessment(
    assessment: &Assessment,
    old: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let updates: Vec<ConditionUpdate> = [Some(ready(assessment)), progress(assessment)]
        .into_iter()
        .flatten()
        .collect();
    let mut conditions = merge(old, &updates, generation, now);
    let is_replaced = |condition: &Condition| {
        let replaced = [
            condition_type::READY,
            condition_type::RECONCILING,
            condition_type::STALLED,
        ];
        replaced.contains(&condition.type_.as_str())
    };
    let others = old.iter().filter(|condition| !is_replaced(condition));
    conditions.extend(others.cloned());
    conditions
}

/// Whether the reconcile got as far as asking the pods for their status.
fn were_polled(observed: &Observed<'_>) -> bool {
    observed.apply_failure.is_none() && matches!(observed.secrets, SecretsState::Resolved)
}

fn ready(assessment: &Assessment) -> ConditionUpdate {
    ConditionUpdate {
        type_: condition_type::READY,
        status: Some(matches!(assessment.phase, Phase::Serving | Phase::Idle)),
        reason: assessment.reason,
        message: assessment.message.clone(),
    }
}

/// `Reconciling` or `Stalled`, which kstatus calls abnormal-true conditions: they are present only while they are true.
fn progress(assessment: &Assessment) -> Option<ConditionUpdate> {
    let type_ = match assessment.phase {
        Phase::Serving | Phase::Idle => return None,
        Phase::Waiting => condition_type::RECONCILING,
        Phase::Stalled => condition_type::STALLED,
    };
    Some(ConditionUpdate {
        type_,
        status: Some(true),
        reason: assessment.reason,
        message: assessment.message.clone(),
    })
}

fn group_ref(observed: &Observed<'_>) -> Option<ConditionUpdate> {
    let is_unknown = observed.refused_watch.is_some() && observed.backends.is_none();
    if observed.rejected_spec.is_some() || is_unknown {
        return None;
    }
    let group = &observed.server.spec.group_ref.name;
    let (status, reason, message) = match observed.backends {
        Some(_) => (true, "GroupRefValid", format!("MCPGroup {group} exists")),
        None => (
            false,
            "GroupRefNotFound",
            assessment::missing_group_message(group),
        ),
    };
    Some(ConditionUpdate {
        type_: condition_type::GROUP_REF_VALIDATED,
        status: Some(status),
        reason,
        message,
    })
}

fn config(observed: &Observed<'_>) -> Option<ConditionUpdate> {
    if let Some((reason, message)) = observed.rejected_spec {
        return Some(ConditionUpdate {
            type_: condition_type::CONFIG_VALID,
            status: Some(false),
            reason,
            message: message.to_owned(),
        });
    }
    let backends = observed.backends?;
    let (status, reason, message) = match observed.config {
        Err(problem) => (false, "ConfigInvalid", problem.to_owned()),
        Ok(files) => match assessment::config_rejection(observed.gateways, files) {
            Some(rejection) => (false, "ConfigRefused", rejection),
            None => (true, "ConfigValid", backends::valid_config_message(backends)),
        },
    };
    Some(ConditionUpdate {
        type_: condition_type::CONFIG_VALID,
        status: Some(status),
        reason,
        message,
    })
}

fn secrets(observed: &Observed<'_>) -> Option<ConditionUpdate> {
    let members = observed.backends.unwrap_or_default();
    let (status, reason, message) = match observed.secrets {
        SecretsState::Unknown => return None,
        SecretsState::Unresolved { reason, message, .. } => (false, reason, message.to_owned()),
        SecretsState::Resolved => match backends::missing_secrets(members) {
            Some((reason, message)) => (false, reason, message),
            None => {
                let all = std::iter::once("all required Secrets exist");
                let warnings = observed.secret_warnings.iter().map(String::as_str);
                let message = all.chain(warnings).collect::<Vec<_>>().join("; ");
                (true, "SecretsResolved", message)
            }
        },
    };
    Some(ConditionUpdate {
        type_: condition_type::SECRETS_RESOLVED,
        status: Some(status),
        reason,
        message,
    })
}

fn pod_template(observed: &Observed<'_>) -> Option<ConditionUpdate> {
    observed.server.spec.pod_template.as_ref()?;
    let (status, reason, message) = match observed.rejected_pod_template {
        Some((reason, message)) => (false, reason, message),
        None => (true, "PodTemplateValid", "spec.podTemplate is accepted"),
    };
    Some(ConditionUpdate {
        type_: condition_type::POD_TEMPLATE_VALID,
        status: Some(status),
        reason,
        message: message.to_owned(),
    })
}

fn replicas_ignored(observed: &Observed<'_>) -> Option<ConditionUpdate> {
    let autoscaler = observed.overriding_autoscaler?;
    let deployment = names::workload(observed.server);
    Some(ConditionUpdate {
        type_: condition_type::REPLICAS_IGNORED,
        status: Some(true),
        reason: "AutoscalerTargetsDeployment",
        message: format!(
            "HorizontalPodAutoscaler {autoscaler} scales Deployment {deployment}, so spec.replicas is ignored: remove spec.replicas, or let the \
             autoscaler target the VirtualMCPServer"
        ),
    })
}

fn session_storage(observed: &Observed<'_>) -> ConditionUpdate {
    let storage = observed.server.spec.session_storage.as_ref();
    let redis = storage.is_some_and(|storage| storage.settings.provider == SessionStorageProvider::Redis);
    let eviction = gateway_conditions::eviction_warning(observed.gateways);
    let (status, reason, message) = if let Some(eviction) = eviction.as_deref().filter(|_| redis) {
        (true, "SessionsMayBeEvicted", eviction)
    } else if redis {
        (
            false,
            "SessionStorageConfigured",
            "sessions are stored in Redis: every replica can serve every session",
        )
    } else if observed.expected_replicas > 1 {
        (
            true,
            "SessionStorageMissingForReplicas",
            "there are, or may soon be, several replicas, but spec.sessionStorage.provider is not redis: only one pod knows a \
             session, and the other pods answer 404 for it",
        )
    } else {
        (
            false,
            "SessionStorageWarningNotApplicable",
            "there is one replica, and sessions are stored in its memory: they end with the pod",
        )
    };
    ConditionUpdate {
        type_: condition_type::SESSION_STORAGE_WARNING,
        status: Some(status),
        reason,
        message: message.to_owned(),
    }
}

mod assessment;
#[cfg(test)]
mod gateway_condition_tests;
#[cfg(test)]
mod optional_tests;
#[cfg(test)]
mod rollout_tests;
#[cfg(test)]
mod session_storage_tests;
#[cfg(test)]
mod test_util;
#[cfg(test)]
mod tests;
