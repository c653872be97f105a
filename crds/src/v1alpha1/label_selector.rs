//! Label selectors in a spec.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::config::cel;

/// Whether `selector` selects an object with these labels. An empty selector selects every object.
///
/// An expression with an operator that the schema does not allow selects nothing.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    selector.match_labels.iter().flatten().all(has)
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|requirement| is_met(requirement, labels))
}

fn is_met(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let is_listed = || {
        let mut values = requirement.values.iter().flatten();
        value.is_some_and(|value| values.any(|listed| listed == value))
    };
    match requirement.operator.as_str() {
        "In" => is_listed(),
        "NotIn" => !is_listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// The schema of a [`LabelSelector`], with the rules that Kubernetes checks in its own kinds.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    let key_rule = cel::rule_of_field(
        "key",
        "self.key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
        "must be the key of a label, for example team or example.com/team",
    );
    let values_rule = cel::rule_of_field(
        "values",
        "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
        "`In` and `NotIn` need at least one value; `Exists` and `DoesNotExist` take none",
    );
    json_schema!({
        "type": "object",
        "nullable": true,
        // As in Kubernetes' own kinds: a selector has one owner.
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels that an object must have, with these values.",
                "type": "object",
                "maxProperties": 64,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "description": "Conditions on labels. All of them must hold.",
                "type": "array",
                "maxItems": 64,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"description": "The key of the label.", "type": "string", "maxLength": 317},
                        "operator": {
                            "description": "`In`: the label has one of the values. `NotIn`: it has none of them, or is absent. `Exists` and \
                                            `DoesNotExist`: the label is present or absent, with any value.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "The values for `In` and `NotIn`.",
                            "type": "array",
                            "maxItems": 64,
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                    "x-kubernetes-validations": [key_rule, values_rule],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn selected(selector: Json, labels: Json) -> bool {
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        selects(&selector, &serde_json::from_value(labels).unwrap())
    }

    fn expression(operator: &str, values: &[&str]) -> Json {
        json!({"matchExpressions": [{"key": "team", "operator": operator, "values": values}]})
    }

    #[test]
    fn match_labels_need_every_label() {
        let selector = json!({"matchLabels": {"team": "a", "tier": "web"}});
        assert!(selected(
            selector.clone(),
            json!({"team": "a", "tier": "web", "x": "y"})
        ));
        assert!(!selected(selector.clone(), json!({"team": "a"})));
        assert!(!selected(selector, json!({"team": "a", "tier": "db"})));
    }

    #[test]
    fn expressions_follow_kubernetes() {
        let (a, c, none) = (json!({"team": "a"}), json!({"team": "c"}), json!({}));
        for (selector, of_a, of_c, of_none) in [
            (expression("In", &["a", "b"]), true, false, false),
            (expression("NotIn", &["a", "b"]), false, true, true),
            (expression("Exists", &[]), true, true, false),
            (expression("DoesNotExist", &[]), false, false, true),
            (expression("Like", &["a"]), false, false, false),
            (json!({}), true, true, true),
        ] {
            let found = [&a, &c, &none].map(|labels| selected(selector.clone(), labels.clone()));
            assert_eq!(found, [of_a, of_c, of_none], "{selector}");
        }
    }

    #[test]
    fn labels_and_expressions_must_both_hold() {
        let mut selector = expression("NotIn", &["b"]);
        selector["matchLabels"] = json!({"tier": "web"});
        assert!(selected(selector.clone(), json!({"tier": "web"})));
        assert!(!selected(selector.clone(), json!({"tier": "web", "team": "b"})));
        assert!(!selected(selector, json!({"team": "a"})));
    }
}
