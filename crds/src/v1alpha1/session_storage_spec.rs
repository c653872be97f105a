//! Where a virtual server keeps its sessions.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;

/// Where sessions are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.provider != 'redis' || has(self.address)")
        .message("address is required with provider redis: host:port of the Redis server")
        .field_path(".address"),
    validation = Rule::new("self.provider != 'memory' || !(has(self.address) || has(self.db) || has(self.keyPrefix) || has(self.username) || has(self.passwordRef))")
        .message("address, db, keyPrefix, username and passwordRef have no meaning with provider memory: set provider redis or remove them"),
    validation = Rule::new("!has(self.username) || has(self.passwordRef)")
        .message("passwordRef is required with username: a user of Redis needs a password")
        .field_path(".passwordRef")
)]
#[cfg_attr(test, x_kube(cel))]
pub struct SessionStorageSpec {
    /// `memory` keeps sessions in each gateway pod: they end with it, and only one replica can serve them. `redis` keeps
    /// them in a Redis server: any replica serves any session, and sessions outlive every pod.
    pub provider: StorageProvider,
    /// `host:port` of the Redis server. Required with `provider: redis`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("self.matches('^([a-zA-Z0-9._-]+|\\\\[[0-9a-fA-F:.]+\\\\]):(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})$')")
            .message("address is host:port without a scheme, for example redis.tools.svc:6379")
    )]
    pub address: Option<String>,
    /// The number of the Redis database. 0 when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub db: Option<i32>,
    /// What every key in Redis begins with. `vmcp:` when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(
        validation = Rule::new("!self.contains('{') && !self.contains('}')")
            .message("keyPrefix must not contain braces: they decide the slot of a key in a Redis cluster"),
        validation = Rule::new("!self.matches('[[:space:][:cntrl:]]')")
            .message("keyPrefix must not hold white space or control characters")
    )]
    pub key_prefix: Option<String>,
    /// The Redis ACL user. Without it, Redis authenticates its default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(
        validation = Rule::new("!self.matches('[[:space:][:cntrl:]]')")
            .message("username must not hold white space or control characters")
    )]
    pub username: Option<String>,
    /// The Secret that holds the password of the Redis server. The gateway gets it as an environment variable; a changed
    /// password replaces the gateway pods, which costs no session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<SecretKeyRef>,
}

/// The kinds of session store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StorageProvider {
    /// In the memory of each gateway pod.
    #[default]
    Memory,
    /// In a Redis server.
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
    fn memory_needs_nothing_and_redis_an_address() {
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
    fn an_address_that_is_not_host_and_port_is_refused_with_an_example() {
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
    fn what_has_no_meaning_in_memory_is_refused_as_the_gateway_refuses_it() {
        for (field, value) in [
            ("address", json!("redis:6379")),
            ("db", json!(1)),
            ("keyPrefix", json!("acme:")),
            ("username", json!("me")),
            ("passwordRef", json!({"name": "a", "key": "b"})),
        ] {
            let message = refusal(json!({"provider": "memory", field: value})).unwrap();
            assert!(
                message.contains("no meaning with provider memory"),
                "{field}: {message}"
            );
        }
    }

    #[test]
    fn a_user_needs_a_password() {
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
    fn braces_in_the_key_prefix_are_refused() {
        for prefix in ["{acme}:", "acme}", "{acme"] {
            let message =
                refusal(json!({"provider": "redis", "address": "r:1", "keyPrefix": prefix})).unwrap();
            assert!(message.contains("must not contain braces"), "{message}");
        }
        let plain = json!({"provider": "redis", "address": "r:1", "keyPrefix": "acme:"});
        assert_eq!(refusal(plain), None);
    }
}
