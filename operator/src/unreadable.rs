//! Objects of ours that this operator cannot read, because they are older than the schema.
//!
//! A list of objects with one of them would be unreadable as a whole, and the operator blind for all of them. So each is read by
//! itself, what cannot be read counts as not there, and a virtual server is told in its own status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::watcher::Event;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;
use vmcp_crds::v1alpha1::field_rules::one_line;
use vmcp_crds::v1alpha1::{
    GroupRef, MCPGroup, MCPGroupSpec, MCPServerEntry, MCPServerEntrySpec, SessionAffinity, VirtualMCPServer,
    VirtualMCPServerSpec, condition_type,
};

use crate::api_server::{ObjectName, Objects};
use crate::apply::FIELD_MANAGER;
use crate::error::Error;

/// How many wait to be told. When there are more, the rest is told of in the log only.
pub const MAX_WAITING: usize = 256;
/// How much of the reader's words a condition repeats.
const MAX_WORDS: usize = 500;

/// A kind of ours, whose objects may be older than its schema.
pub trait Guarded: kube::Resource<DynamicType = ()> {
    /// An object with this metadata, which says nothing.
    fn with_metadata(metadata: ObjectMeta) -> Self;
}

impl Guarded for VirtualMCPServer {
    fn with_metadata(metadata: ObjectMeta) -> Self {
        let spec = VirtualMCPServerSpec {
            group_ref: GroupRef { name: String::new() },
            replicas: None,
            session_affinity: SessionAffinity::None,
            session_storage: None,
            image: None,
        };
        let mut object = Self::new("", spec);
        object.metadata = metadata;
        object
    }
}

impl Guarded for MCPGroup {
    fn with_metadata(metadata: ObjectMeta) -> Self {
        let mut object = Self::new("", MCPGroupSpec::default());
        object.metadata = metadata;
        object
    }
}

impl Guarded for MCPServerEntry {
    fn with_metadata(metadata: ObjectMeta) -> Self {
        let spec = MCPServerEntrySpec {
            url: String::new(),
            group_ref: GroupRef { name: String::new() },
        };
        let mut object = Self::new("", spec);
        object.metadata = metadata;
        object
    }
}

/// What `event` means to a store that holds only what can be read. What cannot be read goes to `unreadable`.
pub fn readable<K: Guarded>(
    event: Event<kube::core::DeserializeGuard<K>>,
    unreadable: &mpsc::Sender<InvalidObject>,
) -> Option<Event<K>> {
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => match object.0 {
            Ok(object) => Event::InitApply(object),
            Err(invalid) => {
                tell::<K>(invalid, unreadable);
                return None;
            }
        },
        Event::Apply(object) => match object.0 {
            Ok(object) => Event::Apply(object),
            // The store may have it as it was before.
            Err(invalid) => {
                let gone = K::with_metadata(invalid.metadata.clone());
                tell::<K>(invalid, unreadable);
                Event::Delete(gone)
            }
        },
        Event::Delete(object) => Event::Delete(match object.0 {
            Ok(object) => object,
            Err(invalid) => K::with_metadata(invalid.metadata),
        }),
    })
}

fn tell<K: Guarded>(invalid: InvalidObject, unreadable: &mpsc::Sender<InvalidObject>) {
    tracing::warn!(
        kind = %K::kind(&()),
        namespace = invalid.metadata.namespace,
        name = invalid.metadata.name,
        error = one_line(&invalid.error, MAX_WORDS),
        "object is left out: it does not have the form of its schema"
    );
    if K::kind(&()) == VirtualMCPServer::kind(&()) {
        // Full: the log has it.
        unreadable.try_send(invalid).ok();
    }
}

/// Writes the status of virtual servers that cannot be read, until nobody finds one any more.
pub async fn report(client: &Client, mut unreadable: mpsc::Receiver<InvalidObject>) {
    while let Some(invalid) = unreadable.recv().await {
        if let Err(error) = write_status(client, &invalid).await
            && !error.is_conflict()
        {
            tracing::warn!(%error, "failed to write the status of an object that cannot be read");
        }
    }
}

async fn write_status(client: &Client, invalid: &InvalidObject) -> Result<(), Error> {
    let metadata = &invalid.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = ObjectName::parse(metadata.name.as_deref().unwrap_or_default())?;
    let message = format!(
        "the spec does not have the form of its schema: {}",
        one_line(&invalid.error, MAX_WORDS)
    );
    // The time does not change from one look to the next, so that a status that is there already is not written again.
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
    let written = Objects::<kube::core::PartialObjectMeta<VirtualMCPServer>>::of(client, namespace)?
        .apply_status(&name, FIELD_MANAGER, &body)
        .await?;
    tracing::debug!(
        namespace,
        name = written.name_any(),
        "told that a spec cannot be read"
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

    // A watch goes on with what it can read; what it cannot read is as if it was not there, and is told.
    #[tokio::test]
    async fn object_that_cannot_be_read_leaves_the_store() {
        let (sender, mut told) = mpsc::channel(MAX_WAITING);
        let (good, bad) = (
            json!({"groupRef": {"name": "g"}}),
            json!({"groupRef": {"name": "g"}, "sessionAffinity": "?x="}),
        );
        assert!(matches!(
            readable(Event::InitApply(server(&good)), &sender),
            Some(Event::InitApply(_))
        ));
        assert!(readable(Event::InitApply(server(&bad)), &sender).is_none());
        let Some(Event::Delete(gone)) = readable(Event::Apply(server(&bad)), &sender) else {
            panic!("the store still has it");
        };
        assert_eq!(
            (gone.name_any(), gone.namespace()),
            ("x".to_owned(), Some("n".to_owned()))
        );
        drop(sender);
        let mut count = 0;
        while let Some(invalid) = told.recv().await {
            assert!(invalid.error.contains("?x="), "{}", invalid.error);
            count += 1;
        }
        assert_eq!(count, 2);
    }
}
