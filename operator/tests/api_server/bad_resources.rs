//! A table of invalid resources, each with the field and the message that `kubectl apply` prints, or with the condition that names the
//! field.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value as Json, json};
use vmcp_crds::v1alpha1::{MCPGroup, MCPServer, MCPServerEntry, VirtualMCPServer};
use vmcp_external::requires;

use crate::harness::Harness;
use crate::rejected_entries::rejected_entries;
use crate::rejected_mcp_servers::rejected_mcp_servers;
use crate::rejected_resources::{ENTRY, GROUP, MCP_SERVER, SERVER, rejected_servers};

/// Resources that use every kind of field, and are valid.
fn accepted() -> Vec<(&'static str, Json)> {
    vec![
        (
            SERVER,
            json!({
                "instructions": "Ask time_ tools for the time.",
                "serverInfo": {"name": "tools", "title": "All our tools", "version": "1"},
                "aggregation": {
                    "strategy": "priority", "priority": ["time", "fetch"], "names": "strict", "failureMode": "hide",
                    "refresh": "30s", "pageSize": 50, "capabilities": ["tools"],
                },
                "limits": {"requestBytes": 2048, "requestBytesInFlight": 2048, "bufferedBytes": 1_048_576, "sessions": 5},
                "allowedHosts": ["mcp.example.com", "10.0.0.7:4483", "[fd00::1]:80"],
                "allowedOrigins": ["https://app.example.com", "http://localhost:3000", "app://obsidian.md", "null"],
                "streamCallsAfter": "20s",
                "operational": {
                    "logLevel": "debug", "accessLog": {"sample": 0.01}, "drainDelay": "10s", "idleTimeout": "2m",
                    "timeouts": {"connect": "1s", "firstByte": "1m", "idle": "1m30s", "call": "5m", "extendOnProgress": true},
                },
                "incomingAuth": {"type": "oidc", "oidc": {
                    "issuer": "https://id.example.com/realms/a", "audience": ["tools"],
                    "resource": "https://tools.example.com/mcp", "jwksUrl": "https://id.example.com/keys?v=1",
                    "scopes": ["tools"], "algorithms": ["ES256", "EdDSA"], "clockLeeway": "5s", "keyRefresh": "1m",
                    "caBundleRef": {"secretKeyRef": {"name": "ca", "key": "ca.crt"}},
                }},
                "sessionStorage": {
                    "provider": "redis", "sentinel": {"masterName": "mymaster", "addresses": ["s-0:26379", "s-1:26379"]},
                    "db": 3, "keyPrefix": "acme:", "ttl": "1h", "maxLifetime": "48h", "connectTimeout": "2s",
                    "commandTimeout": "500ms", "maxStaleness": "0s", "onStoreOutage": "refuse", "outageGrace": "1m",
                    "tls": {
                        "caBundleRef": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}},
                        "clientCertificateRef": {"name": "client"}, "serverName": "redis.tools.svc",
                    },
                },
            }),
        ),
        (
            SERVER,
            json!({
                "tls": {"certificateRef": {"name": "tools-tls"}},
                "httpRoute": {
                    "parentRefs": [{
                        "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "gateways", "name": "public",
                        "sectionName": "https", "port": 443,
                    }],
                    "hostnames": ["tools.example.com"], "path": "/team-a/mcp",
                    "timeouts": {"request": "1h", "backendRequest": "10m"},
                    "labels": {"team": "a"}, "annotations": {"example.com/a": "b"},
                },
                "serviceMonitor": {"interval": "30s", "labels": {"release": "prometheus"}},
                "autoscaling": {"maxReplicas": 5, "targetRequestsPerPod": 20},
                "resources": {"limits": {"cpu": 2, "memory": "1.5Gi"}, "requests": {"cpu": "100m", "memory": "64Mi"}},
                "podDisruptionBudget": {"maxUnavailable": "25%"},
                "podTemplate": {
                    "metadata": {"labels": {"team": "a"}},
                    "spec": {
                        "nodeSelector": {"disk": "ssd"}, "enableServiceLinks": false,
                        "tolerations": [{"key": "a", "operator": "Exists"}],
                        "containers": [
                            {"name": "gateway", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
                            {"name": "sidecar", "image": "s", "stdin": true},
                        ],
                    },
                },
                // The route gives the resource.
                "incomingAuth": {"type": "oidc", "oidc": {"issuer": "https://id.example.com", "audience": ["tools"]}},
            }),
        ),
        (
            SERVER,
            json!({"sessionStorage": {"provider": "redis", "cluster": {"addresses": ["r-0:6379", "[fd00::1]:6379"]}}}),
        ),
        (
            ENTRY,
            json!({
                "url": "https://time.tools.svc:8443/mcp?x=a@b", "addresses": ["10.0.0.7", "fd00::7"], "transport": "streamable-http",
                "prefix": "t-", "timeouts": {"call": "10m"}, "sessionState": "disposable", "catalog": "perSession",
                "maxAnswerBytes": 1_048_576, "passHeaders": ["X-Tenant"],
                "headers": {
                    "X-Region": {"value": "eu\twest"},
                    "Authorization": {"prefix": "Bearer ", "secretKeyRef": {"name": "time", "key": "token"}},
                },
                "tls": {
                    "caBundleRef": {"secretKeyRef": {"name": "time", "key": "ca.crt"}},
                    "clientCertificateRef": {"name": "client"},
                },
                "tools": {
                    "allow": ["get_*"], "deny": ["get_secret"], "hidden": ["get_raw"],
                    "overrides": {"get_time": {"name": "now", "annotations": {"readOnlyHint": true}}, "b": {"title": "B"}},
                    "deadlines": {"slow_*": "1h"},
                },
                "prompts": {"allow": ["a"], "overrides": {"a": {"name": "Überprüfen: Code"}}},
                "resources": {"deny": ["file:///etc/*"]},
                "breaker": {"failures": 0, "openFor": "1s"}, "concurrency": {"limit": 1, "queue": 0, "wait": "0s"},
                "health": {"interval": "1m", "timeout": "10ms", "unhealthyAfter": 1},
            }),
        ),
        (
            GROUP,
            json!({
                "description": "Tools of team a",
                "selector": {
                    "matchLabels": {"team": "a"},
                    "matchExpressions": [
                        {"key": "example.com/tier", "operator": "NotIn", "values": ["test"]},
                        {"key": "stable", "operator": "Exists"},
                    ],
                },
            }),
        ),
        (
            MCP_SERVER,
            json!({
                "image": "registry.example:5000/weather@sha256:0", "command": ["python", "-m", "weather"], "args": ["--verbose", ""],
                "env": [
                    {"name": "A", "value": "b"},
                    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "weather", "key": "token"}}},
                ],
                "envFrom": [{"configMapRef": {"name": "weather"}}], "transport": "stdio", "port": 3000,
                "processes": "perSession", "maxProcesses": 8, "idleTimeout": "10m", "replicas": 3,
                "resources": {"limits": {"memory": "2Gi"}},
                "podTemplate": {"spec": {
                    "nodeSelector": {"disk": "ssd"}, "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
                    "containers": [{"name": "mcp", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
                }},
                "imagePullSecrets": [{"name": "registry"}], "serviceAccountName": "weather",
                "securityContext": {"runAsUser": 1000, "readOnlyRootFilesystem": false},
                "networkPolicy": {
                    "clients": [{"podSelector": {"matchLabels": {"app": "agent"}}}], "monitoring": [{"namespaceSelector": {}}],
                    "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 443}]}],
                },
                "prefix": "w-", "timeouts": {"call": "10m"}, "sessionState": "disposable", "catalog": "perSession",
                "maxAnswerBytes": 1_048_576, "passHeaders": ["X-Tenant"], "headers": {"X-Region": {"value": "eu"}},
                "tools": {"allow": ["get_*"]}, "prompts": {"allow": ["a"]}, "resourceFilters": {"deny": ["file:///etc/*"]},
                "breaker": {"failures": 0}, "concurrency": {"limit": 1}, "health": {"interval": "1m"},
            }),
        ),
        (
            MCP_SERVER,
            json!({"npm": {"package": "@modelcontextprotocol/server-memory", "version": "2026.1.0"}, "args": ["--x"]}),
        ),
        (
            MCP_SERVER,
            json!({"pypi": {"package": "mcp-server-git"}, "processes": "shared"}),
        ),
        (
            MCP_SERVER,
            json!({
                "image": "weather", "transport": "streamable-http", "port": 9483, "path": "/v1/mcp?x=y",
                "tls": {"caBundleRef": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}},
                "networkPolicy": {"enabled": false}, "sharedSession": true,
            }),
        ),
        (ENTRY, json!({"url": "http://one", "sharedSession": true})),
        (
            ENTRY,
            json!({"url": "http://[::1]:9/mcp", "transport": "sse", "prefix": ""}),
        ),
    ]
}

/// The object `name` of a kind with `spec` and what a spec needs at least.
pub(crate) fn resource(kind: &str, name: &str, spec: &Json) -> Json {
    let mut whole = match kind {
        GROUP => json!({}),
        MCP_SERVER => json!({"groupRef": {"name": "group"}}),
        ENTRY => json!({"groupRef": {"name": "group"}, "url": "http://time:8000/mcp"}),
        _ => json!({"groupRef": {"name": "group"}}),
    };
    whole
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": whole,
    })
}

/// What the API server answers to `kubectl apply --validate=strict`.
pub(crate) async fn apply(harness: &Harness, kind: &str, name: &str, spec: &Json) -> String {
    let object = resource(kind, name, spec);
    let parameters = PatchParams::apply("user").force().validation_strict();
    let patch = Patch::Apply(&object);
    let (groups, entries, servers) = (harness.api::<MCPGroup>(), harness.api(), harness.api());
    let answer = match kind {
        GROUP => groups.patch(name, &parameters, &patch).await.map(drop),
        ENTRY => {
            let answer: Result<MCPServerEntry, _> = entries.patch(name, &parameters, &patch).await;
            answer.map(drop)
        }
        MCP_SERVER => {
            let mcp_servers = harness.api::<MCPServer>();
            mcp_servers.patch(name, &parameters, &patch).await.map(drop)
        }
        _ => {
            let answer: Result<VirtualMCPServer, _> = servers.patch(name, &parameters, &patch).await;
            answer.map(drop)
        }
    };
    answer.map_or_else(|error| error.to_string(), |()| "accepted".to_owned())
}

// The API server rejects each resource of the table, and the message names the field and says what is allowed.
#[requires(api_server)]
#[tokio::test]
async fn bad_resource_is_rejected_with_field_and_message() {
    let harness = Harness::without_operator("bad").await;
    let table = [rejected_servers(), rejected_entries(), rejected_mcp_servers()].concat();
    assert!(table.len() >= 40, "{}", table.len());
    let mut wrong = Vec::new();
    for (kind, spec, field, expected) in table {
        let message = apply(&harness, kind, "x", &spec).await;
        if !message.contains(field) || !message.contains(expected) {
            wrong.push(format!(
                "{kind} {spec}: {field} or {expected:?} is not in {message}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[requires(api_server)]
#[tokio::test]
async fn valid_resource_is_accepted_with_all_fields() {
    let harness = Harness::without_operator("good").await;
    for (number, (kind, spec)) in accepted().into_iter().enumerate() {
        let answer = apply(&harness, kind, &format!("x{number}"), &spec).await;
        assert_eq!(answer, "accepted", "{kind} {spec}");
        // The API server keeps every field, and adds none.
        let name = format!("x{number}");
        let stored = harness
            .get(&json!({"apiVersion": "vmcp.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}))
            .await;
        for (field, value) in spec.as_object().unwrap() {
            assert_eq!(&stored["spec"][field], value, "{kind} {field}");
        }
    }
}

// What the schema cannot express is in a condition that names the field, and the other backends are served.
#[requires(api_server)]
#[tokio::test]
async fn condition_names_what_the_schema_cannot_reject() {
    let harness = Harness::start("left-out").await;
    harness.apply_group(&["time"]).await;
    let rename = |name: &str| json!({"tools": {"overrides": {"a": {"name": name}}}});
    assert_eq!(
        apply(&harness, ENTRY, "first", &rename("taken")).await,
        "accepted"
    );
    for (strategy, name, spec, field) in [
        (
            "none",
            "prefixed",
            json!({"prefix": "x_"}),
            "spec.prefix: has no effect with `aggregation.strategy: none`",
        ),
        (
            "prefix",
            "renamed",
            json!({"prefix": "x".repeat(120), "tools": {"overrides": {"a": {"name": "b".repeat(9)}}}}),
            "spec.tools.overrides.a.name: found",
        ),
        (
            "manual",
            "second",
            rename("taken"),
            "spec.tools.overrides.a.name: the name \"taken\" is given by backend first, too",
        ),
    ] {
        harness
            .apply_server(json!({"aggregation": {"strategy": strategy}}))
            .await;
        assert_eq!(apply(&harness, ENTRY, name, &spec).await, "accepted");
        let message = |server: &VirtualMCPServer| {
            let conditions = &server.status.as_ref()?.conditions;
            let condition = conditions
                .iter()
                .find(|condition| condition.type_ == "ConfigValid")?;
            let expected = format!("MCPServerEntry {name}: {field}");
            condition.message.contains(&expected).then_some(())
        };
        harness
            .wait_for(&format!("the condition names {field} of {name}"), "x", message)
            .await;
        let entries = harness.api::<MCPServerEntry>();
        entries.delete(name, &DeleteParams::default()).await.unwrap();
    }
}
