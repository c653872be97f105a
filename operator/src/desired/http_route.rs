//! The HTTPRoute that leads clients of a Gateway to the endpoint.

use kube::ResourceExt as _;
use serde_json::{Value as Json, json};
use vmcp_crds::config::Duration;
use vmcp_crds::v1alpha1::{HttpRouteSpec, MCP_PATH, VirtualMCPServer};

use super::deployment::MCP_PORT;
use super::{metadata, names};
use crate::optional_kinds::{HTTPRoute, HTTPRouteSpec};

/// The path below which clients find the metadata of a protected resource (RFC 9728). The path of the resource follows.
const RESOURCE_METADATA: &str = "/.well-known/oauth-protected-resource";

/// A route for the path of the endpoint and, with OIDC, for the metadata of the protected resource.
pub(super) fn http_route(server: &VirtualMCPServer, spec: &HttpRouteSpec) -> HTTPRoute {
    let mut metadata = metadata(server, names::workload(server));
    let labels = metadata.labels.get_or_insert_default();
    for (key, value) in &spec.labels {
        // The operator finds its objects by its own labels.
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if !spec.annotations.is_empty() {
        metadata.annotations = Some(spec.annotations.clone());
    }
    let mut rules = vec![endpoint_rule(server, spec)];
    rules.extend(metadata_path(server).map(|path| metadata_rule(server, &path)));
    HTTPRoute {
        metadata,
        spec: HTTPRouteSpec {
            parent_refs: spec.parent_refs.clone(),
            hostnames: spec.hostnames.clone(),
            rules,
        },
        status: None,
    }
}

fn endpoint_rule(server: &VirtualMCPServer, spec: &HttpRouteSpec) -> Json {
    // Without `0s`, many Gateways end a request after 15 seconds, and with it the stream of its response.
    let request = spec.timeouts.request.unwrap_or(Duration::from_secs(0));
    let mut timeouts = json!({"request": request});
    if let Some(backend_request) = spec.timeouts.backend_request {
        timeouts["backendRequest"] = json!(backend_request);
    }
    let mut rule = json!({
        "matches": [{"path": {"type": "PathPrefix", "value": spec.path()}}],
        "backendRefs": [backend_ref(server)],
        "timeouts": timeouts,
    });
    if spec.path() != MCP_PATH {
        rule["filters"] = json!([{
            "type": "URLRewrite",
            "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": MCP_PATH}},
        }]);
    }
    rule
}

fn metadata_rule(server: &VirtualMCPServer, path: &str) -> Json {
    json!({
        "matches": [{"path": {"type": "Exact", "value": path}}],
        "backendRefs": [backend_ref(server)],
    })
}

fn backend_ref(server: &VirtualMCPServer) -> Json {
    json!({"name": names::workload(server), "port": MCP_PORT})
}

/// The path of the metadata: that of the resource, after the well-known prefix. `None` without OIDC.
fn metadata_path(server: &VirtualMCPServer) -> Option<String> {
    let oidc = server.spec.incoming_auth.oidc.as_ref()?;
    let url = oidc.settings.resource.clone().or_else(|| resource(server))?;
    let (_, rest) = url.split_once("://")?;
    let path = rest.find('/').map_or("", |start| &rest[start..]);
    Some(format!("{RESOURCE_METADATA}{}", path.trim_end_matches('/')))
}

/// The URL of the protected resource that follows from the route: that of the endpoint.
pub(super) fn resource(server: &VirtualMCPServer) -> Option<String> {
    server.spec.http_route.as_ref()?.url()
}

/// The names by which clients of the route and of the Service address the endpoint.
pub(super) fn host_names(server: &VirtualMCPServer, spec: &HttpRouteSpec) -> Vec<String> {
    let service = names::workload(server);
    let namespace = server.namespace().unwrap_or_default();
    let mut hosts = spec.hostnames.clone();
    hosts.extend([
        service.clone(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ]);
    hosts
}
