//! `MCPGroup`: a set of MCP servers.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A set of MCP servers behind a VirtualMCPServer. The members reference the group in their `groupRef`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "vmcp.dev",
    version = "v1alpha1",
    kind = "MCPGroup",
    plural = "mcpgroups",
    singular = "mcpgroup",
    shortname = "mcpg",
    category = "mcp",
    namespaced,
    derive = "PartialEq",
    doc = "A set of MCP servers behind a VirtualMCPServer. The members reference the group in their groupRef.",
    printcolumn(name = "Description", type_ = "string", json_path = ".spec.description"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
// The spec may be omitted.
#[schemars(extend("default" = {}))]
pub struct MCPGroupSpec {
    /// Description of the group, for users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
}
