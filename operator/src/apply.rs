//! Server-side apply under one field manager.
//!
//! Our intent is compared with no field of an object. The API server records in `managedFields` which fields are ours, and removes a field from
//! that record when another client changes it. So an object needs no write while our intent is the same as at the last apply, and our fields
//! and their values are the same as after it.

use std::collections::HashMap;

use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use vmcp_crds::status::config_hash;

use crate::api_server::{NamespacedObject, ObjectApi, ObjectName};
use crate::error::Error;
use crate::owned_fields::hash_owned;
use crate::owner;
use crate::server_state::is_later;

/// The operator's field manager for server-side apply.
pub const FIELD_MANAGER: &str = "vmcp-operator";

/// Cache of the last apply, by kind and name. It only saves requests: if it is lost, the next apply changes nothing.
#[derive(Debug, Default)]
pub struct Applied {
    records: HashMap<(String, String), AppliedRecord>,
    /// Whether objects that a virtual server of the same name has left without an owner are taken over.
    pub adopts_orphans: bool,
}

impl Applied {
    /// Whether the last apply of this object was the same.
    #[must_use]
    pub fn has_intent<K: NamespacedObject + Serialize>(&self, intent: &K) -> bool {
        let last = self.records.get(&key(intent));
        last.is_some_and(|last| last.intent == hash(intent))
    }

    /// Whether another process has changed our fields of an object that we have applied.
    #[must_use]
    pub fn is_overwritten<K: NamespacedObject + Serialize>(&self, live: &K) -> bool {
        let last = self.records.get(&key(live));
        last.is_some_and(|last| last.uid == live.uid() && !last.is_kept_by(live))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct AppliedRecord {
    uid: Option<String>,
    version: Option<String>,
    intent: String,
    fields: String,
}

impl AppliedRecord {
    /// Whether our fields in `live` are as this apply has left them. A watch that still shows an older object does not say otherwise.
    fn is_kept_by<K: Resource + Serialize>(&self, live: &K) -> bool {
        let (ours, shown) = (self.version.as_deref(), live.meta().resource_version.as_deref());
        ours == shown || is_later(ours, shown) || hash_owned(live).as_ref() == Some(&self.fields)
    }
}

/// Applies `intent`, unless `live` shows that nothing has changed since the last apply. Returns the object in the API server's
/// response, or `None` if no request was needed.
///
/// An object of the same name that has another controller, or none, is left unchanged: a forced apply would take it over. The exception is an
/// orphan, if `applied` says so.
///
/// # Errors
/// When the API server rejects the request or does not answer, or the object has another owner.
pub async fn apply<K>(
    client: &Client,
    applied: &mut Applied,
    intent: &K,
    live: Option<&K>,
) -> Result<Option<K>, Error>
where
    K: NamespacedObject + Serialize,
{
    let (namespace, name) = (intent.namespace().unwrap_or_default(), intent.name_any());
    let key = key(intent);
    let intent_hash = hash(intent);
    let unchanged = applied
        .records
        .get(&key)
        .is_some_and(|last| last.intent == intent_hash && live.is_some_and(|live| last.is_kept_by(live)));
    if unchanged {
        return Ok(None);
    }
    let objects = ObjectApi::<K>::in_namespace(client, &namespace)?;
    let object_name = ObjectName::parse(&name)?;
    // The watch selects by our labels, so an object without them is not in the store.
    let existing = match live {
        Some(live) => Some(live.meta().clone()),
        None => objects.get_metadata(&object_name).await?,
    };
    if let Some(existing) = existing {
        // An object that we have applied before stays ours even if its owner reference was removed.
        let known = existing.uid.is_some()
            && applied
                .records
                .get(&key)
                .is_some_and(|last| last.uid == existing.uid);
        let is_adopted = applied.adopts_orphans && owner::is_orphan(intent.meta(), &existing);
        if !known && !is_adopted && !owner::have_same_controller(intent.meta(), &existing) {
            return Err(Error::not_owned::<K>(&namespace, &name, intent.meta(), &existing));
        }
    }
    let object = objects
        .apply("apply", &object_name, FIELD_MANAGER, intent)
        .await?;
    let fields = hash_owned(&object).unwrap_or_default();
    tracing::debug!(kind = key.0, namespace, name, "applied object");
    applied.records.insert(
        key,
        AppliedRecord {
            uid: object.uid(),
            version: object.resource_version(),
            intent: intent_hash,
            fields,
        },
    );
    Ok(Some(object))
}

/// Kind and name of an object.
fn key<K: NamespacedObject>(object: &K) -> (String, String) {
    (K::kind(&()).into_owned(), object.name_any())
}

fn hash<T: Serialize>(value: &T) -> String {
    // A value that cannot be serialized cannot be applied either; the apply reports the error.
    config_hash(&serde_json::to_string(value).unwrap_or_default())
}
