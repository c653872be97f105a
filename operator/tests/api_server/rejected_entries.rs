//! Entries that the API server must reject, each with the field and a part of the message.

use serde_json::{Value as Json, json};

use crate::rejected_resources::{BadResource, ENTRY};

/// Entries that the API server rejects.
pub(crate) fn rejected_entries() -> Vec<BadResource> {
    let tools = |tools: Json| json!({"tools": tools});
    let key = || json!({"name": "a", "key": "b"});
    let header = |name: &str, source: Json| json!({"headers": {name: source}});
    vec![
        // Backends
        (
            ENTRY,
            json!({"url": "time:8000"}),
            "spec.url",
            "expected an http or https URL",
        ),
        (
            ENTRY,
            json!({"url": "http://u:p@time/mcp"}),
            "spec.url",
            "without user, password or fragment",
        ),
        (
            ENTRY,
            json!({"transport": "stdio"}),
            "spec.transport",
            "supported values",
        ),
        (
            ENTRY,
            json!({"prefix": "a b"}),
            "spec.prefix",
            "A-Z a-z 0-9 _ . / -",
        ),
        (
            ENTRY,
            json!({"addresses": ["example.com"]}),
            "spec.addresses[0]",
            "expected an IP address",
        ),
        (
            ENTRY,
            json!({"url": "http://10.0.0.1/mcp", "addresses": ["10.0.0.7"]}),
            "spec.addresses",
            "the host in the URL is an IP address",
        ),
        (
            ENTRY,
            json!({"timeouts": {"call": "25h"}}),
            "spec.timeouts.call",
            "allowed are 1ms to 24h",
        ),
        (
            ENTRY,
            json!({"timeouts": {"connect": "soon"}}),
            "spec.timeouts.connect",
            "expected a duration with units",
        ),
        (
            ENTRY,
            json!({"sharedSession": true, "transport": "sse"}),
            "spec.sharedSession",
            "has no effect with `transport: sse`",
        ),
        (
            ENTRY,
            json!({"sharedSession": true, "catalog": "perSession"}),
            "spec.sharedSession",
            "has no effect with `catalog: perSession`",
        ),
        (
            ENTRY,
            json!({"maxAnswerBytes": 0}),
            "spec.maxAnswerBytes",
            "greater than or equal to 1024",
        ),
        (
            ENTRY,
            json!({"passHeaders": ["X-*"]}),
            "spec.passHeaders",
            "wildcards are not allowed",
        ),
        (
            ENTRY,
            json!({"passHeaders": ["MCP-Session-Id"]}),
            "spec.passHeaders",
            "HTTP and MCP set it themselves",
        ),
        (
            ENTRY,
            json!({"passHeaders": ["Cookie"]}),
            "spec.passHeaders",
            "it authenticates the client to the gateway",
        ),
        (
            ENTRY,
            json!({"passHeaders": ["x-a"], "headers": {"X-A": {"value": "b"}}}),
            "spec.passHeaders",
            "is also in `headers`; remove it from one of them",
        ),
        (
            ENTRY,
            header("X-*", json!({"value": "a"})),
            "spec.headers",
            "wildcards are not allowed",
        ),
        (
            ENTRY,
            header("Mcp-Session-Id", json!({"value": "a"})),
            "spec.headers",
            "HTTP and MCP set it themselves",
        ),
        (
            ENTRY,
            json!({"headers": {"X-A": {"value": "a"}, "x-a": {"value": "a"}}}),
            "spec.headers",
            "duplicate header; names are not case-sensitive",
        ),
        (
            ENTRY,
            header("X-A", json!({"prefix": "Bearer "})),
            "spec.headers[X-A]",
            "needs exactly one of `value` and `secretKeyRef`",
        ),
        (
            ENTRY,
            header("X-A", json!({"value": "a", "secretKeyRef": key()})),
            "spec.headers[X-A]",
            "needs exactly one of `value` and `secretKeyRef`",
        ),
        (
            ENTRY,
            header("X-A", json!({"value": "a\nb"})),
            "spec.headers[X-A].value",
            "not allowed in a header",
        ),
        (
            ENTRY,
            header("X-A", json!({"prefix": "a\nb", "secretKeyRef": key()})),
            "spec.headers[X-A].prefix",
            "not allowed in a header",
        ),
        (
            ENTRY,
            header("X-A", json!({"file": "/etc/shadow"})),
            "spec.headers.X-A.file",
            "field not declared in schema",
        ),
        (
            ENTRY,
            header("X-A", json!({"secretKeyRef": {"name": "A", "key": "b"}})),
            "spec.headers[X-A].secretKeyRef.name",
            "must be the name of an object",
        ),
        (
            ENTRY,
            json!({"tls": {"clientCertificateRef": {"name": "a"}}}),
            "spec.tls",
            "has no effect with an http URL",
        ),
        (
            ENTRY,
            json!({"url": "https://a", "tls": {"caBundleRef": {"configMapKeyRef": {"name": "a", "key": ".."}}}}),
            "spec.tls.caBundleRef.configMapKeyRef.key",
            "must be the key of a ConfigMap",
        ),
        (
            ENTRY,
            tools(json!({"allow": ["x", ""]})),
            "spec.tools.allow",
            "expected a name or a pattern, for example get_*",
        ),
        (
            ENTRY,
            tools(json!({"overrides": {"x": {}}})),
            "spec.tools.overrides[x]",
            "overrides nothing",
        ),
        (
            ENTRY,
            tools(json!({"overrides": {"x": {"name": "a b"}}})),
            "spec.tools.overrides",
            "a new name has 1 to 128",
        ),
        (
            ENTRY,
            tools(json!({"overrides": {"x": {"name": "z"}, "y": {"name": "z"}}})),
            "spec.tools.overrides",
            "give each name once",
        ),
        (
            ENTRY,
            tools(json!({"deadlines": {"x": "0s"}})),
            "spec.tools.deadlines",
            "allowed are 1ms to 24h",
        ),
        (
            ENTRY,
            tools(json!({"alow": ["x"]})),
            "spec.tools.alow",
            "field not declared in schema",
        ),
        (
            ENTRY,
            json!({"prompts": {"overrides": {"x": {"name": "a\tb"}}}}),
            "spec.prompts.overrides",
            "without control characters",
        ),
        (
            ENTRY,
            json!({"resources": {"deny": [""]}}),
            "spec.resources.deny",
            "expected a name or a pattern",
        ),
        (
            ENTRY,
            json!({"breaker": {"openFor": "10ms"}}),
            "spec.breaker.openFor",
            "allowed are 100ms to 1h",
        ),
        (
            ENTRY,
            json!({"concurrency": {"limit": 0}}),
            "spec.concurrency.limit",
            "greater than or equal to 1",
        ),
        (
            ENTRY,
            json!({"concurrency": {"queue": 100_001}}),
            "spec.concurrency.queue",
            "less than or equal to 100000",
        ),
        (
            ENTRY,
            json!({"concurrency": {"wait": "61s"}}),
            "spec.concurrency.wait",
            "the maximum is 1m",
        ),
        (
            ENTRY,
            json!({"health": {"interval": "10ms"}}),
            "spec.health.interval",
            "allowed are 100ms to 1h",
        ),
        (
            ENTRY,
            json!({"health": {"timeout": "2m"}}),
            "spec.health.timeout",
            "allowed are 10ms to 1m",
        ),
        (
            ENTRY,
            json!({"health": {"unhealthyAfter": 0}}),
            "spec.health.unhealthyAfter",
            "greater than or equal to 1",
        ),
        (
            ENTRY,
            json!({"groupRef": {"name": "A"}}),
            "spec.groupRef.name",
            "must be the name of an object",
        ),
    ]
}
