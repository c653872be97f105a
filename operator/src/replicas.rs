//! The hand-over of `spec.replicas` of the Deployment.
//!
//! Server-side apply takes a field away when its only owner stops applying it, and the API server then sets the default: a
//! Deployment of five would become one of one, because somebody took `replicas` out of the virtual server to let an
//! autoscaler decide. So another field manager applies the count that is there first; after that our own apply takes away
//! only our share in it.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::api_server::{ObjectName, Objects};
use crate::apply::FIELD_MANAGER;
use crate::error::Error;

/// The field manager that holds the count until an autoscaler or a person sets one.
pub const HAND_OVER_MANAGER: &str = "vmcp-operator-replicas";

/// The count that has to be handed over before `wanted` (the virtual server's `spec.replicas`) is applied: there is one
/// when we own the count and are about to say nothing about it.
#[must_use]
pub fn to_hand_over(wanted: Option<i32>, live: &Deployment) -> Option<i32> {
    let ours = live.metadata.managed_fields.iter().flatten().any(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry
                .fields_v1
                .as_ref()
                .is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    });
    if wanted.is_none() && ours {
        live.spec.replicas
    } else {
        None
    }
}

/// Makes [`HAND_OVER_MANAGER`] an owner of the count. `live` is what the decision was made on: when the Deployment has
/// changed since, the API server refuses, and the next look decides anew.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn hand_over(client: &Client, live: &Deployment, count: i32) -> Result<(), Error> {
    let (namespace, name) = (live.namespace().unwrap_or_default(), live.name_any());
    let deployments = Objects::<Deployment>::of(client, &namespace)?;
    let object_name = ObjectName::parse(&name)?;
    let body = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "resourceVersion": live.metadata.resource_version},
        "spec": {"replicas": count},
    });
    deployments
        .apply(
            "hand over the replicas of",
            &object_name,
            HAND_OVER_MANAGER,
            &body,
        )
        .await?;
    tracing::info!(namespace, name, count, "the replicas are no longer ours");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(manager: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"managedFields": [
                {"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
            ]},
            "spec": {"replicas": 3, "selector": {}, "template": {}},
        }))
        .unwrap()
    }

    #[test]
    fn a_count_of_ours_is_handed_over_when_the_spec_stops_naming_one() {
        assert_eq!(to_hand_over(None, &live(FIELD_MANAGER)), Some(3));
    }

    #[test]
    fn a_count_that_the_spec_names_is_kept() {
        assert_eq!(to_hand_over(Some(3), &live(FIELD_MANAGER)), None);
    }

    #[test]
    fn a_count_of_somebody_else_is_left_alone() {
        assert_eq!(to_hand_over(None, &live("kube-controller-manager")), None);
        assert_eq!(to_hand_over(None, &live(HAND_OVER_MANAGER)), None);
    }
}
