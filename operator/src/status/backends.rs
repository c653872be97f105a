//! Merges the backend states that the ready gateway pods report.

use std::collections::BTreeSet;

use vmcp_crds::config::rules;
use vmcp_crds::status::{BackendState as ReportedState, GatewayStatus};
use vmcp_crds::v1alpha1::field_rules::{MAX_URL, one_line};
use vmcp_crds::v1alpha1::{MAX_BACKENDS, ObservedBackend, ObservedBackendState};

use crate::desired::Backend;
use crate::status_client::GatewayPod;

/// Maximum number of characters of a pod's message in the status.
const MAX_MESSAGE_CHARS: usize = 256;

/// Maximum number of backends that a condition names.
pub(super) const MAX_NAMED_BACKENDS: usize = 3;

/// One entry per backend of the group. A backend that fails for one pod is `Failing`, because it fails for that pod's clients. The status of
/// the group repeats why a backend is `LeftOut`.
pub(super) fn summarize(members: &[Backend], gateways: &[GatewayPod]) -> Vec<ObservedBackend> {
    members
        .iter()
        .map(|member| {
            let reports = || {
                ready_statuses(gateways)
                    .flat_map(|status| &status.backends)
                    .filter(|backend| backend.name == member.config.name)
            };
            let problem = member.left_out_because();
            let is_reported = |state| reports().any(|backend| backend.state == state);
            let state = if problem.is_some() {
                ObservedBackendState::LeftOut
            } else if is_reported(ReportedState::Failing) {
                ObservedBackendState::Failing
            } else if is_reported(ReportedState::Ready) {
                ObservedBackendState::Ready
            } else {
                ObservedBackendState::Unknown
            };
            ObservedBackend {
                name: member.config.name.clone(),
                url: rules::without_secrets(&member.config.url)
                    .chars()
                    .take(MAX_URL)
                    .collect(),
                state,
                health: reports().map(|backend| backend.health.into()).max(),
                breaker: reports()
                    .filter_map(|backend| Some(backend.breaker?.into()))
                    .max(),
                era: reports().filter_map(|backend| Some(backend.era?.into())).max(),
                tools: reports().map(|backend| to_i32(backend.tools)).max(),
                prompts: reports().map(|backend| to_i32(backend.prompts)).max(),
                resources: reports().map(|backend| to_i32(backend.resources)).max(),
                message: problem
                    .or_else(|| reports().find_map(|backend| backend.error.as_deref()))
                    .map(shorten),
            }
        })
        .collect()
}

/// The message for a configuration that the gateways accept. It names the backends that are left out of it, and why.
pub(super) fn valid_config_message(members: &[Backend]) -> String {
    let reasons = members
        .iter()
        .filter_map(|member| Some((member, member.left_out_because()?)));
    match name_some(reasons) {
        (0, _) => "the configuration is valid".to_owned(),
        (count, named) => format!(
            "the configuration is valid, without {count} of the {} backends: {named}",
            members.len(),
        ),
    }
}

/// The reason and the message for backends that are left out because of a missing or unusable Secret or ConfigMap; `None` if no backend is.
pub(super) fn missing_secrets(members: &[Backend]) -> Option<(&'static str, String)> {
    let problems = || {
        members
            .iter()
            .filter_map(|member| Some((member, member.secret_problem.as_ref()?)))
    };
    let (_, first) = problems().next()?;
    let (count, named) = name_some(problems().map(|(member, problem)| (member, problem.message.as_str())));
    let message = format!("{count} of the {} backends are left out: {named}", members.len());
    Some((first.reason, message))
}

/// Counts the members, and names the first ones with their reasons.
fn name_some<'a>(reasons: impl Iterator<Item = (&'a Backend, &'a str)>) -> (usize, String) {
    let all: Vec<(&Backend, &str)> = reasons.collect();
    let named: Vec<String> = all
        .iter()
        .take(MAX_NAMED_BACKENDS)
        .map(|(member, reason)| format!("{} {}: {}", member.kind, member.config.name, shorten(reason)))
        .collect();
    (all.len(), named.join("; "))
}

/// The number of backends that are ready.
pub(super) fn count_ready(backends: &[ObservedBackend]) -> i32 {
    to_i32(
        backends
            .iter()
            .filter(|backend| backend.state == ObservedBackendState::Ready)
            .count(),
    )
}

/// Shortens the list to [`MAX_BACKENDS`]. Ready backends are dropped first.
pub(super) fn truncate(mut backends: Vec<ObservedBackend>) -> Vec<ObservedBackend> {
    if backends.len() > MAX_BACKENDS {
        backends.sort_by_key(|backend| backend.state == ObservedBackendState::Ready);
        backends.truncate(MAX_BACKENDS);
        backends.sort_by(|a, b| a.name.cmp(&b.name));
    }
    backends
}

/// The number of tools that clients see; the maximum while pods disagree.
pub(super) fn count_tools(gateways: &[GatewayPod]) -> i32 {
    to_i32(
        ready_statuses(gateways)
            .map(|status| status.tools)
            .max()
            .unwrap_or(0),
    )
}

/// The messages of all pods, sorted and without duplicates, at most `max`.
pub(super) fn merge_messages(
    gateways: &[GatewayPod],
    max: usize,
    messages: impl Fn(&GatewayStatus) -> &Vec<String>,
) -> Vec<String> {
    let all: BTreeSet<&str> = ready_statuses(gateways)
        .flat_map(messages)
        .map(String::as_str)
        .collect();
    all.into_iter().take(max).map(shorten).collect()
}

pub(super) fn ready_statuses(gateways: &[GatewayPod]) -> impl Iterator<Item = &GatewayStatus> {
    gateways
        .iter()
        .filter(|gateway| gateway.ready)
        .filter_map(|gateway| gateway.status.as_ref().ok())
}

pub(super) fn shorten(text: &str) -> String {
    one_line(text, MAX_MESSAGE_CHARS)
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
