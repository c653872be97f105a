//! Finds objects that a virtual server owns but no longer needs.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec};
use kube::ResourceExt as _;
use vmcp_crds::v1alpha1::VirtualMCPServer;

use crate::desired::labels;
use crate::owner;

/// The start-up ConfigMaps among `config_maps` that no ReplicaSet uses. Returns none while the Deployment's controller has not
/// observed the latest Deployment: it may be about to create a ReplicaSet.
pub fn unused_startup_configs<'a>(
    server: &VirtualMCPServer,
    deployment: &Deployment,
    replica_sets: impl IntoIterator<Item = &'a ReplicaSet>,
    config_maps: impl IntoIterator<Item = &'a ConfigMap>,
) -> Vec<&'a ConfigMap> {
    let observed = deployment
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    if observed.is_none() || observed != deployment.metadata.generation {
        return Vec::new();
    }
    let mut used = BTreeSet::new();
    let template = deployment.spec.template.spec.as_ref();
    used.extend(template.into_iter().flat_map(mounted_config_maps));
    for set in replica_sets {
        let template = set.spec.template.as_ref();
        used.extend(
            template
                .and_then(|template| template.spec.as_ref())
                .into_iter()
                .flat_map(mounted_config_maps),
        );
    }
    config_maps
        .into_iter()
        .filter(|config_map| {
            config_map.labels().get(labels::CONFIG).map(String::as_str) == Some("startup")
                && owner::is_controlled_by(*config_map, server)
                && !used.contains(&config_map.name_any())
        })
        .collect()
}

/// The ConfigMaps among `config_maps` with former parts of the hot configuration.
pub fn unused_hot_parts<'a>(
    server: &VirtualMCPServer,
    parts: &[ConfigMap],
    config_maps: impl IntoIterator<Item = &'a ConfigMap>,
) -> Vec<&'a ConfigMap> {
    let is_current =
        |config_map: &ConfigMap| parts.iter().any(|part| part.name_any() == config_map.name_any());
    config_maps
        .into_iter()
        .filter(|config_map| {
            config_map.labels().get(labels::CONFIG).map(String::as_str) == Some("hot")
                && owner::is_controlled_by(*config_map, server)
                && !is_current(config_map)
        })
        .collect()
}

fn mounted_config_maps(pod: &PodSpec) -> impl Iterator<Item = String> {
    let volumes = pod.volumes.iter().flatten();
    volumes.filter_map(|volume| volume.config_map.as_ref().map(|source| source.name.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn server() -> VirtualMCPServer {
        serde_json::from_value(json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer",
            "metadata": {"name": "x", "namespace": "n", "uid": "ours"},
            "spec": {"groupRef": {"name": "g"}},
        }))
        .unwrap()
    }

    fn template(config_map: &str) -> serde_json::Value {
        json!({"spec": {"containers": [], "volumes": [{"name": "config", "configMap": {"name": config_map}}]}})
    }

    fn deployment(observed: i64) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"generation": 2},
            "spec": {"selector": {}, "template": template("current")},
            "status": {"observedGeneration": observed},
        }))
        .unwrap()
    }

    fn config_map(name: &str, owner: &str, part: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {
            "name": name,
            "labels": {labels::CONFIG: part},
            "ownerReferences": [
                {"apiVersion": "v", "kind": "k", "name": "x", "uid": owner, "controller": true},
            ],
        }}))
        .unwrap()
    }

    fn unused(observed: i64) -> Vec<String> {
        let set: ReplicaSet = serde_json::from_value(
            json!({"metadata": {}, "spec": {"selector": {}, "template": template("previous")}}),
        )
        .unwrap();
        let all = [
            config_map("current", "ours", "startup"),
            config_map("previous", "ours", "startup"),
            config_map("old", "ours", "startup"),
            config_map("backends", "ours", "hot"),
            config_map("foreign", "theirs", "startup"),
        ];
        let unused = unused_startup_configs(&server(), &deployment(observed), [&set], &all);
        unused.iter().map(|config_map| config_map.name_any()).collect()
    }

    #[test]
    fn startup_config_is_kept_while_replica_set_uses_it() {
        assert_eq!(unused(2), ["old"]);
    }

    #[test]
    fn hot_part_that_is_not_rendered_is_unused() {
        let all = [
            config_map("backends", "ours", "hot"),
            config_map("backends-1", "ours", "hot"),
            config_map("backends-2", "theirs", "hot"),
            config_map("current", "ours", "startup"),
        ];
        let unused = unused_hot_parts(&server(), &all[..1], &all);
        let names: Vec<String> = unused.iter().map(|config_map| config_map.name_any()).collect();
        assert_eq!(names, ["backends-1"]);
    }

    #[test]
    fn nothing_is_unused_before_deployment_is_observed() {
        assert!(unused(1).is_empty());
    }
}
