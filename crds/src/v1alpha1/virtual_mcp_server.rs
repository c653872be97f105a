//! `VirtualMCPServer`: one MCP endpoint for all servers of a group.

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::secret_file;
use super::{
    AutoscalingSpec, DisruptionBudgetSettings, EndpointTls, GroupRef, HttpRouteSpec, IncomingAuthSpec,
    NetworkPolicySpec, OperationalSpec, PodTemplate, SecretFile, SecretKeyRef, SecretRef,
    ServiceMonitorSettings, ServiceSettings, SessionStorageSpec, VirtualMCPServerStatus,
};
use crate::config::{HotConfig, SessionStorageProvider, cel, rules};

/// One MCP endpoint for all MCP servers of a group, served by interchangeable gateway pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "vmcp.dev",
    version = "v1alpha1",
    kind = "VirtualMCPServer",
    plural = "virtualmcpservers",
    singular = "virtualmcpserver",
    shortname = "vmcp",
    category = "mcp",
    namespaced,
    status = "VirtualMCPServerStatus",
    derive = "PartialEq",
    doc = "One MCP endpoint for all MCP servers of a group, served by interchangeable gateway pods.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Backends", type_ = "integer", json_path = ".status.backendCount"),
    printcolumn(name = "Tools", type_ = "integer", json_path = ".status.toolCount"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 52 && !self.metadata.name.contains('.')")
        .message("metadata.name must have at most 52 characters and no dots: the Service is named vmcp-<name>")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.autoscaling) || !has(self.replicas)")
        .message("has no effect with `autoscaling`, which sets the number of pods; remove one of the two")
        .field_path(".replicas"),
    validation = Rule::new(has_resource())
        .message(rules::NO_RESOURCE)
        .field_path(".incomingAuth.oidc.resource")
)]
pub struct VirtualMCPServerSpec {
    /// The MCPGroup whose MCP servers are behind this endpoint, in the same namespace.
    pub group_ref: GroupRef,
    /// Number of gateway pods. If it is not set, the operator does not change the count, so that an autoscaler or `kubectl scale` can set
    /// it. Removing the field keeps the current count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,
    /// Session affinity of the Service: `None`, or `ClientIP` to send a client to the same pod each time. Not needed with sessions in
    /// Redis.
    #[serde(default)]
    pub session_affinity: SessionAffinity,
    /// Where sessions are stored. Default: in the memory of each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_storage: Option<SessionStorageSpec>,
    /// Authentication of clients. Default: every client that can connect is allowed. A change replaces the pods.
    #[serde(default, skip_serializing_if = "is_default")]
    pub incoming_auth: IncomingAuthSpec,
    /// The fields of the gateway's own configuration that running pods take without a restart, except those in `operational`, and the
    /// backends, which the MCPServers and MCPServerEntries of the group describe.
    #[serde(flatten)]
    #[schemars(schema_with = "without_operational_fields")]
    pub hot: HotConfig,
    /// Logging, connections and time limits of the gateway pods.
    #[serde(default, skip_serializing_if = "is_default")]
    pub operational: OperationalSpec,
    /// Image of the gateway, for example `registry.example/team/gateway:1.2`. Default: the operator's default image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(cel::is_image("self")).message(cel::IMAGE_EXPECTED))]
    pub image: Option<String>,
    /// Secrets with the credentials for pulling the images of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<SecretRef>,
    /// ServiceAccount of the gateway pods, for example for a policy of the network. The pods get no token of it. Default: one that the
    /// operator creates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(cel::is_dns_name("self")).message(cel::OBJECT_NAME_EXPECTED))]
    pub service_account_name: Option<String>,
    /// Resources of the gateway container. Default: requests of 50m CPU and 64Mi of memory, a limit of 512Mi of memory, and no limit of
    /// CPU, because throttling adds latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Further fields of the pods, as in `spec.template` of a Deployment, for example
    /// `{spec: {nodeSelector: {disk: ssd}, containers: [{name: gateway, env: [{name: HTTPS_PROXY, value: 'http://proxy:3128'}]}]}}`.
    /// They are merged into the operator's template; lists of objects with names, such as containers, volumes and variables, by name. Every
    /// field of a pod is allowed, except those that would break the gateway, such as host ports and volumes at its paths, and those for
    /// which the VirtualMCPServer has its own. The descriptions of `metadata`, `spec` and `spec.containers` name them. A refused field is
    /// in the condition `PodTemplateValid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// The Service that clients connect to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub service: ServiceSettings,
    /// TLS for the MCP endpoint. The Service then has a port named `https`. Switching it on or off replaces the pods. Default: no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EndpointTls>,
    /// Creates an HTTPRoute, which leads clients of a Gateway to the endpoint. `allowedHosts` then contains its host names and those of the
    /// Service, and the default of `incomingAuth.oidc.resource` is its URL. With `tls` the Gateway also needs a BackendTLSPolicy. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpRouteSpec>,
    /// Creates a ServiceMonitor for the metrics of the gateway pods. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_monitor: Option<ServiceMonitorSettings>,
    /// How many gateway pods may be evicted at once. Only with more than one replica.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pod_disruption_budget: DisruptionBudgetSettings,
    /// Scales the pods by their CPU usage, and by their requests in flight. Not together with `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,
    /// Creates a NetworkPolicy for the gateway pods. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicySpec>,
}

impl VirtualMCPServerSpec {
    /// The Secret key with the Redis password, if sessions are stored in Redis and need one.
    #[must_use]
    pub fn redis_password_ref(&self) -> Option<&SecretKeyRef> {
        let storage = self.session_storage.as_ref()?;
        let reference = storage.password_ref.as_ref()?;
        (storage.settings.provider == SessionStorageProvider::Redis).then_some(reference)
    }

    /// The files that the gateway's start-up configuration names.
    #[must_use]
    pub fn secret_files(&self) -> Vec<SecretFile> {
        let storage = self.session_storage.iter();
        let mut files: Vec<SecretFile> = storage.flat_map(SessionStorageSpec::secret_files).collect();
        files.extend(self.incoming_auth.secret_files());
        files
    }

    /// The files with the certificate of the endpoint. They have a volume of their own, for which a new pod waits.
    #[must_use]
    pub fn certificate_files(&self) -> Vec<SecretFile> {
        let tls = self.tls.iter();
        tls.flat_map(|tls| {
            secret_file::certificate("endpoint", &tls.certificate_ref, "spec.tls.certificateRef")
        })
        .collect()
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// With OIDC, the URL of the protected resource is set, or the route has it, or it is the first audience.
fn has_resource() -> String {
    let oidc = "self.incomingAuth.oidc";
    format!(
        "!has(self.incomingAuth) || !has({oidc}) || has({oidc}.resource) || has(self.httpRoute) || size({oidc}.audience) == 0 || ({})",
        cel::is_resource(&format!("{oidc}.audience[0]"))
    )
}

fn without_operational_fields(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = HotConfig::json_schema(generator);
    cel::remove_properties(&mut schema, &["logLevel", "accessLog", "backends"]);
    schema
}

/// Session affinity of the Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SessionAffinity {
    /// Any pod may serve any request.
    #[default]
    None,
    /// Requests from one client IP address go to the same pod.
    ClientIP,
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt as _;

    use super::*;

    fn server(name: &str) -> VirtualMCPServer {
        let spec = VirtualMCPServerSpec {
            group_ref: GroupRef {
                name: "tools".to_owned(),
            },
            ..VirtualMCPServerSpec::default()
        };
        VirtualMCPServer::new(name, spec)
    }

    #[test]
    fn name_too_long_for_derived_names_is_rejected() {
        server(&"x".repeat(52)).validate_cel().unwrap();
        for name in ["x".repeat(53), "a.b".to_owned()] {
            let message = format!("{:?}", server(&name).validate_cel().unwrap_err());
            assert!(message.contains("at most 52 characters and no dots"), "{message}");
        }
    }

    // The schema and the operator's own rule agree on every image.
    #[test]
    fn schema_and_rules_agree_on_images() {
        let mut refused = 0;
        for text in [
            "gateway",
            "registry.example:5000/a/b_c/d--e:V1.2_x",
            "[::1]:5000/x:1@sha256:ab",
            "registry.example/gateway@sha256:0",
            "",
            "a b",
            "a\n",
            "../a",
            "a/../b",
            "a//b",
            "a:b:c",
            "a:x..y",
            "http://a/b",
            "A",
            "A/b",
            "a?x=1",
            "-a",
            "a:",
            "a@sha256",
            "ä",
        ] {
            let mut server = server("x");
            server.spec.image = Some(text.to_owned());
            let accepted = server.validate_cel().is_ok();
            assert_eq!(
                accepted,
                crate::v1alpha1::field_rules::image(text).is_ok(),
                "{text:?}"
            );
            refused += usize::from(!accepted);
        }
        assert!(refused > 10, "{refused}");
    }

    #[test]
    fn session_storage_rules_apply_inside_spec() {
        let mut server = server("everything");
        let storage = serde_json::json!({"provider": "redis"});
        server.spec.session_storage = Some(serde_json::from_value(storage).unwrap());
        let message = format!("{:?}", server.validate_cel().unwrap_err());
        assert!(message.contains("needs the server's host:port"), "{message}");
    }

    #[test]
    fn scale_subresource_maps_replicas() {
        let crd = VirtualMCPServer::crd();
        let scale = crd.spec.versions[0].subresources.clone().unwrap().scale.unwrap();
        assert_eq!(scale.spec_replicas_path, ".spec.replicas");
        assert_eq!(scale.status_replicas_path, ".status.replicas");
        assert_eq!(scale.label_selector_path.as_deref(), Some(".status.selector"));
    }
}
