//! The API group `vmcp.dev`, version `v1alpha1`.
//!
//! Field names follow ToolHive's where the meaning is the same. `kubectl explain` prints the doc comments of the fields.

#![expect(
    unreachable_pub,
    reason = "KubeSchema copies each type, with its visibility, into a function"
)]

mod backend_references;
mod child_metadata;
mod endpoint_spec;
pub mod field_rules;
mod incoming_auth_spec;
mod label_selector;
mod mcp_group;
mod mcp_server;
mod mcp_server_entry;
mod mcp_server_network_policy;
mod mcp_server_package;
mod mcp_server_status;
mod mcp_server_transport;
mod operational_spec;
mod pod_template;
mod reference;
mod secret_file;
mod server_status;
mod session_storage_spec;
mod set_fields;
mod structural_schema;
mod virtual_mcp_server;
mod workload_spec;
mod yaml;

pub use backend_references::{BackendTlsSpec, HeaderSpec};
pub use endpoint_spec::{
    EndpointTls, HttpRouteSpec, MCP_PATH, ParentRef, RouteTimeouts, ServiceMonitorSettings,
};
pub use incoming_auth_spec::{IncomingAuthSpec, OidcSpec};
pub use mcp_group::{GroupMember, MAX_MEMBERS, MCPGroup, MCPGroupSpec, MCPGroupStatus, ObservedMember};
pub use mcp_server::{
    BRIDGE_ADMIN_PORT, DEFAULT_SERVER_PORT, MAX_SERVER_REPLICAS, MCPServer, MCPServerSpec, SERVER_PREFIX,
};
pub use mcp_server_entry::{MCPServerEntry, MCPServerEntrySpec};
pub use mcp_server_network_policy::ServerNetworkPolicySpec;
pub use mcp_server_package::PackageRef;
pub use mcp_server_status::{LastExit, MCPServerStatus, ServerPhase};
pub use mcp_server_transport::ServerTransport;
pub use operational_spec::OperationalSpec;
pub use pod_template::PodTemplate;
pub use reference::{CaBundleRef, ConfigMapKeyRef, GroupRef, SecretKeyRef};
pub use secret_file::{FileContent, KeyedObject, SECRETS_DIR, SecretFile};
pub use server_status::{
    MAX_BACKENDS, MAX_CONFLICTS, ObservedBackend, ObservedBackendState, ObservedBreaker, ObservedEra,
    ObservedHealth, VirtualMCPServerStatus,
};
pub use session_storage_spec::{RedisTlsSpec, SessionStorageSpec};
pub use set_fields::SetFields;
pub use virtual_mcp_server::{SessionAffinity, VirtualMCPServer, VirtualMCPServerSpec};
pub use workload_spec::{
    AutoscalingSpec, DisruptionBudgetSettings, NetworkPolicySpec, SecretRef, ServiceSettings, ServiceType,
    TrafficDistribution, TrafficPolicy,
};
pub use yaml::{definitions, yaml};

/// The API group of all kinds.
pub const GROUP: &str = "vmcp.dev";
/// The version of all kinds.
pub const VERSION: &str = "v1alpha1";

/// Prefix of the names of a virtual server's objects, before the name of the virtual server.
pub const CHILD_PREFIX: &str = "vmcp-";

/// Condition types of a virtual server and of a server; a group has only `Ready`. They are part of the API: users wait for them and alert on them.
pub mod condition_type {
    /// The gateway serves the spec, and every ready pod has loaded the current configuration.
    pub const READY: &str = "Ready";
    /// The operator is at work, or waits for something. Absent otherwise.
    pub const RECONCILING: &str = "Reconciling";
    /// The operator cannot continue until a user changes something. Absent otherwise.
    pub const STALLED: &str = "Stalled";
    /// The referenced group exists.
    pub const GROUP_REF_VALIDATED: &str = "GroupRefValidated";
    /// The gateways accept the configuration that the operator rendered.
    pub const CONFIG_VALID: &str = "ConfigValid";
    /// The Secrets that the spec references exist and have the referenced keys.
    pub const SECRETS_RESOLVED: &str = "SecretsResolved";
    /// Every backend that can be used has answered the gateways. It does not affect `Ready`.
    pub const BACKENDS_DISCOVERED: &str = "BackendsDiscovered";
    /// A backend loses sessions, because it has replicas and no session affinity.
    pub const BACKEND_NEEDS_AFFINITY: &str = "BackendNeedsAffinity";
    /// `spec.podTemplate` is accepted. Absent without `spec.podTemplate`.
    pub const POD_TEMPLATE_VALID: &str = "PodTemplateValid";
    /// The gateways reach the Redis of `spec.sessionStorage`. Absent while sessions are stored in memory.
    pub const SESSION_STORAGE_READY: &str = "SessionStorageReady";
    /// The Gateways in `spec.httpRoute` have accepted the route. Absent without `spec.httpRoute`.
    pub const HTTP_ROUTE_READY: &str = "HTTPRouteReady";
    /// The ServiceMonitor of `spec.serviceMonitor` exists. Absent without `spec.serviceMonitor`.
    pub const SERVICE_MONITOR_READY: &str = "ServiceMonitorReady";
    /// An autoscaler of another owner scales the Deployment, so `spec.replicas` is ignored. Absent otherwise.
    pub const REPLICAS_IGNORED: &str = "ReplicasIgnored";
    /// Sessions are stored in memory, but there is more than one replica.
    pub const SESSION_STORAGE_WARNING: &str = "SessionStorageWarning";

    /// At least one pod of a server is ready. Only of an MCPServer.
    pub const AVAILABLE: &str = "Available";

    /// All types of a server.
    pub const OF_SERVER: [&str; 5] = [READY, RECONCILING, STALLED, CONFIG_VALID, AVAILABLE];

    /// All types of a virtual server. A condition of another type belongs to another writer.
    pub const ALL: [&str; 14] = [
        READY,
        RECONCILING,
        STALLED,
        GROUP_REF_VALIDATED,
        CONFIG_VALID,
        SECRETS_RESOLVED,
        BACKENDS_DISCOVERED,
        BACKEND_NEEDS_AFFINITY,
        POD_TEMPLATE_VALID,
        SESSION_STORAGE_READY,
        HTTP_ROUTE_READY,
        SERVICE_MONITOR_READY,
        REPLICAS_IGNORED,
        SESSION_STORAGE_WARNING,
    ];
}
