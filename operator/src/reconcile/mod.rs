//! One look at one virtual server: fetch, render, apply, observe, report.

mod children;
mod known;
mod pods;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt as _};
use serde_json::json;
use vmcp_crds::v1alpha1::{BackendState, VirtualMCPServer, VirtualMCPServerStatus, condition_type};

use crate::api_server::{Object, ObjectName, Objects, explain};
use crate::apply::FIELD_MANAGER;
use crate::backoff::Backoff;
use crate::desired::{self, Backend, ConfigFiles, Inputs, names};
use crate::error::Error;
use crate::events;
use crate::field_check;
use crate::gateways::{Gateway, Gateways};
use crate::memory::{Memories, Memory};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::resolve::{self, Secrets};
use crate::status::{self, Observed, Refused};
use crate::watch::Stores;

/// While pods have yet to take what was rendered.
const SOON: Duration = Duration::from_millis(500);
/// While a backend does not answer, or something is missing that no watch tells of.
const LATER: Duration = Duration::from_secs(5);
/// When all is well: what pods know of backends changes without an event.
const STEADY: Duration = Duration::from_secs(30);

/// What all looks share.
#[derive(Clone)]
pub struct Context {
    /// The way to the API server.
    pub client: Client,
    /// What the watches of this scope know.
    pub stores: Stores,
    /// The way to the gateway pods.
    pub gateways: Gateways,
    /// The image of the gateway, when a spec names none.
    pub default_image: String,
    /// What specs may name.
    pub policy: Policy,
    /// What is remembered.
    pub memories: Arc<Memories>,
    /// The failures in a row.
    pub backoff: Arc<Backoff>,
    /// The counts.
    pub metrics: Metrics,
    /// Where events go.
    pub recorder: Recorder,
}

/// Looks at `server` once.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn reconcile(server: Arc<VirtualMCPServer>, context: Arc<Context>) -> Result<Action, Error> {
    context.stores.ready().await?;
    if server.metadata.deletion_timestamp.is_some() {
        // Every child names the server as its owner, so they go with it.
        return Ok(Action::await_change());
    }
    let memory = context.memories.of(&ObjectRef::from_obj(&*server));
    let mut memory = memory.lock().await;
    let look = Look {
        context: &context,
        server: &server,
        namespace: server.namespace().unwrap_or_default(),
    };
    look.run(&mut memory).await
}

/// One look at one server.
struct Look<'a> {
    context: &'a Context,
    server: &'a VirtualMCPServer,
    namespace: String,
}

/// Why nothing was done for a spec.
struct RefusedSpec {
    reason: &'static str,
    message: String,
}

/// What a look found out, and whether it could do its work.
#[derive(Default)]
struct Findings {
    refused_spec: Option<RefusedSpec>,
    backends: Option<Vec<Backend>>,
    config: Option<Result<ConfigFiles, String>>,
    secrets: Option<Secrets>,
    gateways: Vec<Gateway>,
    gave_up: bool,
    failed: Option<Error>,
}

impl Look<'_> {
    async fn run(&self, memory: &mut Memory) -> Result<Action, Error> {
        let mut findings = Findings::default();
        if let Err(error) = self.work(memory, &mut findings).await {
            if !error.is_refusal() && !error.is_not_owned() {
                return Err(error);
            }
            findings.failed = Some(error);
        }
        let status = self.report(memory, &findings).await?;
        match findings.failed {
            Some(error) if !error.is_not_owned() => Err(error),
            _ => Ok(Action::requeue(next_look(&status, findings.gave_up))),
        }
    }

    /// Does what has to be done, as far as it can be: what is missing stops it, and leaves running pods as they are.
    async fn work(&self, memory: &mut Memory, findings: &mut Findings) -> Result<(), Error> {
        findings.refused_spec = self.refused_spec();
        if findings.refused_spec.is_some() {
            return Ok(());
        }
        findings.backends = resolve::backends(self.server, &self.context.stores);
        let Some(backends) = &findings.backends else {
            return Ok(());
        };
        let config = desired::config_files(self.server, backends).map_err(|problem| problem.to_string());
        let Ok(files) = findings.config.insert(config) else {
            return Ok(());
        };
        let secrets = resolve::secrets(&self.context.client, self.server, &self.context.policy).await?;
        let Secrets::Resolved {
            key,
            new_keys,
            password_mac,
        } = findings.secrets.insert(secrets)
        else {
            return Ok(());
        };
        if *new_keys && self.deployment(memory).is_some() {
            self.tell(&events::session_keys_lost(&names::session_keys(self.server)))
                .await;
        }
        let inputs = Inputs {
            files,
            default_image: &self.context.default_image,
            password_mac: password_mac.as_deref(),
            expected_replicas: self.expected_replicas(memory),
        };
        self.apply_children(memory, &desired::children(self.server, &inputs))
            .await?;
        self.remove_unused_configs(memory).await?;
        let token = key.status_token(&self.namespace, &self.server.name_any());
        findings.gateways = self.context.gateways.ask(&self.pods(memory), &token).await;
        findings.gave_up = self.remind(memory, &findings.gateways, &files.hot_hash).await?;
        Ok(())
    }

    /// What of the spec must not reach a request or a pod.
    fn refused_spec(&self) -> Option<RefusedSpec> {
        if let Some(message) = field_check::problem(self.server) {
            return Some(RefusedSpec {
                reason: "ConfigInvalid",
                message,
            });
        }
        let image = self.server.spec.image.as_deref()?;
        let message = self.context.policy.check_image(image).err()?;
        Some(RefusedSpec {
            reason: "ImageNotAllowed",
            message,
        })
    }

    /// Writes the status and tells of transitions, if there is anything new.
    async fn report(
        &self,
        memory: &mut Memory,
        findings: &Findings,
    ) -> Result<VirtualMCPServerStatus, Error> {
        let old = self.last_status(memory);
        let deployment = self.deployment(memory);
        let failure = findings.failed.as_ref().map(ToString::to_string);
        let refused = match &findings.failed {
            Some(Error::BeingDeleted { .. }) => failure.as_deref().map(|message| Refused::NotOwned {
                message,
                stalled: false,
            }),
            Some(Error::NotOwned { goes, .. }) => failure.as_deref().map(|message| Refused::NotOwned {
                message,
                stalled: !goes,
            }),
            _ => failure.as_deref().map(Refused::ApiServer),
        };
        let no_config = String::new();
        let observed = Observed {
            server: self.server,
            refused_spec: findings
                .refused_spec
                .as_ref()
                .map(|refused| (refused.reason, refused.message.as_str())),
            backends: findings.backends.as_deref(),
            config: match &findings.config {
                Some(Ok(files)) => Ok(files),
                Some(Err(problem)) => Err(problem),
                None => Err(&no_config),
            },
            secrets: match &findings.secrets {
                None => status::Secrets::Unknown,
                Some(Secrets::Resolved { .. }) => status::Secrets::Resolved,
                Some(Secrets::Unresolved {
                    reason,
                    message,
                    stalled,
                }) => status::Secrets::Unresolved {
                    reason,
                    message,
                    stalled: *stalled,
                },
            },
            refused,
            deployment: deployment.as_deref(),
            gateways: &findings.gateways,
            expected_replicas: self.expected_replicas(memory),
        };
        let status = status::status(&observed, &old, Timestamp::now());
        if status == old {
            return Ok(status);
        }
        let body = json!({
            "apiVersion": VirtualMCPServer::api_version(&()),
            "kind": VirtualMCPServer::kind(&()),
            "metadata": {"name": self.server.name_any(), "uid": self.server.uid()},
            "status": status,
        });
        let name = ObjectName::parse(&self.server.name_any())?;
        let written = self
            .objects::<VirtualMCPServer>()?
            .apply_status(&name, FIELD_MANAGER, &body)
            .await?;
        self.context.metrics.applied("VirtualMCPServer/status");
        memory.written = Some((written.resource_version().unwrap_or_default(), status.clone()));
        for event in events::transitions(&old.conditions, &status.conditions) {
            self.tell(&event).await;
        }
        Ok(status)
    }

    fn objects<K: Object>(&self) -> Result<Objects<K>, Error> {
        Objects::of(&self.context.client, &self.namespace)
    }

    /// Events are for people; that one is lost stops nothing.
    async fn tell(&self, event: &Event) {
        let reference = self.server.object_ref(&());
        if let Err(error) = self.context.recorder.publish(event, &reference).await {
            let error = explain(&error);
            tracing::warn!(
                namespace = self.namespace,
                name = self.server.name_any(),
                error,
                "an event was lost"
            );
        }
    }
}

/// How long to wait before looking again, if no watch says something before.
fn next_look(status: &VirtualMCPServerStatus, gave_up: bool) -> Duration {
    let ready = vmcp_crds::condition::find(&status.conditions, condition_type::READY);
    match ready.map(|ready| ready.reason.as_str()) {
        Some("ConfigPending" | "GatewayUnreachable") if !gave_up => SOON,
        Some("ConfigPending" | "GatewayUnreachable" | "ConfigRefused" | "ChildNotOwned") => LATER,
        _ if status
            .backends
            .iter()
            .any(|backend| backend.state != BackendState::Ready) =>
        {
            LATER
        }
        _ => STEADY,
    }
}
