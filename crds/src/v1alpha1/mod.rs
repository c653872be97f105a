//! The API group `vmcp.dev`, version `v1alpha1`.
//!
//! Field names follow ToolHive's where the meaning is the same. The doc comments of the fields are what
//! `kubectl explain` prints.

#![expect(
    unreachable_pub,
    reason = "KubeSchema copies each type, with its visibility, into a function"
)]

pub mod field_rules;
mod mcp_group;
mod mcp_server_entry;
mod reference;
mod server_status;
mod session_storage_spec;
mod virtual_mcp_server;
mod yaml;

pub use mcp_group::{MCPGroup, MCPGroupSpec};
pub use mcp_server_entry::{MCPServerEntry, MCPServerEntrySpec};
pub use reference::{GroupRef, SecretKeyRef};
pub use server_status::{
    MAX_BACKENDS, MAX_CONFLICTS, ObservedBackend, ObservedBackendState, VirtualMCPServerStatus,
};
pub use session_storage_spec::{SessionStorageSpec, StorageProvider};
pub use virtual_mcp_server::{SessionAffinity, VirtualMCPServer, VirtualMCPServerSpec};
pub use yaml::yaml;

/// The API group of all kinds.
pub const GROUP: &str = "vmcp.dev";
/// The version of all kinds.
pub const VERSION: &str = "v1alpha1";

/// What precedes the name of a virtual server in the names of the objects made for it.
pub const CHILD_PREFIX: &str = "vmcp-";

/// The types of the conditions of a virtual server. They are API: people wait for them and alert on them.
pub mod condition_type {
    /// The gateway serves what the spec says, with every ready pod on the current configuration.
    pub const READY: &str = "Ready";
    /// The operator is still at work, or waits for something. Absent when it is not.
    pub const RECONCILING: &str = "Reconciling";
    /// The operator cannot go on until somebody changes something. Absent otherwise.
    pub const STALLED: &str = "Stalled";
    /// The group exists.
    pub const GROUP_REF_VALIDATED: &str = "GroupRefValidated";
    /// The gateways take the configuration that the operator rendered.
    pub const CONFIG_VALID: &str = "ConfigValid";
    /// The Secrets that the spec names exist and have the named keys.
    pub const SECRETS_RESOLVED: &str = "SecretsResolved";
    /// Sessions are kept in memory although more than one replica serves.
    pub const SESSION_STORAGE_WARNING: &str = "SessionStorageWarning";
}
