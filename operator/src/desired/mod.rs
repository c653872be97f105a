//! Desired state: the Kubernetes objects of a virtual server, as pure functions of their arguments.

mod autoscaler;
mod backend;
mod config;
mod config_map;
mod deployment;
mod disruption_budget;
mod grace_period;
mod http_route;
pub mod labels;
pub mod mcp_server;
pub mod names;
mod network_policy;
pub mod pod_template;
pub mod pod_template_rules;
mod secret_volume;
mod service;
mod service_account;
mod service_monitor;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use vmcp_crds::v1alpha1::{SecretFile, VirtualMCPServer};

use crate::optional_kinds::{HTTPRoute, ServiceMonitor};
use crate::workload::Workload;

pub use backend::{Backend, Member, MemberKind, SecretProblem};
pub use config::{ConfigFiles, ConfigRenderError, config_files};
pub(crate) use deployment::ADMIN_PORT;
pub use deployment::MCP_PORT;
pub use pod_template_rules::PodTemplateRules;

/// Everything that the objects depend on besides the virtual server itself.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The gateway's configuration files.
    pub files: &'a ConfigFiles,
    /// The gateway image if the spec has none.
    pub default_image: &'a str,
    /// A MAC of the Redis password, if there is one. It changes with the password and does not reveal it.
    pub password_mac: Option<&'a str>,
    /// The files with values of Secrets and ConfigMaps.
    pub secret_files: &'a [SecretFile],
    /// Whether the pods name a fixed user id. Otherwise the cluster chooses one.
    pub has_fixed_user: bool,
    /// The highest replica count to expect: from the spec, the live Deployment, or an autoscaler.
    pub expected_replicas: i32,
    /// Whether an autoscaler scales the Deployment instead of `spec.replicas`.
    pub ignores_replicas: bool,
}

/// The objects that a virtual server owns, except the Secret with the session keys, which is created only once.
#[derive(Clone, Debug)]
pub struct Children {
    /// The start-up configuration; its name contains a hash of its content.
    pub startup: ConfigMap,
    /// The parts of the hot configuration, under constant names.
    pub hot: Vec<ConfigMap>,
    /// The identity of the pods, without permissions; `None` if the spec names another.
    pub service_account: Option<ServiceAccount>,
    /// The Deployment of the gateway pods.
    pub deployment: Deployment,
    /// The Service that clients connect to.
    pub service: Service,
    /// Keeps node drains from evicting all pods at once; `None` for a single pod.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// Scales the Deployment, if the spec says so.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// Limits connections to the pods, if the spec says so.
    pub network_policy: Option<NetworkPolicy>,
    /// Leads clients of a Gateway to the endpoint, if the spec says so.
    pub http_route: Option<HTTPRoute>,
    /// Tells Prometheus to scrape the pods, if the spec says so.
    pub service_monitor: Option<ServiceMonitor>,
    /// The Service that [`Self::service_monitor`] needs.
    pub metrics_service: Option<Service>,
}

/// Renders the objects of `server`.
#[must_use]
pub fn children(server: &VirtualMCPServer, inputs: &Inputs<'_>) -> Children {
    let spec = &server.spec;
    let has_budget = inputs.expected_replicas > 1 && spec.pod_disruption_budget.enabled != Some(false);
    Children {
        startup: config_map::startup(server, inputs.files),
        hot: config_map::hot(server, inputs.files),
        service_account: spec
            .service_account_name
            .is_none()
            .then(|| service_account::service_account(server)),
        deployment: deployment::deployment(server, inputs),
        service: service::service(server),
        disruption_budget: has_budget.then(|| disruption_budget::disruption_budget(server)),
        autoscaler: spec
            .autoscaling
            .as_ref()
            .map(|autoscaling| autoscaler::autoscaler(server, autoscaling)),
        network_policy: spec
            .network_policy
            .as_ref()
            .map(|policy| network_policy::network_policy(server, policy)),
        http_route: spec
            .http_route
            .as_ref()
            .map(|route| http_route::http_route(server, route)),
        service_monitor: spec
            .service_monitor
            .as_ref()
            .map(|settings| service_monitor::service_monitor(server, settings)),
        metrics_service: spec
            .service_monitor
            .is_some()
            .then(|| service_monitor::metrics_service(server)),
    }
}

/// The metadata of a child: its name, our labels, and an owner reference, so that it is deleted with the virtual server.
#[must_use]
pub fn metadata<W: Workload>(server: &W, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: server.meta().namespace.clone(),
        labels: Some(labels::all(server)),
        owner_references: server.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod coverage_tests;
#[cfg(test)]
mod tests;
