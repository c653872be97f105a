use serde_json::{Value as Json, json};

use super::*;

fn server(spec: &Json) -> MCPServer {
    serde_json::from_value(json!({
        "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServer",
        "metadata": {"name": "weather", "namespace": "tools", "uid": "a-uid"}, "spec": spec,
    }))
    .unwrap()
}

fn rendered_with(spec: &Json, has_fixed_user: bool) -> ServerChildren {
    let images = ServerImages {
        gateway: "vmcp-gateway:test".to_owned(),
        npm: "node:test".to_owned(),
        pypi: "uv:test".to_owned(),
    };
    let inputs = ServerInputs {
        images: &images,
        has_fixed_user,
        ignores_replicas: false,
    };
    children(&server(spec), &inputs)
}

fn rendered(spec: &Json) -> ServerChildren {
    rendered_with(spec, true)
}

/// The pod as JSON.
fn pod(spec: &Json) -> Json {
    serde_json::to_value(rendered(spec).deployment.spec.template.spec).unwrap()
}

#[test]
fn objects_of_stdio_server_match_snapshots() {
    let children = rendered(&json!({"pypi": {"package": "mcp-server-git", "version": "1.2"}, "replicas": 2}));
    insta::assert_yaml_snapshot!("deployment", children.deployment);
    insta::assert_yaml_snapshot!("service", children.service);
    insta::assert_yaml_snapshot!("network_policy", children.network_policy);
}

// The bridge starts the program of an image, or of a package; a server that speaks HTTP runs as it is.
#[test]
fn program_follows_source_and_transport() {
    let bridge = "bridge --listen [::]:8080 --admin [::]:9483";
    for (spec, image, command, args) in [
        (
            json!({"image": "weather:1", "command": ["python", "-m"], "args": ["weather"]}),
            "weather:1",
            "/vmcp/vmcp-gateway",
            format!("{bridge} -- python -m weather"),
        ),
        (
            json!({"npm": {"package": "@a/b", "version": "1.0"}, "args": ["--x"], "processes": "shared", "idleTimeout": "10m"}),
            "node:test",
            "/vmcp/vmcp-gateway",
            format!("{bridge} --processes shared --idle-timeout 10m -- npx --yes @a/b@1.0 --x"),
        ),
        (
            json!({"pypi": {"package": "b"}, "processes": "perSession", "maxProcesses": 3}),
            "uv:test",
            "/vmcp/vmcp-gateway",
            format!("{bridge} --processes per-session --max-processes 3 -- uvx b"),
        ),
        (
            json!({"image": "weather:1", "transport": "streamable-http", "args": ["serve"]}),
            "weather:1",
            "",
            "serve".to_owned(),
        ),
        (
            json!({"npm": {"package": "b"}, "transport": "sse"}),
            "node:test",
            "npx --yes b",
            String::new(),
        ),
    ] {
        let pod = pod(&spec);
        let container = &pod["containers"][0];
        let words = |field: &str| {
            let words = container[field].as_array().into_iter().flatten();
            words.filter_map(Json::as_str).collect::<Vec<_>>().join(" ")
        };
        let found = (
            container["image"].as_str().unwrap(),
            words("command"),
            words("args"),
        );
        assert_eq!(found, (image, command.to_owned(), args), "{spec}");
        let has_bridge = command.starts_with("/vmcp");
        assert_eq!(pod["initContainers"].is_array(), has_bridge, "{spec}");
    }
}

// Without settings, nothing runs as root, with a token of the API, or with a writable root; what a spec says wins.
#[test]
fn pods_are_restricted_unless_spec_says_otherwise() {
    let npm = json!({"npm": {"package": "b"}});
    let restricted = pod(&npm);
    assert_eq!(restricted["automountServiceAccountToken"], false);
    assert_eq!(
        restricted["securityContext"],
        json!({
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    let strict = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    for container in [&restricted["containers"][0], &restricted["initContainers"][0]] {
        assert_eq!(container["securityContext"], strict);
        assert!(
            container["resources"]["requests"]["memory"].is_string(),
            "{container}"
        );
        assert!(
            container["resources"]["limits"]["memory"].is_string(),
            "{container}"
        );
    }
    let container = &restricted["containers"][0];
    assert_eq!(container["env"], json!([{"name": "HOME", "value": "/tmp"}]));
    assert!(
        container["volumeMounts"]
            .as_array()
            .unwrap()
            .contains(&json!({"name": "tmp", "mountPath": "/tmp"}))
    );
    let of_namespace = rendered_with(&npm, false).deployment.spec.template.spec.unwrap();
    assert_eq!(of_namespace.security_context.unwrap().run_as_user, None);

    let loose = pod(&json!({
        "image": "a", "command": ["a"], "securityContext": {"runAsUser": 0, "runAsNonRoot": false, "readOnlyRootFilesystem": false},
        "podTemplate": {"spec": {"automountServiceAccountToken": true}},
    }));
    let context = &loose["containers"][0]["securityContext"];
    assert_eq!(
        (&context["runAsUser"], &context["readOnlyRootFilesystem"]),
        (&json!(0), &json!(false))
    );
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(loose["automountServiceAccountToken"], true);
    // The image's own user has the image's own home.
    assert_eq!(loose["containers"][0]["env"], Json::Null);
}

// The bridge answers probes at its admin port; of another server only the port is known.
#[test]
fn probes_ask_bridge_or_port() {
    let stdio = &pod(&json!({"npm": {"package": "b"}}))["containers"][0];
    assert_eq!(
        stdio["readinessProbe"]["httpGet"],
        json!({"path": "/readyz", "port": "admin"})
    );
    assert_eq!(stdio["livenessProbe"]["httpGet"]["path"], "/livez");
    let http = &pod(&json!({"image": "a", "transport": "streamable-http", "port": 3000}))["containers"][0];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(http[probe]["tcpSocket"], json!({"port": "mcp"}), "{probe}");
    }
    assert_eq!(
        http["ports"],
        json!([{"name": "mcp", "containerPort": 3000, "protocol": "TCP"}])
    );
}

// A pod that ends may finish the longest call: of the server, or of a tool.
#[test]
fn time_to_end_covers_longest_call() {
    for (fields, seconds) in [
        (json!({}), 130),
        (json!({"timeouts": {"call": "10m"}}), 610),
        (
            json!({"timeouts": {"call": "1s"}, "tools": {"deadlines": {"slow_*": "1h"}}}),
            3610,
        ),
    ] {
        let mut spec = fields.clone();
        spec["npm"] = json!({"package": "b"});
        assert_eq!(pod(&spec)["terminationGracePeriodSeconds"], seconds, "{fields}");
    }
}

// A pod template adds to the pods, and the variables of the spec reach the server.
#[test]
fn template_and_variables_reach_the_pod() {
    let pod = pod(&json!({
        "npm": {"package": "b"}, "env": [{"name": "A", "value": "b"}, {"name": "HOME", "value": "/data"}],
        "envFrom": [{"secretRef": {"name": "s"}}], "imagePullSecrets": [{"name": "registry"}], "serviceAccountName": "weather",
        "resources": {"limits": {"memory": "2Gi"}},
        "podTemplate": {"spec": {
            "nodeSelector": {"disk": "ssd"}, "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{"name": "mcp", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}, {"name": "sidecar", "image": "s"}],
        }},
    }));
    let container = &pod["containers"][0];
    assert_eq!(
        container["env"],
        json!([{"name": "A", "value": "b"}, {"name": "HOME", "value": "/data"}])
    );
    assert_eq!(container["envFrom"], json!([{"secretRef": {"name": "s"}}]));
    assert_eq!(container["resources"], json!({"limits": {"memory": "2Gi"}}));
    assert_eq!(container["volumeMounts"].as_array().unwrap().len(), 3);
    assert_eq!(pod["containers"][1]["name"], "sidecar");
    assert_eq!(pod["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}]));
    assert_eq!(pod["serviceAccountName"], "weather");
}

// The default lets in the gateways of the namespace only; the spec adds clients, and limits where the server connects to.
#[test]
fn network_policy_follows_spec() {
    let policy = |fields: Json| {
        let spec = json!({"npm": {"package": "b"}, "networkPolicy": fields});
        serde_json::to_value(rendered(&spec).network_policy).unwrap()
    };
    let gateways = json!({"podSelector": {"matchLabels": {"app.kubernetes.io/name": "vmcp-gateway"}}});
    let default = policy(json!({}));
    assert_eq!(default["spec"]["ingress"][0]["from"], json!([gateways]));
    assert_eq!(default["spec"]["ingress"][0]["ports"][0]["port"], 8080);
    assert_eq!(default["spec"]["ingress"][1]["ports"][0]["port"], 9483);
    assert_eq!(default["spec"]["policyTypes"], json!(["Ingress"]));
    let agent = json!({"podSelector": {"matchLabels": {"app": "agent"}}});
    let peer = json!({"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]});
    let limited = policy(json!({"clients": [agent], "egress": [peer]}));
    assert_eq!(limited["spec"]["ingress"][0]["from"], json!([gateways, agent]));
    assert_eq!(limited["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(limited["spec"]["egress"][0]["ports"][0]["port"], 53);
    assert_eq!(limited["spec"]["egress"][1], peer);
    assert_eq!(policy(json!({"egress": []}))["spec"]["egress"], json!([]));
    assert_eq!(policy(json!({"enabled": false})), Json::Null);
    let http = json!({"image": "a", "transport": "sse"});
    let http = serde_json::to_value(rendered(&http).network_policy).unwrap();
    assert_eq!(
        http["spec"]["ingress"].as_array().unwrap().len(),
        1,
        "no admin port"
    );
}
