//! Objects that the API server rejects by the CRDs' schemas, and the error messages.

use kube::api::{Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::v1alpha1::{MCPServerEntry, VirtualMCPServer};
use vmcp_external::requires;

use crate::harness::Harness;

async fn refusal(harness: &Harness, name: &str, mut spec: Json) -> String {
    spec["groupRef"] = json!({"name": "group"});
    let object = json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": name}, "spec": spec,
    });
    let servers = harness.api::<VirtualMCPServer>();
    let applied = servers
        .patch(name, &PatchParams::apply("user"), &Patch::Apply(&object))
        .await;
    applied.map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
}

// The API server rejects a VirtualMCPServer that cannot work, and the message says why.
#[requires(api_server)]
#[tokio::test]
async fn invalid_server_is_rejected_with_reason() {
    let harness = Harness::without_operator("admission").await;
    let storage = |storage: Json| json!({"sessionStorage": storage});
    let long = "x".repeat(53);
    for (name, spec, expected) in [
        (
            "x",
            storage(json!({"provider": "redis"})),
            "needs the server's host:port",
        ),
        (
            "x",
            storage(json!({"provider": "redis", "address": "redis"})),
            "for example redis.tools.svc:6379",
        ),
        (
            "x",
            storage(json!({"provider": "redis", "address": "redis://r:1"})),
            "expected host:port",
        ),
        (
            "x",
            storage(json!({"provider": "etcd"})),
            "supported values: \"memory\", \"redis\"",
        ),
        (
            "x",
            storage(json!({"provider": "memory", "keyPrefix": "{a}"})),
            "braces are not allowed",
        ),
        (
            "x",
            storage(json!({"provider": "memory", "db": -1})),
            "should be greater than or equal to 0",
        ),
        (
            "x",
            json!({"replicas": -1}),
            "should be greater than or equal to 0",
        ),
        (
            "x",
            json!({"sessionAffinity": "Cookie"}),
            "supported values: \"None\", \"ClientIP\"",
        ),
        ("x", json!({"image": "a b"}), "image must be an image reference"),
        (
            "x",
            storage(json!({
                "provider": "redis", "address": "r:1", "passwordRef": {"name": "?x=", "key": "password"},
            })),
            "must be the name of an object",
        ),
        (
            "x",
            storage(json!({
                "provider": "redis", "address": "r:1", "passwordRef": {"name": "redis", "key": "../password"},
            })),
            "key must be the key of a Secret",
        ),
        (&long, json!({}), "at most 52 characters and no dots"),
        ("a.b", json!({}), "at most 52 characters and no dots"),
    ] {
        let message = refusal(&harness, name, spec).await;
        assert!(message.contains(expected), "{expected:?} is not in {message}");
    }
}

#[requires(api_server)]
#[tokio::test]
async fn valid_server_is_accepted() {
    let harness = Harness::without_operator("accepted").await;
    let full = json!({
        "replicas": 0, "sessionAffinity": "ClientIP", "image": "registry.example/gateway@sha256:0",
        "sessionStorage": {
            "provider": "redis", "address": "[fd00::1]:6379", "db": 65535, "keyPrefix": "acme:", "username": "u",
            "passwordRef": {"name": "redis", "key": "password"},
        },
    });
    for (name, spec) in [("x", json!({})), ("full", full), (&"x".repeat(52), json!({}))] {
        assert_eq!(refusal(&harness, name, spec).await, "accepted");
    }
    let server: VirtualMCPServer = harness.wait_for_object("x").await;
    let spec = serde_json::to_value(server.spec).unwrap();
    assert_eq!(
        spec,
        json!({"groupRef": {"name": "group"}, "sessionAffinity": "None"})
    );
}

// The API server rejects an MCPServerEntry that cannot be called, and the message says why.
#[requires(api_server)]
#[tokio::test]
async fn invalid_entry_is_rejected_with_reason() {
    let harness = Harness::without_operator("member").await;
    let entries = harness.api::<MCPServerEntry>();
    for (name, url, expected) in [
        ("time", "time:8000", "expected an http or https URL"),
        (
            "time",
            "https://u:p@time/mcp",
            "without user, password or fragment",
        ),
        ("time", "http://time/\tmcp", "expected an http or https URL"),
        ("time.zone", "http://time/mcp", "name of the backend"),
        ("time", "http://time:8000/mcp?x=a@b", "accepted"),
    ] {
        let object = json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": name},
            "spec": {"groupRef": {"name": "group"}, "url": url},
        });
        let applied = entries
            .patch(name, &PatchParams::apply("user"), &Patch::Apply(&object))
            .await;
        let message = applied.map_or_else(|error| error.to_string(), |_| "accepted".to_owned());
        assert!(message.contains(expected), "{expected:?} is not in {message}");
    }
}
