//! Drops what the operator does not read of a watched object before it is stored. The stores of a large cluster are most of the operator's memory.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec};
use kube::Resource;

/// The copy of the object that `kubectl apply` keeps in an annotation.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object that another controller derives from the operator's.
pub trait Descendant: Resource {
    /// Drops the fields that are a copy of the operator's own object.
    fn drop_copied_fields(&mut self);
}

impl Descendant for Pod {
    fn drop_copied_fields(&mut self) {
        let Some(spec) = &mut self.spec else { return };
        *spec = PodSpec {
            node_name: spec.node_name.take(),
            readiness_gates: spec.readiness_gates.take(),
            ..PodSpec::default()
        };
    }
}

impl Descendant for ReplicaSet {
    fn drop_copied_fields(&mut self) {
        let template = self.spec.template.take();
        // The volumes name the ConfigMaps that the ReplicaSet uses.
        let volumes = template.and_then(|template| template.spec?.volumes);
        self.spec = ReplicaSetSpec {
            template: Some(PodTemplateSpec {
                spec: Some(PodSpec {
                    volumes,
                    ..PodSpec::default()
                }),
                ..PodTemplateSpec::default()
            }),
            ..ReplicaSetSpec::default()
        };
    }
}

/// Keeps what is observed of a descendant.
pub(crate) fn keep_observed<K: Descendant>(object: &mut K) {
    drop_bookkeeping(object);
    object.drop_copied_fields();
}

/// Keeps the metadata without what is only for tools.
pub(crate) fn keep_name<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    metadata.annotations = None;
    metadata.labels = None;
}

/// Drops the records of the API server and of `kubectl` about who has set which field. They are larger than the rest of most objects.
pub(crate) fn drop_bookkeeping<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn observed_fields_of_descendants_are_kept() {
        let metadata = json!({
            "name": "x", "managedFields": [{"manager": "kubelet"}],
            "annotations": {LAST_APPLIED: "{}", "example.com/a": "b"},
        });
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": metadata,
            "spec": {
                "containers": [{"name": "gateway"}], "nodeName": "n", "readinessGates": [{"conditionType": "c"}],
            },
            "status": {"phase": "Running"},
        }))
        .unwrap();
        keep_observed(&mut pod);
        let kept = json!({"name": "x", "annotations": {"example.com/a": "b"}});
        assert_eq!(
            serde_json::to_value(pod).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": kept,
                "spec": {"containers": [], "nodeName": "n", "readinessGates": [{"conditionType": "c"}]},
                "status": {"phase": "Running"},
            })
        );
        let volumes = json!([{"name": "config", "configMap": {"name": "c"}}]);
        let mut set: ReplicaSet = serde_json::from_value(json!({
            "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "gateway"}], "volumes": volumes}},
            },
            "status": {"replicas": 1},
        }))
        .unwrap();
        keep_observed(&mut set);
        let template = set.spec.template.unwrap();
        assert_eq!(
            serde_json::to_value(template.spec.unwrap().volumes).unwrap(),
            volumes
        );
        assert_eq!(template.metadata, None);
        assert_eq!(serde_json::to_value(set.metadata).unwrap(), kept);
        assert_eq!(set.status.unwrap().replicas, 1);
    }
}
