//! `MCPServerEntry`: an existing MCP server as a member of a group.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema, ResourceExt as _};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::backend_references::{BackendReferences, BackendTlsSpec, HeaderSpec};
use super::{GroupRef, SecretFile, SetFields, secret_file};
use crate::config::{BackendConfig, Timeouts, cel, header_rules};

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
    /// may name files.
    #[serde(flatten)]
    #[schemars(schema_with = "without_files")]
    pub backend: BackendConfig,
    /// Time limits of connections and calls to the server. Default: `operational.timeouts` of the VirtualMCPServer.
    #[serde(default, skip_serializing_if = "SetFields::is_empty")]
    pub timeouts: SetFields<Timeouts>,
    /// Headers of every request to the server, by name, for example
    /// `Authorization: {prefix: 'Bearer ', secretKeyRef: {name: time, key: token}}`. Headers that HTTP and MCP set themselves are not
    /// allowed. Running pods take a changed value without a restart. While a Secret or its key is missing, the server is left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "x-kubernetes-validations" = header_rules()))]
    pub headers: BTreeMap<String, HeaderSpec>,
    /// Trusted authorities and a client certificate, for an `https` URL. Default: the server's certificate must be signed by an authority
    /// that the gateway's image trusts, and the gateway shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTlsSpec>,
    /// The MCPGroup to which the server belongs, in the same namespace. A group can also select servers by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_ref: Option<GroupRef>,
}

impl MCPServerEntry {
    /// The gateway's configuration of this backend. `timeouts` are the time limits that the entry does not set.
    #[must_use]
    pub fn to_config(&self, timeouts: &Timeouts) -> BackendConfig {
        let references = self.references();
        BackendConfig {
            name: self.name_any(),
            timeouts: self.spec.timeouts.over(timeouts),
            tls: references.tls(),
            headers: references.header_sources(),
            ..self.spec.backend.clone()
        }
    }

    /// The files that the gateway's configuration of this backend names.
    #[must_use]
    pub fn secret_files(&self) -> Vec<SecretFile> {
        self.references().secret_files()
    }

    /// Checks the references with the schema's rules, for objects that are older than the schema.
    ///
    /// # Errors
    /// The first invalid field, and why it is invalid.
    pub fn check_references(&self) -> Result<(), String> {
        self.references().check()
    }

    fn references(&self) -> BackendReferences<'_> {
        BackendReferences {
            directory: secret_file::backend_directory(&self.name_any()),
            headers: &self.spec.headers,
            tls: self.spec.tls.as_ref(),
        }
    }
}

fn without_files(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = BackendConfig::json_schema(generator);
    cel::remove_properties(&mut schema, &["name", "timeouts", "tls", "headers"]);
    cel::remove_properties(&mut schema, &BackendConfig::COMMAND_FIELDS);
    schema.insert("required".to_owned(), json!(["url"]));
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

    fn entry(spec: serde_json::Value) -> MCPServerEntry {
        let mut spec = spec;
        spec["groupRef"] = serde_json::json!({"name": "tools"});
        let entry = serde_json::json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "time"}, "spec": spec,
        });
        serde_json::from_value(entry).unwrap()
    }

    // The configuration names exactly the files that are mounted, and no Secret.
    #[test]
    fn config_names_the_mounted_files() {
        let entry = entry(serde_json::json!({
            "url": "https://time/mcp",
            "headers": {
                "X-Region": {"value": "eu"},
                "Authorization": {"prefix": "Bearer ", "secretKeyRef": {"name": "token", "key": "t"}},
            },
            "tls": {
                "caBundleRef": {"configMapKeyRef": {"name": "ca", "key": "ca.pem"}},
                "clientCertificateRef": {"name": "client"},
            },
        }));
        let config = serde_json::to_value(entry.to_config(&Timeouts::default())).unwrap();
        assert_eq!(
            config,
            serde_json::json!({
                "name": "time", "url": "https://time/mcp",
                "headers": {
                    "X-Region": {"value": "eu"},
                    "Authorization": {"file": "/etc/vmcp/secrets/backends/time/header-authorization", "prefix": "Bearer "},
                },
                "tls": {
                    "caFile": "/etc/vmcp/secrets/backends/time/ca.crt",
                    "certFile": "/etc/vmcp/secrets/backends/time/tls.crt",
                    "keyFile": "/etc/vmcp/secrets/backends/time/tls.key",
                },
            })
        );
        let mut paths: Vec<String> = entry.secret_files().into_iter().map(|file| file.path).collect();
        paths.sort();
        for path in &paths {
            assert!(
                config
                    .to_string()
                    .contains(&format!("/etc/vmcp/secrets/{path}\"")),
                "{path}"
            );
        }
        assert_eq!(paths.len(), 4);
    }

    #[test]
    fn header_needs_exactly_one_source() {
        let header = |header: serde_json::Value| {
            entry(serde_json::json!({"url": "http://time", "headers": {"X-A": header}})).validate_cel()
        };
        let reference = serde_json::json!({"name": "a", "key": "b"});
        header(serde_json::json!({"value": "x"})).unwrap();
        header(serde_json::json!({"secretKeyRef": reference, "prefix": "Bearer "})).unwrap();
        for (source, expected) in [
            (
                serde_json::json!({}),
                "needs exactly one of `value` and `secretKeyRef`",
            ),
            (
                serde_json::json!({"value": "x", "secretKeyRef": reference}),
                "needs exactly one",
            ),
            (serde_json::json!({"value": "a\nb"}), "not allowed in a header"),
            (serde_json::json!({"value": ""}), "is empty"),
            (
                serde_json::json!({"value": "a", "prefix": "\u{7f}"}),
                "`prefix` has characters",
            ),
        ] {
            let message = format!("{:?}", header(source.clone()).unwrap_err());
            assert!(message.contains(expected), "{source}: {message}");
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
