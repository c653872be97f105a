//! Merges `spec.podTemplate` into the template of the pods, and rejects what would break them.
//!
//! The merge is strategic: lists of objects with names, such as containers, volumes and variables, are merged by name.

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value as Json;
use vmcp_crds::v1alpha1::PodTemplate;
use vmcp_crds::v1alpha1::field_rules::object_name;

use super::PodTemplateRules;
use crate::policy::is_label_text;

/// Parses the template and checks its fields by `rules`.
///
/// # Errors
/// The path of the first field that is unknown or not allowed, and why.
pub fn parse(template: &PodTemplate, rules: &PodTemplateRules) -> Result<PodTemplateSpec, String> {
    let given = Json::Object(template.0.clone());
    let parsed: PodTemplateSpec = serde_json::from_value(given.clone())
        .map_err(|error| format!("spec.podTemplate: not a pod template: {error}"))?;
    let known = serde_json::to_value(&parsed).unwrap_or_default();
    if let Some(path) = first_unknown(&given, &known) {
        return Err(format!("spec.podTemplate{path}: unknown field of a pod template"));
    }
    check(&parsed, rules).map_err(|(path, why)| format!("spec.podTemplate.{path}: {why}"))?;
    Ok(parsed)
}

/// Merges `template`, which [`parse`] accepts, into `base`.
pub(super) fn merge(base: &mut PodTemplateSpec, template: &PodTemplate, rules: &PodTemplateRules) {
    // The reconcile has rejected a template that cannot be parsed.
    if let Ok(template) = parse(template, rules) {
        drop_replaced_handlers(base, &template, rules);
        base.merge_from(template);
    }
}

/// Removes the probes and the lifecycle of the main container for which the template has its own: a probe with two handlers is invalid.
fn drop_replaced_handlers(base: &mut PodTemplateSpec, template: &PodTemplateSpec, rules: &PodTemplateRules) {
    let is_main = |container: &&Container| container.name == rules.container;
    let given = template
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .find(is_main);
    let containers = base.spec.iter_mut().flat_map(|spec| &mut spec.containers);
    let own = containers
        .into_iter()
        .find(|container| container.name == rules.container);
    if let (Some(given), Some(own)) = (given, own) {
        own.startup_probe.take_if(|_| given.startup_probe.is_some());
        own.liveness_probe.take_if(|_| given.liveness_probe.is_some());
        own.readiness_probe.take_if(|_| given.readiness_probe.is_some());
        own.lifecycle.take_if(|_| given.lifecycle.is_some());
    }
}

/// The images in the template, with their paths: those of containers, and those that are mounted as volumes.
pub fn images(template: &PodTemplateSpec) -> Vec<(String, String)> {
    let Some(spec) = &template.spec else {
        return Vec::new();
    };
    let image = |(kind, container): (&str, &Container)| {
        let path = format!("spec.podTemplate.spec.{kind}[{}].image", container.name);
        Some((path, container.image.clone()?))
    };
    let mounted = |volume: &Volume| {
        let path = format!("spec.podTemplate.spec.volumes[{}].image", volume.name);
        Some((path, volume.image.as_ref()?.reference.clone()?))
    };
    let mounted = spec.volumes.iter().flatten().filter_map(mounted);
    all_containers(spec).filter_map(image).chain(mounted).collect()
}

/// The path of a reference to a Secret in the template, if there is one.
pub fn secret_reference(template: &PodTemplateSpec) -> Option<String> {
    let spec = template.spec.as_ref()?;
    let of_container = |(kind, container): (&str, &Container)| {
        let has_variable = container.env.iter().flatten().any(|variable| {
            let source = variable.value_from.as_ref();
            source.is_some_and(|source| source.secret_key_ref.is_some())
        });
        let has_all = container
            .env_from
            .iter()
            .flatten()
            .any(|source| source.secret_ref.is_some());
        (has_variable || has_all).then(|| format!("spec.podTemplate.spec.{kind}[{}].env", container.name))
    };
    let of_volume = |volume: &Volume| {
        let volume_json = serde_json::to_value(volume).unwrap_or_default();
        names_secret(&volume_json).then(|| format!("spec.podTemplate.spec.volumes[{}]", volume.name))
    };
    all_containers(spec)
        .find_map(of_container)
        .or_else(|| spec.volumes.iter().flatten().find_map(of_volume))
}

/// Whether a field of a volume refers to a Secret, such as `secret`, `secretRef`, `secretName` and `nodePublishSecretRef`.
fn names_secret(volume: &Json) -> bool {
    match volume {
        Json::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.to_ascii_lowercase().contains("secret") || names_secret(value)),
        Json::Array(items) => items.iter().any(names_secret),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = (&'static str, &Container)> {
    let containers = spec.containers.iter().map(|container| ("containers", container));
    let init = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| ("initContainers", container));
    containers.chain(init)
}

type Refusal = (String, &'static str);

fn check(template: &PodTemplateSpec, rules: &PodTemplateRules) -> Result<(), Refusal> {
    if let Some(metadata) = &template.metadata {
        check_metadata(metadata)?;
    }
    let Some(spec) = &template.spec else { return Ok(()) };
    check_pod(spec, rules)?;
    for volume in spec.volumes.iter().flatten() {
        check_volume(volume, rules)?;
    }
    for (kind, container) in all_containers(spec) {
        check_container(kind, container, rules)?;
    }
    Ok(())
}

/// Checks labels and annotations as the API server does. Its own message would name a field of the Deployment.
fn check_metadata(metadata: &ObjectMeta) -> Result<(), Refusal> {
    let labels = metadata.labels.iter().flatten().map(|label| ("labels", label));
    let annotations = metadata.annotations.iter().flatten();
    let annotations = annotations.map(|annotation| ("annotations", annotation));
    for (kind, (key, value)) in labels.chain(annotations) {
        let why = if key.starts_with("app.kubernetes.io/") || key.starts_with("vmcp.dev/") {
            "the operator sets app.kubernetes.io/* and vmcp.dev/* itself"
        } else if !is_qualified_name(key, kind == "annotations") {
            "the key must be a name such as team or example.com/team, with at most 63 characters after the slash"
        } else if kind == "labels" && !value.is_empty() && !is_label_text(value) {
            "the value of a label has at most 63 letters, digits, dots, dashes and underscores, and begins and ends with a letter or digit"
        } else {
            continue;
        };
        return Err((format!("metadata.{kind}[{key}]"), why));
    }
    Ok(())
}

/// Whether `key` can be the key of a label, or of an annotation, whose prefix may have upper-case letters.
fn is_qualified_name(key: &str, is_annotation: bool) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) if is_annotation => {
            object_name(&prefix.to_ascii_lowercase()).is_ok() && is_label_text(name)
        }
        Some((prefix, name)) => object_name(prefix).is_ok() && is_label_text(name),
        None => is_label_text(key),
    }
}

fn check_pod(spec: &PodSpec, rules: &PodTemplateRules) -> Result<(), Refusal> {
    let refused = [
        (
            spec.host_network == Some(true),
            "hostNetwork",
            "two pods on a node would need the same port",
        ),
        (spec.host_pid == Some(true), "hostPID", rules.no_node_access),
        (spec.host_ipc == Some(true), "hostIPC", rules.no_node_access),
        (
            spec.service_account_name.is_some(),
            "serviceAccountName",
            "set spec.serviceAccountName",
        ),
        (
            spec.service_account.is_some(),
            "serviceAccount",
            "set spec.serviceAccountName",
        ),
        (
            spec.image_pull_secrets.is_some(),
            "imagePullSecrets",
            "set spec.imagePullSecrets",
        ),
        (
            spec.automount_service_account_token == Some(true) && !rules.allows_api_token,
            "automountServiceAccountToken",
            "gateway pods have no API token",
        ),
        (
            spec.termination_grace_period_seconds.is_some() && rules.grace_period_source.is_some(),
            "terminationGracePeriodSeconds",
            rules.grace_period_source.unwrap_or_default(),
        ),
        (
            spec.restart_policy
                .as_deref()
                .is_some_and(|policy| policy != "Always"),
            "restartPolicy",
            "a Deployment needs Always",
        ),
    ];
    match refused.into_iter().find(|(is_set, ..)| *is_set) {
        Some((_, field, why)) => Err((format!("spec.{field}"), why)),
        None => Ok(()),
    }
}

fn check_volume(volume: &Volume, rules: &PodTemplateRules) -> Result<(), Refusal> {
    let path = || format!("spec.volumes[{}]", volume.name);
    if rules.volumes.contains(&volume.name.as_str()) {
        return Err((path(), "the operator mounts a volume of this name"));
    }
    if volume.host_path.is_some() {
        return Err((path(), rules.no_node_access));
    }
    let sources = volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten());
    if !rules.allows_api_token
        && sources
            .into_iter()
            .any(|source| source.service_account_token.is_some())
    {
        return Err((path(), "gateway pods have no API token"));
    }
    Ok(())
}

fn check_container(kind: &str, container: &Container, rules: &PodTemplateRules) -> Result<(), Refusal> {
    let at = |field: &str| format!("spec.{kind}[{}].{field}", container.name);
    if container
        .ports
        .iter()
        .flatten()
        .any(|port| port.host_port.is_some())
    {
        return Err((at("ports"), "a host port would allow one pod on a node only"));
    }
    if kind == "initContainers" && rules.init_containers.contains(&container.name.as_str()) {
        return Err((at("name"), "the operator adds a container of this name"));
    }
    if kind != "containers" || container.name != rules.container {
        return Ok(());
    }
    let given = serde_json::to_value(container).unwrap_or_default();
    let refused = rules
        .container_fields
        .iter()
        .find(|(field, _)| given.get(field).is_some());
    if let Some((field, why)) = refused {
        return Err((at(field), why));
    }
    for variable in container.env.iter().flatten() {
        if rules.variables.contains(&variable.name.as_str()) {
            return Err((at(&format!("env[{}]", variable.name)), "the operator sets it"));
        }
    }
    for mount in container.volume_mounts.iter().flatten() {
        let path = normalized(&mount.mount_path);
        let is_below = path
            .strip_prefix(rules.directory)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let is_above = rules
            .directory
            .strip_prefix(path.as_str())
            .is_some_and(|rest| rest.starts_with('/'));
        if is_below || is_above || rules.volumes.contains(&mount.name.as_str()) {
            let place = format!("volumeMounts[{}]", mount.mount_path);
            return Err((at(&place), rules.directory_use));
        }
    }
    Ok(())
}

/// The path that a container runtime makes of `path`: from the root, without `.`, `..` and empty parts. The root itself is empty.
fn normalized(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.iter().map(|part| format!("/{part}")).collect()
}

/// The path of the first field in `given` that `known`, the same after parsing, does not have.
fn first_unknown(given: &Json, known: &Json) -> Option<String> {
    match (given, known) {
        (Json::Object(given), Json::Object(known)) => given.iter().find_map(|(name, value)| {
            let below = match known.get(name) {
                Some(known) => first_unknown(value, known),
                // An empty or absent value is not written again.
                None if is_empty(value) => None,
                None => Some(String::new()),
            };
            below.map(|below| format!(".{name}{below}"))
        }),
        (Json::Array(given), Json::Array(known)) => {
            let pairs = given.iter().zip(known).enumerate();
            pairs
                .filter_map(|(index, (given, known))| {
                    Some(format!("[{index}]{}", first_unknown(given, known)?))
                })
                .next()
        }
        _ => None,
    }
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Object(fields) => fields.values().all(is_empty),
        Json::Array(items) => items.is_empty(),
        Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vmcp_crds::config::REDIS_PASSWORD_ENV;
    use vmcp_crds::v1alpha1::definitions;

    use super::super::deployment::ETC_DIR;
    use super::super::pod_template_rules::{GATEWAY, SERVER};
    use super::*;

    fn parse(template: &PodTemplate) -> Result<PodTemplateSpec, String> {
        super::parse(template, &GATEWAY)
    }

    fn template(value: Json) -> PodTemplate {
        serde_json::from_value(value).unwrap()
    }

    /// What `kubectl explain --recursive` prints about `spec.podTemplate` of a VirtualMCPServer.
    fn explained() -> String {
        explained_of("VirtualMCPServer")
    }

    fn explained_of(kind: &str) -> String {
        let crd = definitions().into_iter().find(|crd| crd.spec.names.kind == kind);
        let schema = serde_json::to_value(&crd.unwrap().spec.versions[0].schema).unwrap();
        schema["openAPIV3Schema"]["properties"]["spec"]["properties"]["podTemplate"].to_string()
    }

    // Each refused field is named in the description of the field that a user looks up.
    #[test]
    fn refused_fields_are_in_the_description() {
        let explained = explained();
        for field in [
            "hostNetwork",
            "hostPID",
            "hostIPC",
            "serviceAccountName",
            "serviceAccount",
            "imagePullSecrets",
            "automountServiceAccountToken: true",
            "terminationGracePeriodSeconds",
            "restartPolicy",
            "hostPath",
            "image",
            "resources",
            "command",
            "args",
            "ports",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "POD_NAME",
            "POD_NAMESPACE",
            REDIS_PASSWORD_ENV,
            ETC_DIR,
            "app.kubernetes.io/*",
            "vmcp.dev/*",
        ] {
            assert!(
                explained.contains(&format!("`{field}`")),
                "{field} is not in {explained}"
            );
        }
    }

    // The schema knows the fields of the documented examples, so that `kubectl explain` shows them.
    #[test]
    fn common_fields_are_explained() {
        let explained: Json = serde_json::from_str(&explained()).unwrap();
        let spec = &explained["properties"]["spec"]["properties"];
        for field in [
            "affinity",
            "nodeSelector",
            "tolerations",
            "topologySpreadConstraints",
            "volumes",
        ] {
            assert!(spec[field]["description"].is_string(), "{field}");
        }
        let env = &spec["containers"]["items"]["properties"]["env"]["items"]["properties"];
        assert!(env["value"]["description"].is_string(), "{env}");
    }

    #[test]
    fn template_that_breaks_gateway_is_rejected_with_field() {
        let gateway = |fields: Json| {
            let mut container = json!({"name": "gateway"});
            container
                .as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            json!({"spec": {"containers": [container]}})
        };
        for (value, field) in [
            (json!({"spec": {"hostNetwork": true}}), "spec.hostNetwork"),
            (json!({"spec": {"hostPID": true}}), "spec.hostPID"),
            (
                json!({"spec": {"serviceAccountName": "x"}}),
                "spec.serviceAccountName",
            ),
            (
                json!({"spec": {"automountServiceAccountToken": true}}),
                "spec.automountServiceAccountToken",
            ),
            (
                json!({"spec": {"volumes": [{"name": "keys", "emptyDir": {}}]}}),
                "spec.volumes[keys]",
            ),
            (
                json!({"spec": {"volumes": [{"name": "secrets", "emptyDir": {}}]}}),
                "spec.volumes[secrets]",
            ),
            (
                json!({"spec": {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}}),
                "spec.volumes[x]",
            ),
            (
                json!({"spec": {"volumes": [{"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}}),
                "spec.volumes[x]",
            ),
            (
                json!({"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}),
                "metadata.labels[app.kubernetes.io/name]",
            ),
            (
                json!({"metadata": {"annotations": {"vmcp.dev/secrets": "x"}}}),
                "metadata.annotations[vmcp.dev/secrets]",
            ),
            (
                json!({"metadata": {"annotations": {"a b": "x"}}}),
                "metadata.annotations[a b]",
            ),
            (
                json!({"metadata": {"annotations": {"Example.com/a": "any text"}, "labels": {"Example.com/a": "x"}}}),
                "metadata.labels[Example.com/a]",
            ),
            (
                json!({"metadata": {"labels": {"team": "a b"}}}),
                "metadata.labels[team]",
            ),
            (
                gateway(json!({"ports": [{"containerPort": 1, "hostPort": 1}]})),
                "spec.containers[gateway].ports",
            ),
            (gateway(json!({"image": "x"})), "spec.containers[gateway].image"),
            (gateway(json!({"args": []})), "spec.containers[gateway].args"),
            (
                gateway(json!({"env": [{"name": "THV_SESSION_REDIS_PASSWORD", "value": "x"}]})),
                "spec.containers[gateway].env[THV_SESSION_REDIS_PASSWORD]",
            ),
            (
                gateway(json!({"volumeMounts": [{"name": "x", "mountPath": "/etc/vmcp/keys"}]})),
                "spec.containers[gateway].volumeMounts[/etc/vmcp/keys]",
            ),
            (
                gateway(json!({"volumeMounts": [{"name": "x", "mountPath": "/etc"}]})),
                "spec.containers[gateway].volumeMounts[/etc]",
            ),
            (
                gateway(json!({"volumeMounts": [{"name": "x", "mountPath": "/tmp/../etc//./vmcp/keys"}]})),
                "spec.containers[gateway].volumeMounts[/tmp/../etc//./vmcp/keys]",
            ),
            (
                gateway(json!({"volumeMounts": [{"name": "x", "mountPath": "/"}]})),
                "spec.containers[gateway].volumeMounts[/]",
            ),
            (json!({"spec": {"nodeSelektor": {}, "tolerations": []}}), "x"),
            (json!({"spec": {"nodeSelektor": {"a": "b"}}}), "spec.nodeSelektor"),
        ] {
            let parsed = parse(&template(value));
            if field == "x" {
                parsed.unwrap();
                continue;
            }
            let error = parsed.unwrap_err();
            assert!(
                error.starts_with(&format!("spec.podTemplate.{field}: ")),
                "{field}: {error}"
            );
        }
        let error = parse(&template(json!({"spec": {"containers": 5}}))).unwrap_err();
        assert!(error.contains("not a pod template"), "{error}");
    }

    #[test]
    fn template_is_merged_by_name() {
        let mut base: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app.kubernetes.io/name": "vmcp-gateway"}},
            "spec": {"containers": [{"name": "gateway", "image": "i", "env": [{"name": "POD_NAME", "value": "x"}]}]},
        }))
        .unwrap();
        let more = template(json!({
            "metadata": {"labels": {"team": "a"}},
            "spec": {
                "nodeSelector": {"disk": "ssd"}, "priorityClassName": "high",
                "containers": [
                    {"name": "gateway", "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}]},
                    {"name": "sidecar", "image": "s"},
                ],
            },
        }));
        merge(&mut base, &more, &GATEWAY);
        assert_eq!(
            serde_json::to_value(base).unwrap(),
            json!({
                "metadata": {"labels": {"app.kubernetes.io/name": "vmcp-gateway", "team": "a"}},
                "spec": {
                    "nodeSelector": {"disk": "ssd"}, "priorityClassName": "high",
                    "containers": [
                        {
                            "name": "gateway", "image": "i",
                            "env": [{"name": "POD_NAME", "value": "x"}, {"name": "HTTPS_PROXY", "value": "http://proxy"}],
                        },
                        {"name": "sidecar", "image": "s"},
                    ],
                },
            })
        );
    }

    #[test]
    fn images_and_secret_references_are_found() {
        let parsed = parse(&template(json!({"spec": {
            "initContainers": [{"name": "init", "image": "evil"}],
            "containers": [{"name": "sidecar", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}],
        }})))
        .unwrap();
        assert_eq!(
            images(&parsed),
            [(
                "spec.podTemplate.spec.initContainers[init].image".to_owned(),
                "evil".to_owned()
            )]
        );
        assert_eq!(
            secret_reference(&parsed).as_deref(),
            Some("spec.podTemplate.spec.containers[sidecar].env")
        );
        for (volume, has_secret) in [
            (json!({"secret": {"secretName": "s"}}), true),
            (
                json!({"projected": {"sources": [{"secret": {"name": "s"}}]}}),
                true,
            ),
            (
                json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}),
                true,
            ),
            (json!({"azureFile": {"secretName": "s", "shareName": "x"}}), true),
            (json!({"configMap": {"name": "secret"}}), false),
        ] {
            let mut named = volume.clone();
            named["name"] = json!("v");
            let found = secret_reference(&parse(&template(json!({"spec": {"volumes": [named]}}))).unwrap());
            let expected = has_secret.then_some("spec.podTemplate.spec.volumes[v]");
            assert_eq!(found.as_deref(), expected, "{volume}");
        }
        let mounted = template(json!({"spec": {"volumes": [{"name": "v", "image": {"reference": "evil"}}]}}));
        assert_eq!(
            images(&parse(&mounted).unwrap()),
            [(
                "spec.podTemplate.spec.volumes[v].image".to_owned(),
                "evil".to_owned()
            )]
        );
    }

    // What the pods of a server may not have is refused, with the field to set instead, and is in the description.
    #[test]
    fn template_of_server_has_rules_of_its_own() {
        let explained = explained_of("MCPServer");
        let mcp = |fields: Json| {
            let mut container = json!({"name": "mcp"});
            container
                .as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            json!({"spec": {"containers": [container]}})
        };
        for (value, field) in [
            (json!({"spec": {"hostNetwork": true}}), "spec.hostNetwork"),
            (json!({"spec": {"hostPID": true}}), "spec.hostPID"),
            (
                json!({"spec": {"serviceAccountName": "a"}}),
                "spec.serviceAccountName",
            ),
            (
                json!({"spec": {"imagePullSecrets": [{"name": "a"}]}}),
                "spec.imagePullSecrets",
            ),
            (
                json!({"spec": {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}}),
                "spec.volumes[a]",
            ),
            (
                json!({"spec": {"volumes": [{"name": "vmcp", "emptyDir": {}}]}}),
                "spec.volumes[vmcp]",
            ),
            (
                json!({"spec": {"initContainers": [{"name": "bridge"}]}}),
                "spec.initContainers[bridge].name",
            ),
            (mcp(json!({"image": "a"})), "spec.containers[mcp].image"),
            (
                mcp(json!({"env": [{"name": "A", "value": "b"}]})),
                "spec.containers[mcp].env",
            ),
            (
                mcp(json!({"securityContext": {"privileged": true}})),
                "spec.containers[mcp].securityContext",
            ),
            (
                mcp(json!({"ports": [{"containerPort": 1}]})),
                "spec.containers[mcp].ports",
            ),
            (
                mcp(json!({"volumeMounts": [{"name": "a", "mountPath": "/vmcp"}]})),
                "spec.containers[mcp].volumeMounts[/vmcp]",
            ),
        ] {
            let error = super::parse(&template(value), &SERVER).unwrap_err();
            assert!(
                error.starts_with(&format!("spec.podTemplate.{field}: ")),
                "{field}: {error}"
            );
            let name = field.rsplit('.').next().unwrap();
            let name = name.split('[').next().unwrap();
            let is_named = ["initContainers", "volumes", "volumeMounts", "name"].contains(&name);
            assert!(
                is_named || explained.contains(&format!("`{name}`")),
                "{name} is not in {explained}"
            );
        }
        for value in [
            json!({"spec": {"automountServiceAccountToken": true, "terminationGracePeriodSeconds": 5}}),
            mcp(
                json!({"volumeMounts": [{"name": "data", "mountPath": "/tmp"}], "readinessProbe": {"exec": {"command": ["x"]}}}),
            ),
        ] {
            super::parse(&template(value), &SERVER).unwrap();
        }
    }

    // The handler of a probe is replaced as a whole.
    #[test]
    fn probe_of_template_replaces_default() {
        let mut base: PodTemplateSpec = serde_json::from_value(json!({"spec": {"containers": [{
            "name": "mcp", "readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 2}, "livenessProbe": {"tcpSocket": {"port": 1}},
        }]}}))
        .unwrap();
        let probe = json!({"httpGet": {"path": "/healthz", "port": 1}});
        let more = json!({"spec": {"containers": [{"name": "mcp", "readinessProbe": probe}]}});
        merge(&mut base, &template(more), &SERVER);
        assert_eq!(
            serde_json::to_value(base.spec.unwrap().containers).unwrap(),
            json!([{"name": "mcp", "readinessProbe": probe, "livenessProbe": {"tcpSocket": {"port": 1}}}])
        );
    }
}
