//! The fields of an object that belong to our field manager, with their values.
//!
//! `managedFields` says which fields are ours, but not which values we applied: another process with the same field manager, for example a second
//! installation of the operator, changes a value without changing this record. So the values are compared as well.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::Resource;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use vmcp_crds::status::config_hash;

use crate::apply::FIELD_MANAGER;

/// Hash of the fields that our field manager has applied, and of their values in `object`. `None` if it has applied none.
pub fn hash_owned<K: Resource + Serialize>(object: &K) -> Option<String> {
    let fields = fields(applied_by_us(object.meta())?)?;
    // An object that cannot be serialized cannot be applied either.
    let value = serde_json::to_value(object).unwrap_or_default();
    Some(config_hash(&owned(&value, &fields).to_string()))
}

/// Rewrites the fields of all managers as text, which [`fields`] reads. As trees they would be most of the memory of an object. Managers of the
/// status are dropped: the operator sets no field there.
pub fn compact<K: Resource>(object: &mut K) {
    let Some(entries) = &mut object.meta_mut().managed_fields else {
        return;
    };
    entries.retain(|entry| entry.subresource.as_deref() != Some("status"));
    for fields in entries.iter_mut().filter_map(|entry| entry.fields_v1.as_mut()) {
        if !fields.0.is_string() {
            fields.0 = Json::String(fields.0.to_string());
        }
    }
}

/// The fields that a manager owns, in the format `FieldsV1`.
#[must_use]
pub fn fields(entry: &ManagedFieldsEntry) -> Option<Cow<'_, Json>> {
    match &entry.fields_v1.as_ref()?.0 {
        Json::String(text) => serde_json::from_str(text).ok().map(Cow::Owned),
        tree => Some(Cow::Borrowed(tree)),
    }
}

/// The `managedFields` entry of our field manager.
fn applied_by_us(metadata: &ObjectMeta) -> Option<&ManagedFieldsEntry> {
    metadata.managed_fields.iter().flatten().find(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some("Apply")
            && entry.subresource.is_none()
    })
}

/// The part of `value` that `fields`, in the format `FieldsV1`, names. It has the keys of `fields`, so that each field differs from an absent
/// one.
fn owned(value: &Json, fields: &Json) -> Json {
    let Some(fields) = fields.as_object().filter(|fields| !fields.is_empty()) else {
        return value.clone();
    };
    let parts = fields.iter().filter(|(key, _)| *key != ".").map(|(key, nested)| {
        let part = find(value, key).map(|part| owned(part, nested));
        (key.clone(), part.unwrap_or_default())
    });
    Json::Object(parts.collect::<Map<_, _>>())
}

/// The field, the item of a list, or the member of a set that a key of `FieldsV1` names.
fn find<'a>(value: &'a Json, key: &str) -> Option<&'a Json> {
    let (kind, name) = key.split_once(':')?;
    if kind == "f" {
        return value.get(name);
    }
    let items = value.as_array()?;
    let name: Json = serde_json::from_str(name).ok()?;
    match kind {
        "k" => {
            let keys = name.as_object()?;
            let is_named = |item: &&Json| keys.iter().all(|(key, value)| item.get(key) == Some(value));
            items.iter().find(is_named)
        }
        "v" => items.iter().find(|item| **item == name),
        "i" => items.get(usize::try_from(name.as_u64()?).ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    /// A Service of which our manager owns the type, a port and a finalizer.
    fn service(change: impl Fn(&mut Json)) -> Service {
        let mut object = json!({
            "metadata": {
                "finalizers": ["a/b", "c/d"],
                "managedFields": [
                    {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:clusterIP": {}}}},
                    {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {
                        "f:metadata": {"f:finalizers": {".": {}, "v:\"a/b\"": {}}},
                        "f:spec": {
                            "f:type": {},
                            "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}},
                        },
                    }},
                ],
            },
            "spec": {
                "type": "ClusterIP", "clusterIP": "10.0.0.1",
                "ports": [{"port": 81, "protocol": "TCP"}, {"port": 80, "protocol": "TCP", "name": "mcp"}],
            },
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    // A changed value of one of our fields changes the hash, although the record of our fields is the same.
    #[test]
    fn changed_value_of_our_field_changes_hash() {
        let before = hash_owned(&service(|_| ()));
        assert!(before.is_some());
        assert_eq!(before, hash_owned(&service(|_| ())));
        let ours: [fn(&mut Json); 3] = [
            |object| object["spec"]["type"] = json!("NodePort"),
            |object| object["spec"]["ports"][1]["name"] = json!("other"),
            |object| object["metadata"]["finalizers"] = json!(["c/d"]),
        ];
        for change in ours {
            assert_ne!(before, hash_owned(&service(change)));
        }
        let theirs: [fn(&mut Json); 3] = [
            |object| object["spec"]["clusterIP"] = json!("10.0.0.2"),
            |object| object["spec"]["ports"][0]["name"] = json!("other"),
            |object| object["metadata"]["finalizers"] = json!(["a/b"]),
        ];
        for change in theirs {
            assert_eq!(before, hash_owned(&service(change)));
        }
    }

    // The stores keep the fields as text, and what is read from it is the same.
    #[test]
    fn compact_object_has_same_owned_fields() {
        let mut compacted = service(|object| {
            let status = json!({"manager": "cloud", "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}});
            object["metadata"]["managedFields"]
                .as_array_mut()
                .unwrap()
                .push(status);
        });
        let before = (hash_owned(&compacted), compacted.metadata.managed_fields.clone());
        for _ in 0..2 {
            compact(&mut compacted);
            assert_eq!(hash_owned(&compacted), before.0);
        }
        let (entries, original) = (compacted.metadata.managed_fields.unwrap(), before.1.unwrap());
        assert_eq!(entries.len(), 2, "without that of the status");
        for (entry, original) in entries.iter().zip(&original) {
            assert!(entry.fields_v1.as_ref().unwrap().0.is_string());
            assert_eq!(
                fields(entry).unwrap().into_owned(),
                original.fields_v1.as_ref().unwrap().0
            );
        }
    }

    // When another client takes over one of our fields, the hash changes. Only what was applied counts.
    #[test]
    fn field_taken_over_changes_hash() {
        let before = hash_owned(&service(|_| ()));
        let taken = service(|object| {
            let fields = &mut object["metadata"]["managedFields"][1]["fieldsV1"];
            fields["f:spec"] = json!({"f:type": {}});
        });
        assert_ne!(before, hash_owned(&taken));
        let updated = service(|object| {
            object["metadata"]["managedFields"][1]["operation"] = json!("Update");
        });
        assert_eq!(hash_owned(&updated), None);
    }
}
