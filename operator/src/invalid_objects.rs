//! Custom resources that cannot be deserialized because they are older than the CRD's schema.
//!
//! One such object would make a whole list fail to deserialize, and the operator would see no objects at all. So each object is
//! deserialized separately. An invalid object counts as absent, and if it is a virtual server, its status says so.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::watcher::Event;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;
use vmcp_crds::v1alpha1::field_rules::one_line;
use vmcp_crds::v1alpha1::{
    MCPGroup, MCPGroupSpec, MCPServer, MCPServerEntry, MCPServerEntrySpec, MCPServerSpec, VirtualMCPServer,
    VirtualMCPServerSpec, condition_type,
};

use crate::api_server::{ObjectApi, ObjectName};
use crate::apply::FIELD_MANAGER;
use crate::error::Error;

/// Capacity of the queue of status writes. When it is full, further invalid objects are only logged.
pub const QUEUE_CAPACITY: usize = 256;
/// Maximum number of characters of the deserialization error in a condition.
const MAX_ERROR_CHARS: usize = 500;

/// A custom resource that can be built from its metadata alone, to remove an invalid object from a store.
pub trait FromMetadata: kube::Resource<DynamicType = ()> {
    /// An object with this metadata and an empty spec.
    fn from_metadata(metadata: ObjectMeta) -> Self;
}

impl FromMetadata for VirtualMCPServer {
    fn from_metadata(metadata: ObjectMeta) -> Self {
        let mut object = Self::new("", VirtualMCPServerSpec::default());
        object.metadata = metadata;
        object
    }
}

impl FromMetadata for MCPGroup {
    fn from_metadata(metadata: ObjectMeta) -> Self {
        let mut object = Self::new("", MCPGroupSpec::default());
        object.metadata = metadata;
        object
    }
}

impl FromMetadata for MCPServerEntry {
    fn from_metadata(metadata: ObjectMeta) -> Self {
        let mut object = Self::new("", MCPServerEntrySpec::default());
        object.metadata = metadata;
        object
    }
}

impl FromMetadata for MCPServer {
    fn from_metadata(metadata: ObjectMeta) -> Self {
        let mut object = Self::new("", MCPServerSpec::default());
        object.metadata = metadata;
        object
    }
}

/// Converts `event` for a store of valid objects: an invalid object is skipped or deleted, and sent to `invalid_objects`.
pub fn skip_invalid<K: FromMetadata>(
    event: Event<kube::core::DeserializeGuard<K>>,
    invalid_objects: &mpsc::Sender<InvalidObject>,
) -> Option<Event<K>> {
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => match object.0 {
            Ok(object) => Event::InitApply(object),
            Err(invalid) => {
                report_invalid::<K>(invalid, invalid_objects);
                return None;
            }
        },
        Event::Apply(object) => match object.0 {
            Ok(object) => Event::Apply(object),
            // The store may hold an earlier, valid version.
            Err(invalid) => {
                let gone = K::from_metadata(invalid.metadata.clone());
                report_invalid::<K>(invalid, invalid_objects);
                Event::Delete(gone)
            }
        },
        Event::Delete(object) => Event::Delete(match object.0 {
            Ok(object) => object,
            Err(invalid) => K::from_metadata(invalid.metadata),
        }),
    })
}

fn report_invalid<K: FromMetadata>(invalid: InvalidObject, invalid_objects: &mpsc::Sender<InvalidObject>) {
    tracing::warn!(
        kind = %K::kind(&()),
        namespace = invalid.metadata.namespace,
        name = invalid.metadata.name,
        error = one_line(&invalid.error, MAX_ERROR_CHARS),
        "ignoring object that does not match its schema"
    );
    if K::kind(&()) == VirtualMCPServer::kind(&()) {
        // If the queue is full, the log line above has to do.
        invalid_objects.try_send(invalid).ok();
    }
}

/// Writes the status of invalid virtual servers, until all senders are dropped.
pub async fn write_statuses(client: &Client, mut invalid_objects: mpsc::Receiver<InvalidObject>) {
    while let Some(invalid) = invalid_objects.recv().await {
        if let Err(error) = write_status(client, &invalid).await
            && !error.is_conflict()
        {
            tracing::warn!(%error, "failed to write status of invalid virtual server");
        }
    }
}

async fn write_status(client: &Client, invalid: &InvalidObject) -> Result<(), Error> {
    let metadata = &invalid.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = ObjectName::parse(metadata.name.as_deref().unwrap_or_default())?;
    let message = format!(
        "the spec does not match its schema: {}",
        one_line(&invalid.error, MAX_ERROR_CHARS)
    );
    // The creation time is the same at each write, so that writing the same status again changes nothing.
    let since = metadata.creation_timestamp.clone();
    let condition = |type_: &str, status: &str| Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: "ConfigInvalid".to_owned(),
        message: message.clone(),
        last_transition_time: since.clone().unwrap_or(Time(jiff::Timestamp::UNIX_EPOCH)),
        observed_generation: metadata.generation,
    };
    let body = json!({
        "apiVersion": VirtualMCPServer::api_version(&()),
        "kind": VirtualMCPServer::kind(&()),
        "metadata": {"name": name.as_str(), "uid": metadata.uid},
        "status": {
            "observedGeneration": metadata.generation,
            "conditions": [
                condition(condition_type::READY, "False"),
                condition(condition_type::STALLED, "True"),
                condition(condition_type::CONFIG_VALID, "False"),
            ],
        },
    });
    let written =
        ObjectApi::<kube::core::PartialObjectMeta<VirtualMCPServer>>::in_namespace(client, namespace)?
            .apply_status(&name, FIELD_MANAGER, &body)
            .await?;
    tracing::debug!(
        namespace,
        name = written.name_any(),
        "wrote status of invalid virtual server"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use kube::core::DeserializeGuard;

    use super::*;

    fn server(spec: &serde_json::Value) -> DeserializeGuard<VirtualMCPServer> {
        serde_json::from_value(json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": "x", "namespace": "n"},
            "spec": spec,
        }))
        .unwrap()
    }

    // A watch continues with the valid objects. An invalid object leaves the store and is reported.
    #[tokio::test]
    async fn invalid_object_leaves_the_store() {
        let (sender, mut reported) = mpsc::channel(QUEUE_CAPACITY);
        let (good, bad) = (
            json!({"groupRef": {"name": "g"}}),
            json!({"groupRef": {"name": "g"}, "sessionAffinity": "?x="}),
        );
        assert!(matches!(
            skip_invalid(Event::InitApply(server(&good)), &sender),
            Some(Event::InitApply(_))
        ));
        assert!(skip_invalid(Event::InitApply(server(&bad)), &sender).is_none());
        let Some(Event::Delete(gone)) = skip_invalid(Event::Apply(server(&bad)), &sender) else {
            panic!("the object stays in the store");
        };
        assert_eq!(
            (gone.name_any(), gone.namespace()),
            ("x".to_owned(), Some("n".to_owned()))
        );
        drop(sender);
        let mut count = 0;
        while let Some(invalid) = reported.recv().await {
            assert!(invalid.error.contains("?x="), "{}", invalid.error);
            count += 1;
        }
        assert_eq!(count, 2);
    }
}
