//! Runs the helm binary that `vmcp_cluster` builds.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde::Deserialize as _;
use serde_json::Value as Json;

/// The namespace of the release in these tests.
pub(crate) const NAMESPACE: &str = "vmcp-system";

pub(crate) fn charts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

pub(crate) fn helm(arguments: &[&str]) -> Output {
    Command::new(vmcp_cluster::helm().unwrap())
        .args(arguments)
        .current_dir(charts())
        .output()
        .unwrap()
}

#[track_caller]
pub(crate) fn succeeds(arguments: &[&str]) -> String {
    let output = helm(arguments);
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "helm {arguments:?}: {out}{error}");
    out.into_owned()
}

/// The objects of the chart `vmcp-operator` as YAML, also those of its test.
#[track_caller]
pub(crate) fn template(arguments: &[&str]) -> String {
    let all = [
        &["template", "vmcp-operator", "vmcp-operator", "-n", NAMESPACE],
        arguments,
    ];
    succeeds(&all.concat())
}

#[track_caller]
pub(crate) fn rendered(arguments: &[&str]) -> Vec<Json> {
    let text = template(arguments);
    let documents =
        serde_yaml::Deserializer::from_str(&text).map(|document| Json::deserialize(document).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

/// The object of a kind; the one with `in_name` in its name, if there are several.
#[track_caller]
pub(crate) fn object<'a>(objects: &'a [Json], kind: &str, in_name: &str) -> Option<&'a Json> {
    objects.iter().find(|object| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        object["kind"] == kind && name.contains(in_name)
    })
}

/// The files with values for the chart `vmcp-operator`.
pub(crate) fn value_files() -> Vec<String> {
    let folder = charts().join("vmcp-operator/ci");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<String> = files
        .map(|file| file.unwrap().path().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    files
}
