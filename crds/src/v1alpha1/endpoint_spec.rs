//! Fields of a virtual server about how clients and Prometheus reach its endpoint: TLS, a route of a Gateway, and a ServiceMonitor.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SecretRef, child_metadata};
use crate::config::{Duration, cel};

/// The path of the gateway's MCP endpoint.
pub const MCP_PATH: &str = "/mcp";

/// TLS for the MCP endpoint, with HTTP/2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointTls {
    /// The Secret with the certificate (`tls.crt`) and its private key (`tls.key`), of the type `kubernetes.io/tls`. A renewed certificate
    /// reaches running pods without a restart.
    pub certificate_ref: SecretRef,
}

/// A route of a Gateway (Gateway API) to the MCP endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, x_kube(cel))]
pub struct HttpRouteSpec {
    /// The Gateways, or their listeners, to which the route is attached.
    #[schemars(length(min = 1, max = 16))]
    pub parent_refs: Vec<ParentRef>,
    /// The host names of the endpoint, for example `tools.example.com`. They are added to `allowedHosts`, and the first one is in the URL
    /// of the endpoint.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)))]
    #[x_kube(
        validation = Rule::new(format!("self.all(host, {})", cel::is_dns_name("host")))
            .message("a host name has lower-case letters, digits, '-' and '.', no port and no wildcard, for example tools.example.com")
    )]
    pub hostnames: Vec<String>,
    /// The path of the endpoint for clients of the route, for example `/team-a/mcp`. The Gateway rewrites it to the gateway's `/mcp`.
    /// Default: `/mcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(
        validation = Rule::new("self.matches('^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$')")
            .message("a path has segments of letters, digits, '.', '_', '~' and '-', none of which begins with '.', and no '/' at its end, for example /team-a/mcp")
    )]
    pub path: Option<String>,
    /// Time limits that the Gateway enforces.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: RouteTimeouts,
    /// Labels of the HTTPRoute. Those that the operator sets itself are not allowed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "child_metadata::labels")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the HTTPRoute.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "child_metadata::annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// Reference to a Gateway, as in an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, x_kube(cel))]
pub struct ParentRef {
    /// API group of the parent. Default: `gateway.networking.k8s.io`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new(format!("self == '' || {}", cel::is_dns_name("self")))
            .message("group must be an API group, for example gateway.networking.k8s.io")
    )]
    pub group: Option<String>,
    /// Kind of the parent. Default: `Gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$')")
            .message("kind must be a kind of objects, for example Gateway")
    )]
    pub kind: Option<String>,
    /// Namespace of the parent. Default: that of the VirtualMCPServer. The parent must allow routes from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
            .message("namespace must be the name of a namespace: lower-case letters, digits and '-'")
    )]
    pub namespace: Option<String>,
    /// Name of the parent.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of a listener of the Gateway. Default: all that allow the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new(cel::is_dns_name("self"))
            .message("sectionName must be the name of a listener: lower-case letters, digits, '-' and '.'")
    )]
    pub section_name: Option<String>,
    /// Port of a listener of the Gateway. Default: all that allow the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// Time limits of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.request) || !has(self.backendRequest) || duration(self.request) == duration('0s') || duration(self.backendRequest) <= duration(self.request)")
        .message("must not be longer than `request`")
        .field_path(".backendRequest")
)]
#[cfg_attr(test, x_kube(cel))]
pub struct RouteTimeouts {
    /// Time limit of a whole request, with its response. A limit also ends event streams. Default: `0s`, no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// Time limit of one attempt to get the response from a gateway pod. It must not be longer than `request`. Default: that of the
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
}

/// A ServiceMonitor (Prometheus operator) for the metrics of the gateway pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, x_kube(cel))]
pub struct ServiceMonitorSettings {
    /// Time between two scrapes. Default: that of Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Labels of the ServiceMonitor, for the selector of a Prometheus. Those that the operator sets itself are not allowed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "child_metadata::labels")]
    pub labels: BTreeMap<String, String>,
}

impl HttpRouteSpec {
    /// The path of the endpoint for clients of the route.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(MCP_PATH)
    }

    /// The URL of the endpoint for clients of the route. It is `https`, except for a listener on port 80. `None` without a host name.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let host = self.hostnames.first()?;
        let path = self.path();
        let port = self.parent_refs.first().and_then(|parent| parent.port);
        Some(match port {
            None | Some(443) => format!("https://{host}{path}"),
            Some(80) => format!("http://{host}{path}"),
            Some(port) => format!("https://{host}:{port}{path}"),
        })
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::v1alpha1::field_rules;

    fn route(fields: &Json) -> Json {
        let mut route = json!({"parentRefs": [{"name": "public"}], "hostnames": ["tools.example.com"]});
        route
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        route
    }

    fn url(fields: &Json) -> String {
        let route: HttpRouteSpec = serde_json::from_value(route(fields)).unwrap();
        route.url().unwrap()
    }

    #[test]
    fn url_follows_host_path_and_port() {
        assert_eq!(url(&json!({})), "https://tools.example.com/mcp");
        let at = |port: i32| json!({"path": "/a/mcp", "parentRefs": [{"name": "public", "port": port}]});
        assert_eq!(url(&at(443)), "https://tools.example.com/a/mcp");
        assert_eq!(url(&at(80)), "http://tools.example.com/a/mcp");
        assert_eq!(url(&at(8443)), "https://tools.example.com:8443/a/mcp");
    }

    #[test]
    fn path_and_hosts_are_validated() {
        let refusal = |fields: Json| {
            let errors = HttpRouteSpec::validate_cel(&route(&fields), None).err();
            errors.map(|errors| format!("{errors:?}"))
        };
        for path in ["/mcp", "/team-a/mcp", "/v1.2/~a_b"] {
            assert_eq!(refusal(json!({"path": path})), None, "{path}");
            field_rules::route_path(path).unwrap();
        }
        for path in [
            "",
            "/",
            "mcp",
            "/mcp/",
            "/a//b",
            "/../mcp",
            "/.well-known/x",
            "/a b",
            "/a?b",
            "/%61",
        ] {
            let message = refusal(json!({"path": path})).unwrap_or_default();
            assert!(message.contains("for example /team-a/mcp"), "{path}: {message}");
            field_rules::route_path(path).unwrap_err();
        }
        for host in ["*.example.com", "a:443", "A", "a..b", "https://a"] {
            let message = refusal(json!({"hostnames": ["good.example.com", host]})).unwrap_or_default();
            assert!(
                message.contains("for example tools.example.com"),
                "{host}: {message}"
            );
        }
    }
}
