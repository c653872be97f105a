//! `spec.sessionStorage` of a virtual server.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;

/// Where sessions are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.provider != 'redis' || has(self.address)")
        .message("address is required with provider redis: host:port of the Redis server")
        .field_path(".address"),
    validation = Rule::new("self.provider != 'memory' || !(has(self.address) || has(self.db) || has(self.keyPrefix) || has(self.username) || has(self.passwordRef))")
        .message("address, db, keyPrefix, username and passwordRef have no effect with provider memory: set provider redis or remove them"),
    validation = Rule::new("!has(self.username) || has(self.passwordRef)")
        .message("passwordRef is required with username: a Redis user needs a password")
        .field_path(".passwordRef")
)]
#[cfg_attr(test, x_kube(cel))]
pub struct SessionStorageSpec {
    /// `memory`: sessions are stored in each gateway pod. They end with the pod, and only one replica can serve them. `redis`: sessions
    /// are stored in a Redis server. Every replica can serve every session, and sessions survive restarts of pods.
    pub provider: StorageProvider,
    /// `host:port` of the Redis server, for example `redis.tools.svc:6379`. Required with `provider: redis`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("self.matches('^([a-zA-Z0-9._-]+|\\\\[[0-9a-fA-F:.]+\\\\]):(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})$')")
            .message("address must be host:port without a scheme, for example redis.tools.svc:6379")
    )]
    pub address: Option<String>,
    /// Number of the Redis database. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub db: Option<i32>,
    /// Prefix of every key in Redis. Default: `vmcp:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(
        validation = Rule::new("!self.contains('{') && !self.contains('}')")
            .message("keyPrefix must not contain braces: they determine the slot of a key in a Redis cluster"),
        validation = Rule::new("!self.matches('[[:space:][:cntrl:]]')")
            .message("keyPrefix must not contain white space or control characters")
    )]
    pub key_prefix: Option<String>,
    /// The Redis ACL user. Default: the default user of Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(
        validation = Rule::new("!self.matches('[[:space:][:cntrl:]]')")
            .message("username must not contain white space or control characters")
    )]
    pub username: Option<String>,
    /// The Secret key with the password of the Redis server. The gateway pods get it as an environment variable. When the password
    /// changes, the operator replaces the pods; no session is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<SecretKeyRef>,
}

/// Type of the session store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StorageProvider {
    /// The memory of each gateway pod.
    #[default]
    Memory,
    /// A Redis or Valkey server.
    Redis,
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
    fn redis_requires_address_and_memory_nothing() {
        assert_eq!(refusal(json!({"provider": "memory"})), None);
        assert_eq!(
            refusal(json!({"provider": "redis", "address": "redis:6379"})),
            None
        );
        assert_eq!(
            refusal(json!({"provider": "redis", "address": "[fd00::1]:6379"})),
            None
        );
        let message = refusal(json!({"provider": "redis"})).unwrap();
        assert!(
            message.contains("address is required with provider redis"),
            "{message}"
        );
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
            ("db", json!(1)),
            ("keyPrefix", json!("acme:")),
            ("username", json!("me")),
            ("passwordRef", json!({"name": "a", "key": "b"})),
        ] {
            let message = refusal(json!({"provider": "memory", field: value})).unwrap();
            assert!(
                message.contains("no effect with provider memory"),
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
            assert!(message.contains("must not contain braces"), "{message}");
        }
        let plain = json!({"provider": "redis", "address": "r:1", "keyPrefix": "acme:"});
        assert_eq!(refusal(plain), None);
    }
}
