//! Desired state: the Kubernetes objects that a virtual server means. Pure functions of their arguments.

mod config;
mod config_map;
mod deployment;
mod disruption_budget;
pub mod labels;
pub mod names;
mod service;
mod service_account;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource as _;
use vmcp_crds::v1alpha1::VirtualMCPServer;

pub use config::{Backend, ConfigFiles, ConfigProblem, config_files};
pub(crate) use deployment::ADMIN_PORT;
pub use deployment::{GRACE_SECONDS, MCP_PORT};

/// What the objects are made of, beside the virtual server itself.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The configuration of the gateway.
    pub files: &'a ConfigFiles,
    /// The image of the gateway, when the spec names none.
    pub default_image: &'a str,
    /// A MAC of the Redis password, when there is one: it changes when the password does, and says nothing about it.
    pub password_mac: Option<&'a str>,
    /// How many replicas there are or may soon be, whoever decides that.
    pub expected_replicas: i32,
}

/// The objects that one virtual server owns, except for the Secret with the session keys, which is made once.
#[derive(Clone, Debug)]
pub struct Children {
    /// The start-up configuration, under a name that is a function of its content.
    pub startup: ConfigMap,
    /// The hot configuration.
    pub hot: ConfigMap,
    /// The identity of the pods, which gives them no rights.
    pub service_account: ServiceAccount,
    /// The gateway pods.
    pub deployment: Deployment,
    /// Where clients connect.
    pub service: Service,
    /// What keeps drains from taking all pods at once; absent when there is only one.
    pub disruption_budget: Option<PodDisruptionBudget>,
}

/// The objects that `server` means.
#[must_use]
pub fn children(server: &VirtualMCPServer, inputs: &Inputs<'_>) -> Children {
    Children {
        startup: config_map::startup(server, inputs.files),
        hot: config_map::hot(server, inputs.files),
        service_account: service_account::service_account(server),
        deployment: deployment::deployment(server, inputs),
        service: service::service(server),
        disruption_budget: (inputs.expected_replicas > 1)
            .then(|| disruption_budget::disruption_budget(server)),
    }
}

/// The metadata of a child: its name, our labels, and the virtual server as its owner, so that it goes when that goes.
#[must_use]
pub fn metadata(server: &VirtualMCPServer, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: server.metadata.namespace.clone(),
        labels: Some(labels::of(server)),
        owner_references: server.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
