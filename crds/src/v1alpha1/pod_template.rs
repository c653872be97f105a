//! `spec.podTemplate` of a virtual server and of a server.
//!
//! Its schema has the fields that users set most often, so that `kubectl explain` shows them, and allows all others. The whole schema of a
//! pod is ten times as large as all others together, too large for the annotation that `kubectl apply` writes. The operator checks the
//! other fields.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

/// A part of a pod template, as in `spec.template` of a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodTemplate(pub Map<String, Json>);

impl JsonSchema for PodTemplate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PodTemplate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        template(&GATEWAY)
    }
}

/// The schema for the pods of an MCPServer.
pub(super) fn of_server(_: &mut SchemaGenerator) -> Schema {
    let mut schema = template(&SERVER);
    // As for every optional field.
    schema.insert("nullable".to_owned(), json!(true));
    schema
}

/// What the descriptions say about the pods of one kind.
struct Words {
    /// Which fields of the pods are refused.
    refused: &'static str,
    /// The containers.
    containers: &'static str,
    /// The name of a container.
    name: &'static str,
    /// The image of a container.
    image: &'static str,
    /// The variables of a container.
    variables: &'static str,
    /// The mounts of a container.
    mounts: &'static str,
    /// When containers run that run first.
    init_containers: &'static str,
    /// The default of the security settings.
    security: &'static str,
    /// Which volumes are refused.
    volumes: &'static str,
}

const GATEWAY: Words = Words {
    refused: "except `hostNetwork`, `hostPID`, `hostIPC`, `automountServiceAccountToken: true`, a `restartPolicy` other than `Always`, and \
              those that follow from other fields of the VirtualMCPServer: `serviceAccountName`, `serviceAccount`, `imagePullSecrets` and \
              `terminationGracePeriodSeconds`.",
    containers: "The gateway's container, which is named `gateway`, and sidecars. Of `gateway`, the fields `image`, `resources`, `command`, \
                 `args`, `ports`, `livenessProbe`, `readinessProbe` and `startupProbe` are not allowed. Host ports are not allowed in any \
                 container.",
    name: "The name of the container. `gateway` is the gateway's.",
    image: "The image of the container. That of `gateway` is `spec.image` of the VirtualMCPServer.",
    variables: "Variables, for example `{name: HTTPS_PROXY, value: 'http://proxy:3128'}`. `POD_NAME`, `POD_NAMESPACE` and \
                `THV_SESSION_REDIS_PASSWORD` of `gateway` are not allowed.",
    mounts: "Mounts of volumes. In `gateway`, none may be at `/etc/vmcp`, above or below it.",
    init_containers: "Containers that run before the gateway starts, or sidecars with `restartPolicy: Always`.",
    security: "They are merged into those of the operator: no root user, and the default seccomp profile.",
    volumes: "`hostPath` volumes, tokens of the API, and the names of the operator's own volumes are not allowed.",
};

const SERVER: Words = Words {
    refused: "except `hostNetwork`, `hostPID`, `hostIPC`, a `restartPolicy` other than `Always`, and those that follow from other fields of \
              the MCPServer: `serviceAccountName`, `serviceAccount` and `imagePullSecrets`.",
    containers: "The server's container, which is named `mcp`, and sidecars. Of `mcp`, the fields `image`, `resources`, `command`, `args`, \
                 `env`, `envFrom`, `ports` and `securityContext` are not allowed, because the MCPServer has its own. A probe replaces the \
                 operator's. Host ports are not allowed in any container.",
    name: "The name of the container. `mcp` is the server's.",
    image: "The image of the container. That of `mcp` is `spec.image` of the MCPServer.",
    variables: "Variables of a sidecar. Those of `mcp` are `spec.env` of the MCPServer.",
    mounts: "Mounts of volumes. In `mcp`, none may be at `/vmcp`, above or below it. One at `/tmp` replaces the operator's.",
    init_containers: "Containers that run before the server starts, or sidecars with `restartPolicy: Always`. The name `bridge` is not allowed.",
    security: "They are merged into those of the operator: no root user, and the default seccomp profile.",
    volumes: "`hostPath` volumes and the names `vmcp` and `tmp` are not allowed.",
};

fn template(words: &Words) -> Schema {
    let metadata = object(
        "Labels and annotations of the pods. The operator sets `app.kubernetes.io/*` and `vmcp.dev/*` itself.",
        json!({
            "labels": texts("Labels of the pods, for example `team: a`."),
            "annotations": texts("Annotations of the pods, for example `sidecar.istio.io/inject: \"true\"`."),
        }),
    );
    let mut template = Schema::default();
    template.insert("type".to_owned(), json!("object"));
    template.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
    template.insert(
        "properties".to_owned(),
        json!({"metadata": metadata, "spec": pod_spec(words)}),
    );
    template
}

fn pod_spec(words: &Words) -> Json {
    object(
        &format!(
            "Fields of the pods, as in `kubectl explain pod.spec`. Those that are not listed here are allowed, too, {}",
            words.refused
        ),
        json!({
            "affinity": object("Which nodes and which neighbors the pods prefer or need.", json!({})),
            "containers": containers(words.containers, words),
            "dnsConfig": object("Name servers, search domains and options of DNS.", json!({})),
            "dnsPolicy": text("How names are resolved, for example `ClusterFirst`."),
            "hostAliases": objects("Lines of `/etc/hosts`: an `ip` and its `hostnames`.", json!({})),
            "initContainers": containers(words.init_containers, words),
            "nodeSelector": texts("Labels that a node must have, for example `disk: ssd`."),
            "priorityClassName": text("The PriorityClass of the pods."),
            "runtimeClassName": text("The RuntimeClass of the pods."),
            "schedulerName": text("The scheduler that chooses nodes for the pods."),
            "securityContext": object(&format!("Security settings of the pods. {}", words.security), json!({})),
            "tolerations": objects("Taints of nodes that the pods tolerate.", json!({})),
            "topologySpreadConstraints": objects(
                "How the pods are spread. Default: over zones and nodes, as far as the cluster allows.",
                json!({}),
            ),
            "volumes": objects(
                &format!("Volumes for mounts in containers. {}", words.volumes),
                json!({"name": text("The name of the volume.")}),
            ),
        }),
    )
}

fn containers(description: &str, words: &Words) -> Json {
    objects(
        description,
        json!({
            "name": text(words.name),
            "image": text(words.image),
            "env": objects(
                words.variables,
                json!({"name": text("The name of the variable."), "value": text("The value of the variable.")}),
            ),
            "volumeMounts": objects(
                words.mounts,
                json!({
                    "name": text("The name of the volume."),
                    "mountPath": text("The path in the container."),
                }),
            ),
        }),
    )
}

/// An object with these fields, and with all others of its kind.
fn object(description: &str, fields: Json) -> Json {
    let mut schema = json!({
        "description": description, "nullable": true, "type": "object", "x-kubernetes-preserve-unknown-fields": true,
    });
    if fields.as_object().is_some_and(|fields| !fields.is_empty()) {
        schema["properties"] = fields;
    }
    schema
}

/// A list of objects with these fields, and with all others of their kind.
fn objects(description: &str, fields: Json) -> Json {
    let mut items = object("", fields);
    if let Some(items) = items.as_object_mut() {
        items.remove("description");
        items.remove("nullable");
    }
    json!({"description": description, "nullable": true, "type": "array", "items": items})
}

fn text(description: &str) -> Json {
    json!({"description": description, "nullable": true, "type": "string"})
}

/// A map of texts.
fn texts(description: &str) -> Json {
    json!({
        "description": description, "nullable": true, "type": "object", "additionalProperties": {"type": "string"},
    })
}
