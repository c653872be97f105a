//! The custom resources that the operator runs as a Deployment.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use serde::Serialize;
use vmcp_crds::v1alpha1::{
    CHILD_PREFIX, MCPServer, MCPServerStatus, VirtualMCPServer, VirtualMCPServerStatus, condition_type,
};

use crate::api_server::NamespacedObject;
use crate::desired::labels;

/// A custom resource that the operator runs as a Deployment.
pub trait Workload: NamespacedObject + Serialize + 'static {
    /// Its status.
    type Status: Clone + Debug + Default + PartialEq + Serialize + Send;

    /// The label [`labels::NAME`] of its objects.
    const APPLICATION: &'static str;
    /// The label [`labels::COMPONENT`] of its objects.
    const COMPONENT: &'static str;
    /// What it calls one of its pods.
    const POD: &'static str;
    /// The types of its conditions. A condition of another type belongs to another writer.
    const CONDITIONS: &'static [&'static str];

    /// The name of its Deployment and its Service.
    fn workload(&self) -> String;

    /// The replica count of the spec.
    fn replicas(&self) -> Option<i32>;

    /// The status that the watch has shown.
    fn status(&self) -> Option<&Self::Status>;

    /// The conditions in a status.
    fn conditions(status: &Self::Status) -> &[Condition];

    /// The conditions in a status, for changes.
    fn conditions_mut(status: &mut Self::Status) -> &mut Vec<Condition>;
}

impl Workload for VirtualMCPServer {
    type Status = VirtualMCPServerStatus;

    const APPLICATION: &'static str = labels::GATEWAY;
    const COMPONENT: &'static str = "gateway";
    const POD: &'static str = "gateway pod";
    const CONDITIONS: &'static [&'static str] = &condition_type::ALL;

    fn workload(&self) -> String {
        format!("{CHILD_PREFIX}{}", self.name_any())
    }

    fn replicas(&self) -> Option<i32> {
        self.spec.replicas
    }

    fn status(&self) -> Option<&Self::Status> {
        self.status.as_ref()
    }

    fn conditions(status: &Self::Status) -> &[Condition] {
        &status.conditions
    }

    fn conditions_mut(status: &mut Self::Status) -> &mut Vec<Condition> {
        &mut status.conditions
    }
}

impl Workload for MCPServer {
    type Status = MCPServerStatus;

    const APPLICATION: &'static str = labels::MCP_SERVER;
    const COMPONENT: &'static str = "server";
    const POD: &'static str = "pod";
    const CONDITIONS: &'static [&'static str] = &condition_type::OF_SERVER;

    fn workload(&self) -> String {
        Self::workload(self)
    }

    fn replicas(&self) -> Option<i32> {
        self.spec.replicas
    }

    fn status(&self) -> Option<&Self::Status> {
        self.status.as_ref()
    }

    fn conditions(status: &Self::Status) -> &[Condition] {
        &status.conditions
    }

    fn conditions_mut(status: &mut Self::Status) -> &mut Vec<Condition> {
        &mut status.conditions
    }
}
