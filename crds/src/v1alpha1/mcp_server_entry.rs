//! `MCPServerEntry`: an existing MCP server as a member of a group.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema, ResourceExt as _};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::{GroupRef, SetFields};
use crate::config::{BackendConfig, Timeouts, cel};

/// An existing MCP server, inside or outside the cluster, as a member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "vmcp.dev",
    version = "v1alpha1",
    kind = "MCPServerEntry",
    plural = "mcpserverentries",
    singular = "mcpserverentry",
    shortname = "mcpentry",
    category = "mcp",
    namespaced,
    derive = "PartialEq",
    doc = "An existing MCP server, inside or outside the cluster, as a member of an MCPGroup. \
           Its name is the name of the backend: tools are advertised as <name>_<tool>.",
    printcolumn(name = "Group", type_ = "string", json_path = ".spec.groupRef.name"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63")
        .message("metadata.name is the name of the backend: use at most 63 lower-case letters, digits and '-', and no dots")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct MCPServerEntrySpec {
    /// The fields of the gateway's own configuration of a backend, except its name, which is that of the object, its time limits, and what
    /// names files.
    #[serde(flatten)]
    #[schemars(schema_with = "without_files")]
    pub backend: BackendConfig,
    /// Time limits of connections and calls to the server. Default: `operational.timeouts` of the VirtualMCPServer.
    #[serde(default, skip_serializing_if = "SetFields::is_empty")]
    pub timeouts: SetFields<Timeouts>,
    /// The MCPGroup to which the server belongs, in the same namespace. A group can also select servers by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_ref: Option<GroupRef>,
}

impl MCPServerEntry {
    /// The gateway's configuration of this backend. `timeouts` are the time limits that the entry does not set.
    #[must_use]
    pub fn to_config(&self, timeouts: &Timeouts) -> BackendConfig {
        BackendConfig {
            name: self.name_any(),
            timeouts: self.spec.timeouts.over(timeouts),
            tls: None,
            headers: BTreeMap::new(),
            ..self.spec.backend.clone()
        }
    }
}

fn without_files(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = BackendConfig::json_schema(generator);
    cel::remove_properties(&mut schema, &["name", "timeouts", "tls", "headers"]);
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, url: &str) -> Option<String> {
        let spec = MCPServerEntrySpec {
            backend: BackendConfig {
                url: url.to_owned(),
                ..BackendConfig::default()
            },
            ..MCPServerEntrySpec::default()
        };
        MCPServerEntry::new(name, spec)
            .validate_cel()
            .err()
            .map(|errors| format!("{errors:?}"))
    }

    #[test]
    fn http_url_and_dns_label_are_accepted() {
        for url in [
            "http://time:8000/mcp",
            "https://api.example.com",
            "http://[::1]:9/mcp?x=y@z",
        ] {
            assert_eq!(refusal("time-2", url), None, "{url}");
        }
    }

    #[test]
    fn invalid_url_is_rejected_with_example() {
        for url in ["time:8000/mcp", "ftp://time/mcp", "http://", "http:///mcp"] {
            let message = refusal("time", url).unwrap();
            assert!(
                message.contains("for example http://time.tools.svc:8000/mcp"),
                "{url}: {message}"
            );
        }
    }

    #[test]
    fn url_with_credentials_or_fragment_is_rejected() {
        for url in [
            "http://time/mcp#x",
            "https://user:pass@time/mcp",
            "http://time/mcp\n",
        ] {
            let message = refusal("time", url).unwrap();
            assert!(
                message.contains("without user, password or fragment"),
                "{url}: {message}"
            );
        }
    }

    #[test]
    fn name_that_is_not_a_backend_name_is_rejected() {
        for name in ["time.zone", &"x".repeat(64)] {
            let message = refusal(name, "http://time/mcp").unwrap();
            assert!(message.contains("name of the backend"), "{name}: {message}");
        }
    }
}
