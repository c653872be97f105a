//! The volume with the values of Secrets and ConfigMaps that specs refer to.
//!
//! It depends on the specs only. Every source is optional, so that a Secret that is missing, or comes and goes, neither changes the pod template
//! nor keeps a pod from starting.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, KeyToPath, ProjectedVolumeSource, SecretProjection, Volume, VolumeProjection,
};
use vmcp_crds::v1alpha1::{KeyedObject, SecretFile};

/// Name of the volume.
pub(super) const SECRETS_VOLUME: &str = "secrets";

/// The volume with `files`, in any order; `None` without files.
pub(super) fn secret_volume(files: &[SecretFile]) -> Option<Volume> {
    let mut items: BTreeMap<&KeyedObject, Vec<KeyToPath>> = BTreeMap::new();
    for file in files {
        items.entry(&file.object).or_default().push(KeyToPath {
            key: file.key.clone(),
            path: file.path.clone(),
            ..KeyToPath::default()
        });
    }
    if items.is_empty() {
        return None;
    }
    Some(Volume {
        name: SECRETS_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o440),
            sources: Some(
                items
                    .into_iter()
                    .map(|(object, items)| source(object, items))
                    .collect(),
            ),
            ..ProjectedVolumeSource::default()
        }),
        ..Volume::default()
    })
}

fn source(object: &KeyedObject, mut items: Vec<KeyToPath>) -> VolumeProjection {
    items.sort_by(|a, b| a.path.cmp(&b.path));
    match object {
        KeyedObject::Secret(name) => VolumeProjection {
            secret: Some(SecretProjection {
                name: name.clone(),
                items: Some(items),
                optional: Some(true),
            }),
            ..VolumeProjection::default()
        },
        KeyedObject::ConfigMap(name) => VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: name.clone(),
                items: Some(items),
                optional: Some(true),
            }),
            ..VolumeProjection::default()
        },
    }
}
