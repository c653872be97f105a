//! Entries that the API server must reject, each with the field and a part of the message.

use serde_json::{Value as Json, json};

use crate::rejected_resources::{BadResource, ENTRY, of_kind};

/// Entries that the API server rejects.
pub(crate) fn rejected_entries() -> Vec<BadResource> {
    let tools = |tools: Json| json!({"tools": tools});
    let key = || json!({"name": "a", "key": "b"});
    let header = |name: &str, source: Json| json!({"headers": {name: source}});
    let rows = vec![
        (
            json!({"url": "time:8000"}),
            "spec.url",
            "expected an http or https URL",
        ),
        (
            json!({"url": "http://u:p@time/mcp"}),
            "spec.url",
            "without user, password or fragment",
        ),
        (
            json!({"transport": "stdio"}),
            "spec.transport",
            "supported values",
        ),
        (json!({"prefix": "a b"}), "spec.prefix", "A-Z a-z 0-9 _ . / -"),
        (
            json!({"addresses": ["example.com"]}),
            "spec.addresses[0]",
            "expected an IP address",
        ),
        (
            json!({"url": "http://10.0.0.1/mcp", "addresses": ["10.0.0.7"]}),
            "spec.addresses",
            "the host in the URL is an IP address",
        ),
        (
            json!({"timeouts": {"call": "25h"}}),
            "spec.timeouts.call",
            "allowed are 1ms to 24h",
        ),
        (
            json!({"timeouts": {"connect": "soon"}}),
            "spec.timeouts.connect",
            "expected a duration with units",
        ),
        (
            json!({"sharedSession": true, "transport": "sse"}),
            "spec.sharedSession",
            "has no effect with `transport: sse`",
        ),
        (
            json!({"sharedSession": true, "catalog": "perSession"}),
            "spec.sharedSession",
            "has no effect with `catalog: perSession`",
        ),
        (
            json!({"maxAnswerBytes": 0}),
            "spec.maxAnswerBytes",
            "greater than or equal to 1024",
        ),
        (
            json!({"passHeaders": ["X-*"]}),
            "spec.passHeaders",
            "wildcards are not allowed",
        ),
        (
            json!({"passHeaders": ["MCP-Session-Id"]}),
            "spec.passHeaders",
            "HTTP and MCP set it themselves",
        ),
        (
            json!({"passHeaders": ["Cookie"]}),
            "spec.passHeaders",
            "it authenticates the client to the gateway",
        ),
        (
            json!({"passHeaders": ["x-a"], "headers": {"X-A": {"value": "b"}}}),
            "spec.passHeaders",
            "is also in `headers`; remove it from one of them",
        ),
        (
            header("X-*", json!({"value": "a"})),
            "spec.headers",
            "wildcards are not allowed",
        ),
        (
            header("Mcp-Session-Id", json!({"value": "a"})),
            "spec.headers",
            "HTTP and MCP set it themselves",
        ),
        (
            json!({"headers": {"X-A": {"value": "a"}, "x-a": {"value": "a"}}}),
            "spec.headers",
            "duplicate header; names are not case-sensitive",
        ),
        (
            header("X-A", json!({"prefix": "Bearer "})),
            "spec.headers[X-A]",
            "needs exactly one of `value` and `secretKeyRef`",
        ),
        (
            header("X-A", json!({"value": "a", "secretKeyRef": key()})),
            "spec.headers[X-A]",
            "needs exactly one of `value` and `secretKeyRef`",
        ),
        (
            header("X-A", json!({"value": "a\nb"})),
            "spec.headers[X-A].value",
            "not allowed in a header",
        ),
        (
            header("X-A", json!({"prefix": "a\nb", "secretKeyRef": key()})),
            "spec.headers[X-A].prefix",
            "not allowed in a header",
        ),
        (
            header("X-A", json!({"file": "/etc/shadow"})),
            "spec.headers.X-A.file",
            "field not declared in schema",
        ),
        (
            header("X-A", json!({"secretKeyRef": {"name": "A", "key": "b"}})),
            "spec.headers[X-A].secretKeyRef.name",
            "must be the name of an object",
        ),
        (
            json!({"tls": {"clientCertificateRef": {"name": "a"}}}),
            "spec.tls",
            "has no effect with an http URL",
        ),
        (
            json!({"url": "https://a", "tls": {"caBundleRef": {"configMapKeyRef": {"name": "a", "key": ".."}}}}),
            "spec.tls.caBundleRef.configMapKeyRef.key",
            "must be the key of a ConfigMap",
        ),
        (
            tools(json!({"allow": ["x", ""]})),
            "spec.tools.allow",
            "expected a name or a pattern, for example get_*",
        ),
        (
            tools(json!({"overrides": {"x": {}}})),
            "spec.tools.overrides[x]",
            "overrides nothing",
        ),
        (
            tools(json!({"overrides": {"x": {"name": "a b"}}})),
            "spec.tools.overrides",
            "a new name has 1 to 128",
        ),
        (
            tools(json!({"overrides": {"x": {"name": "z"}, "y": {"name": "z"}}})),
            "spec.tools.overrides",
            "give each name once",
        ),
        (
            tools(json!({"deadlines": {"x": "0s"}})),
            "spec.tools.deadlines",
            "allowed are 1ms to 24h",
        ),
        (
            tools(json!({"alow": ["x"]})),
            "spec.tools.alow",
            "field not declared in schema",
        ),
        (
            json!({"prompts": {"overrides": {"x": {"name": "a\tb"}}}}),
            "spec.prompts.overrides",
            "without control characters",
        ),
        (
            json!({"prompts": {"overrides": {"x": {"name": "a\u{202e}b"}}}}),
            "spec.prompts.overrides",
            "without control characters",
        ),
        (
            json!({"resources": {"deny": [""]}}),
            "spec.resources.deny",
            "expected a name or a pattern",
        ),
        (
            json!({"breaker": {"openFor": "10ms"}}),
            "spec.breaker.openFor",
            "allowed are 100ms to 1h",
        ),
        (
            json!({"concurrency": {"limit": 0}}),
            "spec.concurrency.limit",
            "greater than or equal to 1",
        ),
        (
            json!({"concurrency": {"queue": 100_001}}),
            "spec.concurrency.queue",
            "less than or equal to 100000",
        ),
        (
            json!({"concurrency": {"wait": "61s"}}),
            "spec.concurrency.wait",
            "the maximum is 1m",
        ),
        (
            json!({"health": {"interval": "10ms"}}),
            "spec.health.interval",
            "allowed are 100ms to 1h",
        ),
        (
            json!({"health": {"timeout": "2m"}}),
            "spec.health.timeout",
            "allowed are 10ms to 1m",
        ),
        (
            json!({"health": {"unhealthyAfter": 0}}),
            "spec.health.unhealthyAfter",
            "greater than or equal to 1",
        ),
        (
            json!({"groupRef": {"name": "A"}}),
            "spec.groupRef.name",
            "must be the name of an object",
        ),
    ];
    of_kind(ENTRY, rows)
}
