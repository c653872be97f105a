//! Every field of the gateway's file can be set by a resource, or has a reason why not.

use serde_json::{Map, Value as Json, json};
use vmcp_crds::config::json_schema;
use vmcp_crds::v1alpha1::{MCPServerEntry, definitions};

use super::Backend;
use super::config::{hot, startup};

/// Why no resource sets the fields of a command in the file.
const RUNS_IN_A_POD: &str =
    "an MCPServer has the same fields, and runs the program behind a bridge in pods of its own";

/// Fields of the file that no resource sets, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("version", "the operator writes the version that it renders"),
    ("namespace", "it is the namespace of the VirtualMCPServer"),
    ("name", "it is the name of the VirtualMCPServer"),
    (
        "listeners.mcp",
        "the port of the pods is fixed; the Service leads to it",
    ),
    (
        "listeners.admin",
        "the port of the pods is fixed; probes and the operator use it",
    ),
    (
        "sessionKeys.directory",
        "the operator creates the keys and mounts them",
    ),
    ("hotFile", "the operator mounts this file"),
    ("hot.backends[].name", "it is the name of the MCPServerEntry"),
    ("hot.backends[].command", RUNS_IN_A_POD),
    ("hot.backends[].env{}.env", RUNS_IN_A_POD),
    ("hot.backends[].env{}.file", RUNS_IN_A_POD),
    ("hot.backends[].env{}.value", RUNS_IN_A_POD),
    ("hot.backends[].workingDirectory", RUNS_IN_A_POD),
    ("hot.backends[].processes", RUNS_IN_A_POD),
    ("hot.backends[].maxProcesses", RUNS_IN_A_POD),
    ("hot.backends[].idleTimeout", RUNS_IN_A_POD),
    (
        "listeners.tls.certFile",
        "the operator mounts the Secret of spec.tls.certificateRef",
    ),
    (
        "listeners.tls.keyFile",
        "the operator mounts the Secret of spec.tls.certificateRef",
    ),
    (
        "hot.backends[].headers{}.env",
        "a resource has the value itself, or refers to a Secret",
    ),
    (
        "sessionStorage.passwordFile",
        "the pods get the password of `passwordRef` as a variable",
    ),
];

/// Fields of the file that name a file, and the fields of a resource that refer to a Secret or ConfigMap in their place.
const REFERENCES: [(&str, &str); 5] = [
    ("caFile", "caBundleRef"),
    ("caBundlePath", "caBundleRef"),
    ("certFile", "clientCertificateRef"),
    ("keyFile", "clientCertificateRef"),
    ("file", "secretKeyRef"),
];

fn reference_of(field: &str) -> Option<&'static str> {
    let (_, reference) = REFERENCES.iter().find(|(file, _)| *file == field)?;
    Some(reference)
}

/// Replaces the names of files by references.
fn refer_to_secrets(value: &mut Json) {
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    for (name, mut field) in std::mem::take(fields) {
        let key = json!({"name": "a", "key": "b"});
        let (name, value) = match reference_of(&name) {
            Some("caBundleRef") => ("caBundleRef".to_owned(), json!({"secretKeyRef": key})),
            Some("clientCertificateRef") => ("clientCertificateRef".to_owned(), json!({"name": "a"})),
            Some(reference) => (reference.to_owned(), key),
            None => {
                refer_to_secrets(&mut field);
                (name, field)
            }
        };
        fields.insert(name, value);
    }
}

/// A place in the schema: below a field, an item of a list, or a value of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Item,
    Value,
}

/// The key of the only value in a map of a sample.
const SAMPLE_KEY: &str = "sample";

fn text_of(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Field(name) if text.is_empty() => text.push_str(name),
            Step::Field(name) => text.push_str(&format!(".{name}")),
            Step::Item => text.push_str("[]"),
            Step::Value => text.push_str("{}"),
        }
    }
    text
}

fn pointer_of(steps: &[Step]) -> String {
    let part = |step: &Step| match step {
        Step::Field(name) => format!("/{name}"),
        Step::Item => "/0".to_owned(),
        Step::Value => format!("/{SAMPLE_KEY}"),
    };
    steps.iter().map(part).collect()
}

/// Follows references, and of several alternatives takes the list, or the first that is not `null`.
fn resolved<'a>(schema: &'a Json, root: &'a Json) -> &'a Json {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolved(root.pointer(reference.trim_start_matches('#')).unwrap(), root);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let list = choices.iter().find(|choice| choice["type"] == "array");
        let some = choices.iter().find(|choice| choice["type"] != "null");
        return resolved(list.or(some).unwrap(), root);
    }
    schema
}

/// All places in the schema that hold a value and no further fields.
fn leaves(schema: &Json, root: &Json, steps: &[Step], found: &mut Vec<Vec<Step>>) {
    let schema = resolved(schema, root);
    let below = |step: Step| [steps, &[step]].concat();
    let is_object = |schema: &Json| {
        let schema = resolved(schema, root);
        schema["properties"].is_object() || schema["additionalProperties"].is_object()
    };
    if let Some(fields) = schema["properties"].as_object() {
        for (name, field) in fields {
            leaves(field, root, &below(Step::Field(name.clone())), found);
        }
    } else if schema["items"].is_object() && is_object(&schema["items"]) {
        leaves(&schema["items"], root, &below(Step::Item), found);
    } else if schema["additionalProperties"].is_object() {
        leaves(&schema["additionalProperties"], root, &below(Step::Value), found);
    } else {
        found.push(steps.to_vec());
    }
}

/// A value with the field at `steps`, and with all required fields on the way.
fn sample(schema: &Json, root: &Json, steps: &[Step]) -> Json {
    let schema = resolved(schema, root);
    let Some((step, rest)) = steps.split_first() else {
        return sample_of_leaf(schema, root);
    };
    match step {
        Step::Item => json!([sample(&schema["items"], root, rest)]),
        Step::Value => json!({SAMPLE_KEY: sample(&schema["additionalProperties"], root, rest)}),
        Step::Field(name) => {
            let mut value = required_fields(schema, root);
            value.insert(name.clone(), sample(&schema["properties"][name], root, rest));
            Json::Object(value)
        }
    }
}

fn required_fields(schema: &Json, root: &Json) -> Map<String, Json> {
    let required = schema["required"].as_array().into_iter().flatten();
    required
        .map(|name| {
            let name = name.as_str().unwrap();
            (name.to_owned(), sample_of_leaf(&schema["properties"][name], root))
        })
        .collect()
}

/// A value that is not the default.
fn sample_of_leaf(schema: &Json, root: &Json) -> Json {
    let schema = resolved(schema, root);
    if let Some(choices) = schema["oneOf"].as_array() {
        let mut names = choices.iter().map(|choice| &choice["const"]);
        // It is rendered as `none`.
        return names.rfind(|name| *name != "transparent").unwrap().clone();
    }
    let kind = match &schema["type"] {
        Json::Array(kinds) => kinds[0].as_str().unwrap(),
        kind => kind.as_str().unwrap(),
    };
    match kind {
        "boolean" => json!(true),
        "integer" => json!(schema["minimum"].as_u64().unwrap_or(0) + 7),
        "number" => json!(0.5),
        "array" => json!([sample_of_leaf(&schema["items"], root)]),
        "object" => Json::Object(required_fields(schema, root)),
        "string" => match schema["description"].as_str() {
            Some("a duration with units") => json!("7s"),
            Some("an IP address") => json!("10.0.0.7"),
            _ => json!("http://sample"),
        },
        other => panic!("no sample of {other}: {schema}"),
    }
}

/// The kind, and the place in its spec, that sets the place `steps` of the file.
fn resource_of(steps: &[Step]) -> Option<(&'static str, Vec<Step>)> {
    let (kind, mut place) = place_of(steps)?;
    if let Some(Step::Field(name)) = place.last_mut()
        && let Some(reference) = reference_of(name)
    {
        reference.clone_into(name);
    }
    Some((kind, place))
}

/// [`resource_of`], with the file's name of the field.
fn place_of(steps: &[Step]) -> Option<(&'static str, Vec<Step>)> {
    let field = |name: &str| Step::Field(name.to_owned());
    let operational = |steps: &[Step]| ("VirtualMCPServer", [&[field("operational")], steps].concat());
    let names: Vec<&str> = steps
        .iter()
        .map(|step| match step {
            Step::Field(name) => name.as_str(),
            Step::Item | Step::Value => "",
        })
        .collect();
    match names.as_slice() {
        ["hot", "backends", "", ..] => Some(("MCPServerEntry", steps[3..].to_vec())),
        ["hot", "logLevel" | "accessLog", ..] => Some(operational(&steps[1..])),
        ["hot", ..] => Some(("VirtualMCPServer", steps[1..].to_vec())),
        ["drainDelay"] => Some(operational(steps)),
        ["listeners", "idleTimeout"] => Some(operational(&steps[1..])),
        ["sessionStorage" | "incomingAuth", ..] => Some(("VirtualMCPServer", steps.to_vec())),
        _ => None,
    }
}

/// Whether the schema of the kind has the place `steps` in its spec. The API server drops all other fields.
fn is_in_crd(kind: &str, steps: &[Step]) -> bool {
    let crd = definitions()
        .into_iter()
        .find(|crd| crd.spec.names.kind == kind)
        .unwrap();
    let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
    let mut schema = &schema["openAPIV3Schema"]["properties"]["spec"];
    for step in steps {
        schema = match step {
            Step::Field(name) => &schema["properties"][name],
            Step::Item => &schema["items"],
            Step::Value => &schema["additionalProperties"],
        };
    }
    schema.is_object()
}

fn move_to_operational(spec: &mut Json) {
    for name in ["logLevel", "accessLog"] {
        if let Some(value) = spec.as_object_mut().unwrap().remove(name) {
            spec["operational"][name] = value;
        }
    }
}

/// Renders a resource that sets the place `steps` of the file, and returns what the file holds there and what was set.
fn rendered_and_set(steps: &[Step]) -> (Option<Json>, Json) {
    let root = json_schema().to_value();
    let file = sample(&root, &root, steps);
    let set = file.pointer(&pointer_of(steps)).unwrap().clone();
    let mut spec = json!({"groupRef": {"name": "tools"}});
    let mut entries = Vec::new();
    if let Some(backend) = file.pointer("/hot/backends/0") {
        let mut spec = backend.clone();
        refer_to_secrets(&mut spec);
        spec["groupRef"] = json!({"name": "tools"});
        entries.push(spec);
    } else if let Some(fields) = file["hot"].as_object() {
        spec.as_object_mut().unwrap().extend(fields.clone());
        move_to_operational(&mut spec);
    }
    for name in ["sessionStorage", "incomingAuth"] {
        if let Some(value) = file.get(name) {
            spec[name] = value.clone();
            refer_to_secrets(&mut spec[name]);
        }
    }
    if let Some(delay) = file.get("drainDelay") {
        spec["operational"]["drainDelay"] = delay.clone();
    }
    if let Some(timeout) = file.pointer("/listeners/idleTimeout") {
        spec["operational"]["idleTimeout"] = timeout.clone();
    }
    let server = super::tests::server(&spec);
    let entry = |spec: Json| {
        let entry: MCPServerEntry = serde_json::from_value(json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "sample"}, "spec": spec,
        }))
        .unwrap();
        Backend {
            problem: None,
            ..Backend::new(&entry, &server.spec.operational.timeouts)
        }
    };
    let backends: Vec<Backend> = entries.into_iter().map(entry).collect();
    let mut rendered = serde_json::to_value(startup(&server)).unwrap();
    rendered["hot"] = serde_json::to_value(hot(&server, &backends)).unwrap();
    let rendered = rendered.pointer(&pointer_of(steps)).cloned();
    // A reference is rendered as the path of the mounted file.
    let is_reference = matches!(steps.last(), Some(Step::Field(name)) if reference_of(name).is_some());
    let is_mounted = rendered
        .as_ref()
        .and_then(Json::as_str)
        .is_some_and(|path| path.starts_with("/etc/vmcp/secrets/"));
    let expected = if is_reference && is_mounted {
        rendered.clone()
    } else {
        None
    };
    (rendered, expected.unwrap_or(set))
}

#[test]
fn every_file_field_is_reached_or_excepted() {
    let root = json_schema().to_value();
    let mut fields = Vec::new();
    leaves(&root, &root, &[], &mut fields);
    assert!(fields.len() > 100, "{}", fields.len());
    let mut unreached = Vec::new();
    for steps in &fields {
        let path = text_of(steps);
        if EXCEPTIONS.iter().any(|(exception, _)| *exception == path) {
            continue;
        }
        match resource_of(steps) {
            None => unreached.push(format!("{path}: no resource sets it, and it is no exception")),
            Some((kind, place)) if !is_in_crd(kind, &place) => {
                unreached.push(format!("{path}: {kind} has no spec.{}", text_of(&place)));
            }
            Some((kind, place)) => {
                let (rendered, set) = rendered_and_set(steps);
                if rendered.as_ref() != Some(&set) {
                    let place = text_of(&place);
                    unreached.push(format!(
                        "{path}: {kind} spec.{place} is {set}, rendered as {rendered:?}"
                    ));
                }
            }
        }
    }
    assert!(unreached.is_empty(), "{}", unreached.join("\n"));
}

#[test]
fn exceptions_are_fields_that_no_resource_has() {
    let root = json_schema().to_value();
    let mut fields = Vec::new();
    leaves(&root, &root, &[], &mut fields);
    for (path, reason) in EXCEPTIONS {
        let steps = fields.iter().find(|steps| text_of(steps) == *path);
        let steps = steps.unwrap_or_else(|| panic!("{path} is not a field of the file"));
        assert!(reason.len() > 10, "{path}");
        let reached = resource_of(steps).is_some_and(|(kind, place)| is_in_crd(kind, &place));
        assert!(!reached, "{path} is an exception, but a resource sets it");
    }
}
