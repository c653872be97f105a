//! Where sessions are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, is_default};

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
    /// How long what a replica knows of a session counts without a proof that it is still true: at most so long a session is
    /// served that was ended elsewhere. The proof is sought twice as often, in the background. With `0s` every request asks Redis.
    #[schemars(extend("default" = default_max_staleness().to_string()))]
    #[serde(
        default = "default_max_staleness",
        skip_serializing_if = "is_default_max_staleness"
    )]
    pub max_staleness: Duration,
    /// What happens to sessions while Redis does not answer. `serve`: those that a replica knows are served, for `outageGrace`.
    /// `refuse`: they get 503 until Redis is back. Sessions are neither lost nor begun meanwhile.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_store_outage: OnStoreOutage,
    /// How long sessions are served while Redis does not answer; then they get 503. It is also how long a session may be served
    /// that was ended elsewhere, by a replica that cannot reach Redis.
    #[schemars(extend("default" = default_outage_grace().to_string()))]
    #[serde(
        default = "default_outage_grace",
        skip_serializing_if = "is_default_outage_grace"
    )]
    pub outage_grace: Duration,
}

/// What happens to sessions while their store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnStoreOutage {
    /// Those that a replica knows are served.
    #[default]
    Serve,
    /// They are not.
    Refuse,
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

fn default_max_staleness() -> Duration {
    Duration::from_secs(2)
}

fn is_default_max_staleness(staleness: &Duration) -> bool {
    *staleness == default_max_staleness()
}

fn default_outage_grace() -> Duration {
    Duration::from_secs(10 * 60)
}

fn is_default_outage_grace(grace: &Duration) -> bool {
    *grace == default_outage_grace()
}

impl Default for SessionStorage {
    fn default() -> Self {
        Self {
            provider: SessionStorageProvider::Memory,
            address: None,
            db: 0,
            key_prefix: default_key_prefix(),
            username: None,
            max_staleness: default_max_staleness(),
            on_store_outage: OnStoreOutage::default(),
            outage_grace: default_outage_grace(),
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
