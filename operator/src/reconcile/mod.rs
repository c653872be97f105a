//! The reconcile of one virtual server, and of one server: resolve, render, apply, observe, write the status.

mod children;
mod creation_retry;
mod mcp_server;
mod observed;
mod optional_children;
mod pods;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::runtime::controller::Action;
use kube::runtime::events::Event;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt as _};
use serde_json::json;
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::{
    MCPGroup, MCPServer, MCPServerEntry, ObservedBackendState, VirtualMCPServer, VirtualMCPServerStatus,
    condition_type,
};

use crate::api_server::{NamespacedObject, ObjectApi, ObjectName};
use crate::apply::FIELD_MANAGER;
use crate::backoff::Backoff;
use crate::desired::mcp_server::ServerImages;
use crate::desired::pod_template_rules::GATEWAY;
use crate::desired::{self, Backend, Children, ConfigFiles, Inputs, labels, names, pod_template};
use crate::error::Error;
use crate::event_recorder::EventRecorder;
use crate::events;
use crate::metrics::Metrics;
use crate::optional_kinds::{HTTPRoute, ServiceMonitor};
use crate::pod_user::PodUsers;
use crate::policy::Policy;
use crate::resolve::{self, SecretResolution};
use crate::secret_values::SecretReader;
use crate::server_state::{McpServerStates, ServerState, ServerStates};
use crate::session_keys::KeyChange;
use crate::spec_validation;
use crate::status::{self, ApplyFailure, Observed, SecretsState};
use crate::status_client::{GatewayPod, StatusClient};
use crate::watch::ReflectorStores;
use crate::workload::Workload;

pub use mcp_server::reconcile_mcp_server;
pub use optional_children::OptionalChild;

/// Requeue delay while pods have not loaded the rendered configuration yet.
const REQUEUE_PENDING: Duration = Duration::from_millis(500);
/// Requeue delay while a running pod is not ready or reports a failing backend, or while the server waits for something else that no watch reports.
const REQUEUE_DEGRADED: Duration = Duration::from_secs(5);
/// Requeue delay in the steady state. No watch reports a change of a backend's state, or that Redis or a node has failed, so pods are polled. What they
/// report is in the status within 30 seconds.
const REQUEUE_STEADY: Duration = Duration::from_secs(20);

/// Finalizers that the garbage collector removes by itself.
const GARBAGE_COLLECTOR_FINALIZERS: [&str; 2] = ["foregroundDeletion", "orphan"];

/// Shared dependencies of all reconciles in one scope.
pub struct Context {
    /// Client for the API server.
    pub client: Client,
    /// The objects that the watches of this scope have seen.
    pub stores: ReflectorStores,
    /// Client for the status of gateway pods.
    pub status_client: StatusClient,
    /// The images that the operator brings: the gateway's for specs without one, and those of packages.
    pub images: ServerImages,
    /// The images and Secrets that specs may name.
    pub policy: Policy,
    /// Whether pods name a fixed user id, for each namespace.
    pub pod_users: PodUsers,
    /// The installation that this process belongs to.
    pub installation: String,
    /// State that is kept between reconciles of virtual servers.
    pub server_states: Arc<ServerStates>,
    /// State that is kept between reconciles of servers.
    pub mcp_server_states: Arc<McpServerStates>,
    /// The retry delays of failed reconciles of virtual servers.
    pub backoff: Arc<Backoff>,
    /// The retry delays of failed reconciles of servers.
    pub mcp_server_backoff: Arc<Backoff<MCPServer>>,
    /// The metrics of this process.
    pub metrics: Metrics,
    /// Publishes Kubernetes Events.
    pub recorder: EventRecorder,
}

/// Reconciles `server` once.
///
/// # Errors
/// When the API server rejects a request or does not answer.
pub async fn reconcile(server: Arc<VirtualMCPServer>, context: Arc<Context>) -> Result<Action, Error> {
    context.stores.ready().await?;
    let state = context
        .server_states
        .get_or_default(&ObjectRef::from_obj(&*server));
    let mut state = state.lock().await;
    let reconciler = Reconciler {
        context: &context,
        server: &*server,
        namespace: server.namespace().unwrap_or_default(),
    };
    reconciler.forget_watched_writes(&mut state);
    let result = if server.metadata.deletion_timestamp.is_some() {
        reconciler.report_termination(&mut state).await
    } else {
        reconciler.run(&mut state).await
    };
    state.failures = match &result {
        Ok(_) => 0,
        Err(_) => state.failures.saturating_add(1),
    };
    result
}

/// One reconcile of one virtual server, or of one server.
struct Reconciler<'a, W = VirtualMCPServer> {
    context: &'a Context,
    server: &'a W,
    namespace: String,
}

/// Why a spec is rejected before anything is applied.
struct RejectedSpec {
    reason: &'static str,
    message: String,
}

/// What a reconcile has found out, up to the step that failed.
#[derive(Default)]
struct Findings {
    rejected_spec: Option<RejectedSpec>,
    refused_watch: Option<String>,
    backends: Option<Vec<Backend>>,
    config: Option<Result<ConfigFiles, String>>,
    secrets: Option<SecretResolution>,
    http_route: Option<OptionalChild<HTTPRoute>>,
    service_monitor: Option<OptionalChild<ServiceMonitor>>,
    gateways: Vec<GatewayPod>,
    nudges_exhausted: bool,
    error: Option<Error>,
}

impl Reconciler<'_> {
    async fn run(&self, state: &mut ServerState) -> Result<Action, Error> {
        let mut findings = Findings::default();
        // Boxed: otherwise every caller's future holds all of its state.
        if let Err(error) = Box::pin(self.apply_spec(state, &mut findings)).await {
            // A conflict, or an API server that restarts, is over at the next attempt.
            let is_reported = error.is_rejection() || error.is_not_owned() || state.failures > 0;
            if !is_reported {
                return Err(error);
            }
            findings.error = Some(error);
        }
        let status = match self.update_status(state, &findings).await {
            Ok(status) => status,
            Err(error) => {
                // Once: the event is the only place left that can say it. A conflict is over at the next attempt.
                if state.failures == 1 && !error.is_conflict() {
                    self.publish_event(&events::status_write_failed(&error.to_string()))
                        .await;
                }
                return Err(error);
            }
        };
        match findings.error {
            Some(error) if !error.is_not_owned() => Err(error),
            _ => {
                let has_gateways = !findings.gateways.is_empty();
                let delay = requeue_delay(&status, has_gateways, findings.nudges_exhausted);
                // A second failure of such a child is reported.
                let has_failed_once = state.optional_failures.values().any(|count| *count == 1);
                Ok(Action::requeue(if has_failed_once {
                    delay.min(REQUEUE_DEGRADED)
                } else {
                    delay
                }))
            }
        }
    }

    /// Applies the children and fetches the pods' status. Stops at the first missing prerequisite, and then leaves running pods
    /// unchanged.
    async fn apply_spec(&self, state: &mut ServerState, findings: &mut Findings) -> Result<(), Error> {
        findings.rejected_spec = self.rejected_spec();
        findings.refused_watch = self.refused_input().or_else(|| self.refused_workload());
        // What is rendered from kinds that are not known would change running pods.
        if findings.rejected_spec.is_some() || self.refused_input().is_some() {
            return Ok(());
        }
        let Some(mut backends) = resolve::backends(self.server, &self.context.stores) else {
            return Ok(());
        };
        // The spec is checked before any Secret is read or created.
        let config = self.render(&backends);
        let is_renderable = config.is_ok();
        findings.config = Some(config);
        findings.backends = Some(backends.clone());
        if !is_renderable {
            return Ok(());
        }
        let reader = SecretReader {
            client: &self.context.client,
            namespace: &self.namespace,
            policy: &self.context.policy,
            stores: &self.context.stores,
        };
        let now = Timestamp::now();
        let has_deployment = self.deployment(state).is_some();
        let secrets = resolve::secrets(
            &reader,
            self.server,
            &mut backends,
            &mut state.secret_reads,
            has_deployment,
            now,
        )
        .await?;
        // A backend whose Secret is missing is left out.
        if findings.backends.as_ref() != Some(&backends) {
            findings.config = Some(self.render(&backends));
            findings.backends = Some(backends);
        }
        let (SecretResolution::Resolved(secrets), Some(Ok(files))) =
            (findings.secrets.insert(secrets), &findings.config)
        else {
            return Ok(());
        };
        if let Some(change) = &secrets.key_change {
            self.report_key_change(state, change).await;
        }
        if let Some(mac) = &secrets.mounts_mac {
            self.nudge_pods_with_old_secrets(state, mac).await?;
        }
        let live = self.deployment(state);
        let live_mac = || {
            let template = live.as_ref()?.spec.template.metadata.as_ref()?;
            let annotations = template.annotations.as_ref()?;
            annotations.get(labels::PASSWORD_MAC).map(String::as_str)
        };
        let password_mac = secrets.password_mac.as_ref();
        let pod_users = &self.context.pod_users;
        let has_fixed_user = pod_users
            .has_fixed_id(&self.context.client, &self.namespace, live.as_deref())
            .await?;
        let inputs = Inputs {
            files,
            default_image: &self.context.images.gateway,
            password_mac: password_mac.map(|mac| mac.or_live(live_mac())),
            secret_files: &secrets.files,
            has_fixed_user,
            expected_replicas: self.expected_replicas(state),
            ignores_replicas: self.overriding_autoscaler(state).is_some(),
        };
        let children = desired::children(self.server, &inputs);
        state.installation_conflict.begin_reconcile();
        if !state.installation_conflict.yields() {
            let optional = (&mut findings.http_route, &mut findings.service_monitor);
            self.write_children(state, &children, optional).await?;
            self.retry_pod_creation(state).await?;
        }
        // A pod that has not loaded rotated keys yet still knows the previous one.
        let keys = std::iter::once(&secrets.keys.current).chain(&secrets.keys.previous);
        let tokens: Vec<String> = keys
            .map(|key| key.status_token(&self.namespace, &self.server.name_any()))
            .collect();
        findings.gateways = self
            .context
            .status_client
            .fetch_all(&self.pods(state), &tokens)
            .await;
        findings.nudges_exhausted = self
            .nudge_outdated_pods(state, &findings.gateways, &files.hot_hash)
            .await?;
        Ok(())
    }

    /// Applies the children, and deletes those that are no longer needed.
    async fn write_children(
        &self,
        state: &mut ServerState,
        children: &Children,
        (http_route, service_monitor): (
            &mut Option<OptionalChild<HTTPRoute>>,
            &mut Option<OptionalChild<ServiceMonitor>>,
        ),
    ) -> Result<(), Error> {
        self.apply_children(state, children).await?;
        let has_condition = |type_| find(&self.current_status(state).conditions, type_).is_some();
        let (had_route, had_monitor) = (
            has_condition(condition_type::HTTP_ROUTE_READY),
            has_condition(condition_type::SERVICE_MONITOR_READY),
        );
        *http_route = self
            .reconcile_optional(state, children.http_route.as_ref(), had_route)
            .await;
        *service_monitor = self
            .reconcile_optional(state, children.service_monitor.as_ref(), had_monitor)
            .await;
        self.remove_unused_configs(state, &children.hot).await
    }

    /// The right that is missing to watch a kind from which the objects are rendered.
    fn refused_input(&self) -> Option<String> {
        let health = &self.context.stores.health;
        health
            .refusal::<MCPGroup>()
            .or_else(|| health.refusal::<MCPServerEntry>())
            .or_else(|| health.refusal::<MCPServer>())
            .or_else(|| health.refusal::<Secret>())
            .or_else(|| health.refusal::<ConfigMap>())
            .or_else(|| health.refusal::<Deployment>())
    }

    fn render(&self, backends: &[Backend]) -> Result<ConfigFiles, String> {
        desired::config_files(self.server, backends).map_err(|problem| problem.to_string())
    }

    async fn report_key_change(&self, state: &ServerState, change: &KeyChange) {
        let secret = names::session_keys(self.server);
        let event = match change {
            KeyChange::Created if self.deployment(state).is_none() => return,
            KeyChange::Created => events::session_keys_lost(&secret),
            KeyChange::Rotated => events::session_keys_rotated(&secret),
            KeyChange::RotationRefused(reason) => events::session_key_rotation_refused(reason),
        };
        self.publish_event(&event).await;
    }

    /// Validates the spec against the schema's rules and the policy.
    fn rejected_spec(&self) -> Option<RejectedSpec> {
        if let Some(message) = spec_validation::first_violation(self.server) {
            return Some(RejectedSpec {
                reason: "ConfigInvalid",
                message,
            });
        }
        let policy = &self.context.policy;
        if let Some(image) = self.server.spec.image.as_deref()
            && let Err(message) = policy.check_image("spec.image", image)
        {
            return Some(RejectedSpec {
                reason: "ImageNotAllowed",
                message,
            });
        }
        self.rejected_pod_template()
    }

    /// Validates `spec.podTemplate`, and checks it against the policy.
    fn rejected_pod_template(&self) -> Option<RejectedSpec> {
        let template = match pod_template::parse(self.server.spec.pod_template.as_ref()?, &GATEWAY) {
            Ok(template) => template,
            Err(message) => {
                return Some(RejectedSpec {
                    reason: "PodTemplateInvalid",
                    message,
                });
            }
        };
        let (reason, message) = self.context.policy.check_template(&template).err()?;
        Some(RejectedSpec { reason, message })
    }

    /// Derives the status from the findings, and writes it if it has changed.
    async fn update_status(
        &self,
        state: &mut ServerState,
        findings: &Findings,
    ) -> Result<VirtualMCPServerStatus, Error> {
        let old = self.current_status(state);
        let deployment = self.deployment(state);
        let error_text = findings.error.as_ref().map(ToString::to_string);
        let apply_failure = apply_failure(findings.error.as_ref(), error_text.as_deref());
        let installation_conflict = state
            .installation_conflict
            .message(&self.context.installation, &VirtualMCPServer::kind(&()));
        let no_config = String::new();
        let rejected_pod_template = self.rejected_pod_template();
        let overriding_autoscaler = self.overriding_autoscaler(state);
        let observed = Observed {
            server: self.server,
            rejected_spec: findings
                .rejected_spec
                .as_ref()
                .map(|rejected| (rejected.reason, rejected.message.as_str())),
            rejected_pod_template: rejected_pod_template
                .as_ref()
                .map(|rejected| (rejected.reason, rejected.message.as_str())),
            refused_watch: findings.refused_watch.as_deref(),
            installation_conflict: installation_conflict.as_deref(),
            backends: findings.backends.as_deref(),
            config: match &findings.config {
                Some(Ok(files)) => Ok(files),
                Some(Err(problem)) => Err(problem),
                None => Err(&no_config),
            },
            secrets: match &findings.secrets {
                None => SecretsState::Unknown,
                Some(SecretResolution::Resolved(_)) => SecretsState::Resolved,
                Some(SecretResolution::Unresolved {
                    reason,
                    message,
                    stalled,
                }) => SecretsState::Unresolved {
                    reason,
                    message,
                    stalled: *stalled,
                },
            },
            secret_warnings: match &findings.secrets {
                Some(SecretResolution::Resolved(secrets)) => &secrets.warnings,
                _ => &[],
            },
            apply_failure,
            http_route: findings.http_route.as_ref(),
            service_monitor: findings.service_monitor.as_ref(),
            deployment: deployment.as_deref(),
            applied_generation: state.deployment_generation,
            replica_sets: &self.replica_sets(state),
            pods: &self.pods(state),
            gateways: &findings.gateways,
            expected_replicas: self.expected_replicas(state),
            overriding_autoscaler: overriding_autoscaler.as_deref(),
        };
        let status = status::derive(&observed, &old, Timestamp::now());
        self.write_status(state, &old, &status).await?;
        Ok(status)
    }

    /// Reports the finalizers of others that keep a deleted virtual server. The garbage collector deletes the children through their owner
    /// references.
    async fn report_termination(&self, state: &mut ServerState) -> Result<Action, Error> {
        let finalizers = self.foreign_finalizers();
        if !finalizers.is_empty() {
            let old = self.current_status(state);
            let generation = self.server.metadata.generation;
            let status = status::derive_terminating(&finalizers, generation, &old, Timestamp::now());
            match self.write_status(state, &old, &status).await {
                Err(error) if !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(Action::await_change())
    }
}

impl<W: Workload> Reconciler<'_, W> {
    /// The right that is missing to watch what the Deployment's controller creates.
    fn refused_workload(&self) -> Option<String> {
        let health = &self.context.stores.health;
        health.refusal::<ReplicaSet>().or_else(|| health.refusal::<Pod>())
    }

    /// Writes the status and publishes Events for its transitions, if it has changed.
    async fn write_status(
        &self,
        state: &mut ServerState<W::Status>,
        old: &W::Status,
        status: &W::Status,
    ) -> Result<(), Error> {
        if status == old {
            return Ok(());
        }
        let body = json!({
            "apiVersion": W::api_version(&()),
            "kind": W::kind(&()),
            "metadata": {"name": self.server.name_any(), "uid": self.server.uid()},
            "status": status,
        });
        let name = ObjectName::parse(&self.server.name_any())?;
        let written = self
            .objects::<W>()?
            .apply_status(&name, FIELD_MANAGER, &body)
            .await?;
        self.context
            .metrics
            .record_apply(&format!("{}/status", W::kind(&())));
        state.written_status = Some((written.resource_version().unwrap_or_default(), status.clone()));
        for event in events::transitions(W::conditions(old), W::conditions(status)) {
            self.publish_event(&event).await;
        }
        Ok(())
    }

    /// The finalizers of other controllers, which keep a deleted resource.
    fn foreign_finalizers(&self) -> Vec<&str> {
        let finalizers = self.server.finalizers().iter().map(String::as_str);
        finalizers
            .filter(|name| !GARBAGE_COLLECTOR_FINALIZERS.contains(name))
            .collect()
    }

    fn objects<K: NamespacedObject>(&self) -> Result<ObjectApi<K>, Error> {
        ObjectApi::in_namespace(&self.context.client, &self.namespace)
    }

    /// Publishes an Event. A failure is only logged: Events are informational.
    async fn publish_event(&self, event: &Event) {
        let reference = self.server.object_ref(&());
        if let Err(error) = self.context.recorder.publish(event, &reference).await {
            tracing::warn!(
                namespace = self.namespace,
                name = self.server.name_any(),
                %error,
                "failed to publish event"
            );
        }
    }
}

/// How the status reports `error`, of which `text` is the message.
fn apply_failure<'a>(error: Option<&Error>, text: Option<&'a str>) -> Option<ApplyFailure<'a>> {
    let not_owned = |stalled| move |message| ApplyFailure::NotOwned { message, stalled };
    match error {
        Some(Error::BeingDeleted { .. }) => text.map(not_owned(false)),
        Some(Error::NotOwned { is_temporary, .. }) => text.map(not_owned(!is_temporary)),
        Some(error) if error.is_rejection() => text.map(ApplyFailure::Refused),
        _ => text.map(ApplyFailure::Failed),
    }
}

/// Delay until the next reconcile, unless a watch triggers one earlier. Without a running pod (`has_gateways`), there is nothing to ask: a watch
/// reports the first one.
fn requeue_delay(status: &VirtualMCPServerStatus, has_gateways: bool, nudges_exhausted: bool) -> Duration {
    let ready = find(&status.conditions, condition_type::READY);
    let route = find(&status.conditions, condition_type::HTTP_ROUTE_READY);
    // No watch reports what a Gateway says about a route.
    let is_route_waiting =
        route.is_some_and(|route| matches!(route.reason.as_str(), "Pending" | "NotAccepted"));
    let storage = find(&status.conditions, condition_type::SESSION_STORAGE_READY);
    let is_storage_unavailable = storage.is_some_and(|storage| storage.status == "False");
    match ready.map(|ready| ready.reason.as_str()) {
        Some("ConfigPending" | "GatewayUnreachable") if !nudges_exhausted => REQUEUE_PENDING,
        Some("ConfigPending" | "GatewayUnreachable" | "ConfigRefused" | "ChildNotOwned" | "WatchRefused") => {
            REQUEUE_DEGRADED
        }
        // No watch reports why a pod is not ready yet.
        Some("DeploymentProgressing") if has_gateways => REQUEUE_DEGRADED,
        _ if is_route_waiting || is_storage_unavailable => REQUEUE_DEGRADED,
        _ if has_gateways
            && status
                .backends
                .iter()
                .any(|backend| backend.state != ObservedBackendState::Ready) =>
        {
            REQUEUE_DEGRADED
        }
        _ => REQUEUE_STEADY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A thousand servers that wait for their first pods must not be reconciled every five seconds.
    #[test]
    fn server_without_pods_waits_for_its_watches() {
        let status: VirtualMCPServerStatus = serde_json::from_value(json!({
            "conditions": [{
                "type": "Ready", "status": "False", "reason": "DeploymentProgressing", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
            "backends": [{"name": "time", "url": "u", "state": "Unknown"}],
        }))
        .unwrap();
        assert_eq!(requeue_delay(&status, false, false), REQUEUE_STEADY);
        assert_eq!(requeue_delay(&status, true, false), REQUEUE_DEGRADED);
        let mut ready = status;
        ready.conditions[0].reason = "Serving".to_owned();
        assert_eq!(
            requeue_delay(&ready, true, false),
            REQUEUE_DEGRADED,
            "a backend is unknown"
        );
        assert_eq!(requeue_delay(&ready, false, false), REQUEUE_STEADY);
    }
}
