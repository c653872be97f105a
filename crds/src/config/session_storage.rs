//! Where sessions are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where sessions are kept. The password of the store is not part of the file: it comes from the environment variable
/// `THV_SESSION_REDIS_PASSWORD`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionStorage {
    /// `memory` keeps sessions in the process: they end with it, and only one replica can serve them. `redis` keeps them
    /// in a Redis server: any replica serves any session, and sessions outlive every process.
    #[serde(default)]
    pub provider: SessionStorageProvider,
    /// `host:port` of the Redis server. Required with `provider: redis`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The number of the Redis database.
    #[schemars(extend("default" = 0))]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub db: u16,
    /// What every key in Redis begins with. Braces are not allowed, because they decide the slot of a key in a Redis cluster.
    #[schemars(extend("default" = default_key_prefix()))]
    #[serde(default = "default_key_prefix", skip_serializing_if = "is_default_key_prefix")]
    pub key_prefix: String,
    /// The Redis ACL user. Without it, Redis authenticates its default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// The kinds of session store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionStorageProvider {
    /// In the memory of the process.
    #[default]
    Memory,
    /// In a Redis server.
    Redis,
}

impl Default for SessionStorage {
    fn default() -> Self {
        Self {
            provider: SessionStorageProvider::Memory,
            address: None,
            db: 0,
            key_prefix: default_key_prefix(),
            username: None,
        }
    }
}

fn default_key_prefix() -> String {
    "vmcp:".to_owned()
}

fn is_default_key_prefix(prefix: &str) -> bool {
    prefix == default_key_prefix()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(db: &u16) -> bool {
    *db == 0
}
