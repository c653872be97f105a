//! Ownership of objects: the controller in their owner references.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use crate::desired::labels;

/// The owner reference of the object's controller.
#[must_use]
pub fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// Whether `server` controls `object`.
#[must_use]
pub fn is_controlled_by<K: Resource, W: Resource>(object: &K, server: &W) -> bool {
    controller(object.meta()).is_some_and(|owner| Some(&owner.uid) == server.meta().uid.as_ref())
}

/// Whether both objects have a controller and it is the same.
#[must_use]
pub fn have_same_controller(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    match (controller(a), controller(b)) {
        (Some(a), Some(b)) => a.uid == b.uid,
        _ => false,
    }
}

/// Whether `existing` belongs to a predecessor of the controller of `wanted`: same kind and name, but another uid. That happens when a
/// virtual server is deleted and created again before the garbage collector has removed the children of the first one.
#[must_use]
pub fn is_left_by_predecessor(wanted: &ObjectMeta, existing: &ObjectMeta) -> bool {
    match (controller(wanted), controller(existing)) {
        (Some(now), Some(then)) => now.kind == then.kind && now.name == then.name && now.uid != then.uid,
        _ => false,
    }
}

/// Whether `existing` was created by the operator for a virtual server of the same name, and has no controller any longer. That happens when the
/// virtual server is deleted with `--cascade=orphan`.
#[must_use]
pub fn is_orphan(wanted: &ObjectMeta, existing: &ObjectMeta) -> bool {
    let label = |metadata: &ObjectMeta, name: &str| metadata.labels.as_ref()?.get(name).cloned();
    let has_same = |name| label(existing, name).is_some() && label(existing, name) == label(wanted, name);
    controller(existing).is_none() && has_same(labels::MANAGED_BY) && has_same(labels::INSTANCE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn controlled_by(kind: &str, uid: &str) -> ObjectMeta {
        serde_json::from_value(json!({"ownerReferences": [
            {"apiVersion": "v", "kind": "Other", "name": "x", "uid": "other"},
            {"apiVersion": "v", "kind": kind, "name": "x", "uid": uid, "controller": true},
        ]}))
        .unwrap()
    }

    #[test]
    fn only_controller_references_count() {
        let ours = controlled_by("VirtualMCPServer", "1");
        assert!(have_same_controller(&ours, &ours));
        assert!(!have_same_controller(
            &ours,
            &controlled_by("VirtualMCPServer", "2")
        ));
        assert!(!have_same_controller(&ours, &ObjectMeta::default()));
        assert!(!have_same_controller(
            &ObjectMeta::default(),
            &ObjectMeta::default()
        ));
    }

    #[test]
    fn predecessor_has_same_kind_and_another_uid() {
        let ours = controlled_by("VirtualMCPServer", "2");
        assert!(is_left_by_predecessor(
            &ours,
            &controlled_by("VirtualMCPServer", "1")
        ));
        assert!(!is_left_by_predecessor(&ours, &controlled_by("Deployment", "1")));
        assert!(!is_left_by_predecessor(&ours, &ours));
        assert!(!is_left_by_predecessor(&ours, &ObjectMeta::default()));
    }

    #[test]
    fn orphan_has_our_labels_and_no_controller() {
        let labeled = |instance: &str, mut metadata: ObjectMeta| {
            let labels = [
                (labels::MANAGED_BY, labels::OPERATOR),
                (labels::INSTANCE, instance),
            ];
            let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
            metadata.labels = Some(labels.into());
            metadata
        };
        let ours = labeled("x", controlled_by("VirtualMCPServer", "1"));
        assert!(is_orphan(&ours, &labeled("x", ObjectMeta::default())));
        assert!(!is_orphan(&ours, &labeled("y", ObjectMeta::default())));
        assert!(!is_orphan(&ours, &ObjectMeta::default()));
        let controlled = labeled("x", controlled_by("VirtualMCPServer", "2"));
        assert!(!is_orphan(&ours, &controlled));
    }
}
