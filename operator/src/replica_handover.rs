//! Hands over the ownership of the Deployment's `spec.replicas` when the virtual server stops setting it.
//!
//! Server-side apply removes a field when its only owner stops applying it, and the API server then sets the default. So removing
//! `replicas` from a virtual server, to let an autoscaler decide, would scale a Deployment from five pods to one. To prevent that,
//! another field manager first applies the current count; our next apply then gives up only our own ownership.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::api_server::{ObjectApi, ObjectName};
use crate::apply::FIELD_MANAGER;
use crate::error::Error;
use crate::owned_fields::fields;

/// The field manager that owns the count until an autoscaler or a user sets one.
pub const HAND_OVER_MANAGER: &str = "vmcp-operator-replicas";

/// The count to hand over before a Deployment with the count `wanted` is applied: the live count if we own the field and
/// are about to stop setting it.
#[must_use]
pub fn replicas_to_hand_over(wanted: Option<i32>, live: &Deployment) -> Option<i32> {
    if wanted.is_none() && owns_replicas(live) {
        live.spec.replicas
    } else {
        None
    }
}

/// Whether the count of `live` is the one that the operator has applied for `spec.replicas`.
#[must_use]
pub fn owns_replicas(live: &Deployment) -> bool {
    live.metadata.managed_fields.iter().flatten().any(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && fields(entry).is_some_and(|fields| fields.pointer("/f:spec/f:replicas").is_some())
    })
}

/// Makes [`HAND_OVER_MANAGER`] an owner of the count. If the Deployment has changed since `live` was read, the API server rejects
/// the apply and the next reconcile decides again.
///
/// # Errors
/// When the API server rejects the request or does not answer.
pub async fn hand_over(client: &Client, live: &Deployment, count: i32) -> Result<(), Error> {
    let (namespace, name) = (live.namespace().unwrap_or_default(), live.name_any());
    let deployments = ObjectApi::<Deployment>::in_namespace(client, &namespace)?;
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
    tracing::info!(namespace, name, count, "handed over replica count");
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
    fn owned_count_is_handed_over_when_spec_unsets_it() {
        assert_eq!(replicas_to_hand_over(None, &live(FIELD_MANAGER)), Some(3));
    }

    #[test]
    fn count_set_by_spec_is_kept() {
        assert_eq!(replicas_to_hand_over(Some(3), &live(FIELD_MANAGER)), None);
    }

    #[test]
    fn count_of_other_manager_is_left_alone() {
        assert_eq!(
            replicas_to_hand_over(None, &live("kube-controller-manager")),
            None
        );
        assert_eq!(replicas_to_hand_over(None, &live(HAND_OVER_MANAGER)), None);
    }
}
