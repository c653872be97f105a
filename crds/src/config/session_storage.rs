//! Configuration of the session store.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, is_default};

/// Where sessions are stored. The password is not in the configuration file: it comes from the environment variable
/// `THV_SESSION_REDIS_PASSWORD` or from `passwordFile`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionStorage {
    /// `memory`: sessions are stored in the process. They end with it, and only one replica can serve them. `redis`: sessions are stored
    /// in a Redis server (7.0 or newer) or Valkey. Every replica can serve every session, and sessions survive restarts.
    #[serde(default)]
    pub provider: SessionStorageProvider,
    /// `host:port` of the Redis server, for example `redis.tools.svc:6379`. `provider: redis` needs this, `sentinel` or `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Sentinels that name the primary Redis server. The gateway follows a failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<RedisSentinel>,
    /// A Redis cluster. All sessions of this virtual server are in one slot, and so on one node. The gateway follows the slot when it
    /// moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<RedisCluster>,
    /// Number of the Redis database. A cluster has only database 0.
    #[schemars(extend("default" = 0))]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub db: u16,
    /// Prefix of every key in Redis. Braces are not allowed, because they determine the slot of a key in a Redis cluster.
    #[schemars(extend("default" = default_key_prefix()))]
    #[serde(default = "default_key_prefix", skip_serializing_if = "is_default_key_prefix")]
    pub key_prefix: String,
    /// The Redis ACL user. Default: the default user of Redis. User and password are sent to sentinels only if they require a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password, instead of the environment variable. When it changes, the gateway opens new connections with the new
    /// password and closes the old ones. A relative path starts at the directory of this configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Enables TLS for connections to Redis and to the sentinels. `tls: {}` trusts the certificate authorities of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
    /// Time after which an unused session expires. Open streams and running calls count as use.
    #[schemars(extend("default" = default_ttl().to_string()))]
    #[serde(default = "default_ttl", skip_serializing_if = "is_default_ttl")]
    pub ttl: Duration,
    /// Maximum lifetime of a session, even if it is in use.
    #[schemars(extend("default" = default_max_lifetime().to_string()))]
    #[serde(
        default = "default_max_lifetime",
        skip_serializing_if = "is_default_max_lifetime"
    )]
    pub max_lifetime: Duration,
    /// Time limit for opening a connection to Redis, including TLS and authentication.
    #[schemars(extend("default" = default_connect_timeout().to_string()))]
    #[serde(
        default = "default_connect_timeout",
        skip_serializing_if = "is_default_connect_timeout"
    )]
    pub connect_timeout: Duration,
    /// Time limit of a Redis command. After three consecutive timeouts, commands fail at once until Redis answers again.
    #[schemars(extend("default" = default_command_timeout().to_string()))]
    #[serde(
        default = "default_command_timeout",
        skip_serializing_if = "is_default_command_timeout"
    )]
    pub command_timeout: Duration,
    /// Maximum age of a replica's cached session state. A session that was terminated on another replica may still be served here for up
    /// to this long. The cache is revalidated in the background, twice in this time. With `0s` every request reads from Redis.
    #[schemars(extend("default" = default_max_staleness().to_string()))]
    #[serde(
        default = "default_max_staleness",
        skip_serializing_if = "is_default_max_staleness"
    )]
    pub max_staleness: Duration,
    /// What happens to sessions while Redis is down. `serve`: sessions in a replica's cache are served, for at most `outageGrace`.
    /// `refuse`: requests are answered with 503. In both cases no session is lost, and no new session can be opened.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_store_outage: OnStoreOutage,
    /// Maximum time for which cached sessions are served while Redis is down; after that, requests are answered with 503. A replica that
    /// cannot reach Redis may serve a terminated session for up to this long.
    #[schemars(extend("default" = default_outage_grace().to_string()))]
    #[serde(
        default = "default_outage_grace",
        skip_serializing_if = "is_default_outage_grace"
    )]
    pub outage_grace: Duration,
}

/// What happens to sessions while the session store is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnStoreOutage {
    /// Cached sessions are served.
    #[default]
    Serve,
    /// Requests are answered with 503.
    Refuse,
}

/// Type of the session store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionStorageProvider {
    /// The memory of the process.
    #[default]
    Memory,
    /// A Redis or Valkey server.
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

/// Redis sentinels and the primary that they monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisSentinel {
    /// Name of the primary, as in `sentinel monitor`, for example `mymaster`.
    pub master_name: String,
    /// `host:port` of each sentinel, for example `[sentinel-0:26379, sentinel-1:26379]`. They are tried in this order.
    pub addresses: Vec<String>,
}

/// Initial nodes of a Redis cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisCluster {
    /// `host:port` of some nodes, for example `[redis-0:6379, redis-1:6379]`. The gateway discovers the others, for which one of these must
    /// be reachable.
    pub addresses: Vec<String>,
}

/// TLS for connections to Redis. Relative paths start at the directory of this configuration file. The files are read for each new
/// connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisTls {
    /// PEM file with trusted certificate authorities, instead of those that the system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the gateway's client certificate. Requires `keyFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of the client certificate. Requires `certFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Name in the certificate of Redis, if it differs from the host in the address, for example `redis.tools.svc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Accepts every certificate. Anyone on the network path to Redis can then read and change sessions.
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
