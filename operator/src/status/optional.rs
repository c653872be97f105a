//! Conditions of the children whose kind a cluster may not have.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use vmcp_crds::condition::{ConditionUpdate, find};
use vmcp_crds::v1alpha1::condition_type;
use vmcp_crds::v1alpha1::field_rules::one_line;

use super::Observed;
use super::assessment::with_retry;
use crate::optional_kinds::{HTTPRoute, RouteCondition, RouteParentStatus};
use crate::reconcile::OptionalChild;

/// Maximum number of characters of a Gateway's message in a condition.
const MAX_MESSAGE_CHARS: usize = 500;

const GATEWAY_API_MISSING: &str = "spec.httpRoute needs the kind HTTPRoute (gateway.networking.k8s.io/v1), which this cluster does not have: \
    install the Gateway API (https://gateway-api.sigs.k8s.io) and a controller for its Gateways. Clients inside the cluster are served \
    by the Service meanwhile";
const PROMETHEUS_OPERATOR_MISSING: &str = "spec.serviceMonitor needs the kind ServiceMonitor (monitoring.coreos.com/v1), which this cluster does not \
    have: install the Prometheus operator (https://prometheus-operator.dev)";
const NO_GATEWAY: &str = "no Gateway has accepted the route yet: check that the Gateways in spec.httpRoute.parentRefs exist, that a controller \
    manages them, and that their listeners allow routes of this namespace";

pub(super) fn http_route(observed: &Observed<'_>) -> Option<ConditionUpdate> {
    let (status, reason, message) = match observed.http_route? {
        OptionalChild::NotWanted => return None,
        OptionalChild::KindMissing => (Some(false), "GatewayAPIMissing", GATEWAY_API_MISSING.to_owned()),
        OptionalChild::Failed(reason, message) => (Some(false), *reason, failure(reason, message)),
        OptionalChild::Applied(route) => acceptance(route),
    };
    Some(ConditionUpdate {
        type_: condition_type::HTTP_ROUTE_READY,
        status,
        reason,
        message,
    })
}

/// The message about a child that could not be applied or deleted.
fn failure(reason: &str, message: &str) -> String {
    if reason == "ChildNotOwned" {
        message.to_owned()
    } else {
        with_retry(message)
    }
}

/// What the controllers of the Gateways say about the route. What they said about an earlier generation of it does not count.
fn acceptance(route: &HTTPRoute) -> (Option<bool>, &'static str, String) {
    let parents: &[RouteParentStatus] = route.status.as_ref().map_or(&[], |status| &status.parents);
    let problem = parents.iter().find_map(|parent| {
        let mut conditions = parent.conditions.iter();
        let condition = conditions.find(|condition| is_problem(condition) && condition.is_current(route))?;
        Some((parent, condition))
    });
    if let Some((parent, condition)) = problem {
        let name = parent.parent_ref["name"].as_str().unwrap_or_default();
        let message = format!("{name}: {}: {}", condition.reason, condition.message);
        return (Some(false), "NotAccepted", one_line(&message, MAX_MESSAGE_CHARS));
    }
    let is_accepted = |condition: &RouteCondition| {
        condition.type_ == "Accepted" && condition.status == "True" && condition.is_current(route)
    };
    let accepted = parents
        .iter()
        .filter(|parent| parent.conditions.iter().any(is_accepted))
        .count();
    if accepted == 0 || accepted < route.spec.parent_refs.len() {
        return (None, "Pending", NO_GATEWAY.to_owned());
    }
    let message = "the Gateways have accepted the route".to_owned();
    (Some(true), "Accepted", message)
}

fn is_problem(condition: &RouteCondition) -> bool {
    matches!(condition.type_.as_str(), "Accepted" | "ResolvedRefs") && condition.status == "False"
}

pub(super) fn service_monitor(observed: &Observed<'_>) -> Option<ConditionUpdate> {
    let (status, reason, message) = match observed.service_monitor? {
        OptionalChild::NotWanted => return None,
        OptionalChild::KindMissing => (
            false,
            "PrometheusOperatorMissing",
            PROMETHEUS_OPERATOR_MISSING.to_owned(),
        ),
        OptionalChild::Failed(reason, message) => (false, *reason, failure(reason, message)),
        OptionalChild::Applied(_) => (true, "Applied", "the ServiceMonitor exists".to_owned()),
    };
    Some(ConditionUpdate {
        type_: condition_type::SERVICE_MONITOR_READY,
        status: Some(status),
        reason,
        message,
    })
}

/// The conditions of children that this reconcile has not reached, as they were. They also say that the child may exist.
pub(super) fn unreached(observed: &Observed<'_>, old: &[Condition]) -> Vec<Condition> {
    let types = [
        (condition_type::HTTP_ROUTE_READY, observed.http_route.is_none()),
        (
            condition_type::SERVICE_MONITOR_READY,
            observed.service_monitor.is_none(),
        ),
    ];
    let kept = types.into_iter().filter(|(_, is_unreached)| *is_unreached);
    kept.filter_map(|(type_, _)| find(old, type_).cloned()).collect()
}
