//! The Helm charts, with a real Helm.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use clap::CommandFactory as _;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value as Json;
use vmcp_cluster::ApiServer;
use vmcp_external::requires;
use vmcp_operator::args::Args;

/// Time for an API server on a busy machine to serve new definitions.
const SERVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the helm binary that `vmcp_cluster` builds.
fn helm(arguments: &[&str]) -> Output {
    Command::new(vmcp_cluster::helm().unwrap())
        .args(arguments)
        .current_dir(charts())
        .output()
        .unwrap()
}

fn charts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = helm(arguments);
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "helm {arguments:?}: {out}{error}");
    out.into_owned()
}

fn rendered(arguments: &[&str]) -> Vec<Json> {
    let text = succeeds(
        &[
            &["template", "vmcp-operator", "vmcp-operator", "-n", "vmcp-system"],
            arguments,
        ]
        .concat(),
    );
    let documents = text
        .split("\n---\n")
        .map(|document| serde_yaml::from_str::<Json>(document).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn kinds(objects: &[Json]) -> Vec<String> {
    let word = |object: &Json, pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Json::as_str)
            .unwrap_or("-")
            .to_owned()
    };
    let mut kinds: Vec<String> = objects
        .iter()
        .map(|object| {
            format!(
                "{} {}",
                word(object, "/kind"),
                word(object, "/metadata/namespace")
            )
        })
        .collect();
    kinds.sort();
    kinds
}

#[requires(helm)]
#[test]
fn charts_pass_helm_lint() {
    succeeds(&["lint", "--strict", "vmcp-crds"]);
    succeeds(&["lint", "--strict", "vmcp-operator"]);
}

#[requires(helm)]
#[test]
fn unknown_value_is_rejected() {
    for (chart, value) in [("vmcp-crds", "kepe=true"), ("vmcp-operator", "image.tga=1")] {
        let output = helm(&["template", "x", chart, "--set", value]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains("not allowed"),
            "{error}"
        );
    }
}

// The permissions cover the cluster, or only the named namespaces.
#[requires(helm)]
#[test]
fn permissions_are_limited_to_watched_namespaces() {
    let cluster = kinds(&rendered(&[]));
    assert!(cluster.contains(&"ClusterRole -".to_owned()), "{cluster:?}");
    let named = kinds(&rendered(&["--set", "watchNamespaces={a,b}"]));
    assert!(
        !named.iter().any(|kind| kind.starts_with("ClusterRole")),
        "{named:?}"
    );
    for namespace in ["a", "b", "vmcp-system"] {
        assert!(named.contains(&format!("Role {namespace}")), "{named:?}");
    }
}

#[requires(helm)]
#[test]
fn operator_reads_every_variable_that_chart_sets() {
    let known: Vec<String> = Args::command()
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
        .collect();
    let objects = rendered(&[
        "--set",
        "watchNamespaces={a,b}",
        "--set",
        "allowedImagePrefixes={registry.example/team,other.example/}",
        "--set",
        "secretLabel=vmcp.dev/usable=true",
    ]);
    let deployment = objects
        .iter()
        .find(|object| object["kind"] == "Deployment")
        .unwrap();
    let deployment: Deployment = serde_json::from_value(deployment.clone()).unwrap();
    let container = &deployment.spec.template.spec.unwrap().containers[0];
    let set = container.env.as_ref().unwrap();
    assert!(set.len() >= 9, "{set:?}");
    for variable in set {
        assert!(
            known.contains(&variable.name),
            "{} is not one of {known:?}",
            variable.name
        );
    }
    for (name, expected) in [
        ("VMCP_WATCH_NAMESPACES", "a,b"),
        (
            "VMCP_ALLOWED_IMAGE_PREFIXES",
            "registry.example/team,other.example/",
        ),
        ("VMCP_SECRET_LABEL", "vmcp.dev/usable=true"),
    ] {
        let variable = set.iter().find(|variable| variable.name == name).unwrap();
        assert_eq!(variable.value.as_deref(), Some(expected));
    }
    // Off by default.
    let text = serde_json::to_string(&rendered(&[])).unwrap();
    assert!(
        !text.contains("VMCP_ALLOWED_IMAGE_PREFIXES") && !text.contains("VMCP_SECRET_LABEL"),
        "{text}"
    );
}

// Both charts install, upgrade and uninstall, and the CRDs stay after that.
#[requires(helm)]
#[test]
fn charts_install_upgrade_uninstall_and_keep_crds() {
    let server = ApiServer::start().unwrap();
    let kubeconfig = server.kubeconfig();
    let at = [
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
        "--namespace",
        "vmcp-system",
    ];
    let run = |arguments: &[&str]| succeeds(&[arguments, &at].concat());
    run(&["install", "vmcp-crds", "vmcp-crds", "--create-namespace"]);
    // New definitions are served, and explained, after a short delay.
    let answer = |arguments: &[&str]| {
        let end = Instant::now() + SERVE_TIMEOUT;
        loop {
            match server.kubectl(arguments) {
                Ok(answer) if !answer.trim().is_empty() => return answer,
                other => assert!(Instant::now() < end, "kubectl {arguments:?}: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let served = [
        "api-resources",
        "--api-group=vmcp.dev",
        "--cached=false",
        "-o",
        "name",
    ];
    answer(&served);
    // No node runs the pods, so do not wait for them.
    let notes = run(&["install", "vmcp-operator", "vmcp-operator", "--wait=false"]);
    assert!(
        notes.contains("kubectl wait --for=condition=Ready vmcp/everything"),
        "{notes}"
    );
    assert!(!notes.contains("install the chart vmcp-crds"), "{notes}");
    run(&["upgrade", "vmcp-crds", "vmcp-crds"]);
    run(&[
        "upgrade",
        "vmcp-operator",
        "vmcp-operator",
        "--wait=false",
        "--set",
        "log.filter=debug",
    ]);
    let explained = answer(&["explain", "vmcp.spec.sessionStorage"]);
    assert!(explained.contains("host:port"), "{explained}");
    run(&["uninstall", "vmcp-operator", "--wait=false"]);
    run(&["uninstall", "vmcp-crds", "--wait=false"]);
    let definitions = server.kubectl(["get", "crd", "-o", "name"]).unwrap();
    assert_eq!(
        definitions
            .lines()
            .filter(|name| name.ends_with("vmcp.dev"))
            .count(),
        3,
        "{definitions}"
    );
}
