//! References to other objects.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::config::cel;

/// Reference to an MCPGroup in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[cfg_attr(test, x_kube(cel))]
pub struct GroupRef {
    /// The name of the MCPGroup.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(cel::is_dns_name("self")).message(cel::OBJECT_NAME_EXPECTED))]
    pub name: String,
}

/// Reference to a key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[cfg_attr(test, x_kube(cel))]
pub struct SecretKeyRef {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(cel::is_dns_name("self")).message(cel::OBJECT_NAME_EXPECTED))]
    pub name: String,
    /// The key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')")
            .message("key must be the key of a Secret: letters, digits, '-', '_' and '.'")
    )]
    pub key: String,
}

/// Reference to a key of a ConfigMap in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[cfg_attr(test, x_kube(cel))]
pub struct ConfigMapKeyRef {
    /// The name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(cel::is_dns_name("self")).message(cel::OBJECT_NAME_EXPECTED))]
    pub name: String,
    /// The key in the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')")
            .message("key must be the key of a ConfigMap: letters, digits, '-', '_' and '.'")
    )]
    pub key: String,
}

/// Reference to PEM certificates of trusted authorities, in a ConfigMap or a Secret in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.configMapKeyRef) != has(self.secretKeyRef)")
        .message("needs exactly one of `configMapKeyRef` and `secretKeyRef`")
)]
#[cfg_attr(test, x_kube(cel))]
pub struct CaBundleRef {
    /// A key of a ConfigMap, for example one that trust-manager writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyRef>,
    /// A key of a Secret, for example `ca.crt` of a Secret that cert-manager writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

impl CaBundleRef {
    /// Checks the rule of the schema, for objects that are older than it. `field` is the reference's field.
    ///
    /// # Errors
    /// The field, and what is allowed.
    pub fn check(&self, field: &str) -> Result<(), String> {
        if self.config_map_key_ref.is_some() == self.secret_key_ref.is_some() {
            return Err(format!(
                "{field}: needs exactly one of `configMapKeyRef` and `secretKeyRef`"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::v1alpha1::field_rules;

    // The schema and the operator's own rules agree on every name and key.
    #[test]
    fn schema_and_rules_agree_on_names() {
        let mut refused = 0;
        for text in [
            "a",
            "a.b-c",
            "0",
            "",
            ".",
            "..",
            "..a",
            ".a",
            "?x=",
            "?watch=1&x=",
            "a/b",
            "a b",
            "a\n",
            "A",
            "a_b",
            "-a",
            "a-",
            "a.",
            "ä",
            "%2e",
            "a\0",
            "a#",
        ] {
            let as_name = SecretKeyRef::validate_cel(&json!({"name": text, "key": "k"}), None).is_ok();
            assert_eq!(as_name, field_rules::object_name(text).is_ok(), "{text:?}");
            let as_group = GroupRef::validate_cel(&json!({"name": text}), None).is_ok();
            assert_eq!(as_group, as_name, "{text:?}");
            let as_key = SecretKeyRef::validate_cel(&json!({"name": "n", "key": text}), None).is_ok();
            assert_eq!(as_key, field_rules::secret_key(text).is_ok(), "{text:?}");
            let in_config_map =
                ConfigMapKeyRef::validate_cel(&json!({"name": text, "key": text}), None).is_ok();
            assert_eq!(in_config_map, as_name && as_key, "{text:?}");
            refused += usize::from(!as_name) + usize::from(!as_key);
        }
        assert!(refused > 20, "{refused}");
    }
}
