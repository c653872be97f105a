use serde_json::{Value as Json, json};
use vmcp_crds::config::{GatewayConfig, HotConfig};

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

fn backends() -> Vec<Backend> {
    let backend = |name: &str| Backend {
        name: name.to_owned(),
        url: format!("http://{name}:8000/mcp"),
    };
    vec![backend("fetch"), backend("time")]
}

fn rendered(spec: &Json, expected_replicas: i32) -> Children {
    let server = server(spec);
    let files = config_files(&server, &backends()).unwrap();
    let inputs = Inputs {
        files: &files,
        default_image: "vmcp-gateway:test",
        password_mac: Some("a-mac"),
        expected_replicas,
    };
    children(&server, &inputs)
}

#[test]
fn children_of_server_with_redis_match_snapshots() {
    let children = rendered(&redis(), 2);
    insta::assert_yaml_snapshot!("startup", children.startup);
    insta::assert_yaml_snapshot!("hot", children.hot);
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
    members.push(Backend {
        name: "bad".to_owned(),
        url: "http://a:b:c/mcp".to_owned(),
    });
    assert_eq!(config_files(&server(&redis()), &members).unwrap(), good);
    assert!(members.pop().unwrap().problem().unwrap().contains("spec.url"));
}

#[test]
fn spec_image_overrides_default() {
    let mut spec = redis();
    spec["image"] = json!("registry.example/gateway:1");
    let deployment = serde_json::to_value(rendered(&spec, 1).deployment).unwrap();
    let image = deployment.pointer("/spec/template/spec/containers/0/image");
    assert_eq!(image, Some(&json!("registry.example/gateway:1")));
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

#[test]
fn too_many_backends_for_config_map_are_rejected() {
    let many: Vec<Backend> = (0..20_000)
        .map(|number| Backend {
            name: format!("backend-{number}"),
            url: format!("http://backend-{number}.a-rather-long-name.svc:8000/mcp"),
        })
        .collect();
    let problem = config_files(&server(&redis()), &many).unwrap_err().to_string();
    assert!(problem.contains("split the group"), "{problem}");
}
