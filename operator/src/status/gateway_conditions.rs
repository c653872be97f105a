//! Conditions that are derived from the reports of the gateway pods. Only a session store that no pod reaches affects `Ready`.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use vmcp_crds::condition::{ConditionUpdate, find};
use vmcp_crds::config::SessionStorageProvider;
use vmcp_crds::status::SessionStoreStatus;
use vmcp_crds::v1alpha1::field_rules::one_line;
use vmcp_crds::v1alpha1::{ObservedBackend, ObservedBackendState, condition_type};

use super::Observed;
use super::backends::{MAX_NAMED_BACKENDS, ready_statuses, shorten};
use crate::desired::Backend;
use crate::status_client::GatewayPod;

/// Maximum number of characters of a pod's words about its session store: what is wrong, what to do, and Redis's own words.
const MAX_STORE_CHARS: usize = 600;

/// The reason while no gateway pod has reported its status.
const NO_REPORT: &str = "AwaitingGateways";
const NO_REPORT_MESSAGE: &str =
    "no ready gateway pod has reported its status yet: the condition Ready says what the pods wait for";

/// `BackendsDiscovered`. Backends that are left out of the configuration do not count; other conditions name them.
pub(super) fn backends_discovered(
    members: &[Backend],
    observed: &[ObservedBackend],
    gateways: &[GatewayPod],
) -> ConditionUpdate {
    let usable = || {
        let pairs = members.iter().zip(observed);
        pairs.filter(|(member, _)| member.left_out_because().is_none())
    };
    let in_state = |state| -> Vec<&ObservedBackend> {
        let backends = usable().map(|(_, backend)| backend);
        backends.filter(|backend| backend.state == state).collect()
    };
    let total = usable().count();
    let failing = in_state(ObservedBackendState::Failing);
    let pending = in_state(ObservedBackendState::Unknown);
    let (status, reason, message) = if ready_statuses(gateways).next().is_none() {
        (None, NO_REPORT, NO_REPORT_MESSAGE.to_owned())
    } else if !failing.is_empty() {
        let message = format!(
            "{} of {total} backends failing: {}; check that they run and that the gateway pods may reach them",
            failing.len(),
            name_some(&failing),
        );
        (Some(false), "BackendsFailing", message)
    } else if !pending.is_empty() {
        let message = format!(
            "{} of {total} backends not discovered yet: {}",
            pending.len(),
            name_some(&pending),
        );
        (None, "DiscoveryPending", message)
    } else {
        let message = format!("all usable backends have answered: {total}");
        (Some(true), "AllBackendsReady", message)
    };
    ConditionUpdate {
        type_: condition_type::BACKENDS_DISCOVERED,
        status,
        reason,
        message,
    }
}

/// The names of the first backends, and the first error among all of them.
fn name_some(backends: &[&ObservedBackend]) -> String {
    let names = backends.iter().take(MAX_NAMED_BACKENDS);
    let names: Vec<&str> = names.map(|backend| backend.name.as_str()).collect();
    let more = if backends.len() > names.len() { ", ..." } else { "" };
    let error = backends
        .iter()
        .find_map(|backend| Some((&backend.name, backend.message.as_ref()?)));
    let error = error.map_or_else(String::new, |(name, error)| format!(" ({name}: {error})"));
    format!("{}{more}{error}", names.join(", "))
}

/// `BackendNeedsAffinity`; absent until a pod reports.
pub(super) fn backend_needs_affinity(
    members: &[Backend],
    gateways: &[GatewayPod],
) -> Option<ConditionUpdate> {
    ready_statuses(gateways).next()?;
    let losing: BTreeSet<&str> = ready_statuses(gateways)
        .flat_map(|status| &status.backends)
        .filter(|backend| backend.needs_affinity)
        .map(|backend| backend.name.as_str())
        .collect();
    let names: Vec<&str> = members
        .iter()
        .map(|member| member.config.name.as_str())
        .filter(|name| losing.contains(name))
        .collect();
    let (status, reason, message) = if names.is_empty() {
        (
            false,
            "SessionsKept",
            "no backend has lost sessions repeatedly in the last minutes".to_owned(),
        )
    } else {
        let shown = names.iter().take(MAX_NAMED_BACKENDS).copied().collect::<Vec<_>>();
        let more = if names.len() > shown.len() { ", ..." } else { "" };
        let message = format!(
            "backends that lose sessions repeatedly: {}{more}. Such a backend has several replicas that do not share their sessions: set \
             `sessionAffinity: ClientIP` on its Service, run one replica of it, or let its replicas share the sessions",
            shown.join(", "),
        );
        (true, "BackendLosesSessions", message)
    };
    Some(ConditionUpdate {
        type_: condition_type::BACKEND_NEEDS_AFFINITY,
        status: Some(status),
        reason,
        message,
    })
}

/// The first pod's warning that Redis may drop sessions.
pub(super) fn eviction_warning(gateways: &[GatewayPod]) -> Option<String> {
    let warnings = gateways
        .iter()
        .filter_map(|gateway| gateway.status.as_ref().ok()?.session_store.warning.as_deref());
    warnings.map(shorten).next()
}

/// What the pods report of the session store, if it is Redis. A pod that is not ready counts, because it may be waiting for Redis.
fn store_reports<'a>(observed: &Observed<'a>) -> Option<Vec<(&'a GatewayPod, &'a SessionStoreStatus)>> {
    let storage = observed.server.spec.session_storage.as_ref()?;
    if storage.settings.provider != SessionStorageProvider::Redis {
        return None;
    }
    let reports = observed
        .gateways
        .iter()
        .filter_map(|gateway| Some((gateway, &gateway.status.as_ref().ok()?.session_store)))
        .filter(|(_, store)| store.provider == "redis");
    Some(reports.collect())
}

/// Why a pod cannot use its session store, in its own words; `None` if it can.
fn store_failure((gateway, store): &(&GatewayPod, &SessionStoreStatus)) -> Option<String> {
    let error = store.error.as_deref().unwrap_or("no details are known");
    (!store.available).then(|| {
        format!(
            "{} cannot use Redis: {}",
            gateway.name,
            one_line(error, MAX_STORE_CHARS)
        )
    })
}

/// Why no pod can use the session store, in the words of the first one. `None` if a pod can, or if a ready pod has not reported.
pub(super) fn unavailable_store(observed: &Observed<'_>) -> Option<String> {
    let is_silent = |gateway: &GatewayPod| gateway.ready && gateway.status.is_err();
    if observed.gateways.iter().any(is_silent) {
        return None;
    }
    let reports = store_reports(observed)?;
    let failures: Option<Vec<String>> = reports.iter().map(store_failure).collect();
    let failure = failures?.into_iter().next()?;
    Some(format!(
        "no gateway pod can use its session store, so clients cannot begin sessions: {failure}"
    ))
}

/// Why the first pod that is not ready cannot use the session store, in its own words. `None` if there is no such pod.
pub(super) fn store_of_unready_pod(observed: &Observed<'_>) -> Option<String> {
    let reports = store_reports(observed)?;
    let mut unready = reports.iter().filter(|(gateway, _)| !gateway.ready);
    unready.find_map(store_failure)
}

/// `SessionStorageReady`; absent while sessions are stored in memory.
pub(super) fn session_storage_ready(observed: &Observed<'_>) -> Option<ConditionUpdate> {
    let reports = store_reports(observed)?;
    let (status, reason, message) = match reports.iter().find_map(store_failure) {
        Some(failure) => (Some(false), "SessionStorageUnavailable", failure),
        None if reports.is_empty() => (None, NO_REPORT, NO_REPORT_MESSAGE.to_owned()),
        None => {
            let message = "the gateway pods reach Redis".to_owned();
            (Some(true), "SessionStorageAvailable", message)
        }
    };
    Some(ConditionUpdate {
        type_: condition_type::SESSION_STORAGE_READY,
        status,
        reason,
        message,
    })
}

/// The conditions of this module as they were, for a reconcile that did not ask the pods.
pub(super) fn last_known(old: &[Condition]) -> impl Iterator<Item = Condition> {
    let types = [
        condition_type::BACKENDS_DISCOVERED,
        condition_type::BACKEND_NEEDS_AFFINITY,
        condition_type::SESSION_STORAGE_READY,
    ];
    types.into_iter().filter_map(|type_| find(old, type_).cloned())
}
