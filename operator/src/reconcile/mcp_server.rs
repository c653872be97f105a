//! The reconcile of one server: check, render, apply, observe, write the status.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};
use vmcp_crds::condition::find;
use vmcp_crds::v1alpha1::{
    MAX_SERVER_REPLICAS, MCPServer, MCPServerStatus, ObservedBackendState, ServerTransport, condition_type,
    field_rules,
};

use super::{Context, REQUEUE_DEGRADED, REQUEUE_STEADY, Reconciler, apply_failure};
use crate::api_server::ObjectName;
use crate::desired::mcp_server::{self, ServerChildren, ServerInputs};
use crate::desired::pod_template_rules::SERVER;
use crate::desired::{names, pod_template};
use crate::error::Error;
use crate::events;
use crate::server_state::McpServerState;
use crate::status::{self, ObservedServer, Rejection};
use crate::status_client::BridgePod;

/// Reconciles `server` once.
///
/// # Errors
/// When the API server rejects a request or does not answer.
pub async fn reconcile_mcp_server(server: Arc<MCPServer>, context: Arc<Context>) -> Result<Action, Error> {
    context.stores.ready().await?;
    let state = context
        .mcp_server_states
        .get_or_default(&ObjectRef::from_obj(&*server));
    let mut state = state.lock().await;
    let reconciler = Reconciler {
        context: &context,
        server: &*server,
        namespace: server.namespace().unwrap_or_default(),
    };
    reconciler.forget_watched_writes(&mut state);
    let result = if server.metadata.deletion_timestamp.is_some() {
        reconciler.report_server_termination(&mut state).await
    } else {
        reconciler.run_server(&mut state).await
    };
    state.failures = match &result {
        Ok(_) => 0,
        Err(_) => state.failures.saturating_add(1),
    };
    result
}

/// What a reconcile has found out, up to the step that failed.
#[derive(Default)]
struct Findings {
    rejection: Option<Rejection>,
    bridges: Vec<BridgePod>,
    error: Option<Error>,
}

impl Reconciler<'_, MCPServer> {
    async fn run_server(&self, state: &mut McpServerState) -> Result<Action, Error> {
        let mut findings = Findings::default();
        if let Err(error) = Box::pin(self.apply_server_spec(state, &mut findings)).await {
            // A conflict, or an API server that restarts, is over at the next attempt.
            let is_reported = error.is_rejection() || error.is_not_owned() || state.failures > 0;
            if !is_reported {
                return Err(error);
            }
            findings.error = Some(error);
        }
        if self.server.spec.transport() == ServerTransport::Stdio {
            let pods = self.pods(state);
            findings.bridges = self.context.status_client.fetch_bridges(&pods).await;
        }
        let status = match self.update_server_status(state, &findings).await {
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
                let ready = find(&status.conditions, condition_type::READY);
                let is_ready = ready.is_some_and(|ready| ready.status == "True");
                // No watch reports what a bridge says.
                Ok(Action::requeue(if is_ready {
                    REQUEUE_STEADY
                } else {
                    REQUEUE_DEGRADED
                }))
            }
        }
    }

    /// Checks the spec, and applies the children. A rejected spec leaves running pods unchanged.
    async fn apply_server_spec(
        &self,
        state: &mut McpServerState,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        findings.rejection = match self.rejected_server_spec() {
            Some(rejection) => Some(rejection),
            None => self.refused_secret().await?,
        };
        if findings.rejection.is_some() || self.refused_server_input().is_some() {
            return Ok(());
        }
        let live = self.deployment(state);
        let pod_users = &self.context.pod_users;
        let has_fixed_user = pod_users
            .has_fixed_id(&self.context.client, &self.namespace, live.as_deref())
            .await?;
        let inputs = ServerInputs {
            images: &self.context.images,
            has_fixed_user,
            ignores_replicas: self.overriding_autoscaler(state).is_some(),
        };
        let children = mcp_server::children(self.server, &inputs);
        state.installation_conflict.begin_reconcile();
        if !state.installation_conflict.yields() {
            self.apply_server_children(state, &children).await?;
            self.retry_pod_creation(state).await?;
        }
        Ok(())
    }

    /// Applies the children. The NetworkPolicy comes first, so that no pod runs without it.
    async fn apply_server_children(
        &self,
        state: &mut McpServerState,
        children: &ServerChildren,
    ) -> Result<(), Error> {
        let stores = &self.context.stores;
        self.note_adoption(state);
        match &children.network_policy {
            Some(policy) => drop(self.apply_child(state, &stores.network_policies, policy).await?),
            None => {
                let name = names::workload(self.server);
                self.remove_child(&stores.network_policies, &name).await?;
            }
        }
        self.apply_child(state, &stores.services, &children.service)
            .await?;
        self.apply_deployment(state, &children.deployment).await
    }

    /// The right that is missing to watch a child: what is not known would be applied again and again.
    fn refused_server_input(&self) -> Option<String> {
        let health = &self.context.stores.health;
        health
            .refusal::<Deployment>()
            .or_else(|| health.refusal::<Service>())
            .or_else(|| health.refusal::<NetworkPolicy>())
    }

    /// Validates the spec against the schema's rules and the policy.
    fn rejected_server_spec(&self) -> Option<Rejection> {
        let checked = self
            .check_server_fields()
            .map_err(|message| ("ConfigInvalid", message));
        let checked = checked.and_then(|()| self.check_server_images());
        let (reason, message) = checked.and_then(|()| self.check_server_template()).err()?;
        Some(Rejection {
            reason,
            message,
            stalled: true,
        })
    }

    /// Validates the strings of the spec, for objects that are older than the schema.
    fn check_server_fields(&self) -> Result<(), String> {
        let spec = &self.server.spec;
        let at = |field: &'static str| move |problem| format!("{field}: {problem}");
        field_rules::mcp_server_name(&self.server.name_any()).map_err(at("metadata.name"))?;
        spec.check_program()?;
        if let Some(image) = &spec.image {
            field_rules::image(image).map_err(at("spec.image"))?;
        }
        if let Some(account) = &spec.service_account_name {
            field_rules::object_name(account).map_err(at("spec.serviceAccountName"))?;
        }
        for secret in &spec.image_pull_secrets {
            field_rules::object_name(&secret.name).map_err(at("spec.imagePullSecrets"))?;
        }
        if spec
            .replicas
            .is_some_and(|count| usize::try_from(count).is_ok_and(|count| count > MAX_SERVER_REPLICAS))
        {
            return Err(format!(
                "spec.replicas: at most {MAX_SERVER_REPLICAS} pods are allowed"
            ));
        }
        Ok(())
    }

    fn check_server_images(&self) -> Result<(), (&'static str, String)> {
        let Some(image) = &self.server.spec.image else {
            return Ok(());
        };
        let checked = self.context.policy.check_image("spec.image", image);
        checked.map_err(|message| ("ImageNotAllowed", message))
    }

    /// Validates `spec.podTemplate`, and checks it against the policy.
    fn check_server_template(&self) -> Result<(), (&'static str, String)> {
        let Some(template) = &self.server.spec.pod_template else {
            return Ok(());
        };
        let template =
            pod_template::parse(template, &SERVER).map_err(|message| ("PodTemplateInvalid", message))?;
        self.context.policy.check_template(&template)
    }

    /// Reads the Secrets that the spec gives to the server, if the policy requires a label of them.
    async fn refused_secret(&self) -> Result<Option<Rejection>, Error> {
        let policy = &self.context.policy;
        if policy.secret_label.is_none() {
            return Ok(None);
        }
        let waiting = |reason, message| {
            Some(Rejection {
                reason,
                message,
                stalled: false,
            })
        };
        for (field, name) in self.secret_names() {
            let object_name = match ObjectName::parse(&name) {
                Ok(name) => name,
                Err(error) => return Ok(waiting("ConfigInvalid", format!("{field}: {error}"))),
            };
            match self.objects::<Secret>()?.get(&object_name).await? {
                None => {
                    let message = format!("{field} names Secret {name}, which does not exist");
                    return Ok(waiting("SecretNotFound", message));
                }
                Some(secret) => {
                    if let Err(problem) = policy.check_secret(&secret) {
                        return Ok(waiting("SecretNotAllowed", format!("{field}: {problem}")));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The Secrets in `env` and `envFrom`, with the fields that name them.
    fn secret_names(&self) -> BTreeSet<(String, String)> {
        let spec = &self.server.spec;
        let variables = spec.env.iter().filter_map(|variable| {
            let reference = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
            Some((format!("spec.env[{}]", variable.name), reference.name.clone()))
        });
        let sources = spec.env_from.iter().filter_map(|source| {
            let reference = source.secret_ref.as_ref()?;
            Some(("spec.envFrom".to_owned(), reference.name.clone()))
        });
        variables.chain(sources).collect()
    }

    /// Derives the status from the findings, and writes it if it has changed.
    async fn update_server_status(
        &self,
        state: &mut McpServerState,
        findings: &Findings,
    ) -> Result<MCPServerStatus, Error> {
        let old = self.current_status(state);
        let deployment = self.deployment(state);
        let refused_watch = self.refused_server_input().or_else(|| self.refused_workload());
        let conflict = &state.installation_conflict;
        let installation_conflict = conflict.message(&self.context.installation, &MCPServer::kind(&()));
        let error_text = findings.error.as_ref().map(ToString::to_string);
        let observed = ObservedServer {
            server: self.server,
            rejection: findings.rejection.as_ref(),
            refused_watch: refused_watch.as_deref(),
            installation_conflict: installation_conflict.as_deref(),
            apply_failure: apply_failure(findings.error.as_ref(), error_text.as_deref()),
            deployment: deployment.as_deref(),
            applied_generation: state.deployment_generation,
            replica_sets: &self.replica_sets(state),
            pods: &self.pods(state),
            bridges: &findings.bridges,
            tools_of_gateways: self.tools_of_gateways(),
        };
        let status = status::derive_server(&observed, &old, Timestamp::now());
        self.write_status(state, &old, &status).await?;
        Ok(status)
    }

    /// The number of tools that the gateways of this namespace have found.
    fn tools_of_gateways(&self) -> Option<i32> {
        let name = self.server.name_any();
        let servers = self.context.stores.servers.state_filter(|server| {
            server.metadata.namespace.as_deref() == Some(&self.namespace) && server.status.is_some()
        });
        let backends = servers.iter().flat_map(|server| {
            let status = server.status.as_ref();
            status.map_or(&[][..], |status| &status.backends)
        });
        let ready =
            backends.filter(|backend| backend.name == name && backend.state == ObservedBackendState::Ready);
        ready.filter_map(|backend| backend.tools).max()
    }

    /// Reports the finalizers of others that keep a deleted server. The garbage collector deletes the children through their owner references.
    async fn report_server_termination(&self, state: &mut McpServerState) -> Result<Action, Error> {
        let finalizers = self.foreign_finalizers();
        if !finalizers.is_empty() {
            let old = self.current_status(state);
            let generation = self.server.metadata.generation;
            let status = status::derive_terminating_server(&finalizers, generation, &old, Timestamp::now());
            match self.write_status(state, &old, &status).await {
                Err(error) if !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(Action::await_change())
    }
}
