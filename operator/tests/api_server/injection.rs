//! Injection through strings of custom resources: into a path, a query, a label, a variable, YAML, a Redis command.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value as Json, json};
use vmcp_cluster::ApiServer;
use vmcp_crds::v1alpha1::{PackageRef, field_rules};
use vmcp_external::process::Process;
use vmcp_external::requires;

use crate::harness::{KINDS, OPERATOR, client_of, eventually};

/// A value that must never leave its Secret, and its base64 form as Kubernetes writes it.
const SECRET_VALUE: &str = "canary-hunter2-canary";
const SECRET_VALUE_BASE64: &str = "Y2FuYXJ5LWh1bnRlcjItY2FuYXJ5";

const STRINGS: [&str; 31] = [
    "?x=",
    "?watch=1&x=",
    "?watch=true&resourceVersion=0",
    "canary?x=",
    "canary?watch=1",
    "../secrets/canary",
    "..",
    ".",
    "canary/",
    "/api/v1/secrets",
    "canary/../../configmaps/canary",
    "%2e%2e%2fsecrets",
    "canary%2f",
    "canary%00",
    "canary\0",
    "canary#fragment",
    "canary secret",
    " canary",
    "canary\n",
    "a\r\nAuthorization: Bearer x",
    "a: b\nc: [d",
    "{{ .Values.x }}",
    "$(POD_NAME)",
    "${HOME}",
    "`id`",
    "\"quoted\"",
    "*",
    "!tag",
    "app=x,vmcp.dev/config!=y",
    "\u{202e}yranac",
    "CANARY\t\u{1b}[31m",
];

/// A string field, its location, and the rule of the schema.
struct Field {
    kind: &'static str,
    pointer: &'static str,
    allows: fn(&str) -> bool,
}

const FIELDS: [Field; 24] = [
    server("/spec/groupRef/name", |text| {
        field_rules::object_name(text).is_ok()
    }),
    server("/spec/image", |text| field_rules::image(text).is_ok()),
    server("/spec/sessionAffinity", |_| false),
    server("/spec/sessionStorage/provider", |_| false),
    server("/spec/sessionStorage/address", |text| {
        field_rules::redis_address(text).is_ok()
    }),
    server("/spec/sessionStorage/keyPrefix", |text| {
        field_rules::key_prefix(text).is_ok()
    }),
    server("/spec/sessionStorage/username", |text| {
        field_rules::redis_text(text).is_ok()
    }),
    server("/spec/sessionStorage/passwordRef/name", |text| {
        field_rules::object_name(text).is_ok()
    }),
    server("/spec/sessionStorage/passwordRef/key", |text| {
        field_rules::secret_key(text).is_ok()
    }),
    server("/spec/tls/certificateRef/name", |text| {
        field_rules::object_name(text).is_ok()
    }),
    server("/spec/httpRoute/path", |text| {
        field_rules::route_path(text).is_ok()
    }),
    server(
        "/spec/sessionStorage/tls/caBundleRef/configMapKeyRef/name",
        |text| field_rules::object_name(text).is_ok(),
    ),
    server("/spec/sessionStorage/tls/clientCertificateRef/name", |text| {
        field_rules::object_name(text).is_ok()
    }),
    entry("/spec/headers/X-Key/secretKeyRef/name", |text| {
        field_rules::object_name(text).is_ok()
    }),
    entry("/spec/headers/X-Key/secretKeyRef/key", |text| {
        field_rules::secret_key(text).is_ok()
    }),
    entry("/spec/tls/clientCertificateRef/name", |text| {
        field_rules::object_name(text).is_ok()
    }),
    entry("/spec/url", |_| false),
    entry("/spec/groupRef/name", |text| {
        field_rules::object_name(text).is_ok()
    }),
    Field {
        kind: "MCPGroup",
        pointer: "/spec/description",
        allows: |_| true,
    },
    mcp_server("/spec/image", |text| field_rules::image(text).is_ok()),
    mcp_server("/spec/serviceAccountName", |text| {
        field_rules::object_name(text).is_ok()
    }),
    mcp_server("/spec/npm/package", |text| {
        let package = PackageRef {
            package: text.to_owned(),
            version: None,
        };
        package.check_npm().is_ok()
    }),
    mcp_server("/spec/npm/version", |text| {
        let package = PackageRef {
            package: "a".to_owned(),
            version: Some(text.to_owned()),
        };
        package.check_npm().is_ok()
    }),
    // The API server's own rule for names is as strict as ours.
    server("/metadata/name", |_| false),
];

const fn server(pointer: &'static str, allows: fn(&str) -> bool) -> Field {
    Field {
        kind: "VirtualMCPServer",
        pointer,
        allows,
    }
}

const fn entry(pointer: &'static str, allows: fn(&str) -> bool) -> Field {
    Field {
        kind: "MCPServerEntry",
        pointer,
        allows,
    }
}

const fn mcp_server(pointer: &'static str, allows: fn(&str) -> bool) -> Field {
    Field {
        kind: "MCPServer",
        pointer,
        allows,
    }
}

/// A valid object except for one string.
fn object(name: &str, field: &Field, text: &str) -> Json {
    let mut object = json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": field.kind, "metadata": {"name": name, "namespace": "hostile"},
        "spec": match field.kind {
            "VirtualMCPServer" => json!({"groupRef": {"name": "group"}, "sessionAffinity": "None", "sessionStorage": {
                "provider": "redis", "address": "redis:6379", "keyPrefix": "a:", "username": "u",
                "passwordRef": {"name": "redis", "key": "password"},
                "tls": {
                    "caBundleRef": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}},
                    "clientCertificateRef": {"name": "redis"},
                },
            }, "image": "gateway", "tls": {"certificateRef": {"name": "canary"}}, "httpRoute": {
                "parentRefs": [{"name": "public"}], "hostnames": ["tools.example.com"], "path": "/mcp",
            }}),
            "MCPServerEntry" => json!({
                "groupRef": {"name": "hostile-group"}, "url": "https://time:8000/mcp",
                "headers": {"X-Key": {"secretKeyRef": {"name": "canary", "key": "canary"}}},
                "tls": {"clientCertificateRef": {"name": "canary"}},
            }),
            "MCPServer" if field.pointer.contains("/npm/") => json!({"npm": {"package": "a", "version": "1"}}),
            "MCPServer" => json!({"image": "a", "command": ["a"], "serviceAccountName": "a"}),
            _ => json!({"description": "x"}),
        },
    });
    *object.pointer_mut(field.pointer).unwrap() = json!(text);
    object
}

/// All `STRINGS` in all `FIELDS`, each with a unique object name.
fn table() -> impl Iterator<Item = (String, &'static Field, &'static str)> {
    FIELDS.iter().enumerate().flat_map(|(f, field)| {
        STRINGS
            .iter()
            .enumerate()
            .map(move |(s, text)| (format!("f{f}-s{s}"), field, *text))
    })
}

/// Removes the rules for values from a schema, as an older schema may have lacked them.
fn loosen(schema: &mut Json) {
    match schema {
        Json::Object(fields) => {
            for rule in [
                "pattern",
                "minLength",
                "maxLength",
                "enum",
                "x-kubernetes-validations",
                "default",
            ] {
                fields.retain(|name, value| name != rule || value.is_object() && rule != "default");
            }
            fields.values_mut().for_each(loosen);
        }
        Json::Array(items) => items.iter_mut().for_each(loosen),
        _ => {}
    }
}

fn definitions(is_old: bool) -> Vec<Json> {
    let texts = vmcp_crds::v1alpha1::yaml().unwrap();
    let mut definitions: Vec<Json> = texts
        .iter()
        .map(|(_, text)| serde_yaml::from_str(text).unwrap())
        .collect();
    for definition in definitions.iter_mut().filter(|_| is_old) {
        loosen(definition.pointer_mut("/spec/versions/0/schema").unwrap());
    }
    definitions
}

/// Writes `objects` as one file for `kubectl`.
fn file(dir: &Path, name: &str, objects: &[Json]) -> String {
    let path = dir.join(name);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    fs::write(&path, list.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// An API server with a namespace, Secrets, and the permissions that the chart grants the operator.
fn api_server(dir: &Path, is_old: bool) -> ApiServer {
    let server = ApiServer::start().unwrap();
    let rules: Json =
        serde_yaml::from_str(include_str!("../../../charts/vmcp-operator/files/rules.yaml")).unwrap();
    let mut setup = definitions(is_old);
    setup.extend([
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "hostile"}}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "operator"},
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "operator"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}],
        }),
    ]);
    for name in ["canary", "redis"] {
        setup.push(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "hostile"},
            "stringData": {"password": SECRET_VALUE, "canary": SECRET_VALUE},
        }));
    }
    let setup = file(dir, "setup.json", &setup);
    server.kubectl(["apply", "--server-side", "-f", &setup]).unwrap();
    server.wait_until_served(&KINDS).unwrap();
    server
}

/// Starts the operator as the chart does, with the most verbose log.
fn operator(server: &ApiServer) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-operator"));
    command
        .args(["--leader-election", "false", "--admin-listen", "127.0.0.1:0"])
        .args([
            "--log",
            "trace,kube_client=trace,kube=trace,hyper=trace",
            "--log-format",
            "json",
        ])
        .env("KUBECONFIG", server.kubeconfig_as(OPERATOR).unwrap());
    Process::start("operator", &command).unwrap()
}

/// The `Ready` conditions of all virtual servers and servers, by name.
fn conditions(server: &ApiServer) -> BTreeMap<String, Json> {
    let list = server
        .kubectl(["get", "vmcp,mcps", "-n", "hostile", "-o", "json"])
        .unwrap();
    let list: Json = serde_json::from_str(&list).unwrap();
    let ready = |item: &Json| {
        let mut conditions = item["status"]["conditions"].as_array()?.iter();
        conditions.find(|condition| condition["type"] == "Ready").cloned()
    };
    let items = list["items"].as_array().unwrap().iter();
    items
        .filter_map(|item| Some((item["metadata"]["name"].as_str()?.to_owned(), ready(item)?)))
        .collect()
}

/// Untyped access to the objects of one of our kinds.
#[expect(clippy::disallowed_methods, reason = "tests use fixed names")]
fn objects(client: &Client, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("vmcp.dev", "v1alpha1", kind);
    Api::namespaced_with(client.clone(), "hostile", &ApiResource::from_gvk(&kind))
}

/// Fails if the operator sent a request that no valid name produces, or wrote anything but Events, statuses and the children of the
/// servers `accepted`.
fn assert_only_valid_requests(server: &ApiServer, accepted: &[String]) {
    let is_child = |name: &str| {
        let of_server = |server: &String| {
            let rest = name
                .strip_prefix("vmcp-")
                .or_else(|| name.strip_prefix("mcp-"))
                .and_then(|name| name.strip_prefix(server));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        accepted.iter().any(of_server)
    };
    let requests = server.requests_of(OPERATOR).unwrap();
    assert!(requests.len() > 100, "{requests:#?}");
    for request in &requests {
        let (path, query) = request.uri.split_once('?').unwrap_or((&request.uri, ""));
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        assert!(
            parts.iter().all(|part| field_rules::object_name(part).is_ok()),
            "{request:?}"
        );
        let whole_list = path.ends_with("/secrets") && request.verb == "list";
        assert!(!whole_list || query.contains("limit="), "{request:?}");
        if matches!(request.verb.as_str(), "get" | "list" | "watch") {
            continue;
        }
        let own = ["virtualmcpservers", "mcpgroups", "mcpservers", "events"]
            .iter()
            .any(|kind| parts.contains(kind));
        let child = parts.last().is_some_and(|name| is_child(name));
        let made = request.verb == "create" && parts.last() == Some(&"secrets");
        assert!(own || child || made, "{request:?}");
    }
    // The created Secrets are the session keys of the accepted servers.
    let secrets = server
        .kubectl(["get", "secrets", "-n", "hostile", "-o", "name"])
        .unwrap();
    for name in secrets.lines().map(|name| name.trim_start_matches("secret/")) {
        assert!(["canary", "redis"].contains(&name) || is_child(name), "{name}");
    }
}

fn assert_log_holds_no_secret(operator: &Process) {
    let log = fs::read_to_string(operator.log()).unwrap();
    assert!(log.contains("applied"), "{log}");
    for line in log.lines() {
        assert!(
            !line.contains(SECRET_VALUE) && !line.contains(SECRET_VALUE_BASE64),
            "{line}"
        );
        // No hostile string starts a new log line.
        serde_json::from_str::<Json>(line).unwrap();
    }
}

// The schema rejects every hostile string, and the message names the field.
#[requires(api_server)]
#[tokio::test]
async fn hostile_string_is_rejected_by_schema() {
    let dir = tempfile::tempdir().unwrap();
    let server = api_server(dir.path(), false);
    let client = client_of(&server.kubeconfig(), None).await;
    let dry_run = PostParams {
        dry_run: true,
        field_manager: None,
    };
    let mut refused = 0;
    for (name, field, text) in table() {
        let object = serde_json::from_value(object(&name, field, text)).unwrap();
        let created = objects(&client, field.kind).create(&dry_run, &object).await;
        let (allowed, place) = ((field.allows)(text), field.pointer);
        match created {
            Ok(_) => assert!(allowed, "{place} {text:?} was accepted"),
            Err(error) => {
                let message = error.to_string();
                assert!(!allowed, "{place} {text:?}: {message}");
                let leaf = place.rsplit('/').next().unwrap();
                assert!(message.contains(leaf), "{place} {text:?}: {message}");
                refused += 1;
            }
        }
    }
    assert!(refused > 250, "{refused}");
}

// The operator rejects hostile strings in objects that are older than the schema, and reconciles the other objects.
#[requires(api_server)]
#[tokio::test]
async fn hostile_string_of_older_object_sends_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = api_server(dir.path(), true);
    let client = client_of(&server.kubeconfig(), None).await;
    let mut rejected = Vec::new();
    let mut accepted = vec!["good".to_owned()];
    for (name, field, text) in table().filter(|(_, field, _)| field.pointer != "/metadata/name") {
        let object = serde_json::from_value(object(&name, field, text)).unwrap();
        eventually(&format!("{name} is created"), async || {
            let created = objects(&client, field.kind)
                .create(&PostParams::default(), &object)
                .await;
            created.ok()
        })
        .await;
        match (field.kind, (field.allows)(text)) {
            ("VirtualMCPServer" | "MCPServer", false) => rejected.push((name, field, text)),
            ("VirtualMCPServer" | "MCPServer", true) => accepted.push(name),
            _ => {}
        }
    }
    assert!(rejected.len() > 200, "{}", rejected.len());
    let path = file(dir.path(), "definitions.json", &definitions(false));
    server.kubectl(["apply", "--server-side", "-f", &path]).unwrap();
    let good = [
        json!({"apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPGroup", "metadata": {"name": "group", "namespace": "hostile"}, "spec": {}}),
        json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": "good", "namespace": "hostile"},
            "spec": {"groupRef": {"name": "group"}},
        }),
    ];
    let path = file(dir.path(), "good.json", &good);
    server
        .kubectl(["apply", "--validate=false", "-f", &path])
        .unwrap();

    let operator = operator(&server);
    eventually("the valid server has its Deployment", async || {
        server
            .kubectl(["get", "deployment", "-n", "hostile", "vmcp-good"])
            .ok()
    })
    .await;
    let ready = eventually("every rejected server has a condition", async || {
        let ready = conditions(&server);
        rejected
            .iter()
            .all(|(name, ..)| ready.contains_key(name))
            .then_some(ready)
    })
    .await;
    for (name, field, text) in rejected {
        let ready = &ready[&name];
        let place = field.pointer.trim_start_matches('/').replace('/', ".");
        assert_eq!(
            (&ready["status"], &ready["reason"]),
            (&json!("False"), &json!("ConfigInvalid")),
            "{place} {text:?}"
        );
        let message = ready["message"].as_str().unwrap();
        // An unknown enum value fails to deserialize, and that error does not name the field.
        let is_enum = place.ends_with("provider") || place.ends_with("sessionAffinity");
        assert!(is_enum || message.contains(&place), "{place} {text:?}: {message}");
    }
    assert_only_valid_requests(&server, &accepted);
    assert_log_holds_no_secret(&operator);
}
