//! Server-side apply, under one field manager.
//!
//! Nothing is compared by hand. The API server records which fields are ours; whoever changes one of them takes it out of
//! that record. So an object needs no write when our intent is what it was at the last apply, and the record of our fields
//! is what it was after it.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use vmcp_crds::status::config_hash;

use crate::api_server::{Object, ObjectName, Objects};
use crate::error::Error;
use crate::owner;

/// The name under which the API server records our fields.
pub const FIELD_MANAGER: &str = "vmcp-operator";

/// What was applied last, per kind and name. It is a saving and not a state: without it, the next apply changes nothing.
#[derive(Debug, Default)]
pub struct Applied(HashMap<(String, String), Record>);

#[derive(Debug, PartialEq, Eq)]
struct Record {
    uid: Option<String>,
    intent: String,
    fields: String,
}

/// Applies `intent`, unless `live` shows that nothing of it was changed since the last time. Returns what the API server
/// made of it, if it was asked.
///
/// An object of the same name that has another controller, or none, is left alone: a forced apply would take it from whoever
/// made it.
///
/// # Errors
/// When the API server refuses or does not answer, or the object is somebody else's.
pub async fn apply<K>(
    client: &Client,
    applied: &mut Applied,
    intent: &K,
    live: Option<&K>,
) -> Result<Option<K>, Error>
where
    K: Object + Serialize,
{
    let (namespace, name) = (intent.namespace().unwrap_or_default(), intent.name_any());
    let key = (K::kind(&()).into_owned(), name.clone());
    let intent_hash = hash(intent);
    let unchanged = applied.0.get(&key).is_some_and(|last| {
        last.intent == intent_hash
            && live.and_then(|live| our_fields(live.meta())).as_ref() == Some(&last.fields)
    });
    if unchanged {
        return Ok(None);
    }
    let objects = Objects::<K>::of(client, &namespace)?;
    let object_name = ObjectName::parse(&name)?;
    // The watch shows only what carries our labels.
    let there = match live {
        Some(live) => Some(live.meta().clone()),
        None => objects.get_metadata(&object_name).await?,
    };
    if let Some(there) = there {
        // Also ours is what we have applied before, and somebody took the owner reference from.
        let known = there.uid.is_some() && applied.0.get(&key).is_some_and(|last| last.uid == there.uid);
        if !known && !owner::are_siblings(intent.meta(), &there) {
            return Err(Error::not_owned::<K>(&namespace, &name, intent.meta(), &there));
        }
    }
    let object = objects
        .apply("apply", &object_name, FIELD_MANAGER, intent)
        .await?;
    let fields = our_fields(object.meta()).unwrap_or_default();
    tracing::debug!(kind = key.0, namespace, name, "applied");
    applied.0.insert(
        key,
        Record {
            uid: object.uid(),
            intent: intent_hash,
            fields,
        },
    );
    Ok(Some(object))
}

/// The API server's record of the fields of `metadata`'s object that are ours.
fn our_fields(metadata: &ObjectMeta) -> Option<String> {
    let entry = metadata.managed_fields.iter().flatten().find(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some("Apply")
            && entry.subresource.is_none()
    })?;
    Some(hash(&entry.fields_v1))
}

fn hash<T: Serialize>(value: &T) -> String {
    // What cannot be written as JSON cannot be applied either, and that is where the error belongs.
    config_hash(&serde_json::to_string(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn record(fields: &serde_json::Value, operation: &str) -> Option<String> {
        let object: ConfigMap = serde_json::from_value(json!({
            "metadata": {"managedFields": [
                {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {"f:x": {}}}},
                {"manager": FIELD_MANAGER, "operation": operation, "fieldsV1": fields},
            ]},
        }))
        .unwrap();
        our_fields(&object.metadata)
    }

    #[test]
    fn a_field_that_somebody_takes_changes_the_record() {
        let before = record(&json!({"f:data": {"f:a": {}, "f:b": {}}}), "Apply");
        assert!(before.is_some());
        assert_eq!(
            before,
            record(&json!({"f:data": {"f:a": {}, "f:b": {}}}), "Apply")
        );
        assert_ne!(before, record(&json!({"f:data": {"f:b": {}}}), "Apply"));
        assert_eq!(record(&json!({"f:data": {}}), "Update"), None);
    }
}
