//! The operator never renders a configuration that the gateway rejects, whatever the specs say.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value as Json, json};
use vmcp_crds::config::{BackendConfig, json_schema};
use vmcp_crds::v1alpha1::{MCPServerEntry, VirtualMCPServer};
use vmcp_operator::desired::{Backend, config_files};

/// Number of generated specs.
const CASES: u32 = 2000;

/// Values of a text field, by its name: valid and invalid ones.
fn texts(field: &str) -> &'static [&'static str] {
    match field {
        "url" => &[
            "http://a/mcp",
            "https://a.b:8443/x?y=z",
            "http://[::1]:9/mcp",
            "http://10.0.0.1",
            "a:8000",
            "http://u:p@a",
        ],
        "issuer" => &[
            "https://id.example.com",
            "https://id.example.com/realms/a",
            "http://id",
            "https://i?x",
        ],
        "jwksUrl" => &[
            "https://id.example.com/keys",
            "https://id/keys?v=1",
            "http://id/keys",
        ],
        "resource" => &["https://tools.example.com/mcp", "https://a/mcp?x", "http://a/\""],
        "audience" => &["https://tools.example.com/mcp", "tools", ""],
        "address" | "addresses" => &["redis:6379", "[fd00::1]:6379", "redis", "r:0"],
        "masterName" => &["mymaster", ""],
        "keyPrefix" => &["acme:", "vmcp:", "{a}", "a b"],
        "username" => &["gateway", "a b"],
        "allowedHosts" => &[
            "mcp.example.com",
            "10.0.0.7:4483",
            "[fd00::1]:80",
            "a.",
            "http://b",
        ],
        "allowedOrigins" => &[
            "https://app.example.com",
            "app://obsidian.md",
            "null",
            "*",
            "https://a:0",
        ],
        "priority" => &["a", "b", "A B"],
        "prefixFormat" => &["{backend}_", "{workload}.", "x", "{backend}:"],
        "prefix" => &["t-", "", "a b", "x."],
        "hostnames" => &["tools.example.com", "a", "*.example.com", "a:1"],
        "path" => &["/mcp", "/team-a/mcp", "/", "/a?b"],
        "passHeaders" => &["X-Tenant", "Cookie", "mcp-x", "X-*", "x-other"],
        "scopes" => &["tools", "a b"],
        _ => &[
            "x",
            "y",
            "get_*",
            "a b",
            "",
            "Überprüfen: Code",
            "a\tb",
            "- {yaml: [\"'",
            "null",
            "1.5",
        ],
    }
}

const DURATIONS: &[&str] = &[
    "0s", "1ms", "10ms", "250ms", "1s", "5s", "1m", "1h30m", "24h", "25h", "9000h",
];

fn resolved<'a>(schema: &'a Json, root: &'a Json) -> &'a Json {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolved(root.pointer(reference.trim_start_matches('#')).unwrap(), root);
    }
    match schema["anyOf"].as_array() {
        Some(choices) => {
            let list = choices.iter().find(|choice| choice["type"] == "array");
            resolved(list.unwrap_or(&choices[0]), root)
        }
        None => schema,
    }
}

/// A value that the schema allows. The rules of the fields may forbid it.
fn value(field: &str, schema: &Json, root: &Json) -> BoxedStrategy<Json> {
    let schema = resolved(schema, root);
    if let Some(choices) = schema["oneOf"].as_array() {
        let names: Vec<Json> = choices.iter().map(|choice| choice["const"].clone()).collect();
        return select(names).boxed();
    }
    let kind = match &schema["type"] {
        Json::Array(kinds) => kinds[0].as_str().unwrap(),
        kind => kind.as_str().unwrap(),
    };
    match kind {
        "boolean" => any::<bool>().prop_map(Json::from).boxed(),
        "integer" => {
            let minimum = schema["minimum"].as_u64().unwrap_or(0);
            let maximum = schema["maximum"].as_u64().unwrap_or(60_000);
            select(vec![minimum, minimum + 1, minimum + 5000, maximum])
                .prop_map(Json::from)
                .boxed()
        }
        "number" => select(vec![json!(0), json!(0.01), json!(1)]).boxed(),
        "array" => proptest::collection::vec(value(field, &schema["items"], root), 0..3)
            .prop_map(Json::from)
            .boxed(),
        "object" if schema["properties"].is_object() => fields(schema, root, &[]),
        "object" => {
            let values = value(field, &schema["additionalProperties"], root);
            proptest::collection::btree_map(select(vec!["x", "y", "get_*", "a.b[0]"]), values, 0..3)
                .prop_map(|values| {
                    let values = values.into_iter().map(|(key, value)| (key.to_owned(), value));
                    Json::Object(values.collect())
                })
                .boxed()
        }
        _ => match schema["description"].as_str() {
            Some("a duration with units") => select(DURATIONS).prop_map(Json::from).boxed(),
            Some("an IP address") => select(vec!["10.0.0.7", "fd00::7"]).prop_map(Json::from).boxed(),
            _ => select(texts(field)).prop_map(Json::from).boxed(),
        },
    }
}

/// An object with all required fields of the schema and some of the others, without those in `without`.
fn fields(schema: &Json, root: &Json, without: &[&str]) -> BoxedStrategy<Json> {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    let mut object = Just(Map::new()).boxed();
    for (name, field) in schema["properties"].as_object().unwrap() {
        if without.contains(&name.as_str()) {
            continue;
        }
        let set = if required.contains(&name.as_str()) {
            value(name, field, root).prop_map(Some).boxed()
        } else {
            proptest::option::weighted(0.12, value(name, field, root)).boxed()
        };
        let name = name.clone();
        object = (object, set)
            .prop_map(move |(mut object, set)| {
                object.extend(set.map(|value| (name.clone(), value)));
                object
            })
            .boxed();
    }
    object.prop_map(Json::Object).boxed()
}

/// A route with valid and invalid host names and paths.
fn http_route() -> BoxedStrategy<Json> {
    let hosts = proptest::collection::vec(select(texts("hostnames")), 1..3);
    let path = proptest::option::of(select(texts("path")));
    let route = (hosts, path, select(vec![80, 443, 8443])).prop_map(|(hosts, path, port)| {
        let mut route = json!({"parentRefs": [{"name": "public", "port": port}], "hostnames": hosts});
        if let Some(path) = path {
            route["path"] = json!(path);
        }
        route
    });
    route.boxed()
}

/// The headers of an entry: valid and invalid ones.
fn headers() -> BoxedStrategy<Json> {
    let key = || json!({"name": "a", "key": "b"});
    let sources = vec![
        json!({"value": "eu-west-1"}),
        json!({"value": "a\nb"}),
        json!({"value": ""}),
        json!({"secretKeyRef": key()}),
        json!({"prefix": "Bearer ", "secretKeyRef": key()}),
        json!({"prefix": "a\nb", "secretKeyRef": key()}),
        json!({"secretKeyRef": {"name": "A", "key": "b"}}),
        json!({"value": "a", "secretKeyRef": key()}),
        json!({}),
    ];
    let names = vec!["X-Key", "x-key", "authorization", "..", "X-Tenant", "Host", "a b"];
    proptest::collection::btree_map(select(names), select(sources), 0..3)
        .prop_map(|headers| {
            let headers = headers
                .into_iter()
                .map(|(name, source)| (name.to_owned(), source));
            Json::Object(headers.collect())
        })
        .boxed()
}

/// TLS settings of an entry or of Redis: valid and invalid ones.
fn tls() -> BoxedStrategy<Json> {
    let key = || json!({"name": "a", "key": "b"});
    select(vec![
        json!({}),
        json!({"caBundleRef": {"secretKeyRef": key()}}),
        json!({"caBundleRef": {"configMapKeyRef": key()}, "clientCertificateRef": {"name": "a"}}),
        json!({"caBundleRef": {"configMapKeyRef": key(), "secretKeyRef": key()}}),
        json!({"clientCertificateRef": {"name": "?x="}}),
    ])
    .boxed()
}

/// The spec of a virtual server, and those of the entries `a`, `b`, ... of its group.
fn specs() -> impl Strategy<Value = (Json, Vec<Json>)> {
    let root = json_schema().to_value();
    let definition = |name: &str| root["$defs"][name].clone();
    let hot = fields(
        &definition("HotConfig"),
        &root,
        &["backends", "logLevel", "accessLog"],
    );
    let storage = fields(&definition("SessionStorage"), &root, &["passwordFile", "tls"]);
    let oidc = fields(&definition("OidcConfig"), &root, &["caBundlePath"]);
    let timeouts = fields(&definition("Timeouts"), &root, &[]);
    let durations = || proptest::option::weighted(0.2, select(DURATIONS));
    let operational = (timeouts, durations(), durations(), select(vec!["info", "trace"])).prop_map(
        |(timeouts, drain, idle, level)| {
            let mut operational = json!({"timeouts": timeouts, "logLevel": level});
            operational["drainDelay"] = drain.map_or(json!("5s"), Json::from);
            operational["idleTimeout"] = idle.map_or(json!("75s"), Json::from);
            operational
        },
    );
    let rarely = |strategy: BoxedStrategy<Json>| proptest::option::weighted(0.3, strategy);
    let storage = (
        storage,
        rarely(tls()),
        select(vec!["redis.tools.svc", "https://redis"]),
        any::<bool>(),
    );
    let storage = storage.prop_map(|(mut storage, tls, name, insecure)| {
        if let Some(mut tls) = tls {
            match insecure {
                true => tls["insecureSkipVerify"] = json!(true),
                false => tls["serverName"] = json!(name),
            }
            storage["tls"] = tls;
        }
        storage
    });
    let oidc = (oidc, rarely(tls())).prop_map(|(mut oidc, tls)| {
        if let Some(bundle) = tls.as_ref().and_then(|tls| tls.get("caBundleRef")) {
            oidc["caBundleRef"] = bundle.clone();
        }
        oidc
    });
    let server = (
        hot,
        rarely(storage.boxed()),
        rarely(oidc.boxed()),
        rarely(operational.boxed()),
        rarely(http_route()),
        any::<bool>(),
    );
    let server = server.prop_map(|(mut spec, storage, oidc, operational, route, has_tls)| {
        spec["groupRef"] = json!({"name": "tools"});
        if let Some(mut storage) = storage {
            storage["passwordRef"] = json!({"name": "redis", "key": "password"});
            spec["sessionStorage"] = storage;
        }
        if let Some(oidc) = oidc {
            spec["incomingAuth"] = json!({"type": "oidc", "oidc": oidc});
        }
        if let Some(operational) = operational {
            spec["operational"] = operational;
        }
        if let Some(route) = route {
            spec["httpRoute"] = route;
        }
        if has_tls {
            spec["tls"] = json!({"certificateRef": {"name": "cert"}});
        }
        spec
    });
    let mut backend = definition("BackendConfig");
    // As in the schema of an MCPServerEntry.
    backend["required"] = json!(["url"]);
    let without = [&["name", "tls", "headers"], &BackendConfig::COMMAND_FIELDS[..]].concat();
    let entry = fields(&backend, &root, &without);
    let entry = (entry, rarely(headers()), rarely(tls())).prop_map(|(mut spec, headers, tls)| {
        spec["groupRef"] = json!({"name": "tools"});
        if let Some(headers) = headers {
            spec["headers"] = headers;
        }
        if let Some(tls) = tls {
            spec["tls"] = tls;
        }
        spec
    });
    (server, proptest::collection::vec(entry, 0..4))
}

/// Renders the specs, and loads the result as the gateway does. `None` if the operator rejects the specs; otherwise the number of backends.
fn load(server: &Json, entries: &[Json]) -> Result<Option<usize>, String> {
    let server: VirtualMCPServer = serde_json::from_value(json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "VirtualMCPServer", "metadata": {"name": "everything", "namespace": "tools"},
        "spec": server,
    }))
    .map_err(|error| format!("not a VirtualMCPServer: {error}"))?;
    let mut members = Vec::new();
    for (name, spec) in ["a", "b", "c", "d"].into_iter().zip(entries) {
        let entry: MCPServerEntry = serde_json::from_value(json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": name}, "spec": spec,
        }))
        .map_err(|error| format!("not an MCPServerEntry: {error}"))?;
        members.push(Backend::new(&entry, &server.spec.operational.timeouts));
    }
    let backends = Backend::check_all(members, &server.spec.hot.aggregation);
    let Ok(files) = config_files(&server, &backends) else {
        return Ok(None);
    };
    let directory = tempfile::tempdir().unwrap();
    let hot = directory.path().join("backends.yaml");
    std::fs::write(&hot, &files.hot).unwrap();
    let startup = files
        .startup
        .replace("/etc/vmcp/backends/backends.yaml", &hot.to_string_lossy());
    let file = directory.path().join("gateway.yaml");
    std::fs::write(&file, startup).unwrap();
    let loaded = vmcp_gateway::config::Config::load(Path::new(&file), Some("s3cret".into()));
    match loaded {
        Ok(config) => Ok(Some(config.hot.backends.len())),
        Err(error) => Err(format!("{error}\n{}\n{}", files.startup, files.hot)),
    }
}

// Every configuration that the operator renders from generated specs loads in the gateway.
#[test]
fn rendered_config_of_generated_specs_loads_in_gateway() {
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    });
    let counts = std::cell::RefCell::new(BTreeMap::<&str, u32>::new());
    let tested = runner.run(&specs(), |(server, entries)| {
        let loaded = load(&server, &entries).map_err(TestCaseError::fail)?;
        let outcome = match loaded {
            None => "rejected",
            Some(0) => "without backends",
            Some(count) if count < entries.len() => "some left out",
            Some(_) => "whole",
        };
        *counts.borrow_mut().entry(outcome).or_default() += 1;
        Ok(())
    });
    tested.unwrap();
    // All outcomes are tested.
    let counts = counts.into_inner();
    for outcome in ["rejected", "some left out", "whole"] {
        let count = counts.get(outcome).copied().unwrap_or_default();
        assert!(count > CASES / 50, "{outcome}: {counts:?}");
    }
}
