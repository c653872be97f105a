//! The ServiceAccount of the gateway pods.

use k8s_openapi::api::core::v1::ServiceAccount;
use vmcp_crds::v1alpha1::VirtualMCPServer;

use super::{metadata, names};

/// A ServiceAccount without a mounted token: the gateway never calls the API server.
pub(super) fn service_account(server: &VirtualMCPServer) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(server, names::workload(server)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
