//! The Helm charts, with a real Helm.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod bad_values;
mod check;
mod helm;
mod install;
mod namespace_scope;
mod server_dry_run;
mod values;

use clap::CommandFactory as _;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value as Json;
use vmcp_external::requires;
use vmcp_operator::args::Args;

use helm::{rendered, succeeds, value_files};

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
    for file in value_files() {
        succeeds(&["lint", "--strict", "vmcp-operator", "--values", &file]);
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
