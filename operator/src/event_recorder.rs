//! Publishes Events. An Event that says the same as a recent one counts it up instead.
//!
//! The recorder of the client library does so for all Events with the same reason and objects, and keeps the note of the first: a second note would
//! not be seen. Here the notes have to be the same as well.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as KubernetesEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::runtime::events::{Event, EventType};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;
use vmcp_crds::status::config_hash;

use crate::api_server::{ObjectApi, ObjectName};
use crate::apply::FIELD_MANAGER;
use crate::error::Error;

/// The name of the controller in its Events.
const CONTROLLER: &str = "vmcp-operator";
/// Time after the last of equal Events for which a further one counts it up.
const REPEAT_WINDOW: Duration = Duration::from_secs(6 * 60);

/// Publishes the Events of this process.
pub struct EventRecorder {
    client: Client,
    /// The name of this process.
    instance: String,
    /// The recent Events, by a hash of what they say.
    recent: Mutex<HashMap<String, PublishedEvent>>,
}

/// An Event that this process has created.
#[derive(Clone, Debug)]
struct PublishedEvent {
    name: String,
    uid: Option<String>,
    /// How often it was published.
    count: i32,
    last: Instant,
}

impl EventRecorder {
    /// Publishes Events as the process `instance`.
    #[must_use]
    pub fn new(client: Client, instance: &str) -> Self {
        Self {
            client,
            instance: instance.to_owned(),
            recent: Mutex::default(),
        }
    }

    /// Publishes `event` about the object `regarding`.
    ///
    /// # Errors
    /// When the API server rejects the request or does not answer.
    pub async fn publish(&self, event: &Event, regarding: &ObjectReference) -> Result<(), Error> {
        let namespace = regarding.namespace.as_deref().unwrap_or_default();
        let events = ObjectApi::<KubernetesEvent>::in_namespace(&self.client, namespace)?;
        let key = key(event, regarding);
        let published = match self.recent(&key) {
            Some(known) => match count_up(&events, &known).await {
                // It has been deleted.
                Err(error) if error.is_conflict() => None,
                counted => Some(counted?),
            },
            None => None,
        };
        let published = match published {
            Some(counted) => counted,
            None => {
                let created = events.create(&self.new_event(event, regarding)).await?;
                PublishedEvent {
                    name: created.name_any(),
                    uid: created.uid(),
                    count: 1,
                    last: Instant::now(),
                }
            }
        };
        self.lock().insert(key, published);
        Ok(())
    }

    /// The recent Event with this key.
    fn recent(&self, key: &str) -> Option<PublishedEvent> {
        let mut recent = self.lock();
        recent.retain(|_, event| event.last.elapsed() < REPEAT_WINDOW);
        recent.get(key).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, PublishedEvent>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_event(&self, event: &Event, regarding: &ObjectReference) -> KubernetesEvent {
        let now = Timestamp::now();
        let object = regarding.name.as_deref().unwrap_or(CONTROLLER);
        KubernetesEvent {
            metadata: ObjectMeta {
                namespace: regarding.namespace.clone(),
                name: Some(format!("{object}.{:x}", now.as_nanosecond())),
                ..ObjectMeta::default()
            },
            type_: Some(type_name(event.type_).to_owned()),
            reason: Some(event.reason.clone()),
            note: event.note.clone(),
            action: Some(event.action.clone()),
            event_time: Some(MicroTime(now)),
            regarding: Some(regarding.clone()),
            related: event.secondary.clone(),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..KubernetesEvent::default()
        }
    }
}

/// Adds one to the count of `known`.
async fn count_up(
    events: &ObjectApi<KubernetesEvent>,
    known: &PublishedEvent,
) -> Result<PublishedEvent, Error> {
    let counted = PublishedEvent {
        count: known.count.saturating_add(1),
        last: Instant::now(),
        ..known.clone()
    };
    // With the uid, the apply fails for a deleted Event instead of creating an incomplete one.
    let body = json!({
        "apiVersion": KubernetesEvent::api_version(&()),
        "kind": KubernetesEvent::kind(&()),
        "metadata": {"name": known.name, "uid": known.uid},
        "series": {"count": counted.count, "lastObservedTime": MicroTime(Timestamp::now())},
    });
    let name = ObjectName::parse(&known.name)?;
    events.apply("count up", &name, FIELD_MANAGER, &body).await?;
    Ok(counted)
}

/// A hash of everything that a reader of the Event sees.
fn key(event: &Event, regarding: &ObjectReference) -> String {
    let object = |object: &ObjectReference| json!([object.kind, object.namespace, object.name, object.uid]);
    let content = json!([
        object(regarding),
        event.secondary.as_ref().map(object),
        type_name(event.type_),
        event.reason,
        event.note,
    ]);
    config_hash(&content.to_string())
}

fn type_name(type_: EventType) -> &'static str {
    match type_ {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::change_undone;

    fn object(name: &str) -> ObjectReference {
        ObjectReference {
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        }
    }

    // Two Events are the same only if a reader could not tell them apart.
    #[test]
    fn key_depends_on_note_and_both_objects() {
        let first = key(&change_undone("note", object("a")), &object("x"));
        assert_eq!(first, key(&change_undone("note", object("a")), &object("x")));
        for other in [
            key(&change_undone("another note", object("a")), &object("x")),
            key(&change_undone("note", object("b")), &object("x")),
            key(&change_undone("note", object("a")), &object("y")),
        ] {
            assert_ne!(first, other);
        }
    }
}
