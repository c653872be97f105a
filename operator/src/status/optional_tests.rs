//! Conditions of the HTTPRoute and the ServiceMonitor.

use serde_json::{Value as Json, json};
use vmcp_crds::condition::find;

use super::test_util::Fixture;
use super::*;

fn route(parents: &Json) -> OptionalChild<HTTPRoute> {
    let route = serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "vmcp-everything", "generation": 2},
        "spec": {"parentRefs": [{"name": "public"}, {"name": "private"}], "hostnames": ["tools.example.com"], "rules": []},
        "status": {"parents": parents},
    }));
    OptionalChild::Applied(route.unwrap())
}

// The route is ready when every Gateway has accepted it; otherwise the condition says which one has not, and why. It does not affect `Ready`.
#[test]
fn route_is_ready_when_every_gateway_accepts() {
    let parent = |name: &str, type_: &str, status: &str| {
        json!({
            "parentRef": {"name": name}, "controllerName": "example.com/x",
            "conditions": [{"type": type_, "status": status, "reason": "Why", "message": "in words"}],
        })
    };
    for (route, status, reason, message) in [
        (route(&json!([])), "Unknown", "Pending", "no Gateway has accepted"),
        (
            route(&json!([parent("public", "Accepted", "True")])),
            "Unknown",
            "Pending",
            "no Gateway has accepted",
        ),
        (
            route(&json!([
                parent("public", "Accepted", "True"),
                parent("private", "Accepted", "True")
            ])),
            "True",
            "Accepted",
            "have accepted",
        ),
        (
            route(&json!([parent("public", "Accepted", "False")])),
            "False",
            "NotAccepted",
            "public: Why: in words",
        ),
        (
            route(&json!([parent("private", "ResolvedRefs", "False")])),
            "False",
            "NotAccepted",
            "private: Why: in words",
        ),
        (
            OptionalChild::KindMissing,
            "False",
            "GatewayAPIMissing",
            "install the Gateway API",
        ),
        (
            OptionalChild::Failed("ChildNotOwned", "theirs".to_owned()),
            "False",
            "ChildNotOwned",
            "theirs",
        ),
        (
            OptionalChild::Failed("ApplyFailed", "it is down".to_owned()),
            "False",
            "ApplyFailed",
            "it is down; the operator tries again within 30 seconds",
        ),
    ] {
        let mut fixture = Fixture::ready();
        fixture.http_route = Some(route);
        let conditions = fixture.status().conditions;
        let found = find(&conditions, condition_type::HTTP_ROUTE_READY).unwrap();
        assert_eq!((found.status.as_str(), found.reason.as_str()), (status, reason));
        assert!(found.message.contains(message), "{}", found.message);
        assert_eq!(find(&conditions, "Ready").unwrap().status, "True");
    }
}

// What a Gateway has said about an earlier generation of the route counts neither for it nor against it.
#[test]
fn outdated_acceptance_of_route_does_not_count() {
    let parent = |name: &str, status: &str, generation: i64| {
        let condition = json!({
            "type": "Accepted", "status": status, "reason": "Why", "message": "in words", "observedGeneration": generation,
        });
        json!({"parentRef": {"name": name}, "controllerName": "example.com/x", "conditions": [condition]})
    };
    for (private, reason) in [
        (parent("private", "True", 2), "Accepted"),
        (parent("private", "True", 1), "Pending"),
        (parent("private", "False", 1), "Pending"),
        (parent("private", "False", 2), "NotAccepted"),
    ] {
        let mut fixture = Fixture::ready();
        fixture.http_route = Some(route(&json!([parent("public", "True", 2), private])));
        let conditions = fixture.status().conditions;
        let found = find(&conditions, condition_type::HTTP_ROUTE_READY).unwrap();
        assert_eq!(found.reason, reason, "{private}");
    }
}

// A reconcile that stops early keeps the conditions of the route and the monitor, which also say that the objects may exist.
#[test]
fn unreached_route_keeps_its_condition() {
    let mut fixture = Fixture::ready();
    fixture.http_route = Some(OptionalChild::KindMissing);
    fixture.service_monitor = Some(OptionalChild::KindMissing);
    fixture.old = fixture.status();
    fixture.rejected_spec = Some(("ConfigInvalid", "x"));
    (fixture.http_route, fixture.service_monitor) = (None, None);
    let kept = fixture.status().conditions;
    for type_ in [
        condition_type::HTTP_ROUTE_READY,
        condition_type::SERVICE_MONITOR_READY,
    ] {
        assert_eq!(
            find(&kept, type_),
            find(&fixture.old.conditions, type_),
            "{type_}"
        );
        assert!(find(&kept, type_).is_some());
    }
    fixture.http_route = Some(OptionalChild::NotWanted);
    let conditions = fixture.status().conditions;
    assert!(find(&conditions, condition_type::HTTP_ROUTE_READY).is_none());
}
