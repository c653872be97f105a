//! Makes Kubernetes create pods again after it has failed to.
//!
//! The controller of ReplicaSets tries again after 5 ms, and waits twice as long each time, up to 16 minutes. It does not notice that a quota or a
//! LimitRange has changed, but it tries at once when its ReplicaSet changes. The controller of Deployments copies the annotations of a Deployment to its
//! current ReplicaSet, so a changed annotation of the Deployment is enough.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use serde_json::json;
use tokio::time::Instant;

use super::Reconciler;
use crate::api_server::ObjectName;
use crate::desired::labels;
use crate::error::Error;
use crate::server_state::ServerState;
use crate::status::creation_failure;
use crate::workload::Workload;

/// Time between two changes of the annotation. The attempts of Kubernetes are as frequent at first.
const INTERVAL: Duration = Duration::from_secs(15);
/// The field manager of the annotation.
const MANAGER: &str = "vmcp-operator-retry";

impl<W: Workload> Reconciler<'_, W> {
    /// Changes the annotation while pods cannot be created, at most once in [`INTERVAL`].
    pub(super) async fn retry_pod_creation(&self, state: &mut ServerState<W::Status>) -> Result<(), Error> {
        let has_failed = self
            .replica_sets(state)
            .iter()
            .any(|set| creation_failure(set).is_some());
        let Some(deployment) = self.deployment(state).filter(|_| has_failed) else {
            state.next_creation_retry = None;
            return Ok(());
        };
        let now = Instant::now();
        let next = *state.next_creation_retry.get_or_insert(now + INTERVAL);
        if now < next {
            return Ok(());
        }
        state.next_creation_retry = Some(now + INTERVAL);
        // With the uid, the apply fails for a deleted Deployment instead of creating a new one.
        let name = deployment.name_any();
        let body = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": name,
                "uid": deployment.uid(),
                "annotations": {labels::CREATION_RETRY: Timestamp::now().to_string()},
            },
        });
        let objects = self.objects::<Deployment>()?;
        match objects
            .apply("annotate", &ObjectName::parse(&name)?, MANAGER, &body)
            .await
        {
            Ok(_) => {
                self.context.metrics.record_apply("Deployment");
                Ok(())
            }
            Err(error) if error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
