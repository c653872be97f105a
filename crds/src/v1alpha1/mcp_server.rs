//! `MCPServer`: an MCP server that the operator runs, as a member of a group.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, ResourceRequirements, SecurityContext};
use kube::{CustomResource, KubeSchema, ResourceExt as _};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::backend_references::{BackendReferences, BackendTlsSpec, HeaderSpec};
use super::{
    GroupRef, MCPServerStatus, PackageRef, PodTemplate, SecretFile, SecretRef, ServerNetworkPolicySpec,
    ServerTransport, SetFields, mcp_server_package, pod_template, secret_file,
};
use crate::config::{
    BackendConfig, BackendTransport, Duration, ProcessMode, ResourceRules, Timeouts, cel, header_rules,
};

/// Prefix of the names of a server's objects, before the name of the server.
pub const SERVER_PREFIX: &str = "mcp-";
/// Port of a server if the spec does not say.
pub const DEFAULT_SERVER_PORT: u16 = 8080;
/// Admin port of the bridge.
pub const BRIDGE_ADMIN_PORT: u16 = 9483;
/// Maximum number of pods: the gateway knows at most as many addresses of a backend.
pub const MAX_SERVER_REPLICAS: usize = 64;

/// An MCP server that the operator runs, as a member of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "vmcp.dev",
    version = "v1alpha1",
    kind = "MCPServer",
    plural = "mcpservers",
    singular = "mcpserver",
    shortname = "mcps",
    category = "mcp",
    namespaced,
    status = "MCPServerStatus",
    derive = "PartialEq",
    doc = "An MCP server that the operator runs, as a member of an MCPGroup: an image or a package that speaks on standard input and \
           output, or HTTP. Its name is the name of the backend: tools are advertised as <name>_<tool>.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Tools", type_ = "integer", json_path = ".status.tools"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = 1),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 59")
        .message("metadata.name must have at most 59 lower-case letters, digits and '-', and no dots: the Service is named mcp-<name>")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.image), has(self.npm), has(self.pypi)].filter(given, given).size() == 1")
        .message("needs exactly one of `image`, `npm` and `pypi`"),
    validation = Rule::new("!has(self.command) || has(self.image)")
        .message("has no effect with `npm` and `pypi`, which start the package; pass arguments in `args`")
        .field_path(".command"),
    validation = Rule::new(format!("!({}) || !has(self.image) || (has(self.command) && size(self.command) > 0)", is_stdio()))
        .message(NO_COMMAND)
        .field_path(".command"),
    validation = Rule::new(format!("!has(self.path) || !({})", is_stdio()))
        .message("has no effect with `transport: stdio`, which is served at /mcp")
        .field_path(".path"),
    validation = Rule::new(format!("!has(self.port) || self.port != {BRIDGE_ADMIN_PORT} || !({})", is_stdio()))
        .message("9483 is the admin port with `transport: stdio`; use another one")
        .field_path(".port"),
    validation = Rule::new(format!("!has(self.processes) || ({})", is_stdio()))
        .message("has no effect without `transport: stdio`")
        .field_path(".processes"),
    validation = Rule::new(format!("!has(self.maxProcesses) || ({})", is_stdio()))
        .message("has no effect without `transport: stdio`")
        .field_path(".maxProcesses"),
    validation = Rule::new("!has(self.maxProcesses) || !has(self.processes) || self.processes != 'shared'")
        .message("has no effect with `processes: shared`, which is one process")
        .field_path(".maxProcesses"),
    validation = Rule::new(format!("!has(self.idleTimeout) || ({})", is_stdio()))
        .message("has no effect without `transport: stdio`")
        .field_path(".idleTimeout"),
    validation = Rule::new(format!("!has(self.tls) || !({})", is_stdio()))
        .message("has no effect with `transport: stdio`, which is served without TLS")
        .field_path(".tls")
)]
pub struct MCPServerSpec {
    /// The image of the server, for example `registry.example/team/weather:1.2`. Instead of it, `npm` and `pypi` name a package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(cel::is_image("self")).message(cel::IMAGE_EXPECTED))]
    pub image: Option<String>,
    /// A package of npm, which `npx` downloads and starts in the operator's image for npm packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "mcp_server_package::npm")]
    pub npm: Option<PackageRef>,
    /// A package of PyPI, which `uvx` downloads and starts in the operator's image for PyPI packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "mcp_server_package::pypi")]
    pub pypi: Option<PackageRef>,
    /// The program to start and its first arguments, for example `[python, -m, weather]`. Required with `image` and `transport: stdio`,
    /// because the operator cannot know the entrypoint of an image. Otherwise the default is the entrypoint of the image. `$(NAME)` is
    /// replaced by the value of a variable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 8192)))]
    #[x_kube(
        validation = Rule::new("size(self) == 0 || size(self[0]) > 0").message("the first item is the program to start; it must not be empty")
    )]
    pub command: Vec<String>,
    /// Further arguments of the program, or of the package. `$(NAME)` is replaced by the value of a variable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 8192)))]
    pub args: Vec<String>,
    /// Environment variables of the server, as in a Pod: `value`, or `valueFrom` for a key of a Secret or ConfigMap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub env: Vec<EnvVar>,
    /// Secrets and ConfigMaps whose keys are environment variables of the server, as in a Pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub env_from: Vec<EnvFromSource>,
    /// How the server speaks. `stdio`: on standard input and output; the operator puts a bridge in front of it, which serves streamable
    /// HTTP. `streamable-http`: streamable HTTP at `port` and `path`. `sse`: HTTP+SSE of protocol revision 2024-11-05. Default: `stdio`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<ServerTransport>,
    /// The port of the server's endpoint, in the pods and of the Service. With `transport: stdio`, the port of the bridge. Default: 8080.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The path of the server's endpoint. Not with `transport: stdio`. Default: `/mcp`, and `/sse` with `transport: sse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(
        validation = Rule::new("self.matches('^/[!$-;=?-_a-z|~]*$')")
            .message("expected a path that begins with '/', for example /mcp, without fragment")
    )]
    pub path: Option<String>,
    /// The processes of a server with `transport: stdio`. `perSession`: each session has a process of its own, so that state never leaks
    /// between clients. `shared`: one process for all sessions. Default: `perSession`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<ProcessMode>,
    /// Maximum number of processes in a pod with `processes: perSession`. Further sessions are refused with 503. Default: that of the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_processes: Option<u32>,
    /// Time after which a session's process without requests ends, with `transport: stdio`. A shared process stays. Default: that of the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = crate::config::rules::range::PROCESS_IDLE_TIMEOUT.cel()))]
    pub idle_timeout: Option<Duration>,
    /// Number of pods, at most 64. The gateway keeps each session at its pod. If it is not set, the operator does not change the count, so
    /// that an autoscaler or `kubectl scale` can set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 64))]
    pub replicas: Option<i32>,
    /// Resources of the server's container. Default: requests of 50m CPU and 128Mi of memory, a limit of 1Gi of memory, and no limit of
    /// CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Further fields of the pods, as in `spec.template` of a Deployment, for example volumes and their mounts:
    /// `{spec: {volumes: [{name: data, persistentVolumeClaim: {claimName: data}}], containers: [{name: mcp, volumeMounts: [{name: data,
    /// mountPath: /data}]}]}}`. They are merged into the operator's template; lists of objects with names by name. A refused field is in the
    /// condition `ConfigValid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_template::of_server")]
    pub pod_template: Option<PodTemplate>,
    /// Secrets with the credentials for pulling the images of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<SecretRef>,
    /// ServiceAccount of the pods. They get no token of it, unless `podTemplate.spec.automountServiceAccountToken` is true. Default: that
    /// of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(cel::is_dns_name("self")).message(cel::OBJECT_NAME_EXPECTED))]
    pub service_account_name: Option<String>,
    /// Security settings of the server's container, as in a Pod. They are merged into the default: the user 65532 or one of the namespace's
    /// range, no root, no privilege escalation, no capabilities, the default seccomp profile, and a read-only root filesystem with a writable
    /// `/tmp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
    /// Who may connect to the server, and where it may connect to. Default: only gateways of this namespace may connect to it, and it may
    /// connect to everything.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network_policy: ServerNetworkPolicySpec,
    /// The MCPGroup to which the server belongs, in the same namespace. A group can also select servers by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_ref: Option<GroupRef>,
    /// The fields of the gateway's own configuration of a backend, except its name, which is that of the object, where and how it runs, its
    /// time limits, and what may name files.
    #[serde(flatten)]
    #[schemars(schema_with = "backend_settings")]
    pub backend: BackendConfig,
    /// Filters for its resources and resource templates, which an MCPServerEntry has in `resources`. Here `resources` are those of the pods.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resource_filters: ResourceRules,
    /// Time limits of connections and calls to the server. Default: `operational.timeouts` of the VirtualMCPServer.
    #[serde(default, skip_serializing_if = "SetFields::is_empty")]
    pub timeouts: SetFields<Timeouts>,
    /// Headers of every request to the server, as in an MCPServerEntry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "x-kubernetes-validations" = header_rules()))]
    pub headers: BTreeMap<String, HeaderSpec>,
    /// TLS for connections to the server, which then must serve `https` at its port with a certificate for `mcp-<name>.<namespace>.svc`. `{}`
    /// trusts the authorities that the gateway's image trusts. Default: no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTlsSpec>,
}

/// What is wrong with a stdio server from an image without a command.
const NO_COMMAND: &str = "needs the program that speaks on standard input and output, for example [python, -m, weather]: the operator cannot know \
                          the entrypoint of an image";

/// Properties of a backend that an MCPServer does not have, or has in another form.
const OTHER_PROPERTIES: [&str; 14] = [
    "name",
    "url",
    "addresses",
    "transport",
    "timeouts",
    "tls",
    "headers",
    "resources",
    "command",
    "env",
    "workingDirectory",
    "processes",
    "maxProcesses",
    "idleTimeout",
];
/// Those about which the rules of a backend do not hold for an MCPServer.
const OTHER_RULES: [&str; 9] = [
    "url",
    "addresses",
    "tls",
    "command",
    "env",
    "workingDirectory",
    "processes",
    "maxProcesses",
    "idleTimeout",
];

/// The expression that is true for a server that speaks on standard input and output.
fn is_stdio() -> &'static str {
    "!has(self.transport) || self.transport == 'stdio'"
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn backend_settings(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = BackendConfig::json_schema(generator);
    cel::remove_properties(&mut schema, &OTHER_PROPERTIES);
    cel::remove_rules_about(&mut schema, &OTHER_RULES);
    schema
}

impl MCPServerSpec {
    /// How the server speaks.
    #[must_use]
    pub fn transport(&self) -> ServerTransport {
        self.transport.unwrap_or_default()
    }

    /// The port of the endpoint.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_SERVER_PORT)
    }

    /// The path of the endpoint.
    #[must_use]
    pub fn path(&self) -> &str {
        let default = self.transport().default_path();
        let given = self.path.as_deref();
        given
            .filter(|_| self.transport() != ServerTransport::Stdio)
            .unwrap_or(default)
    }

    /// Checks the rules of the schema that decide what runs, for objects that are older than the schema.
    ///
    /// # Errors
    /// The first invalid field, and why it is invalid.
    pub fn check_program(&self) -> Result<(), String> {
        let given = [self.image.is_some(), self.npm.is_some(), self.pypi.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err("spec: needs exactly one of `image`, `npm` and `pypi`".to_owned());
        }
        if let Some(package) = &self.npm {
            package
                .check_npm()
                .map_err(|problem| format!("spec.npm.{problem}"))?;
        }
        if let Some(package) = &self.pypi {
            package
                .check_pypi()
                .map_err(|problem| format!("spec.pypi.{problem}"))?;
        }
        let program = self.command.first().map(String::as_str);
        let needs_command = self.image.is_some() && self.transport() == ServerTransport::Stdio;
        if program == Some("") || needs_command && program.is_none() {
            return Err(format!("spec.command: {NO_COMMAND}"));
        }
        Ok(())
    }
}

impl MCPServer {
    /// The name of the server's Deployment, Service and NetworkPolicy.
    #[must_use]
    pub fn workload(&self) -> String {
        format!("{SERVER_PREFIX}{}", self.name_any())
    }

    /// The URL of the server for the gateways.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.spec.tls.is_some() { "https" } else { "http" };
        format!(
            "{scheme}://{}.{}.svc:{}{}",
            self.workload(),
            self.namespace().unwrap_or_default(),
            self.spec.port(),
            self.spec.path()
        )
    }

    /// The gateway's configuration of this backend. `timeouts` are the time limits that the spec does not set.
    #[must_use]
    pub fn to_config(&self, timeouts: &Timeouts) -> BackendConfig {
        let references = self.references();
        let addresses = self.status.iter().flat_map(|status| &status.addresses);
        BackendConfig {
            name: self.name_any(),
            url: self.url(),
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
            transport: match self.spec.transport() {
                ServerTransport::Stdio | ServerTransport::StreamableHttp => BackendTransport::StreamableHttp,
                ServerTransport::Sse => BackendTransport::Sse,
            },
            timeouts: self.spec.timeouts.over(timeouts),
            tls: references.tls(),
            headers: references.header_sources(),
            resources: self.spec.resource_filters.clone(),
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

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn server(spec: &Json) -> MCPServer {
        serde_json::from_value(json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServer", "metadata": {"name": "time", "namespace": "tools"}, "spec": spec,
        }))
        .unwrap()
    }

    // The endpoint of each transport is where the pods serve it.
    #[test]
    fn endpoint_follows_transport_port_and_path() {
        for (spec, url, transport) in [
            (
                json!({"command": ["x"]}),
                "http://mcp-time.tools.svc:8080/mcp",
                "streamable-http",
            ),
            (
                json!({"transport": "streamable-http", "port": 8000, "path": "/v1/mcp"}),
                "http://mcp-time.tools.svc:8000/v1/mcp",
                "streamable-http",
            ),
            (
                json!({"transport": "sse"}),
                "http://mcp-time.tools.svc:8080/sse",
                "sse",
            ),
            (
                json!({"transport": "streamable-http", "tls": {}}),
                "https://mcp-time.tools.svc:8080/mcp",
                "streamable-http",
            ),
        ] {
            let config = server(&spec).to_config(&Timeouts::default());
            assert_eq!(
                (config.url.as_str(), config.transport.as_str()),
                (url, transport),
                "{spec}"
            );
        }
    }

    // Every setting of a backend that an entry has reaches the gateway's configuration.
    #[test]
    fn backend_settings_reach_configuration() {
        let mut with_status = server(&json!({
            "npm": {"package": "time"}, "prefix": "t-", "sessionState": "disposable", "timeouts": {"call": "5m"},
            "tools": {"allow": ["get_*"]}, "headers": {"X-A": {"value": "b"}}, "concurrency": {"limit": 3},
            "resources": {"limits": {"memory": "1Gi"}}, "resourceFilters": {"deny": ["file:///etc/*"]},
        }));
        with_status.status = serde_json::from_value(json!({"addresses": ["10.0.0.7", "fd00::7"]})).unwrap();
        let config = serde_json::to_value(with_status.to_config(&Timeouts::default())).unwrap();
        assert_eq!(
            config,
            json!({
                "name": "time", "url": "http://mcp-time.tools.svc:8080/mcp", "addresses": ["10.0.0.7", "fd00::7"], "prefix": "t-",
                "sessionState": "disposable", "timeouts": {"call": "5m"}, "tools": {"allow": ["get_*"]},
                "headers": {"X-A": {"value": "b"}}, "concurrency": {"limit": 3}, "resources": {"deny": ["file:///etc/*"]},
            })
        );
    }

    // What is written is what was read: fields of the server are not taken for fields of the backend.
    #[test]
    fn spec_survives_a_round_trip() {
        let spec = json!({
            "image": "time:1", "command": ["time"], "args": ["-v"], "env": [{"name": "A", "value": "b"}], "transport": "stdio",
            "processes": "shared", "idleTimeout": "10m", "groupRef": {"name": "tools"}, "prefix": "t-",
        });
        assert_eq!(serde_json::to_value(server(&spec).spec).unwrap(), spec);
    }

    // The schema and the operator's own rule agree on which program runs.
    #[test]
    fn schema_and_rules_agree_on_programs() {
        let mut refused = 0;
        for spec in [
            json!({"image": "a", "command": ["b"]}),
            json!({"image": "a", "transport": "sse"}),
            json!({"npm": {"package": "@scope/a.b", "version": "1.2.3-beta.1"}}),
            json!({"pypi": {"package": "mcp-server-git"}}),
            json!({}),
            json!({"image": "a"}),
            json!({"image": "a", "command": [""]}),
            json!({"image": "a", "transport": "sse", "command": [""]}),
            json!({"image": "a", "npm": {"package": "a"}}),
            json!({"npm": {"package": "--yes"}}),
            json!({"npm": {"package": "a b"}}),
            json!({"npm": {"package": "https://a/b.tgz"}}),
            json!({"npm": {"package": "a", "version": "1 2"}}),
            json!({"pypi": {"package": "-a"}}),
            json!({"pypi": {"package": "a@b"}}),
            json!({"pypi": {"package": "a", "version": "==1"}}),
        ] {
            let server = server(&spec);
            let accepted = server.validate_cel();
            assert_eq!(
                accepted.is_ok(),
                server.spec.check_program().is_ok(),
                "{spec}: {accepted:?}"
            );
            refused += usize::from(accepted.is_err());
        }
        assert_eq!(refused, 12);
    }
}
