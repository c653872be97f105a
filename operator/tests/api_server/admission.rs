//! What the API server refuses, before the operator sees it, and in which words.

use kube::api::{Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::v1alpha1::{MCPServerEntry, VirtualMCPServer};

use crate::world::World;

async fn refusal(world: &World, name: &str, mut spec: Json) -> String {
    spec["groupRef"] = json!({"name": "group"});
    let object = json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": name}, "spec": spec,
    });
    let servers = world.api::<VirtualMCPServer>();
    let applied = servers
        .patch(name, &PatchParams::apply("user"), &Patch::Apply(&object))
        .await;
    applied.map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
}

#[tokio::test]
async fn a_server_that_cannot_work_is_refused_with_the_reason() {
    let Some(world) = World::without_operator("admission").await else {
        return;
    };
    let storage = |storage: Json| json!({"sessionStorage": storage});
    let long = "x".repeat(53);
    for (name, spec, words) in [
        (
            "x",
            storage(json!({"provider": "redis"})),
            "address is required with provider redis",
        ),
        (
            "x",
            storage(json!({"provider": "redis", "address": "redis"})),
            "for example redis.tools.svc:6379",
        ),
        (
            "x",
            storage(json!({"provider": "redis", "address": "redis://r:1"})),
            "host:port without a scheme",
        ),
        (
            "x",
            storage(json!({"provider": "etcd"})),
            "supported values: \"memory\", \"redis\"",
        ),
        (
            "x",
            storage(json!({"provider": "memory", "keyPrefix": "{a}"})),
            "must not contain braces",
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
        ("x", json!({"image": "a b"}), "image is an image reference"),
        (
            "x",
            storage(json!({
                "provider": "redis", "address": "r:1", "passwordRef": {"name": "?x=", "key": "password"},
            })),
            "name is the name of an object",
        ),
        (
            "x",
            storage(json!({
                "provider": "redis", "address": "r:1", "passwordRef": {"name": "redis", "key": "../password"},
            })),
            "key is the key of a Secret",
        ),
        (&long, json!({}), "at most 52 characters and no dots"),
        ("a.b", json!({}), "at most 52 characters and no dots"),
    ] {
        let said = refusal(&world, name, spec).await;
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}

#[tokio::test]
async fn a_server_that_can_work_is_accepted() {
    let Some(world) = World::without_operator("accepted").await else {
        return;
    };
    let full = json!({
        "replicas": 0, "sessionAffinity": "ClientIP", "image": "registry.example/gateway@sha256:0",
        "sessionStorage": {
            "provider": "redis", "address": "[fd00::1]:6379", "db": 65535, "keyPrefix": "acme:", "username": "u",
            "passwordRef": {"name": "redis", "key": "password"},
        },
    });
    for (name, spec) in [("x", json!({})), ("full", full), (&"x".repeat(52), json!({}))] {
        assert_eq!(refusal(&world, name, spec).await, "accepted");
    }
    let server: VirtualMCPServer = world.child("x").await;
    let spec = serde_json::to_value(server.spec).unwrap();
    assert_eq!(
        spec,
        json!({"groupRef": {"name": "group"}, "sessionAffinity": "None"})
    );
}

#[tokio::test]
async fn a_member_that_cannot_be_called_is_refused_with_the_reason() {
    let Some(world) = World::without_operator("member").await else {
        return;
    };
    let entries = world.api::<MCPServerEntry>();
    for (name, url, words) in [
        ("time", "time:8000", "begins with http:// or https://"),
        ("time", "https://u:p@time/mcp", "must not hold credentials"),
        ("time", "http://time/\tmcp", "white space"),
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
        let said = applied.map_or_else(|error| error.to_string(), |_| "accepted".to_owned());
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}
