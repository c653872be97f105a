//! Values that the schemas of the charts refuse.

use vmcp_external::requires;

use crate::helm::helm;

/// Arguments with a bad value, and what the message must contain.
const REFUSED: &[(&str, &[&str], &[&str])] = &[
    ("vmcp-crds", &["--set", "kepe=true"], &["'kepe' not allowed"]),
    (
        "vmcp-crds",
        &["--set", "keep=maybe"],
        &["'/keep'", "got string, want boolean"],
    ),
    (
        "vmcp-operator",
        &["--set", "image.tga=1"],
        &["'/image'", "'tga' not allowed"],
    ),
    (
        "vmcp-operator",
        &["--set", "replica=3"],
        &["'replica' not allowed"],
    ),
    (
        "vmcp-operator",
        &["--set", "replicas=-1"],
        &["'/replicas'", "minimum"],
    ),
    (
        "vmcp-operator",
        &["--set-string", "replicas=2"],
        &["'/replicas'", "got string, want integer"],
    ),
    (
        "vmcp-operator",
        &["--set", "fullnameOverride=Mcp Operator"],
        &["'/fullnameOverride'", "does not match pattern"],
    ),
    (
        "vmcp-operator",
        &["--set", "image.repository="],
        &["'/image/repository'", "minLength"],
    ),
    (
        "vmcp-operator",
        &["--set", "image.pullPolicy=Sometimes"],
        &["'/image/pullPolicy'", "'Always', 'IfNotPresent', 'Never'"],
    ),
    (
        "vmcp-operator",
        &["--set", "imagePullSecrets={registry}"],
        &["'/imagePullSecrets/0'", "want object"],
    ),
    (
        "vmcp-operator",
        &["--set", "watchNamespaces=a"],
        &["'/watchNamespaces'", "got string, want array"],
    ),
    (
        "vmcp-operator",
        &["--set", "watchNamespaces={a,A}"],
        &["'/watchNamespaces/1'", "does not match pattern"],
    ),
    (
        "vmcp-operator",
        &["--set", "watchNamespaces={a,a}"],
        &["'/watchNamespaces'", "items at 0 and 1 are equal"],
    ),
    (
        "vmcp-operator",
        &["--set", "allowedImagePrefixes={a b}"],
        &["'/allowedImagePrefixes/0'", "does not match pattern"],
    ),
    (
        "vmcp-operator",
        &["--set", "secretLabel=a b"],
        &["'/secretLabel'", "does not match pattern"],
    ),
    (
        "vmcp-operator",
        &["--set", "log.format=xml"],
        &["'/log/format'", "'text', 'json'"],
    ),
    (
        "vmcp-operator",
        &["--set-json", r#"env=[{"value": "x"}]"#],
        &["'/env/0'", "missing property 'name'"],
    ),
    (
        "vmcp-operator",
        &["--set", "resources.limit.cpu=1"],
        &["'/resources'", "'limit' not allowed"],
    ),
    (
        "vmcp-operator",
        &["--set", "serviceAccount.create=false"],
        &["'/serviceAccount'", "'create' not allowed"],
    ),
    (
        "vmcp-operator",
        &["--set", "podDisruptionBudget.maxUnavailable=0"],
        &["'/podDisruptionBudget/maxUnavailable'", "minimum"],
    ),
    (
        "vmcp-operator",
        &["--set", "podDisruptionBudget.maxUnavailable=most"],
        &["'/podDisruptionBudget/maxUnavailable'", "does not match pattern"],
    ),
    (
        "vmcp-operator",
        &["--set-json", r#"networkPolicy.monitoring=[{"pods": {}}]"#],
        &["'/networkPolicy/monitoring/0'", "'pods' not allowed"],
    ),
    (
        "vmcp-operator",
        &["--set", "metrics.serviceMonitor.interval=often"],
        &["'/metrics/serviceMonitor/interval'", "does not match pattern"],
    ),
    (
        "vmcp-operator",
        &["--set", "metrics.enabled=true"],
        &["'/metrics'", "'enabled' not allowed"],
    ),
    (
        "vmcp-operator",
        &["--set-json", r#"podLabels={"app.kubernetes.io/name": "x"}"#],
        &["'app.kubernetes.io/name'"],
    ),
    (
        "vmcp-operator",
        &["--set-json", r#"podAnnotations={"a": 1}"#],
        &["'/podAnnotations/a'", "got number, want string"],
    ),
];

#[requires(helm)]
#[test]
fn bad_value_is_refused_with_its_path() {
    let mut accepted = Vec::new();
    for (chart, arguments, expected) in REFUSED {
        let output = helm(&[&["template", "x", chart], *arguments].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || !expected.iter().all(|part| error.contains(part)) {
            accepted.push(format!("{chart} {arguments:?}, expected {expected:?}: {error}"));
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
}
