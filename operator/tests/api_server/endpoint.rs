//! How clients and Prometheus reach the endpoint: TLS, a route of a Gateway, and a ServiceMonitor.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use serde_json::{Value as Json, json};
use vmcp_cluster::ApiServer;
use vmcp_crds::condition::find;
use vmcp_crds::config::{GatewayConfig, HotConfig};
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_external::requires;
use vmcp_operator::optional_kinds::{HTTPRoute, ServiceMonitor};

use crate::harness::{Harness, OPERATOR, RULES, eventually};

/// Time in which the operator must notice that a kind was installed.
const NOTICE_TIME: Duration = Duration::from_secs(30);

/// Waits until a condition of the virtual server `x` has this status and reason, and returns its message.
pub(crate) async fn message_of(harness: &Harness, type_: &str, status: &str, reason: &str) -> String {
    let message = |server: &VirtualMCPServer| {
        let condition = find(&server.status.as_ref()?.conditions, type_)?;
        (condition.status == status && condition.reason == reason).then(|| condition.message.clone())
    };
    harness
        .wait_for(&format!("{type_} is {status}: {reason}"), "x", message)
        .await
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----";

async fn apply_certificate(harness: &Harness, data: Json) {
    harness
        .apply(
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cert"}, "stringData": data}),
        )
        .await;
}

// The certificate of the endpoint comes from a Secret. While the Secret or a key is missing, the condition names the field and the
// Deployment stays as it is.
#[requires(api_server)]
#[tokio::test]
async fn tls_needs_secret_with_certificate() {
    let harness = Harness::start("tls").await;
    harness.apply_group(&[]).await;
    harness.apply_server(json!({})).await;
    let before: Deployment = harness.wait_for_object("vmcp-x").await;
    let tls = json!({"tls": {"certificateRef": {"name": "cert"}}});
    harness.apply_server(tls).await;
    let message = message_of(&harness, "SecretsResolved", "False", "SecretNotFound").await;
    assert!(
        message.starts_with("spec.tls.certificateRef names Secret cert"),
        "{message}"
    );
    apply_certificate(&harness, json!({"tls.crt": CERTIFICATE})).await;
    let message = message_of(&harness, "SecretsResolved", "False", "SecretKeyNotFound").await;
    assert!(
        message.starts_with("spec.tls.certificateRef names key tls.key of Secret cert"),
        "{message}"
    );
    let unchanged: Deployment = harness.wait_for_object("vmcp-x").await;
    assert_eq!(unchanged.metadata.generation, before.metadata.generation);

    apply_certificate(&harness, json!({"tls.crt": CERTIFICATE, "tls.key": PRIVATE_KEY})).await;
    harness.wait_for_status("SecretsResolved", "True").await;
    let mounted = |deployment: &Deployment| {
        let pod = deployment.spec.template.spec.as_ref()?;
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == "tls")?;
        (volume.secret.as_ref()?.secret_name.as_deref() == Some("cert")).then_some(())
    };
    harness
        .wait_for("the certificate is mounted", "vmcp-x", mounted)
        .await;
    let named = |service: &Service| {
        let port = service.spec.as_ref()?.ports.as_ref()?.first()?.clone();
        (port.name.as_deref() == Some("https") && port.app_protocol.as_deref() == Some("https")).then_some(())
    };
    harness
        .wait_for("the port of the Service is https", "vmcp-x", named)
        .await;
    let url = format!("https://vmcp-x.{}.svc:4483/mcp", harness.namespace);
    let shown = |server: &VirtualMCPServer| (server.status.as_ref()?.url.as_ref()? == &url).then_some(());
    harness.wait_for("the status shows the URL", "x", shown).await;

    harness.apply_server(json!({})).await;
    let plain = |service: &Service| {
        let ports = service.spec.as_ref()?.ports.as_ref()?;
        (ports.len() == 1 && ports[0].name.as_deref() == Some("mcp") && ports[0].app_protocol.is_none())
            .then_some(())
    };
    harness
        .wait_for("the port of the Service is plain again", "vmcp-x", plain)
        .await;
}

/// A definition of another project.
pub(crate) fn definition(name: &str) -> Json {
    let file = vmcp_cluster::definitions().unwrap().join(name);
    serde_yaml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// A virtual server with a route and a ServiceMonitor.
pub(crate) fn reachable() -> Json {
    json!({
        "httpRoute": {
            "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https", "port": 443}],
            "hostnames": ["tools.example.com"],
            "path": "/team-a/mcp",
            "labels": {"team": "a"},
        },
        "serviceMonitor": {"interval": "30s", "labels": {"release": "prometheus"}},
        "incomingAuth": {"type": "oidc", "oidc": {"issuer": "https://id.example.com", "audience": ["tools"]}},
    })
}

// Without the Gateway API and the Prometheus operator, the conditions say what to install, and everything else is created. The operator
// notices when they are installed, on an API server of its own, because a definition is there for all namespaces.
#[requires(api_server)]
#[tokio::test]
async fn missing_kinds_are_reported_and_noticed_when_installed() {
    let server = tokio::task::spawn_blocking(|| ApiServer::start().unwrap())
        .await
        .unwrap();
    let definitions =
        tokio::task::spawn_blocking(|| [definition("httproutes.yaml"), definition("servicemonitors.yaml")]);
    let mut harness = Harness::on(&server, "route").await;
    harness.start_operator().await;
    harness.apply_group(&["time"]).await;
    harness.apply_server(reachable()).await;

    let message = message_of(&harness, "HTTPRouteReady", "False", "GatewayAPIMissing").await;
    assert!(message.contains("install the Gateway API"), "{message}");
    let message = message_of(
        &harness,
        "ServiceMonitorReady",
        "False",
        "PrometheusOperatorMissing",
    )
    .await;
    assert!(message.contains("install the Prometheus operator"), "{message}");
    let deployment: Deployment = harness.wait_for_object("vmcp-x").await;
    harness.wait_for_object::<Service>("vmcp-x").await;
    assert_config_follows_route(&harness, &deployment).await;

    for definition in definitions.await.unwrap() {
        harness.apply_cluster(&definition).await;
    }
    let installed = Instant::now();
    message_of(&harness, "HTTPRouteReady", "Unknown", "Pending").await;
    message_of(&harness, "ServiceMonitorReady", "True", "Applied").await;
    // A new definition is served after a short delay.
    assert!(
        installed.elapsed() < NOTICE_TIME + Duration::from_secs(10),
        "{:?}",
        installed.elapsed()
    );
    let route: HTTPRoute = harness.wait_for_object("vmcp-x").await;
    assert_eq!(route.spec.hostnames, ["tools.example.com"]);
    let rewrite = "/filters/0/urlRewrite/path/replacePrefixMatch";
    assert_eq!(route.spec.rules[0].pointer(rewrite), Some(&json!("/mcp")));
    assert_eq!(route.spec.rules.len(), 2);
    let monitor: ServiceMonitor = harness.wait_for_object("vmcp-x").await;
    assert_eq!(monitor.spec.endpoints[0].port.as_deref(), Some("admin"));

    let scraped: Service = harness.wait_for_object("metrics-x").await;
    assert_eq!(
        scraped.spec.unwrap().ports.unwrap()[0].name.as_deref(),
        Some("admin")
    );

    // What the Gateway's controller says is in the condition, and nothing is written while nothing changes.
    harness.apply_status(&accepted("False")).await;
    message_of(&harness, "HTTPRouteReady", "False", "NotAccepted").await;
    harness.apply_status(&accepted("True")).await;
    message_of(&harness, "HTTPRouteReady", "True", "Accepted").await;
    let (writes, version) = (
        harness.write_count(),
        harness
            .wait_for_object::<HTTPRoute>("vmcp-x")
            .await
            .metadata
            .resource_version,
    );
    for _ in 0..3 {
        harness.reconcile().await;
    }
    let route: HTTPRoute = harness.wait_for_object("vmcp-x").await;
    assert_eq!(harness.write_count(), writes, "requests that write");
    assert_eq!(route.metadata.resource_version, version);

    // What the definition of the route rejects is in the condition, and the route stays as it was.
    let mut twice = reachable();
    let parent = twice["httpRoute"]["parentRefs"][0].clone();
    twice["httpRoute"]["parentRefs"] = json!([parent, parent]);
    harness.apply_server(twice).await;
    let message = message_of(&harness, "HTTPRouteReady", "False", "ApplyRefused").await;
    assert!(message.contains("must be unique"), "{message}");
    let unchanged: HTTPRoute = harness.wait_for_object("vmcp-x").await;
    assert_eq!(unchanged.metadata.resource_version, version);
    harness.apply_server(reachable()).await;
    message_of(&harness, "HTTPRouteReady", "True", "Accepted").await;

    let mut labelled = reachable();
    labelled["serviceMonitor"] = json!({"labels": {"not a label": "x"}});
    harness.apply_server(labelled).await;
    message_of(&harness, "ServiceMonitorReady", "False", "ApplyRefused").await;
    harness.apply_server(reachable()).await;
    message_of(&harness, "ServiceMonitorReady", "True", "Applied").await;

    // A change by another client is repaired, and without the fields the objects are deleted.
    let mut foreign = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "vmcp-x"},
        "spec": {"hostnames": ["evil.example.com"]},
    });
    harness.apply(&foreign).await;
    harness.reconcile().await;
    let route: HTTPRoute = harness.wait_for_object("vmcp-x").await;
    assert_eq!(route.spec.hostnames, ["tools.example.com"]);

    // A refused deletion is in the condition, and does not keep the operator from the rest. It is tried again.
    allow_route_deletion(&server, &harness, false).await;
    harness.apply_server(json!({})).await;
    let message = message_of(&harness, "HTTPRouteReady", "False", "ApplyRefused").await;
    assert!(message.starts_with("cannot delete HTTPRoute"), "{message}");
    eventually("the monitor is deleted", async || {
        let monitor = harness.api::<ServiceMonitor>().get_opt("vmcp-x").await.unwrap();
        monitor.is_none().then_some(())
    })
    .await;
    harness.wait_for_object::<HTTPRoute>("vmcp-x").await;
    allow_route_deletion(&server, &harness, true).await;
    eventually("the route and the monitor are deleted", async || {
        let route = harness.api::<HTTPRoute>().get_opt("vmcp-x").await.unwrap();
        let monitor = harness.api::<ServiceMonitor>().get_opt("vmcp-x").await.unwrap();
        let scraped = harness.api::<Service>().get_opt("metrics-x").await.unwrap();
        (route.is_none() && monitor.is_none() && scraped.is_none()).then_some(())
    })
    .await;
    let gone = |server: &VirtualMCPServer| {
        let conditions = &server.status.as_ref()?.conditions;
        let found = find(conditions, "HTTPRouteReady").or_else(|| find(conditions, "ServiceMonitorReady"));
        found.is_none().then_some(())
    };
    harness.wait_for("the conditions are gone", "x", gone).await;

    // An object of the same name without a controller stays as it is.
    foreign["spec"]["hostnames"] = json!(["theirs.example.com"]);
    harness.apply(&foreign).await;
    harness
        .apply(&json!({
            "apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "vmcp-x"},
            "spec": {"selector": {}, "endpoints": []},
        }))
        .await;
    harness.apply_server(reachable()).await;
    message_of(&harness, "ServiceMonitorReady", "False", "ChildNotOwned").await;
    let message = message_of(&harness, "HTTPRouteReady", "False", "ChildNotOwned").await;
    assert!(message.contains("HTTPRoute"), "{message}");
    let route: HTTPRoute = harness.wait_for_object("vmcp-x").await;
    assert_eq!(route.spec.hostnames, ["theirs.example.com"]);
    harness.stop_operator().await;
}

/// Gives the operator the right to delete routes, or takes it away.
async fn allow_route_deletion(server: &ApiServer, harness: &Harness, is_allowed: bool) {
    let mut rules: Json = serde_yaml::from_str(RULES).unwrap();
    for rule in rules.as_array_mut().unwrap() {
        if rule["resources"][0] == "httproutes" && !is_allowed {
            rule["verbs"]
                .as_array_mut()
                .unwrap()
                .retain(|verb| verb != "delete");
        }
    }
    harness.apply_operator_role(&rules).await;
    let question = ["auth", "can-i", "delete", "httproutes.gateway.networking.k8s.io"];
    let user = ["--as", OPERATOR, "--namespace", &harness.namespace];
    eventually("the right has changed", async || {
        // The command fails for the answer "no".
        let answer = server.kubectl(question.into_iter().chain(user));
        (answer.is_ok() == is_allowed).then_some(())
    })
    .await;
}

/// The status that a Gateway's controller gives the route.
fn accepted(status: &str) -> Json {
    let condition = |type_: &str, status: &str| {
        json!({
            "type": type_, "status": status, "reason": "Because", "message": "in words",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "vmcp-x"},
        "status": {"parents": [{
            "parentRef": {"name": "public", "namespace": "gateways"}, "controllerName": "example.com/controller",
            "conditions": [condition("Accepted", status), condition("ResolvedRefs", "True")],
        }]},
    })
}

/// The gateway's files name the hosts and the resource of the route, and the status its URL.
async fn assert_config_follows_route(harness: &Harness, deployment: &Deployment) {
    let hot: ConfigMap = harness.wait_for_object("vmcp-x-backends").await;
    let hot = HotConfig::parse(&hot.data.unwrap()["backends.yaml"], "hot".as_ref()).unwrap();
    assert!(hot.allowed_hosts.contains(&"tools.example.com".to_owned()));
    let pod = deployment.spec.template.spec.as_ref().unwrap();
    let volumes = pod.volumes.as_ref().unwrap();
    let config = volumes.iter().find(|volume| volume.name == "config").unwrap();
    let startup: ConfigMap = harness
        .wait_for_object(&config.config_map.as_ref().unwrap().name)
        .await;
    let startup = GatewayConfig::parse(&startup.data.unwrap()["gateway.yaml"], "startup".as_ref()).unwrap();
    let url = "https://tools.example.com/team-a/mcp";
    assert_eq!(startup.incoming_auth.oidc.unwrap().resource.as_deref(), Some(url));
    let shown =
        |server: &VirtualMCPServer| (server.status.as_ref()?.url.as_deref() == Some(url)).then_some(());
    harness.wait_for("the status shows the URL", "x", shown).await;
}
