//! How gateway pods learn that their configuration is old.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::Look;
use crate::apply::FIELD_MANAGER;
use crate::desired::labels;
use crate::error::Error;
use crate::gateways::Gateway;
use crate::memory::Memory;
use crate::reminder::Step;

impl Look<'_> {
    pub(super) fn pods(&self) -> Vec<Arc<Pod>> {
        self.mine(&self.context.stores.pods)
    }

    /// Tells the pods that have an old hot configuration to look. Says whether one of them was told often enough.
    pub(super) async fn remind(
        &self,
        memory: &mut Memory,
        gateways: &[Gateway],
        hash: &str,
    ) -> Result<bool, Error> {
        memory
            .reminders
            .retain(|uid| gateways.iter().any(|gateway| gateway.uid == uid));
        let mut gave_up = false;
        for gateway in gateways {
            let behind = match &gateway.answer {
                Ok(status) => status.hot_config_hash != hash,
                // A pod that starts says nothing yet, and has mounted what is current.
                Err(_) => gateway.ready,
            };
            if behind {
                match memory.reminders.step(&gateway.uid, hash, Instant::now()) {
                    Step::Annotate(value) => self.annotate(gateway, &value).await?,
                    Step::Wait => {}
                    Step::GiveUp => gave_up = true,
                }
            }
        }
        Ok(gave_up)
    }

    pub(super) async fn annotate(&self, gateway: &Gateway, value: &str) -> Result<(), Error> {
        // The uid keeps a pod that is gone from being made anew, as a pod without containers.
        let body = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": gateway.pod,
                "uid": gateway.uid,
                "annotations": {labels::CONFIG_HASH: value},
            },
        });
        let ours = PatchParams::apply(FIELD_MANAGER).force();
        match self
            .api::<Pod>()
            .patch(&gateway.pod, &ours, &Patch::Apply(&body))
            .await
        {
            Ok(_) => {
                self.context.metrics.applied("Pod");
                tracing::debug!(
                    namespace = self.namespace,
                    pod = gateway.pod,
                    "told of a new configuration"
                );
                Ok(())
            }
            Err(error) => match Error::api::<Pod>("annotate", &self.namespace, &gateway.pod, error) {
                gone if gone.is_conflict() => Ok(()),
                failed => Err(failed),
            },
        }
    }
}
