//! What the charts render, checked by a real API server.

use std::io::Write as _;

use serde_json::{Value as Json, json};
use vmcp_cluster::ApiServer;
use vmcp_external::requires;

use crate::helm::{NAMESPACE, object, rendered, succeeds, template, value_files};

/// The part of the Prometheus operator's kind that the chart uses. It refuses unknown fields.
fn service_monitor() -> Json {
    let text = json!({"type": "string"});
    let selector = json!({"type": "object", "properties": {"matchLabels": {"type": "object", "additionalProperties": text}}});
    let endpoint = json!({"type": "object", "properties": {"port": text, "path": text, "interval": text}});
    let spec = json!({
        "type": "object", "required": ["endpoints", "selector"],
        "properties": {"selector": selector, "endpoints": {"type": "array", "items": endpoint}},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "servicemonitors.monitoring.coreos.com",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": spec},
            }}}],
        },
    })
}

/// Applies a text with `kubectl apply --server-side --validate=strict` and these arguments.
fn apply(server: &ApiServer, text: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    file.write_all(text.as_bytes())?;
    let path = file.path().to_string_lossy().into_owned();
    let apply = ["apply", "--server-side", "--validate=strict", "-f", &path];
    server.kubectl([&apply, arguments].concat())
}

/// An API server with a namespace that admits only pods of the standard "restricted".
fn start() -> ApiServer {
    let server = ApiServer::start().unwrap();
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    for (name, labels) in [(NAMESPACE, labels), ("team-a", json!({})), ("team-b", json!({}))] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        apply(&server, &namespace.to_string(), &[]).unwrap();
    }
    apply(&server, &service_monitor().to_string(), &[]).unwrap();
    server.wait_until_served(&["servicemonitors"]).unwrap();
    server
}

// The API server accepts every object of both charts, without unknown fields, for each file of values. The pods satisfy the Pod Security
// Standard "restricted".
#[requires(api_server, helm)]
#[test]
fn rendered_objects_pass_strict_server_dry_run() {
    let server = start();
    let definitions = succeeds(&["template", "vmcp-crds", "vmcp-crds"]);
    apply(&server, &definitions, &["--dry-run=server"]).unwrap();
    for file in value_files() {
        let arguments = ["--values", file.as_str()];
        apply(&server, &template(&arguments), &["--dry-run=server"])
            .unwrap_or_else(|error| panic!("{file}: {error:#}"));
        // The standard is enforced for pods, not for Deployments.
        let objects = rendered(&arguments);
        let pod = &object(&objects, "Deployment", "").unwrap()["spec"]["template"];
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": pod["spec"],
            "metadata": {"name": "x", "namespace": NAMESPACE, "labels": pod["metadata"]["labels"]},
        });
        apply(&server, &pod.to_string(), &["--dry-run=server"])
            .unwrap_or_else(|error| panic!("{file}: {error:#}"));
    }
    // Such a check can fail.
    let root = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": NAMESPACE},
        "spec": {"containers": [{"name": "x", "image": "x"}]},
    });
    let refused = apply(&server, &root.to_string(), &["--dry-run=server"]).unwrap_err();
    assert!(
        format!("{refused:#}").contains("violates PodSecurity"),
        "{refused:#}"
    );
}
