//! `spec.sessionStorage` of a virtual server.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;
use crate::config::{SessionStorage, cel};

/// Where sessions are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.username) || has(self.passwordRef)")
        .message("passwordRef is required with username: a Redis user needs a password")
        .field_path(".passwordRef"),
    validation = Rule::new("self.provider != 'memory' || !has(self.passwordRef)")
        .message("has no effect with `provider: memory`; set `provider: redis` or remove it")
        .field_path(".passwordRef")
)]
#[cfg_attr(test, x_kube(cel))]
pub struct SessionStorageSpec {
    /// The fields of the gateway's own configuration, except those that name files.
    #[serde(flatten)]
    #[schemars(schema_with = "without_files")]
    pub settings: SessionStorage,
    /// The Secret key with the password of the Redis server. The gateway pods get it as an environment variable. When the password
    /// changes, the operator replaces the pods; no session is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<SecretKeyRef>,
}

fn without_files(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = SessionStorage::json_schema(generator);
    cel::remove_properties(&mut schema, &["passwordFile", "tls"]);
    // In a resource the choice is explicit.
    schema.insert("required".to_owned(), serde_json::json!(["provider"]));
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn refusal(storage: Json) -> Option<String> {
        SessionStorageSpec::validate_cel(&storage, None)
            .err()
            .map(|errors| format!("{errors:?}"))
    }

    #[test]
    fn redis_requires_a_server_and_memory_nothing() {
        for storage in [
            json!({"provider": "memory"}),
            json!({"provider": "memory", "ttl": "1h", "maxLifetime": "2h"}),
            json!({"provider": "redis", "address": "redis:6379"}),
            json!({"provider": "redis", "address": "[fd00::1]:6379"}),
            json!({"provider": "redis", "sentinel": {"masterName": "m", "addresses": ["s:1"]}}),
            json!({"provider": "redis", "cluster": {"addresses": ["r:1"]}}),
        ] {
            assert_eq!(refusal(storage), None);
        }
        let message = refusal(json!({"provider": "redis"})).unwrap();
        assert!(message.contains("needs the server's host:port"), "{message}");
    }

    #[test]
    fn invalid_address_is_rejected_with_example() {
        for address in [
            "redis",
            "redis://redis:6379",
            "redis:",
            ":6379",
            "user:secret@redis:6379",
            "redis:99999",
            "redis:0",
        ] {
            let message = refusal(json!({"provider": "redis", "address": address})).unwrap();
            assert!(
                message.contains("for example redis.tools.svc:6379"),
                "{address}: {message}"
            );
        }
    }

    #[test]
    fn redis_fields_are_rejected_with_memory() {
        for (field, value) in [
            ("address", json!("redis:6379")),
            ("sentinel", json!({"masterName": "m", "addresses": ["s:1"]})),
            ("cluster", json!({"addresses": ["r:1"]})),
            ("db", json!(1)),
            ("keyPrefix", json!("acme:")),
            ("username", json!("me")),
            ("onStoreOutage", json!("refuse")),
            ("commandTimeout", json!("2s")),
            ("passwordRef", json!({"name": "a", "key": "b"})),
        ] {
            let message = refusal(json!({"provider": "memory", field: value})).unwrap();
            assert!(
                message.contains("no effect with `provider: memory`"),
                "{field}: {message}"
            );
        }
    }

    #[test]
    fn username_requires_password() {
        let mut storage = json!({"provider": "redis", "address": "r:1", "username": "me"});
        let message = refusal(storage.clone()).unwrap();
        assert!(
            message.contains("passwordRef is required with username"),
            "{message}"
        );
        storage["passwordRef"] = json!({"name": "a", "key": "b"});
        assert_eq!(refusal(storage), None);
    }

    #[test]
    fn key_prefix_with_braces_is_rejected() {
        for prefix in ["{acme}:", "acme}", "{acme"] {
            let message =
                refusal(json!({"provider": "redis", "address": "r:1", "keyPrefix": prefix})).unwrap();
            assert!(message.contains("braces are not allowed"), "{message}");
        }
        let plain = json!({"provider": "redis", "address": "r:1", "keyPrefix": "acme:"});
        assert_eq!(refusal(plain), None);
    }
}
