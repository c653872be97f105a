//! Each value of the chart `vmcp-operator` changes what it is said to change.

use serde_json::{Value as Json, json};
use vmcp_external::requires;

use crate::helm::{charts, object, rendered};

/// A value, as an argument of `--set-json`, and where it is in the rendered objects: kind, part of the name, pointer, content.
type Row = (
    &'static str,
    &'static str,
    (&'static str, &'static str, &'static str),
    Json,
);

const POD: &str = "/spec/template/spec";

fn rows() -> Vec<Row> {
    let deployment = |pointer| ("Deployment", "", pointer);
    vec![
        (
            "fullnameOverride",
            r#""mcp""#,
            deployment("/metadata/name"),
            json!("mcp"),
        ),
        ("replicas", "5", deployment("/spec/replicas"), json!(5)),
        (
            "image.repository",
            r#""r.example/o""#,
            deployment("/spec/template/spec/containers/0/image"),
            json!(concat!("r.example/o:", env!("CARGO_PKG_VERSION"))),
        ),
        (
            "image.tag",
            r#""1.2""#,
            deployment("/spec/template/spec/containers/0/image"),
            json!("vmcp.dev/operator:1.2"),
        ),
        (
            "image.pullPolicy",
            r#""Always""#,
            deployment("/spec/template/spec/containers/0/imagePullPolicy"),
            json!("Always"),
        ),
        (
            "gatewayImage.repository",
            r#""r.example/g""#,
            deployment("/spec/template/spec/containers/0/env/2"),
            json!({"name": "VMCP_GATEWAY_IMAGE", "value": concat!("r.example/g:", env!("CARGO_PKG_VERSION"))}),
        ),
        (
            "gatewayImage.tag",
            r#""1.2""#,
            deployment("/spec/template/spec/containers/0/env/2"),
            json!({"name": "VMCP_GATEWAY_IMAGE", "value": "vmcp.dev/gateway:1.2"}),
        ),
        (
            "imagePullSecrets",
            r#"[{"name": "registry"}]"#,
            ("Pod", "test", "/spec/imagePullSecrets"),
            json!([{"name": "registry"}]),
        ),
        (
            "watchNamespaces",
            r#"["a", "b"]"#,
            ("Pod", "test", "/spec/containers/0/env/4"),
            json!({"name": "VMCP_WATCH_NAMESPACES", "value": "a,b"}),
        ),
        (
            "allowedImagePrefixes",
            r#"["r.example/a", "r.example/b"]"#,
            deployment("/spec/template/spec/containers/0/env/4"),
            json!({"name": "VMCP_ALLOWED_IMAGE_PREFIXES", "value": "r.example/a,r.example/b"}),
        ),
        (
            "secretLabel",
            r#""vmcp.dev/usable=true""#,
            deployment("/spec/template/spec/containers/0/env/4"),
            json!({"name": "VMCP_SECRET_LABEL", "value": "vmcp.dev/usable=true"}),
        ),
        (
            "log.filter",
            r#""debug""#,
            deployment("/spec/template/spec/containers/0/env/4"),
            json!({"name": "VMCP_LOG", "value": "debug"}),
        ),
        (
            "log.format",
            r#""text""#,
            deployment("/spec/template/spec/containers/0/env/5"),
            json!({"name": "VMCP_LOG_FORMAT", "value": "text"}),
        ),
        (
            "podUser",
            r#""namespace""#,
            deployment("/spec/template/spec/containers/0/env/6"),
            json!({"name": "VMCP_POD_USER", "value": "namespace"}),
        ),
        (
            "env",
            r#"[{"name": "HTTPS_PROXY", "value": "http://proxy"}]"#,
            deployment("/spec/template/spec/containers/0/env/9"),
            json!({"name": "HTTPS_PROXY", "value": "http://proxy"}),
        ),
        (
            "serverImages.npm",
            r#""r.example/node:1""#,
            deployment("/spec/template/spec/containers/0/env/7"),
            json!({"name": "VMCP_NPM_IMAGE", "value": "r.example/node:1"}),
        ),
        (
            "serverImages.pypi",
            r#""r.example/uv:1""#,
            deployment("/spec/template/spec/containers/0/env/8"),
            json!({"name": "VMCP_PYPI_IMAGE", "value": "r.example/uv:1"}),
        ),
        (
            "resources",
            r#"{"limits": {"cpu": 2}}"#,
            deployment("/spec/template/spec/containers/0/resources/limits/cpu"),
            json!(2),
        ),
        (
            "serviceAccount.annotations",
            r#"{"a": "b"}"#,
            ("ServiceAccount", "", "/metadata/annotations"),
            json!({"a": "b"}),
        ),
        (
            "podDisruptionBudget.enabled",
            "false",
            ("PodDisruptionBudget", "", "/kind"),
            Json::Null,
        ),
        (
            "podDisruptionBudget.maxUnavailable",
            r#""50%""#,
            ("PodDisruptionBudget", "", "/spec/maxUnavailable"),
            json!("50%"),
        ),
        (
            "networkPolicy.enabled",
            "true",
            ("NetworkPolicy", "", "/spec/ingress"),
            json!([]),
        ),
        (
            "networkPolicy.monitoring",
            r#"[{"podSelector": {}}]"#,
            ("NetworkPolicy", "", "/spec/ingress"),
            json!([{"from": [{"podSelector": {}}], "ports": [{"port": "admin", "protocol": "TCP"}]}]),
        ),
        (
            "metrics.serviceMonitor.enabled",
            "true",
            ("ServiceMonitor", "", "/spec/endpoints"),
            json!([{"port": "admin", "path": "/metrics", "interval": "30s"}]),
        ),
        (
            "metrics.serviceMonitor.interval",
            r#""2m""#,
            ("ServiceMonitor", "", "/spec/endpoints/0/interval"),
            json!("2m"),
        ),
        (
            "metrics.serviceMonitor.labels",
            r#"{"release": "p"}"#,
            ("ServiceMonitor", "", "/metadata/labels/release"),
            json!("p"),
        ),
        (
            "podLabels",
            r#"{"team": "a"}"#,
            deployment("/spec/template/metadata/labels/team"),
            json!("a"),
        ),
        (
            "podAnnotations",
            r#"{"a": "b"}"#,
            deployment("/spec/template/metadata/annotations"),
            json!({"a": "b"}),
        ),
        (
            "priorityClassName",
            r#""high""#,
            deployment("/spec/template/spec/priorityClassName"),
            json!("high"),
        ),
        (
            "nodeSelector",
            r#"{"disk": "ssd"}"#,
            deployment("/spec/template/spec/nodeSelector"),
            json!({"disk": "ssd"}),
        ),
        (
            "tolerations",
            r#"[{"operator": "Exists"}]"#,
            deployment("/spec/template/spec/tolerations"),
            json!([{"operator": "Exists"}]),
        ),
        (
            "affinity",
            r#"{"podAffinity": {}}"#,
            deployment("/spec/template/spec/affinity"),
            json!({"podAffinity": {}}),
        ),
        (
            "topologySpreadConstraints",
            r#"[{"topologyKey": "zone"}]"#,
            deployment("/spec/template/spec/topologySpreadConstraints"),
            json!([{"topologyKey": "zone"}]),
        ),
    ]
}

/// The values of a chart that are documented in its schema.
fn documented(path: &str, schema: &Json, found: &mut Vec<String>) {
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}{key}");
        if inner["description"].is_string() {
            found.push(path);
        } else {
            documented(&format!("{path}."), inner, found);
        }
    }
}

#[requires(helm)]
#[test]
fn each_value_reaches_its_object() {
    let defaults = rendered(&[]);
    let mut tested = vec!["global".to_owned()];
    for (path, value, (kind, in_name, pointer), expected) in rows() {
        // Values of an object that another value creates.
        let (parent, _) = path.rsplit_once('.').unwrap_or_default();
        let mut set = vec![format!("{path}={value}")];
        if parent != "podDisruptionBudget" && (parent.ends_with("Policy") || parent.ends_with("Monitor")) {
            set.insert(0, format!("{parent}.enabled=true"));
        }
        let arguments: Vec<&str> = set.iter().flat_map(|set| ["--set-json", set]).collect();
        let content = |objects: &[Json]| {
            let found = object(objects, kind, in_name).and_then(|object| object.pointer(pointer));
            found.cloned().unwrap_or_default()
        };
        assert_eq!(content(&rendered(&arguments)), expected, "{path}");
        assert_ne!(content(&defaults), expected, "{path} has this effect by default");
        tested.push(path.to_owned());
    }
    let schema = std::fs::read_to_string(charts().join("vmcp-operator/values.schema.json")).unwrap();
    let mut all = Vec::new();
    documented("", &serde_json::from_str(&schema).unwrap(), &mut all);
    tested.sort();
    all.sort();
    assert_eq!(tested, all);
}

// The test pod is not one of the operator's pods: no Service, budget or policy selects it.
#[requires(helm)]
#[test]
fn test_pod_is_not_selected_as_operator() {
    let objects = rendered(&["--set", "networkPolicy.enabled=true"]);
    let pod = object(&objects, "Pod", "test").unwrap();
    let deployment = object(&objects, "Deployment", "").unwrap();
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["helm.sh/hook"], "test");
    // `helm test --logs` of Helm 3 needs the pod after its end.
    assert_eq!(annotations["helm.sh/hook-delete-policy"], "before-hook-creation");
    assert_eq!(
        pod["spec"]["serviceAccountName"],
        deployment
            .pointer(&format!("{POD}/serviceAccountName"))
            .cloned()
            .unwrap()
    );
    let selects = |selector: &Json, labels: &Json| {
        let selector = selector.as_object().unwrap();
        selector.iter().all(|(key, value)| labels[key] == *value)
    };
    for (kind, pointer) in [
        ("Deployment", "/spec/selector/matchLabels"),
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
    ] {
        let selector = object(&objects, kind, "").unwrap().pointer(pointer).unwrap();
        assert!(
            selects(selector, &deployment["spec"]["template"]["metadata"]["labels"]),
            "{kind}"
        );
        assert!(!selects(selector, &pod["metadata"]["labels"]), "{kind}");
    }
}

// On OpenShift the operator's own pods name no user id, unless the value says so.
#[requires(helm)]
#[test]
fn pod_user_follows_cluster_and_value() {
    let context = |arguments: &[&str]| {
        let objects = rendered(arguments);
        let pointer = format!("{POD}/securityContext");
        let context = object(&objects, "Deployment", "")
            .unwrap()
            .pointer(&pointer)
            .unwrap();
        assert_eq!(context["runAsNonRoot"], true);
        [context["runAsUser"].clone(), context["runAsGroup"].clone()]
    };
    let openshift = ["--api-versions", "security.openshift.io/v1"];
    let (fixed, none) = ([json!(65532), json!(65532)], [Json::Null, Json::Null]);
    assert_eq!(context(&[]), fixed);
    assert_eq!(context(&openshift), none);
    assert_eq!(context(&["--set", "podUser=namespace"]), none);
    assert_eq!(
        context(&[openshift[0], openshift[1], "--set", "podUser=fixed"]),
        fixed
    );
}
