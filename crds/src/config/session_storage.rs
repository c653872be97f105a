//! Where sessions are kept.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, is_default};

/// Where sessions are kept. The password of the store is not part of the file: it comes from the environment variable
/// `THV_SESSION_REDIS_PASSWORD`, or from the file that `passwordFile` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionStorage {
    /// `memory` keeps sessions in the process: they end with it, and only one replica can serve them. `redis` keeps them
    /// in a Redis server (7.0 or newer; Valkey will do): any replica serves any session, and sessions outlive every process.
    #[serde(default)]
    pub provider: SessionStorageProvider,
    /// `host:port` of the Redis server. `provider: redis` needs this, `sentinel` or `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Sentinels that know which Redis server is the primary. The gateway follows them when they name another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<RedisSentinel>,
    /// A Redis cluster. All sessions of this virtual server are in one slot, and so at one node; the gateway follows the
    /// slot when it moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<RedisCluster>,
    /// The number of the Redis database. A cluster has only the database 0.
    #[schemars(extend("default" = 0))]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub db: u16,
    /// What every key in Redis begins with. Braces are not allowed, because they decide the slot of a key in a Redis cluster.
    #[schemars(extend("default" = default_key_prefix()))]
    #[serde(default = "default_key_prefix", skip_serializing_if = "is_default_key_prefix")]
    pub key_prefix: String,
    /// The Redis ACL user. Without it, Redis authenticates its default user. Sentinels get user and password only when they
    /// ask for a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// A file that holds the password, instead of the environment variable. When it changes, the gateway authenticates with
    /// the new password on new connections and gives up the ones before. A relative path starts at the directory of this
    /// file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Encrypts the connections to Redis, and to the sentinels. `tls: {}` trusts what the system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
    /// How long a session lives without use. Open streams and running calls are use.
    #[schemars(extend("default" = default_ttl().to_string()))]
    #[serde(default = "default_ttl", skip_serializing_if = "is_default_ttl")]
    pub ttl: Duration,
    /// How long a session lives at most, however much it is used.
    #[schemars(extend("default" = default_max_lifetime().to_string()))]
    #[serde(
        default = "default_max_lifetime",
        skip_serializing_if = "is_default_max_lifetime"
    )]
    pub max_lifetime: Duration,
    /// How long opening a connection to Redis may take, encryption and authentication included.
    #[schemars(extend("default" = default_connect_timeout().to_string()))]
    #[serde(
        default = "default_connect_timeout",
        skip_serializing_if = "is_default_connect_timeout"
    )]
    pub connect_timeout: Duration,
    /// How long Redis may take to answer. After three answers in a row that did not come, calls fail at once until Redis
    /// answers again.
    #[schemars(extend("default" = default_command_timeout().to_string()))]
    #[serde(
        default = "default_command_timeout",
        skip_serializing_if = "is_default_command_timeout"
    )]
    pub command_timeout: Duration,
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

/// Sentinels, and what they are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisSentinel {
    /// The name under which the sentinels know the primary.
    pub master_name: String,
    /// `host:port` of each sentinel. They are asked in this order.
    pub addresses: Vec<String>,
}

/// The nodes of a Redis cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisCluster {
    /// `host:port` of some nodes, one of which must be there when the gateway looks for the others.
    pub addresses: Vec<String>,
}

/// How connections to Redis are encrypted. Relative paths start at the directory of this file. The files are read for every
/// new connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisTls {
    /// A PEM file with the certificates of the authorities to trust, instead of those that the system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate that the gateway shows to Redis. Needs `keyFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the private key of that certificate. Needs `certFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The name that the certificate of Redis must bear, when it is not the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Believes every certificate. Whoever can come between the gateway and Redis can then read and change sessions.
    #[serde(default, skip_serializing_if = "is_false")]
    pub insecure_skip_verify: bool,
}

impl Default for SessionStorage {
    fn default() -> Self {
        Self {
            provider: SessionStorageProvider::Memory,
            address: None,
            sentinel: None,
            cluster: None,
            db: 0,
            key_prefix: default_key_prefix(),
            username: None,
            password_file: None,
            tls: None,
            ttl: default_ttl(),
            max_lifetime: default_max_lifetime(),
            connect_timeout: default_connect_timeout(),
            command_timeout: default_command_timeout(),
            max_staleness: default_max_staleness(),
            on_store_outage: OnStoreOutage::default(),
            outage_grace: default_outage_grace(),
        }
    }
}

fn default_key_prefix() -> String {
    "vmcp:".to_owned()
}

fn default_ttl() -> Duration {
    Duration::from_secs(30 * 60)
}

fn default_max_lifetime() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(1)
}

fn default_command_timeout() -> Duration {
    Duration::from_millis(250)
}

fn is_default_key_prefix(prefix: &str) -> bool {
    prefix == default_key_prefix()
}

fn is_default_ttl(ttl: &Duration) -> bool {
    *ttl == default_ttl()
}

fn is_default_max_lifetime(lifetime: &Duration) -> bool {
    *lifetime == default_max_lifetime()
}

fn is_default_connect_timeout(timeout: &Duration) -> bool {
    *timeout == default_connect_timeout()
}

fn is_default_command_timeout(timeout: &Duration) -> bool {
    *timeout == default_command_timeout()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(db: &u16) -> bool {
    *db == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}
