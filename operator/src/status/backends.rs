//! The backends, as all ready gateway pods together see them.

use std::collections::BTreeSet;

use vmcp_crds::config::rules;
use vmcp_crds::status::{BackendState as Seen, GatewayStatus};
use vmcp_crds::v1alpha1::field_rules::{MAX_URL, one_line};
use vmcp_crds::v1alpha1::{BackendState, BackendStatus, MAX_BACKENDS};

use crate::desired::Backend;
use crate::gateways::Gateway;

/// The longest message that the status repeats.
const MAX_MESSAGE: usize = 256;

/// One entry per backend of the group. A backend that fails for one pod fails: some client notices.
pub(super) fn backends(members: &[Backend], gateways: &[Gateway]) -> Vec<BackendStatus> {
    members
        .iter()
        .map(|member| {
            let seen = || {
                answers(gateways)
                    .flat_map(|status| &status.backends)
                    .filter(|backend| backend.name == member.name)
            };
            let problem = member.problem();
            let state = if problem.is_some() || seen().any(|backend| backend.state == Seen::Failing) {
                BackendState::Failing
            } else if seen().any(|backend| backend.state == Seen::Ready) {
                BackendState::Ready
            } else {
                BackendState::Unknown
            };
            BackendStatus {
                name: member.name.clone(),
                url: rules::without_secrets(&member.url)
                    .chars()
                    .take(MAX_URL)
                    .collect(),
                state,
                tools: seen().map(|backend| number(backend.tools)).max(),
                message: problem
                    .as_deref()
                    .or_else(|| seen().find_map(|backend| backend.error.as_deref()))
                    .map(shortened),
            }
        })
        .collect()
}

/// How many answer.
pub(super) fn count(backends: &[BackendStatus]) -> i32 {
    number(
        backends
            .iter()
            .filter(|backend| backend.state == BackendState::Ready)
            .count(),
    )
}

/// As many as the status lists; those that need attention first.
pub(super) fn listed(mut backends: Vec<BackendStatus>) -> Vec<BackendStatus> {
    if backends.len() > MAX_BACKENDS {
        backends.sort_by_key(|backend| backend.state == BackendState::Ready);
        backends.truncate(MAX_BACKENDS);
        backends.sort_by(|a, b| a.name.cmp(&b.name));
    }
    backends
}

/// How many tools clients are offered; while pods disagree, the most.
pub(super) fn tools(gateways: &[Gateway]) -> i32 {
    number(answers(gateways).map(|status| status.tools).max().unwrap_or(0))
}

/// What all pods tell, each sentence once.
pub(super) fn sentences(
    gateways: &[Gateway],
    most: usize,
    told: impl Fn(&GatewayStatus) -> &Vec<String>,
) -> Vec<String> {
    let all: BTreeSet<&str> = answers(gateways).flat_map(told).map(String::as_str).collect();
    all.into_iter().take(most).map(shortened).collect()
}

fn answers(gateways: &[Gateway]) -> impl Iterator<Item = &GatewayStatus> {
    gateways
        .iter()
        .filter(|gateway| gateway.ready)
        .filter_map(|gateway| gateway.answer.as_ref().ok())
}

fn shortened(text: &str) -> String {
    one_line(text, MAX_MESSAGE)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
