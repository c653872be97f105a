//! One look at one virtual server: fetch, render, apply, observe, report.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use vmcp_crds::v1alpha1::{BackendState, VirtualMCPServer, VirtualMCPServerStatus, condition_type};

use crate::apply::{FIELD_MANAGER, apply};
use crate::backoff::Backoff;
use crate::desired::{self, Backend, ConfigFiles, Inputs, labels, names};
use crate::error::Error;
use crate::gateways::{Gateway, Gateways};
use crate::memory::{Memories, Memory, is_later};
use crate::metrics::Metrics;
use crate::reminder::Step;
use crate::replicas;
use crate::resolve::{self, Secrets};
use crate::status::{self, Observed};
use crate::watch::Stores;
use crate::{events, index, unused};

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

/// What a look found out, and whether it could do its work.
#[derive(Default)]
struct Findings {
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
            if !error.is_refusal() {
                return Err(error);
            }
            findings.failed = Some(error);
        }
        let status = self.report(memory, &findings).await?;
        match findings.failed {
            Some(error) => Err(error),
            None => Ok(Action::requeue(next_look(&status, findings.gave_up))),
        }
    }

    /// Does what has to be done, as far as it can be: what is missing stops it, and leaves running pods as they are.
    async fn work(&self, memory: &mut Memory, findings: &mut Findings) -> Result<(), Error> {
        findings.backends = resolve::backends(self.server, &self.context.stores);
        let Some(backends) = &findings.backends else {
            return Ok(());
        };
        let config = desired::config_files(self.server, backends).map_err(|problem| problem.to_string());
        let Ok(files) = findings.config.insert(config) else {
            return Ok(());
        };
        let secrets = resolve::secrets(&self.context.client, self.server).await?;
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
        findings.gateways = self.context.gateways.ask(&self.pods(), &token).await;
        findings.gave_up = self.remind(memory, &findings.gateways, &files.hot_hash).await?;
        Ok(())
    }

    async fn apply_children(&self, memory: &mut Memory, children: &desired::Children) -> Result<(), Error> {
        let stores = &self.context.stores;
        self.put(memory, &stores.service_accounts, &children.service_account)
            .await?;
        self.put(memory, &stores.config_maps, &children.startup).await?;
        self.put(memory, &stores.config_maps, &children.hot).await?;
        self.put(memory, &stores.services, &children.service).await?;
        match &children.disruption_budget {
            Some(budget) => drop(self.put(memory, &stores.disruption_budgets, budget).await?),
            None => self.remove_disruption_budget().await?,
        }
        if let Some(live) = self.deployment(memory)
            && let Some(count) = replicas::to_hand_over(self.server.spec.replicas, &live)
        {
            replicas::hand_over(&self.context.client, &live, count).await?;
        }
        if let Some(applied) = self
            .put(memory, &stores.deployments, &children.deployment)
            .await?
        {
            memory.deployment = Some(applied);
        }
        Ok(())
    }

    /// Applies one child, unless nothing of it has changed.
    async fn put<K>(&self, memory: &mut Memory, store: &Store<K>, child: &K) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned
            + 'static,
    {
        let live = store.get(&ObjectRef::from_obj(child));
        let applied = apply(&self.context.client, &mut memory.applied, child, live.as_deref()).await?;
        if applied.is_some() {
            self.context.metrics.applied(&K::kind(&()));
        }
        Ok(applied)
    }

    async fn remove_disruption_budget(&self) -> Result<(), Error> {
        let name = names::workload(self.server);
        let store = &self.context.stores.disruption_budgets;
        match store.get(&ObjectRef::new(&name).within(&self.namespace)) {
            Some(budget) => self.delete::<PodDisruptionBudget>(&budget).await,
            None => Ok(()),
        }
    }

    async fn remove_unused_configs(&self, memory: &Memory) -> Result<(), Error> {
        let Some(deployment) = self.deployment(memory) else {
            return Ok(());
        };
        let sets = self.mine(&self.context.stores.replica_sets);
        let config_maps = self.mine(&self.context.stores.config_maps);
        let sets = sets.iter().map(|set| &**set);
        let config_maps = config_maps.iter().map(|config_map| &**config_map);
        for unused in unused::startup_configs(self.server, &deployment, sets, config_maps) {
            self.delete::<ConfigMap>(unused).await?;
        }
        Ok(())
    }

    async fn delete<K>(&self, object: &K) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let name = object.name_any();
        let this_one = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.api::<K>().delete(&name, &this_one).await {
            Ok(_) => {
                tracing::info!(kind = %K::kind(&()), namespace = self.namespace, name, "deleted what is not needed");
                Ok(())
            }
            Err(error) => match Error::api::<K>("delete", &self.namespace, &name, error) {
                gone if gone.is_conflict() => Ok(()),
                failed => Err(failed),
            },
        }
    }

    /// Tells the pods that have an old hot configuration to look. Says whether one of them was told often enough.
    async fn remind(&self, memory: &mut Memory, gateways: &[Gateway], hash: &str) -> Result<bool, Error> {
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

    async fn annotate(&self, gateway: &Gateway, value: &str) -> Result<(), Error> {
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

    /// Writes the status and tells of transitions, if there is anything new.
    async fn report(
        &self,
        memory: &mut Memory,
        findings: &Findings,
    ) -> Result<VirtualMCPServerStatus, Error> {
        let old = self.last_status(memory);
        let deployment = self.deployment(memory);
        let refused = findings.failed.as_ref().map(ToString::to_string);
        let no_config = String::new();
        let observed = Observed {
            server: self.server,
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
            refused: refused.as_deref(),
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
        let name = self.server.name_any();
        let ours = PatchParams::apply(FIELD_MANAGER).force();
        let written = self
            .api::<VirtualMCPServer>()
            .patch_status(&name, &ours, &Patch::Apply(&body))
            .await;
        let written = written.map_err(|error| {
            Error::api::<VirtualMCPServer>("write the status of", &self.namespace, &name, error)
        })?;
        self.context.metrics.applied("VirtualMCPServer/status");
        memory.written = Some((written.resource_version().unwrap_or_default(), status.clone()));
        for event in events::transitions(&old.conditions, &status.conditions) {
            self.tell(&event).await;
        }
        Ok(status)
    }

    /// The status as it is. The watch may still show the one before our last.
    fn last_status(&self, memory: &Memory) -> VirtualMCPServerStatus {
        let shown = self.server.metadata.resource_version.as_deref();
        match &memory.written {
            Some((version, status)) if is_later(Some(version), shown) => status.clone(),
            _ => self.server.status.clone().unwrap_or_default(),
        }
    }

    /// The Deployment as it is. The watch may still show the one before our last apply.
    fn deployment(&self, memory: &Memory) -> Option<Arc<Deployment>> {
        let name = names::workload(self.server);
        let shown = self
            .context
            .stores
            .deployments
            .get(&ObjectRef::new(&name).within(&self.namespace));
        let version = |deployment: &Deployment| deployment.metadata.resource_version.clone();
        match (&memory.deployment, shown) {
            (Some(applied), Some(shown))
                if is_later(version(applied).as_deref(), version(&shown).as_deref()) =>
            {
                Some(Arc::new(applied.clone()))
            }
            (_, shown) => shown,
        }
    }

    /// How many replicas there are or may soon be: what the spec says, what somebody scaled to, what an autoscaler may.
    fn expected_replicas(&self, memory: &Memory) -> i32 {
        let deployment = self.deployment(memory);
        let live = deployment.and_then(|deployment| deployment.spec.replicas);
        let now = self.server.spec.replicas.or(live).unwrap_or(1);
        let autoscalers = self.context.stores.autoscalers.state_filter(|autoscaler| {
            autoscaler.metadata.namespace.as_deref() == Some(&self.namespace)
                && index::scales(autoscaler, self.server)
        });
        let most = autoscalers.iter().map(|autoscaler| autoscaler.spec.max_replicas);
        most.max().unwrap_or(0).max(now)
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.mine(&self.context.stores.pods)
    }

    /// The objects of a store that carry this server's label.
    fn mine<K>(&self, store: &Store<K>) -> Vec<Arc<K>>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        let name = self.server.name_any();
        store.state_filter(|object| {
            object.meta().namespace.as_deref() == Some(&self.namespace)
                && object.labels().get(labels::INSTANCE) == Some(&name)
        })
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    /// Events are for people; that one is lost stops nothing.
    async fn tell(&self, event: &Event) {
        let reference = self.server.object_ref(&());
        if let Err(error) = self.context.recorder.publish(event, &reference).await {
            tracing::warn!(namespace = self.namespace, name = self.server.name_any(), %error, "an event was lost");
        }
    }
}

/// How long to wait before looking again, if no watch says something before.
fn next_look(status: &VirtualMCPServerStatus, gave_up: bool) -> Duration {
    let ready = vmcp_crds::condition::find(&status.conditions, condition_type::READY);
    match ready.map(|ready| ready.reason.as_str()) {
        Some("ConfigPending" | "GatewayUnreachable") if !gave_up => SOON,
        Some("ConfigPending" | "GatewayUnreachable" | "ConfigRefused") => LATER,
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
