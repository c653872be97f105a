//! The ConfigMaps with the start-up and the hot configuration.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use vmcp_crds::config::split_file;
use vmcp_crds::v1alpha1::VirtualMCPServer;

use super::config::{HOT_FILE, STARTUP_FILE};
use super::{ConfigFiles, labels, metadata, names};

/// The start-up configuration. Its name contains a hash of its content, so that the pods of one ReplicaSet never see the
/// configuration of another, and a rollback finds its own.
pub(super) fn startup(server: &VirtualMCPServer, files: &ConfigFiles) -> ConfigMap {
    let name = names::startup_config(server, &files.startup_hash);
    ConfigMap {
        immutable: Some(true),
        ..config_map(server, name, "startup", STARTUP_FILE, &files.startup)
    }
}

/// The parts of the hot configuration. Their names are constant, so that a change reaches running pods.
pub(super) fn hot(server: &VirtualMCPServer, files: &ConfigFiles) -> Vec<ConfigMap> {
    let part = |(index, text): (usize, &String)| {
        let file = split_file::part_name(HOT_FILE, index);
        config_map(server, names::hot_config(server, index), "hot", &file, text)
    };
    files.hot_parts.iter().enumerate().map(part).collect()
}

fn config_map(server: &VirtualMCPServer, name: String, part: &str, file: &str, text: &str) -> ConfigMap {
    let mut metadata = metadata(server, name);
    metadata
        .labels
        .get_or_insert_default()
        .insert(labels::CONFIG.to_owned(), part.to_owned());
    ConfigMap {
        metadata,
        data: Some(BTreeMap::from([(file.to_owned(), text.to_owned())])),
        ..ConfigMap::default()
    }
}
