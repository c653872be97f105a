//! `MCPGroup`: a set of MCP servers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GroupRef, MCPServer, MCPServerEntry, label_selector};

/// Maximum number of members in the status of a group. The count covers all members.
pub const MAX_MEMBERS: usize = 100;

/// A set of MCP servers behind a VirtualMCPServer. The members name the group in their `groupRef`, or have the labels in `selector`.
#[expect(
    clippy::duplicated_attributes,
    reason = "each printer column has its own fields"
)]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "vmcp.dev",
    version = "v1alpha1",
    kind = "MCPGroup",
    plural = "mcpgroups",
    singular = "mcpgroup",
    shortname = "mcpg",
    category = "mcp",
    namespaced,
    status = "MCPGroupStatus",
    derive = "PartialEq",
    doc = "A set of MCP servers behind a VirtualMCPServer. The members name the group in their groupRef, or have the labels in selector.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Members", type_ = "integer", json_path = ".status.memberCount"),
    printcolumn(
        name = "Description",
        type_ = "string",
        json_path = ".spec.description",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
// The spec may be omitted.
#[schemars(extend("default" = {}))]
pub struct MCPGroupSpec {
    /// Description of the group, for users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// Labels of the MCPServers and MCPServerEntries that belong to the group, in addition to those that name it in their `groupRef`. So a
    /// server can be in several groups. `{}` selects all of the namespace. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "label_selector::schema")]
    pub selector: Option<LabelSelector>,
}

/// A resource that can be a member of a group.
pub trait GroupMember: kube::Resource {
    /// The group that it names.
    fn group_ref(&self) -> Option<&GroupRef>;
}

impl GroupMember for MCPServerEntry {
    fn group_ref(&self) -> Option<&GroupRef> {
        self.spec.group_ref.as_ref()
    }
}

impl GroupMember for MCPServer {
    fn group_ref(&self) -> Option<&GroupRef> {
        self.spec.group_ref.as_ref()
    }
}

impl MCPGroup {
    /// Whether `member`, in the same namespace, belongs to the group.
    #[must_use]
    pub fn has_member<M: GroupMember>(&self, member: &M) -> bool {
        let named = member.group_ref();
        named.is_some_and(|group| group.name == self.name_any())
            || self
                .spec
                .selector
                .as_ref()
                .is_some_and(|selector| label_selector::selects(selector, member.labels()))
    }
}

/// Observed state of a group. Only the operator writes it, and only when something has changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MCPGroupStatus {
    /// The generation of the spec from which this status was derived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions of the group. `Ready` is true while the group has a member that can be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Number of members, with those that are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_count: Option<i32>,
    /// The members, sorted by name. At most 100 are listed; those that are left out take precedence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub members: Vec<ObservedMember>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedMember {
    /// The name of the MCPServer or MCPServerEntry.
    pub name: String,
    /// Why a VirtualMCPServer leaves the member out, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn group(spec: Json) -> MCPGroup {
        serde_json::from_value(json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPGroup", "metadata": {"name": "tools"}, "spec": spec,
        }))
        .unwrap()
    }

    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn entry(group: Option<&str>, labels: Json) -> MCPServerEntry {
        serde_json::from_value(json!({
            "apiVersion": "vmcp.dev/v1alpha1", "kind": "MCPServerEntry", "metadata": {"name": "time", "labels": labels},
            "spec": {"url": "http://time", "groupRef": group.map(|name| json!({"name": name}))},
        }))
        .unwrap()
    }

    #[test]
    fn member_is_found_by_reference_or_label() {
        let by_reference = group(json!({}));
        let by_label = group(json!({"selector": {"matchLabels": {"team": "a"}}}));
        for (entry, named, labeled) in [
            (entry(Some("tools"), json!({})), true, true),
            (entry(Some("other"), json!({"team": "a"})), false, true),
            (entry(None, json!({"team": "a"})), false, true),
            (entry(None, json!({"team": "b"})), false, false),
        ] {
            let found = (by_reference.has_member(&entry), by_label.has_member(&entry));
            assert_eq!(found, (named, labeled), "{entry:?}");
        }
        assert!(group(json!({"selector": {}})).has_member(&entry(None, json!({}))));
    }

    #[test]
    fn invalid_selector_is_rejected_with_reason() {
        let refusal = |expression: Json| {
            let errors = group(json!({"selector": {"matchExpressions": [expression]}})).validate_cel();
            errors.err().map(|errors| format!("{errors:?}"))
        };
        assert_eq!(
            refusal(json!({"key": "example.com/team", "operator": "In", "values": ["a"]})),
            None
        );
        assert_eq!(refusal(json!({"key": "team", "operator": "Exists"})), None);
        for (expression, expected) in [
            (
                json!({"key": "team", "operator": "In"}),
                "need at least one value",
            ),
            (
                json!({"key": "team", "operator": "Exists", "values": ["a"]}),
                "take none",
            ),
            (
                json!({"key": "a b", "operator": "Exists"}),
                "must be the key of a label",
            ),
        ] {
            let message = refusal(expression.clone()).unwrap_or_default();
            assert!(message.contains(expected), "{expression}: {message}");
        }
    }
}
