//! Servers to run that the API server must reject, each with the field and a part of the message.

use serde_json::{Value as Json, json};

use crate::rejected_resources::{BadResource, MCP_SERVER, of_kind};

/// MCPServers that the API server rejects.
pub(crate) fn rejected_mcp_servers() -> Vec<BadResource> {
    let npm = |fields: Json| {
        let mut spec = json!({"npm": {"package": "weather"}});
        spec.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        spec
    };
    let http = |fields: Json| {
        let mut spec = json!({"image": "weather", "transport": "streamable-http"});
        spec.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        spec
    };
    let rows = vec![
        // What runs
        (
            json!({}),
            "spec",
            "needs exactly one of `image`, `npm` and `pypi`",
        ),
        (
            npm(json!({"image": "weather", "command": ["x"]})),
            "spec",
            "needs exactly one of `image`, `npm` and `pypi`",
        ),
        (
            json!({"image": "weather"}),
            "spec.command",
            "the operator cannot know the entrypoint of an image",
        ),
        (
            json!({"image": "a b", "command": ["x"]}),
            "spec.image",
            "must be an image reference",
        ),
        (
            json!({"image": "weather", "command": [""]}),
            "spec.command",
            "must not be empty",
        ),
        (
            npm(json!({"command": ["x"]})),
            "spec.command",
            "has no effect with `npm` and `pypi`",
        ),
        (
            json!({"npm": {"package": "--registry=http://evil"}}),
            "spec.npm.package",
            "expected the name of an npm package",
        ),
        (
            json!({"npm": {"package": "https://evil/x.tgz"}}),
            "spec.npm.package",
            "expected the name of an npm package",
        ),
        (
            json!({"npm": {"package": "weather", "version": "1 --x"}}),
            "spec.npm.version",
            "expected a version or a tag",
        ),
        (
            json!({"pypi": {"package": "weather@git+https://evil"}}),
            "spec.pypi.package",
            "expected the name of a PyPI package",
        ),
        (
            json!({"pypi": {"version": "1"}}),
            "spec.pypi.package",
            "Required value",
        ),
        (
            npm(json!({"env": [{"name": "A", "value": "a"}, {"name": "A", "value": "b"}]})),
            "spec.env",
            "uplicate",
        ),
        (npm(json!({"env": [{"value": "a"}]})), "spec.env", "name"),
        // How it speaks
        (
            npm(json!({"transport": "websocket"})),
            "spec.transport",
            "supported values",
        ),
        (
            npm(json!({"path": "/v1"})),
            "spec.path",
            "has no effect with `transport: stdio`",
        ),
        (http(json!({"path": "v1"})), "spec.path", "begins with '/'"),
        (http(json!({"path": "/a#b"})), "spec.path", "without fragment"),
        (npm(json!({"port": 0})), "spec.port", "greater than or equal to 1"),
        (
            npm(json!({"port": 9483})),
            "spec.port",
            "9483 is the admin port with `transport: stdio`",
        ),
        (
            http(json!({"processes": "shared"})),
            "spec.processes",
            "has no effect without `transport: stdio`",
        ),
        (
            http(json!({"maxProcesses": 3})),
            "spec.maxProcesses",
            "has no effect without `transport: stdio`",
        ),
        (
            http(json!({"idleTimeout": "1m"})),
            "spec.idleTimeout",
            "has no effect without `transport: stdio`",
        ),
        (
            npm(json!({"processes": "shared", "maxProcesses": 3})),
            "spec.maxProcesses",
            "has no effect with `processes: shared`",
        ),
        (
            npm(json!({"processes": "per-session"})),
            "spec.processes",
            "supported values",
        ),
        (
            npm(json!({"maxProcesses": 0})),
            "spec.maxProcesses",
            "greater than or equal to 1",
        ),
        (
            npm(json!({"idleTimeout": "10"})),
            "spec.idleTimeout",
            "expected a duration with units",
        ),
        (
            npm(json!({"idleTimeout": "10ms"})),
            "spec.idleTimeout",
            "allowed are 1s to 24h",
        ),
        (
            npm(json!({"tls": {}})),
            "spec.tls",
            "has no effect with `transport: stdio`",
        ),
        // Where it runs
        (
            npm(json!({"replicas": 65})),
            "spec.replicas",
            "less than or equal to 64",
        ),
        (
            npm(json!({"resources": {"limits": {"memory": "1 GB"}}})),
            "spec.resources.limits",
            "should match",
        ),
        (
            npm(json!({"serviceAccountName": "A"})),
            "spec.serviceAccountName",
            "must be the name of an object",
        ),
        (
            npm(json!({"imagePullSecrets": [{"name": "A"}]})),
            "spec.imagePullSecrets[0].name",
            "must be the name of an object",
        ),
        (
            npm(json!({"securityContext": {"privilegd": true}})),
            "spec.securityContext.privilegd",
            "field not declared in schema",
        ),
        (
            npm(json!({"networkPolicy": {"egres": []}})),
            "spec.networkPolicy.egres",
            "field not declared in schema",
        ),
        (
            npm(json!({"podTemplate": {"spec": {"nodeSelector": "ssd"}}})),
            "spec.podTemplate.spec.nodeSelector",
            "expected map",
        ),
        // The settings of a backend
        (
            npm(json!({"url": "http://time"})),
            "spec.url",
            "field not declared in schema",
        ),
        (
            npm(json!({"addresses": ["10.0.0.7"]})),
            "spec.addresses",
            "field not declared in schema",
        ),
        (
            npm(json!({"prefix": "a b"})),
            "spec.prefix",
            "A-Z a-z 0-9 _ . / -",
        ),
        (
            npm(json!({"sharedSession": true, "catalog": "perSession"})),
            "spec.sharedSession",
            "has no effect with `catalog: perSession`",
        ),
        (
            http(json!({"transport": "sse", "sharedSession": true})),
            "spec.sharedSession",
            "has no effect with `transport: sse`",
        ),
        (
            npm(json!({"timeouts": {"call": "25h"}})),
            "spec.timeouts.call",
            "allowed are 1ms to 24h",
        ),
        (
            npm(json!({"headers": {"X-A": {"file": "/etc/shadow"}}})),
            "spec.headers.X-A.file",
            "field not declared in schema",
        ),
        (
            npm(json!({"resourceFilters": {"deny": [""]}})),
            "spec.resourceFilters.deny",
            "expected a name or a pattern",
        ),
        (
            npm(json!({"resources": {"deny": ["file:///x"]}})),
            "spec.resources.deny",
            "field not declared in schema",
        ),
        (
            npm(json!({"groupRef": {"name": "A"}})),
            "spec.groupRef.name",
            "must be the name of an object",
        ),
    ];
    of_kind(MCP_SERVER, rows)
}
