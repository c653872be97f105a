//! Whose an object is: whom its owner references name as the controller.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use vmcp_crds::v1alpha1::VirtualMCPServer;

/// Who controls the object with this metadata.
#[must_use]
pub fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// Whether `server` controls `object`.
#[must_use]
pub fn is_controlled_by<K: Resource>(object: &K, server: &VirtualMCPServer) -> bool {
    controller(object.meta()).is_some_and(|owner| Some(&owner.uid) == server.metadata.uid.as_ref())
}

/// Whether both objects have the same controller. An object without one is nobody's sibling.
#[must_use]
pub fn are_siblings(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    match (controller(a), controller(b)) {
        (Some(a), Some(b)) => a.uid == b.uid,
        _ => false,
    }
}

/// Whether the controller of `there` had the kind and name of `wanted`'s, and is gone: a virtual server was deleted and
/// made again, and the garbage collector has yet to remove what the first one left.
#[must_use]
pub fn is_left_by_predecessor(wanted: &ObjectMeta, there: &ObjectMeta) -> bool {
    match (controller(wanted), controller(there)) {
        (Some(now), Some(then)) => now.kind == then.kind && now.name == then.name && now.uid != then.uid,
        _ => false,
    }
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
    fn only_the_controller_counts() {
        let ours = controlled_by("VirtualMCPServer", "1");
        assert!(are_siblings(&ours, &ours));
        assert!(!are_siblings(&ours, &controlled_by("VirtualMCPServer", "2")));
        assert!(!are_siblings(&ours, &ObjectMeta::default()));
        assert!(!are_siblings(&ObjectMeta::default(), &ObjectMeta::default()));
    }

    #[test]
    fn a_predecessor_is_of_the_same_kind_and_another_uid() {
        let ours = controlled_by("VirtualMCPServer", "2");
        assert!(is_left_by_predecessor(
            &ours,
            &controlled_by("VirtualMCPServer", "1")
        ));
        assert!(!is_left_by_predecessor(&ours, &controlled_by("Deployment", "1")));
        assert!(!is_left_by_predecessor(&ours, &ours));
        assert!(!is_left_by_predecessor(&ours, &ObjectMeta::default()));
    }
}
