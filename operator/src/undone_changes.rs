//! Describes a change that another client has made to a field of the operator, and that an apply has undone: what was changed, by which client, and
//! which field of the VirtualMCPServer or MCPServer to set instead.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::Value as Json;

use crate::apply::FIELD_MANAGER;
use crate::owned_fields::fields;
use crate::owner;

/// Maximum number of changed fields that a message names.
const MAX_NAMED_FIELDS: usize = 3;
/// Fields of the metadata that change with every write.
const BOOKKEEPING: [&str; 3] = ["managedFields", "resourceVersion", "generation"];
/// Prefixes of labels and annotations that only the operator sets.
const RESERVED: [&str; 2] = ["vmcp.dev/", "app.kubernetes.io/"];
/// Fields of the main container that the operator alone sets.
const FIXED: [&str; 8] = [
    "name",
    "args",
    "command",
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "volumeMounts",
];

/// The value of an absent field.
static NULL: Json = Json::Null;

/// Where the fields of the children of one kind come from.
#[derive(Debug)]
struct Sources {
    /// The kind.
    owner: &'static str,
    /// The path of its main container, with a dot at the end.
    container: &'static str,
    /// Fields of the main container that the operator alone sets.
    fixed: &'static [&'static str],
    /// A kind of children, a field of it, and the field of the owner that sets it. The first fitting row counts.
    rows: &'static [(&'static str, &'static str, &'static str)],
}

const OF_VIRTUAL_SERVER: Sources = Sources {
    owner: "VirtualMCPServer",
    container: "spec.template.spec.containers[gateway].",
    fixed: &FIXED,
    rows: &VIRTUAL_SERVER_ROWS,
};

const OF_SERVER: Sources = Sources {
    owner: "MCPServer",
    container: "spec.template.spec.containers[mcp].",
    fixed: &["name", "ports"],
    rows: &SERVER_ROWS,
};

const SERVER_ROWS: [(&str, &str, &str); 14] = [
    ("Deployment", "spec.replicas", "spec.replicas"),
    (
        "Deployment",
        "spec.template.spec.containers[mcp].image",
        "spec.image",
    ),
    (
        "Deployment",
        "spec.template.spec.containers[mcp].command",
        "spec.command",
    ),
    (
        "Deployment",
        "spec.template.spec.containers[mcp].args",
        "spec.args",
    ),
    ("Deployment", "spec.template.spec.containers[mcp].env", "spec.env"),
    (
        "Deployment",
        "spec.template.spec.containers[mcp].envFrom",
        "spec.envFrom",
    ),
    (
        "Deployment",
        "spec.template.spec.containers[mcp].resources",
        "spec.resources",
    ),
    (
        "Deployment",
        "spec.template.spec.containers[mcp].securityContext",
        "spec.securityContext",
    ),
    (
        "Deployment",
        "spec.template.spec.imagePullSecrets",
        "spec.imagePullSecrets",
    ),
    (
        "Deployment",
        "spec.template.spec.serviceAccountName",
        "spec.serviceAccountName",
    ),
    (
        "Deployment",
        "spec.template.spec.terminationGracePeriodSeconds",
        "spec.timeouts.call",
    ),
    ("Deployment", "spec.template", "spec.podTemplate"),
    ("Service", "spec.ports", "spec.port"),
    ("NetworkPolicy", "spec", "spec.networkPolicy"),
];

const VIRTUAL_SERVER_ROWS: [(&str, &str, &str); 21] = [
    ("Deployment", "spec.replicas", "spec.replicas"),
    (
        "Deployment",
        "spec.template.spec.containers[gateway].image",
        "spec.image",
    ),
    (
        "Deployment",
        "spec.template.spec.containers[gateway].resources",
        "spec.resources",
    ),
    (
        "Deployment",
        "spec.template.spec.imagePullSecrets",
        "spec.imagePullSecrets",
    ),
    (
        "Deployment",
        "spec.template.spec.serviceAccountName",
        "spec.serviceAccountName",
    ),
    (
        "Deployment",
        "spec.template.spec.terminationGracePeriodSeconds",
        "spec.operational.drainDelay",
    ),
    ("Deployment", "spec.template", "spec.podTemplate"),
    ("Service", "spec.type", "spec.service.type"),
    ("Service", "spec.sessionAffinity", "spec.sessionAffinity"),
    (
        "Service",
        "spec.internalTrafficPolicy",
        "spec.service.internalTrafficPolicy",
    ),
    (
        "Service",
        "spec.trafficDistribution",
        "spec.service.trafficDistribution",
    ),
    (
        "Service",
        "spec.loadBalancerClass",
        "spec.service.loadBalancerClass",
    ),
    ("Service", "metadata.annotations", "spec.service.annotations"),
    ("Service", "metadata.labels", "spec.service.labels"),
    ("PodDisruptionBudget", "spec", "spec.podDisruptionBudget"),
    ("HorizontalPodAutoscaler", "spec", "spec.autoscaling"),
    ("NetworkPolicy", "spec", "spec.networkPolicy"),
    ("HTTPRoute", "spec", "spec.httpRoute"),
    ("HTTPRoute", "metadata", "spec.httpRoute"),
    ("ServiceMonitor", "spec", "spec.serviceMonitor"),
    ("ServiceMonitor", "metadata", "spec.serviceMonitor"),
];

/// A changed field.
#[derive(Debug, PartialEq, Eq)]
struct ChangedField {
    /// Its path, for example `spec.template.spec.containers[gateway].image`.
    path: String,
    /// Its pointer into `managedFields`, up to the first list.
    pointer: String,
}

/// The message about the fields of `intent`, our intent, that another client has set in `edited`, and that differ in `applied`, the object after our
/// apply. `None` if no field differs. Other fields do not count: the API server sets some that depend on ours, such as the port of a node.
#[must_use]
pub fn describe<K>(intent: &K, edited: &K, applied: &K) -> Option<String>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let sources_of = match owner::controller(intent.meta()) {
        Some(owner) if owner.kind == OF_SERVER.owner => OF_SERVER,
        _ => OF_VIRTUAL_SERVER,
    };
    // An object that cannot be serialized cannot be applied either.
    let [intent, before, after] =
        [intent, edited, applied].map(|object| serde_json::to_value(object).unwrap_or_default());
    let mut changed = Vec::new();
    compare(&intent, [&before, &after], "", Some(""), &mut changed);
    let first = changed.first()?;
    let by = client(edited.meta(), &first.pointer).map_or_else(String::new, |client| format!(" by {client}"));
    let kind = K::kind(&());
    let mut sources: Vec<&str> = changed
        .iter()
        .filter_map(|field| sources_of.source(&kind, &field.path))
        .collect();
    sources.sort_unstable();
    sources.dedup();
    let remedy = if sources.is_empty() {
        format!("no field of the {} sets it", sources_of.owner)
    } else {
        format!("set {} of the {} instead", sources.join(", "), sources_of.owner)
    };
    let more = if changed.len() > MAX_NAMED_FIELDS {
        ", ..."
    } else {
        ""
    };
    let paths: Vec<&str> = changed
        .iter()
        .take(MAX_NAMED_FIELDS)
        .map(|field| field.path.as_str())
        .collect();
    Some(format!(
        "{kind} {}: a change{by} of {}{more} was undone; {remedy}",
        edited.name_any(),
        paths.join(", ")
    ))
}

/// Collects the fields of `intent` that differ between two objects. `pointer` is `None` below a list.
fn compare(
    intent: &Json,
    objects: [&Json; 2],
    path: &str,
    pointer: Option<&str>,
    changed: &mut Vec<ChangedField>,
) {
    if objects[0] == objects[1] {
        return;
    }
    match (intent, objects) {
        (Json::Object(fields), [Json::Object(_), Json::Object(_)]) => {
            for (name, field) in fields {
                let is_ignored = match path {
                    "" => name == "status",
                    "metadata" => BOOKKEEPING.contains(&name.as_str()),
                    _ => false,
                };
                if !is_ignored {
                    let nested = pointer.map(|pointer| format!("{pointer}/f:{}", escape(name)));
                    let values = objects.map(|object| object.get(name).unwrap_or(&NULL));
                    compare(field, values, &join(path, name), nested.as_deref(), changed);
                }
            }
        }
        (Json::Array(items), [Json::Array(before), Json::Array(after)]) if has_names(items) => {
            for item in items {
                let name = name_of(item).unwrap_or_default();
                let named = |items: &[Json]| {
                    let found = items.iter().find(|item| name_of(item) == Some(name));
                    found.cloned().unwrap_or_default()
                };
                let (first_new, values) = (changed.len(), [named(before), named(after)]);
                let path = format!("{path}[{name}]");
                compare(item, [&values[0], &values[1]], &path, None, changed);
                for field in changed.iter_mut().skip(first_new) {
                    if field.pointer.is_empty() {
                        pointer.unwrap_or_default().clone_into(&mut field.pointer);
                    }
                }
            }
        }
        _ => changed.push(ChangedField {
            path: path.to_owned(),
            pointer: pointer.unwrap_or_default().to_owned(),
        }),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else if name.contains(['.', '/']) {
        format!("{path}[{name}]")
    } else {
        format!("{path}.{name}")
    }
}

/// A name as a token of a JSON pointer.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn has_names(items: &[Json]) -> bool {
    items.iter().all(|item| name_of(item).is_some())
}

fn name_of(item: &Json) -> Option<&str> {
    item.get("name")?.as_str()
}

/// The client that has set the field at `pointer`: the latest other field manager that owns it.
fn client<'a>(metadata: &'a ObjectMeta, pointer: &str) -> Option<&'a str> {
    let entries = metadata.managed_fields.iter().flatten().filter(|entry| {
        entry.manager.as_deref() != Some(FIELD_MANAGER)
            && fields(entry).is_some_and(|fields| fields.pointer(pointer).is_some())
    });
    entries
        .max_by_key(|entry| entry.time.as_ref())?
        .manager
        .as_deref()
}

impl Sources {
    /// The field of the owner that sets `path` of a child of this kind.
    fn source(&self, kind: &str, path: &str) -> Option<&'static str> {
        let is_reserved = RESERVED.iter().any(|prefix| path.contains(&format!("[{prefix}")));
        let of_container = path.strip_prefix(self.container);
        let is_fixed = of_container.is_some_and(|rest| self.fixed.iter().any(|field| is_within(rest, field)));
        let is_owner = is_within(path, "metadata.ownerReferences");
        if is_reserved || is_fixed || is_owner {
            return None;
        }
        let mut rows = self.rows.iter().filter(|(of, ..)| *of == kind);
        rows.find(|(_, prefix, _)| is_within(path, prefix))
            .map(|(.., source)| *source)
    }
}

/// Whether `path` is that of the field `prefix`, or of a field below it.
fn is_within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    fn deployment(image: &str, args: &[&str], memory: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "vmcp-x", "resourceVersion": image, "managedFields": [
                {"manager": FIELD_MANAGER, "time": "2026-01-01T00:00:09Z", "fieldsV1": {
                    "f:spec": {"f:template": {"f:spec": {"f:containers": {}}}},
                }},
                {"manager": "kubectl-edit", "time": "2026-01-01T00:00:02Z", "fieldsV1": {
                    "f:spec": {"f:template": {"f:spec": {"f:containers": {}}}},
                }},
                {"manager": "kube-controller-manager", "time": "2026-01-01T00:00:03Z", "fieldsV1": {
                    "f:metadata": {"f:annotations": {}},
                }},
            ]},
            "spec": {"selector": {}, "template": {"spec": {"containers": [
                {"name": "sidecar", "image": "s"},
                {"name": "gateway", "image": image, "args": args, "resources": {"limits": {"memory": memory}}},
            ]}}},
        }))
        .unwrap()
    }

    #[test]
    fn undone_change_names_client_and_field_of_server() {
        let ours = deployment("a", &["serve"], "512Mi");
        assert_eq!(
            describe(&ours, &deployment("b", &["serve"], "64Mi"), &ours).unwrap(),
            "Deployment vmcp-x: a change by kubectl-edit of spec.template.spec.containers[gateway].image, \
             spec.template.spec.containers[gateway].resources.limits.memory was undone; set spec.image, spec.resources of the \
             VirtualMCPServer instead"
        );
        let message = describe(&ours, &deployment("a", &["sleep"], "512Mi"), &ours).unwrap();
        assert!(
            message.ends_with("no field of the VirtualMCPServer sets it"),
            "{message}"
        );
        assert_eq!(describe(&ours, &ours, &ours), None);
    }

    #[test]
    fn field_of_child_leads_to_field_of_server() {
        for (kind, path, expected) in [
            ("Service", "spec.type", Some("spec.service.type")),
            (
                "Service",
                "metadata.annotations[example.com/a]",
                Some("spec.service.annotations"),
            ),
            ("Service", "metadata.annotations[vmcp.dev/operator]", None),
            ("Service", "metadata.labels[app.kubernetes.io/name]", None),
            ("Service", "spec.selector", None),
            (
                "Deployment",
                "spec.template.spec.nodeSelector.disk",
                Some("spec.podTemplate"),
            ),
            (
                "Deployment",
                "spec.template.spec.imagePullSecrets[a]",
                Some("spec.imagePullSecrets"),
            ),
            ("Deployment", "spec.templates", None),
            ("HTTPRoute", "metadata.ownerReferences", None),
            ("HTTPRoute", "spec.hostnames", Some("spec.httpRoute")),
        ] {
            assert_eq!(OF_VIRTUAL_SERVER.source(kind, path), expected, "{kind} {path}");
        }
    }

    // What the API server itself changes with each write is no change of a client.
    #[test]
    fn bookkeeping_is_no_change() {
        let service = |version: &str, kind: &str| -> Service {
            serde_json::from_value(json!({
                "metadata": {"name": "vmcp-x", "resourceVersion": version, "generation": version.len()},
                "spec": {"type": kind}, "status": {"loadBalancer": {"ingress": [{"ip": version}]}},
            }))
            .unwrap()
        };
        let ours = service("22", "ClusterIP");
        assert_eq!(describe(&ours, &service("1", "ClusterIP"), &ours), None);
        let message = describe(&ours, &service("1", "NodePort"), &ours).unwrap();
        assert_eq!(
            message,
            "Service vmcp-x: a change of spec.type was undone; set spec.service.type of the VirtualMCPServer instead"
        );
    }
}
