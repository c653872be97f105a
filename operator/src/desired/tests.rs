use serde_json::{Value as Json, json};
use vmcp_crds::config::split_file;
use vmcp_crds::config::{AggregationConfig, BackendConfig, GatewayConfig, HotConfig};
use vmcp_crds::status::config_hash;
use vmcp_crds::v1alpha1::MCPServerEntry;

use super::*;

pub(crate) fn server(spec: &Json) -> VirtualMCPServer {
    serde_json::from_value(json!({
        "apiVersion": "vmcp.dev/v1alpha1",
        "kind": "VirtualMCPServer",
        "metadata": {"name": "everything", "namespace": "tools", "uid": "a-uid"},
        "spec": spec,
    }))
    .unwrap()
}

fn redis() -> Json {
    json!({
        "groupRef": {"name": "tools"},
        "replicas": 2,
        "sessionStorage": {
            "provider": "redis",
            "address": "redis.tools.svc:6379",
            "db": 3,
            "keyPrefix": "acme:",
            "username": "gateway",
            "passwordRef": {"name": "redis-auth", "key": "password"},
        },
    })
}

pub(crate) fn backend(name: &str, url: &str) -> Backend {
    let config = BackendConfig {
        name: name.to_owned(),
        url: url.to_owned(),
        ..BackendConfig::default()
    };
    let backend = Backend {
        config,
        ..Backend::default()
    };
    let mut checked = Backend::check_all(vec![backend], &AggregationConfig::default());
    checked.remove(0)
}

fn backends() -> Vec<Backend> {
    vec![
        backend("fetch", "http://fetch:8000/mcp"),
        backend("time", "http://time:8000/mcp"),
    ]
}

/// The members of a group, from the specs of their entries without `groupRef`.
fn members(server: &VirtualMCPServer, entries: &[(&str, Json)]) -> Vec<Backend> {
    let member = |(name, spec): &(&str, Json)| {
        let mut spec = spec.clone();
        spec["groupRef"] = json!({"name": "tools"});
        let entry: MCPServerEntry = serde_json::from_value(json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": name}, "spec": spec,
        }))
        .unwrap();
        Backend::new(&entry, &server.spec.operational.timeouts)
    };
    Backend::check_all(entries.iter().map(member).collect(), &server.spec.hot.aggregation)
}

/// One replica, and no values of Secrets.
fn inputs(files: &ConfigFiles) -> Inputs<'_> {
    Inputs {
        files,
        default_image: "vmcp-gateway:test",
        password_mac: None,
        secret_files: &[],
        has_fixed_user: true,
        expected_replicas: 1,
        ignores_replicas: false,
    }
}

fn rendered(spec: &Json, expected_replicas: i32) -> Children {
    rendered_with(spec, expected_replicas, &server(spec).spec.secret_files())
}

fn rendered_with(spec: &Json, expected_replicas: i32, secret_files: &[SecretFile]) -> Children {
    let server = server(spec);
    let files = config_files(&server, &backends()).unwrap();
    let inputs = Inputs {
        password_mac: Some("a-mac"),
        secret_files,
        expected_replicas,
        ignores_replicas: false,
        ..inputs(&files)
    };
    children(&server, &inputs)
}

#[test]
fn children_of_server_with_redis_match_snapshots() {
    let children = rendered(&redis(), 2);
    insta::assert_yaml_snapshot!("startup", children.startup);
    insta::assert_yaml_snapshot!("hot", children.hot[0]);
    insta::assert_yaml_snapshot!("service_account", children.service_account);
    insta::assert_yaml_snapshot!("deployment", children.deployment);
    insta::assert_yaml_snapshot!("service", children.service);
    insta::assert_yaml_snapshot!("disruption_budget", children.disruption_budget);
}

// Every field of the session storage reaches the start-up file; the reference to the password does not.
#[test]
fn session_storage_is_rendered_without_password() {
    let files = config_files(&server(&redis()), &backends()).unwrap();
    let config = GatewayConfig::parse(&files.startup, "x".as_ref()).unwrap();
    let storage = serde_json::to_value(config.session_storage).unwrap();
    assert_eq!(
        storage,
        json!({
            "provider": "redis",
            "address": "redis.tools.svc:6379",
            "db": 3,
            "keyPrefix": "acme:",
            "username": "gateway",
        })
    );
    assert!(!files.startup.contains("redis-auth"), "{}", files.startup);
}

// The backends change the hot file only.
#[test]
fn backends_change_hot_file_only() {
    let server = server(&redis());
    let two = config_files(&server, &backends()).unwrap();
    let one = config_files(&server, &backends()[..1]).unwrap();
    assert_eq!(one.startup, two.startup);
    assert_ne!(one.hot_hash, two.hot_hash);
    let hot = HotConfig::parse(&two.hot, "x".as_ref()).unwrap();
    assert_eq!(hot.backends[1].url, "http://time:8000/mcp");
    HotConfig::parse(&config_files(&server, &[]).unwrap().hot, "x".as_ref()).unwrap();
}

// A change of the start-up file gives the ConfigMap a new name and the Deployment a new pod template.
#[test]
fn startup_change_makes_new_config_map_and_template() {
    let mut other = redis();
    other["sessionStorage"]["db"] = json!(4);
    let (before, after) = (rendered(&redis(), 2), rendered(&other, 2));
    assert_ne!(before.startup.metadata.name, after.startup.metadata.name);
    assert_ne!(before.deployment, after.deployment);
    assert_eq!(before.hot, after.hot);
}

#[test]
fn spec_without_replicas_leaves_count_unset() {
    let mut spec = redis();
    spec.as_object_mut().unwrap().remove("replicas");
    let deployment = serde_json::to_value(rendered(&spec, 1).deployment).unwrap();
    assert!(deployment["spec"].get("replicas").is_none());
}

#[test]
fn one_replica_has_no_disruption_budget() {
    assert!(rendered(&redis(), 1).disruption_budget.is_none());
}

#[test]
fn memory_storage_ignores_password_ref() {
    let mut spec = redis();
    spec["sessionStorage"] = json!({
        "provider": "memory",
        "passwordRef": {"name": "redis-auth", "key": "password"},
    });
    let text = serde_json::to_string(&rendered(&spec, 1).deployment).unwrap();
    assert!(!text.contains("redis-auth") && !text.contains("a-mac"), "{text}");
}

// A session storage that the gateway would reject is not rendered, and the error names the field.
#[test]
fn invalid_session_storage_is_rejected_with_field() {
    for (storage, field) in [
        (json!({"provider": "memory", "address": "redis:6379"}), "address"),
        (json!({"provider": "memory", "keyPrefix": "acme:"}), "keyPrefix"),
        (json!({"provider": "redis", "address": "redis:99999"}), "address"),
        (
            json!({"provider": "redis", "address": "redis:1", "username": "me"}),
            "username",
        ),
    ] {
        let mut spec = redis();
        spec["sessionStorage"] = storage;
        let problem = config_files(&server(&spec), &backends()).unwrap_err().to_string();
        assert!(
            problem.starts_with(&format!("spec.sessionStorage.{field}: ")),
            "{problem}"
        );
    }
}

// A backend with an invalid URL is left out; the others stay.
#[test]
fn invalid_backend_is_left_out() {
    let mut members = backends();
    let good = config_files(&server(&redis()), &members).unwrap();
    members.push(backend("bad", "http://a:b:c/mcp"));
    assert_eq!(config_files(&server(&redis()), &members).unwrap(), good);
    assert!(members.pop().unwrap().problem.unwrap().contains("spec.url"));
}

// A backend that contradicts the virtual server's aggregation is left out, and the problem names its field.
#[test]
fn backend_that_contradicts_aggregation_is_left_out() {
    let renamed = |name: &str| json!({"url": "http://a", "tools": {"overrides": {"x": {"name": name}}}});
    for (strategy, entry, field) in [
        ("none", json!({"url": "http://a", "prefix": "x_"}), "spec.prefix"),
        ("manual", renamed("taken"), "spec.tools.overrides.x.name"),
        ("prefix", renamed("a b"), "spec.tools.overrides.x.name"),
    ] {
        let server = server(&json!({"groupRef": {"name": "tools"}, "aggregation": {"strategy": strategy}}));
        let members = members(&server, &[("first", renamed("taken")), ("second", entry)]);
        assert_eq!(members[0].problem, None, "{strategy}");
        let problem = members[1].problem.as_deref().unwrap();
        assert!(problem.starts_with(field), "{strategy}: {problem}");
        let files = config_files(&server, &members).unwrap();
        let hot = HotConfig::parse(&files.hot, "x".as_ref()).unwrap();
        assert_eq!(hot.backends.len(), 1, "{strategy}");
    }
}

// An entry without time limits gets those of the virtual server; one that sets the built-in default keeps it.
#[test]
fn entry_timeouts_override_those_of_server() {
    let server = server(&json!({
        "groupRef": {"name": "tools"},
        "operational": {"timeouts": {"call": "5m", "connect": "1s"}},
    }));
    let entries = [
        ("slow", json!({"url": "http://slow"})),
        (
            "usual",
            json!({"url": "http://usual", "timeouts": {"call": "2m"}}),
        ),
    ];
    let files = config_files(&server, &members(&server, &entries)).unwrap();
    let hot = HotConfig::parse(&files.hot, "x".as_ref()).unwrap();
    let timeouts: Vec<Json> = hot
        .backends
        .iter()
        .map(|backend| json!([backend.timeouts.call, backend.timeouts.connect]))
        .collect();
    assert_eq!(timeouts, [json!(["5m", "1s"]), json!(["2m", "1s"])]);
}

// An older gateway reads the file of a newer operator: a field at its default is not written, also if the user has set it.
#[test]
fn fields_at_their_default_are_not_rendered() {
    let spec = json!({
        "groupRef": {"name": "tools"},
        "sessionStorage": {"provider": "memory", "ttl": "30m", "db": 0, "outageGrace": "10m"},
        "incomingAuth": {"type": "anonymous"},
        "aggregation": {"strategy": "prefix", "pageSize": 10000, "refresh": "1m"},
        "limits": {"requestBytes": 4_194_304, "sessions": 100_000},
        "allowedHosts": [],
        "operational": {
            "logLevel": "info", "accessLog": {"sample": 0}, "drainDelay": "5s", "idleTimeout": "75s",
            "timeouts": {"call": "2m", "extendOnProgress": false},
        },
    });
    let plain = server(&json!({"groupRef": {"name": "tools"}}));
    assert_eq!(
        config_files(&server(&spec), &backends()).unwrap(),
        config_files(&plain, &backends()).unwrap()
    );
}

// A spec that the gateway would reject is not rendered, and the error names the field.
#[test]
fn invalid_setting_is_rejected_with_field() {
    for (setting, field) in [
        (
            json!({"aggregation": {"strategy": "priority"}}),
            "aggregation.priority",
        ),
        (
            json!({"limits": {"requestsInFlight": 0}}),
            "limits.requestsInFlight",
        ),
        (json!({"allowedHosts": ["a", "http://b"]}), "allowedHosts[1]"),
        (json!({"incomingAuth": {"type": "oidc"}}), "incomingAuth.oidc"),
        (
            json!({"operational": {"timeouts": {"call": "25h"}}}),
            "operational.timeouts.call",
        ),
        (
            json!({"operational": {"idleTimeout": "0s"}}),
            "operational.idleTimeout",
        ),
    ] {
        let mut spec = json!({"groupRef": {"name": "tools"}});
        spec.as_object_mut()
            .unwrap()
            .extend(setting.as_object().unwrap().clone());
        let problem = config_files(&server(&spec), &[]).unwrap_err().to_string();
        assert!(problem.starts_with(&format!("spec.{field}: ")), "{problem}");
    }
}

// Where the namespace assigns user ids, the pods name none, and are still not root.
#[test]
fn assigned_user_leaves_ids_out() {
    let server = server(&json!({"groupRef": {"name": "tools"}}));
    let files = config_files(&server, &backends()).unwrap();
    let context = |has_fixed_user| {
        let inputs = Inputs {
            has_fixed_user,
            ..inputs(&files)
        };
        let pod = children(&server, &inputs).deployment.spec.template.spec.unwrap();
        pod.security_context.unwrap()
    };
    let (fixed, assigned) = (context(true), context(false));
    let ids = [fixed.run_as_user, fixed.run_as_group, fixed.fs_group];
    assert_eq!(ids, [Some(65532); 3]);
    let ids = [assigned.run_as_user, assigned.run_as_group, assigned.fs_group];
    assert_eq!(ids, [None; 3]);
    assert_eq!(assigned.run_as_non_root, Some(true));
    assert_eq!(assigned.seccomp_profile, fixed.seccomp_profile);
}

// The pod's grace period leaves time for the drain delay and the longest usual call.
#[test]
fn grace_period_follows_drain_delay_and_call() {
    let grace = |operational: Json| {
        let spec = json!({"groupRef": {"name": "tools"}, "operational": operational});
        let deployment = rendered(&spec, 1).deployment;
        deployment
            .spec
            .template
            .spec
            .unwrap()
            .termination_grace_period_seconds
    };
    assert_eq!(grace(json!({})), Some(130));
    assert_eq!(
        grace(json!({"drainDelay": "10s500ms", "timeouts": {"call": "5m"}})),
        Some(316)
    );
}

// A backend or a tool with a longer time limit extends the grace period, in whole minutes, so that small edits replace no pods.
#[test]
fn grace_period_covers_longest_call_of_backends() {
    let server = server(&json!({"groupRef": {"name": "tools"}}));
    let grace = |entry: Json| {
        let files = config_files(&server, &members(&server, &[("slow", entry)])).unwrap();
        let pod = children(&server, &inputs(&files))
            .deployment
            .spec
            .template
            .spec
            .unwrap();
        pod.termination_grace_period_seconds
    };
    let with = |entry: Json| {
        let mut spec = json!({"url": "http://slow"});
        spec.as_object_mut()
            .unwrap()
            .extend(entry.as_object().unwrap().clone());
        grace(spec)
    };
    assert_eq!(with(json!({})), Some(130));
    assert_eq!(with(json!({"timeouts": {"call": "30s"}})), Some(130));
    assert_eq!(with(json!({"timeouts": {"call": "9m30s"}})), Some(610));
    assert_eq!(with(json!({"timeouts": {"call": "10m"}})), Some(610));
    assert_eq!(
        with(json!({"tools": {"deadlines": {"slow_*": "1h"}}})),
        Some(3610)
    );
}

// With TLS, the certificate is mounted and configured, the Service has a port `https`, and probes stay on the admin port without TLS.
#[test]
fn tls_reaches_pod_service_and_url() {
    let spec = json!({"groupRef": {"name": "tools"}, "tls": {"certificateRef": {"name": "cert"}}});
    let children = rendered(&spec, 1);
    let pod = serde_json::to_value(children.deployment.spec.template.spec.unwrap()).unwrap();
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "tls").unwrap();
    assert_eq!(volume["secret"]["secretName"], "cert");
    assert!(volume["secret"].get("optional").is_none());
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(
        mounts
            .iter()
            .any(|mount| mount["name"] == "tls" && mount["mountPath"] == "/etc/vmcp/tls")
    );
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["port"], "admin", "{probe}");
        assert!(get.get("scheme").is_none(), "{probe}");
    }
    let startup = &children.startup.data.unwrap()["gateway.yaml"];
    let config = GatewayConfig::parse(startup, "x".as_ref()).unwrap();
    let tls = config.listeners.tls.unwrap();
    assert_eq!(tls.cert_file.to_str(), Some("/etc/vmcp/tls/tls.crt"));
    assert_eq!(tls.key_file.to_str(), Some("/etc/vmcp/tls/tls.key"));
    let service = serde_json::to_value(children.service).unwrap();
    let port = &service["spec"]["ports"][0];
    assert_eq!(
        (&port["name"], &port["appProtocol"]),
        (&json!("https"), &json!("https"))
    );
    assert_eq!(port["targetPort"], "mcp");
    assert_eq!(
        names::url(&server(&spec)),
        "https://vmcp-everything.tools.svc:4483/mcp"
    );
}

fn routed(route: &Json, auth: &Json) -> Json {
    let mut route = route.clone();
    route["parentRefs"] = json!([{"name": "public", "namespace": "gateways", "sectionName": "https"}]);
    route["hostnames"] = json!(["tools.example.com", "tools.example.org"]);
    json!({"groupRef": {"name": "tools"}, "httpRoute": route, "incomingAuth": auth, "allowedHosts": ["extra.example.com"]})
}

fn oidc(fields: &Json) -> Json {
    let mut oidc = json!({"issuer": "https://id.example.com", "audience": ["tools"]});
    oidc.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    json!({"type": "oidc", "oidc": oidc})
}

// A path is rewritten to the gateway's, streams have no time limit, and the metadata of the resource has its own rule.
#[test]
fn route_rewrites_path_and_serves_resource_metadata() {
    let spec = routed(
        &json!({"path": "/team-a/mcp", "labels": {"team": "a"}, "annotations": {"x": "y"}}),
        &oidc(&json!({})),
    );
    let route = serde_json::to_value(rendered(&spec, 1).http_route.unwrap()).unwrap();
    assert_eq!(route["metadata"]["name"], "vmcp-everything");
    assert_eq!(route["metadata"]["labels"]["team"], "a");
    assert_eq!(route["metadata"]["annotations"], json!({"x": "y"}));
    assert_eq!(route["metadata"]["ownerReferences"][0]["uid"], "a-uid");
    let backends = json!([{"name": "vmcp-everything", "port": 4483}]);
    assert_eq!(
        route["spec"],
        json!({
            "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
            "hostnames": ["tools.example.com", "tools.example.org"],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/team-a/mcp"}}],
                    "filters": [{
                        "type": "URLRewrite",
                        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/mcp"}},
                    }],
                    "backendRefs": backends,
                    "timeouts": {"request": "0s"},
                },
                {
                    "matches": [{"path": {"type": "Exact", "value": "/.well-known/oauth-protected-resource/team-a/mcp"}}],
                    "backendRefs": backends,
                },
            ],
        })
    );
}

#[test]
fn route_without_path_and_oidc_has_one_plain_rule() {
    let spec = routed(
        &json!({"timeouts": {"request": "10m", "backendRequest": "1m"}}),
        &json!({}),
    );
    let route = serde_json::to_value(rendered(&spec, 1).http_route.unwrap()).unwrap();
    let rules = route["spec"]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!(
        rules[0]["timeouts"],
        json!({"request": "10m", "backendRequest": "1m"})
    );
    assert_eq!(rules[0]["matches"][0]["path"]["value"], "/mcp");
    assert!(rules[0].get("filters").is_none());
}

// Hosts, the OIDC resource and the URL of the status follow from the route; a resource in the spec stays.
#[test]
fn hosts_resource_and_url_follow_from_route() {
    let spec = routed(&json!({"path": "/team-a/mcp"}), &oidc(&json!({})));
    let routed_server = server(&spec);
    assert_eq!(names::url(&routed_server), "https://tools.example.com/team-a/mcp");
    let files = config_files(&routed_server, &backends()).unwrap();
    let hot = HotConfig::parse(&files.hot, "x".as_ref()).unwrap();
    assert_eq!(
        hot.allowed_hosts,
        [
            "extra.example.com",
            "tools.example.com",
            "tools.example.org",
            "vmcp-everything",
            "vmcp-everything.tools",
            "vmcp-everything.tools.svc",
            "vmcp-everything.tools.svc.cluster.local",
        ]
    );
    let resource = |spec: &Json| {
        let files = config_files(&server(spec), &backends()).unwrap();
        let config = GatewayConfig::parse(&files.startup, "x".as_ref()).unwrap();
        config.incoming_auth.oidc.unwrap().resource
    };
    assert_eq!(
        resource(&spec).as_deref(),
        Some("https://tools.example.com/team-a/mcp")
    );
    let other = routed(
        &json!({}),
        &oidc(&json!({"resource": "https://other.example.com/x/"})),
    );
    assert_eq!(resource(&other).as_deref(), Some("https://other.example.com/x/"));
    let route = serde_json::to_value(rendered(&other, 1).http_route.unwrap()).unwrap();
    assert_eq!(
        route.pointer("/spec/rules/1/matches/0/path/value"),
        Some(&json!("/.well-known/oauth-protected-resource/x"))
    );
}

#[test]
fn service_monitor_scrapes_admin_port() {
    let spec = json!({"groupRef": {"name": "tools"}, "serviceMonitor": {"interval": "30s", "labels": {"release": "prometheus"}}});
    let monitor = serde_json::to_value(rendered(&spec, 1).service_monitor.unwrap()).unwrap();
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(
        monitor["spec"],
        json!({
            "selector": {"matchLabels": {
                "app.kubernetes.io/name": "vmcp-gateway", "app.kubernetes.io/instance": "everything",
                "app.kubernetes.io/component": "metrics",
            }},
            "jobLabel": "app.kubernetes.io/instance",
            "endpoints": [{"port": "admin", "path": "/metrics", "interval": "30s"}],
        })
    );
    // It selects a Service of the admin port, and not the Service for clients.
    let service = rendered(&spec, 1).metrics_service.unwrap();
    assert_eq!(service.metadata.name.as_deref(), Some("metrics-everything"));
    let selected = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let is_selected = |service: &Service| {
        let labels = serde_json::to_value(&service.metadata.labels).unwrap();
        selected.iter().all(|(key, value)| labels[key] == *value)
    };
    assert!(is_selected(&service) && !is_selected(&rendered(&spec, 1).service));
    assert_eq!(rendered(&redis(), 1).metrics_service, None);
}

#[test]
fn spec_image_overrides_default() {
    let mut spec = redis();
    spec["image"] = json!("registry.example/gateway:1");
    let deployment = serde_json::to_value(rendered(&spec, 1).deployment).unwrap();
    let image = deployment.pointer("/spec/template/spec/containers/0/image");
    assert_eq!(image, Some(&json!("registry.example/gateway:1")));
}

// The volume depends on the references only, in any order. Without references it does not exist.
#[test]
fn secret_volume_has_every_referenced_key_once() {
    let server = server(&redis());
    let entry = json!({
        "url": "https://a",
        "headers": {
            "Authorization": {"prefix": "Bearer ", "secretKeyRef": {"name": "token", "key": "b"}},
            "..": {"secretKeyRef": {"name": "token", "key": "a"}},
        },
        "tls": {
            "caBundleRef": {"configMapKeyRef": {"name": "ca", "key": "ca.pem"}},
            "clientCertificateRef": {"name": "client"},
        },
    });
    let member = members(&server, &[("time", entry)]).remove(0);
    let mut files = member.secret_files;
    let volumes = |files: &[SecretFile]| {
        let template = rendered_with(&redis(), 1, files).deployment.spec.template;
        serde_json::to_value(template.spec.unwrap().volumes).unwrap()
    };
    let found = volumes(&files);
    files.reverse();
    assert_eq!(volumes(&files), found);
    assert_eq!(
        found[3],
        json!({"name": "secrets", "projected": {"defaultMode": 0o440, "sources": [
            {"secret": {"name": "client", "optional": true, "items": [
                {"key": "tls.crt", "path": "backends/time/tls.crt"},
                {"key": "tls.key", "path": "backends/time/tls.key"},
            ]}},
            {"secret": {"name": "token", "optional": true, "items": [
                {"key": "a", "path": "backends/time/header-.."},
                {"key": "b", "path": "backends/time/header-authorization"},
            ]}},
            {"configMap": {"name": "ca", "optional": true, "items": [{"key": "ca.pem", "path": "backends/time/ca.crt"}]}},
        ]}})
    );
    assert_eq!(volumes(&[]).as_array().unwrap().len(), 3);
    let mounts =
        |files: &[SecretFile]| serde_json::to_string(&rendered_with(&redis(), 1, files).deployment).unwrap();
    assert!(mounts(&files).contains(r#""mountPath":"/etc/vmcp/secrets","name":"secrets","readOnly":true"#));
    assert!(!mounts(&[]).contains("/etc/vmcp/secrets"));
}

// A missing Secret leaves the backend out, but does not decide which of two equal names wins.
#[test]
fn missing_secret_leaves_one_backend_out() {
    let renamed = json!({"url": "http://a", "tools": {"overrides": {"x": {"name": "taken"}}}});
    let server = server(&json!({"groupRef": {"name": "tools"}, "aggregation": {"strategy": "manual"}}));
    let mut members = members(&server, &[("first", renamed.clone()), ("second", renamed)]);
    members[0].secret_problem = Some(SecretProblem {
        reason: "SecretNotFound",
        message: "spec.headers.X.secretKeyRef names Secret s".to_owned(),
    });
    let members = Backend::check_all(members, &server.spec.hot.aggregation);
    assert!(members[1].problem.is_some());
    let files = config_files(&server, &members).unwrap();
    assert_eq!(
        HotConfig::parse(&files.hot, "x".as_ref()).unwrap().backends.len(),
        0
    );
}

// References that are older than the schema are not mounted, and the problem names the field.
#[test]
fn invalid_reference_is_a_problem_with_field() {
    let server = server(&redis());
    for (entry, expected) in [
        (
            json!({"headers": {"X": {"secretKeyRef": {"name": "?x=", "key": "k"}}}}),
            "spec.headers.X.secretKeyRef.name: found \"?x=\"",
        ),
        (
            json!({"headers": {"X": {"secretKeyRef": {"name": "a", "key": "../k"}}}}),
            "spec.headers.X.secretKeyRef.key: found",
        ),
        (
            json!({"headers": {"X": {"value": "v", "secretKeyRef": {"name": "a", "key": "k"}}}}),
            "spec.headers.X: needs exactly one of",
        ),
        (
            json!({"tls": {"caBundleRef": {}}}),
            "spec.tls.caBundleRef: needs exactly one of",
        ),
        (
            json!({"tls": {"clientCertificateRef": {"name": "A"}}}),
            "spec.tls.clientCertificateRef.name: found \"A\"",
        ),
    ] {
        let mut entry = entry;
        entry["url"] = json!("https://a");
        let member = members(&server, &[("time", entry)]).remove(0);
        let problem = member.problem.unwrap();
        assert!(problem.starts_with(expected), "{problem}");
    }
}

// A field without a value is omitted, not written as null.
#[test]
fn applied_objects_contain_no_null() {
    let children = rendered(&redis(), 2);
    for object in [
        serde_json::to_string(&children.deployment).unwrap(),
        serde_json::to_string(&children.service).unwrap(),
        serde_json::to_string(&children.hot).unwrap(),
    ] {
        assert!(!object.contains("null"), "{object}");
    }
}

/// Backends that need about `megabytes` of configuration.
fn many_backends(megabytes: usize) -> Vec<Backend> {
    let path = "x".repeat(2000);
    (0..megabytes * 500)
        .map(|number| {
            backend(
                &format!("backend-{number}"),
                &format!("http://backend-{number}/{path}"),
            )
        })
        .collect()
}

// A configuration that is larger than a ConfigMap is split. The number of parts is not in the pod template, so that it can change without
// new pods, and what fits into one ConfigMap is rendered as before.
#[test]
fn large_configuration_is_split_over_config_maps() {
    let server = server(&redis());
    let of_size = |megabytes| {
        let files = config_files(&server, &many_backends(megabytes)).unwrap();
        (children(&server, &inputs(&files)), files)
    };
    let (two, files) = of_size(2);
    let names: Vec<&str> = two
        .hot
        .iter()
        .filter_map(|part| part.metadata.name.as_deref())
        .collect();
    assert_eq!(
        names,
        [
            "vmcp-everything-backends",
            "vmcp-everything-backends-1",
            "vmcp-everything-backends-2"
        ]
    );
    // The gateway reads the parts from one directory, and reports the hash of the whole.
    let directory = tempfile::tempdir().unwrap();
    for part in &two.hot {
        for (name, text) in part.data.as_ref().unwrap() {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
    }
    let whole = split_file::read_parts(&directory.path().join("backends.yaml")).unwrap();
    assert_eq!(config_hash(&whole), files.hot_hash);
    assert_eq!(
        HotConfig::parse(&whole, "x".as_ref()).unwrap().backends.len(),
        1000
    );

    assert_eq!(of_size(4).0.deployment, two.deployment);
    let volume = |children: &Children| {
        let pod = children.deployment.spec.template.spec.clone().unwrap();
        let volumes = pod.volumes.unwrap();
        volumes
            .into_iter()
            .find(|volume| volume.name == "backends")
            .unwrap()
    };
    let sources = volume(&two).projected.unwrap().sources.unwrap();
    assert!(sources.len() > 3 && sources[0].config_map.as_ref().unwrap().optional.is_none());
    assert!(
        sources[1..]
            .iter()
            .all(|source| source.config_map.as_ref().unwrap().optional == Some(true))
    );
    assert!(volume(&rendered(&redis(), 1)).config_map.is_some());
}

// A backend that is left out for a missing Secret makes the file small enough for one part. The pod template stays as it is.
#[test]
fn missing_secret_near_one_megabyte_keeps_pods() {
    let server = server(&redis());
    let template = |backends: &[Backend]| {
        let files = config_files(&server, backends).unwrap();
        (
            children(&server, &inputs(&files)).deployment,
            files.hot_parts.len(),
        )
    };
    let mut backends = many_backends(2);
    let (before, parts) = template(&backends);
    assert!(parts > 1);
    for backend in &mut backends[10..] {
        backend.secret_problem = Some(SecretProblem {
            reason: "SecretNotFound",
            message: "spec.headers: there is no Secret a".to_owned(),
        });
    }
    let (after, parts) = template(&backends);
    assert_eq!((after, parts), (before, 1));
}

#[test]
fn too_many_backends_for_all_config_maps_are_rejected() {
    let problem = config_files(&server(&redis()), &many_backends(17))
        .unwrap_err()
        .to_string();
    assert!(problem.contains("split the group"), "{problem}");
}
