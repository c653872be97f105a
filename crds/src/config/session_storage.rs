//! Configuration of the session store.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{Duration, cel, is_default, rules};

/// Where sessions are stored. The password is not in the configuration file: it comes from the environment variable
/// `THV_SESSION_REDIS_PASSWORD` or from `passwordFile`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = storage_rules()))]
pub struct SessionStorage {
    /// `memory`: sessions are stored in the process. They end with it, and only one replica can serve them. `redis`: sessions are stored
    /// in a Redis server (7.0 or newer) or Valkey. Every replica can serve every session, and sessions survive restarts.
    #[serde(default)]
    pub provider: SessionStorageProvider,
    /// `host:port` of the Redis server, for example `redis.tools.svc:6379`. `provider: redis` needs this, `sentinel` or `cluster`.
    #[schemars(
        length(max = 1024),
        extend("x-kubernetes-validations" = [cel::rule(
            &format!("self.matches('{}')", cel::HOST_AND_PORT),
            rules::HOST_AND_PORT_EXPECTED
        )])
    )]
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
    #[schemars(
        length(max = 256),
        extend("default" = default_key_prefix()),
        extend("x-kubernetes-validations" = [
            cel::rule("!self.contains('{') && !self.contains('}')", rules::KEY_PREFIX_EXPECTED),
            cel::rule("!self.matches('[[:space:][:cntrl:]]')", rules::REDIS_TEXT_EXPECTED),
            cel::rule("size(self) > 0", rules::REDIS_TEXT_EXPECTED),
        ])
    )]
    #[serde(default = "default_key_prefix", skip_serializing_if = "is_default_key_prefix")]
    pub key_prefix: String,
    /// The Redis ACL user. Default: the default user of Redis. User and password are sent to sentinels only if they require a password.
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-validations" = [
            cel::rule("!self.matches('[[:space:][:cntrl:]]')", rules::REDIS_TEXT_EXPECTED),
            cel::rule("size(self) > 0", rules::REDIS_TEXT_EXPECTED),
        ])
    )]
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
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-validations" = [
            cel::rule("size(self) > 0", rules::MASTER_NAME_MISSING),
            cel::rule("!self.matches('[[:space:][:cntrl:]]')", rules::REDIS_TEXT_EXPECTED),
        ])
    )]
    pub master_name: String,
    /// `host:port` of each sentinel, for example `[sentinel-0:26379, sentinel-1:26379]`. They are tried in this order.
    #[schemars(
        length(max = 32),
        inner(length(max = 256)),
        extend("x-kubernetes-validations" = address_rules())
    )]
    pub addresses: Vec<String>,
}

/// Initial nodes of a Redis cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisCluster {
    /// `host:port` of some nodes, for example `[redis-0:6379, redis-1:6379]`. The gateway discovers the others, for which one of these must
    /// be reachable.
    #[schemars(
        length(max = 32),
        inner(length(max = 256)),
        extend("x-kubernetes-validations" = address_rules())
    )]
    pub addresses: Vec<String>,
}

/// TLS for connections to Redis. Relative paths start at the directory of this configuration file. The files are read for each new
/// connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = tls_rules()))]
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
    #[schemars(
        length(max = 253),
        extend("x-kubernetes-validations" = [cel::rule("self.matches('^[^:/ ]+$')", rules::SERVER_NAME_EXPECTED)])
    )]
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

fn storage_rules() -> Json {
    let is_memory = "(!has(self.provider) || self.provider == 'memory')";
    let servers = "(has(self.address) ? 1 : 0) + (has(self.sentinel) ? 1 : 0) + (has(self.cluster) ? 1 : 0)";
    let default = SessionStorage::default();
    let ttl = format!("duration(has(self.ttl) ? self.ttl : '{}')", default.ttl);
    let max_lifetime = format!(
        "duration(has(self.maxLifetime) ? self.maxLifetime : '{}')",
        default.max_lifetime
    );
    let mut all = vec![
        cel::rule_of_field(
            "address",
            &format!("{is_memory} || {servers} > 0"),
            rules::NO_REDIS_SERVER,
        ),
        cel::rule(&format!("{servers} <= 1"), rules::SEVERAL_REDIS_SERVERS),
        cel::rule_of_field(
            "db",
            "!has(self.cluster) || !has(self.db) || self.db == 0",
            rules::CLUSTER_DATABASE,
        ),
        cel::rule_of_field("ttl", &format!("{ttl} > duration('0s')"), rules::LONGER_THAN_ZERO),
        cel::rule_of_field("ttl", &format!("{ttl} <= {max_lifetime}"), rules::TTL_TOO_LONG),
        cel::rule_of_field(
            "maxLifetime",
            &format!("{max_lifetime} <= duration('8784h')"),
            rules::MAX_LIFETIME_EXPECTED,
        ),
    ];
    for field in ["connectTimeout", "commandTimeout"] {
        let rule = format!("!has(self.{field}) || duration(self.{field}) > duration('0s')");
        all.push(cel::rule_of_field(field, &rule, rules::LONGER_THAN_ZERO));
    }
    // The default is allowed: a tool that writes all fields writes it, too.
    let is = |field: &str, value: &str| Some(format!("self.{field} == {value}"));
    let lasts = |field: &str, value: Duration| Some(format!("duration(self.{field}) == duration('{value}')"));
    for (field, is_default) in [
        ("address", None),
        ("sentinel", None),
        ("cluster", None),
        ("username", None),
        ("tls", None),
        ("db", is("db", "0")),
        ("keyPrefix", is("keyPrefix", &format!("'{}'", default.key_prefix))),
        ("maxStaleness", lasts("maxStaleness", default.max_staleness)),
        ("onStoreOutage", is("onStoreOutage", "'serve'")),
        ("outageGrace", lasts("outageGrace", default.outage_grace)),
        ("connectTimeout", lasts("connectTimeout", default.connect_timeout)),
        ("commandTimeout", lasts("commandTimeout", default.command_timeout)),
    ] {
        let is_default = is_default.map(|is_default| format!(" || {is_default}"));
        let rule = format!(
            "!{is_memory} || !has(self.{field}){}",
            is_default.unwrap_or_default()
        );
        all.push(cel::rule_of_field(field, &rule, rules::WITHOUT_EFFECT_IN_MEMORY));
    }
    Json::Array(all)
}

/// In a resource, `caBundleRef` stands for `caFile`.
fn tls_rules() -> Json {
    json!([cel::rule_of_field(
        "insecureSkipVerify",
        "!has(self.insecureSkipVerify) || !self.insecureSkipVerify || !(has(self.caBundleRef) || has(self.serverName))",
        rules::SKIP_VERIFY_WITH_TRUST,
    )])
}

fn address_rules() -> Json {
    json!([
        cel::rule("size(self) > 0", rules::NO_ADDRESS),
        cel::rule(
            &format!("self.all(address, address.matches('{}'))", cel::HOST_AND_PORT),
            rules::HOST_AND_PORT_EXPECTED,
        ),
    ])
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
