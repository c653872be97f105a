//! The connection to Redis: validated settings.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::certificates::CertificatePair;

/// How the gateway connects to Redis, and how it names its keys there.
#[derive(Clone, Debug)]
pub struct RedisStorage {
    /// The servers, and how the primary among them is found.
    pub topology: RedisTopology,
    /// Number of the database; 0 in a cluster.
    pub db: u16,
    /// Prefix of all keys.
    pub key_prefix: String,
    /// The ACL user, if it is not the default user.
    pub username: Option<String>,
    /// Source of the password, if Redis requires one.
    pub password: Option<RedisPassword>,
    /// TLS settings. `None` connects without TLS.
    pub tls: Option<RedisTls>,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// How long a command may take.
    pub command_timeout: Duration,
    /// How long sessions are served while Redis is unavailable. The data that they need afterwards is kept for this time.
    pub outage_grace: Duration,
}

/// The Redis servers, and how the one that holds the keys is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisTopology {
    /// A single server, without failover.
    Single(RedisAddress),
    /// The primary that the sentinels report.
    Sentinel {
        /// Name by which the sentinels monitor the primary.
        master_name: String,
        /// Addresses of the sentinels.
        sentinels: Vec<RedisAddress>,
    },
    /// A cluster. All keys of the virtual server are in one slot, so that one node holds them.
    Cluster(Vec<RedisAddress>),
}

/// Address of a Redis server or sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisAddress {
    /// Host name or IP address. An IPv6 address is without brackets.
    pub host: String,
    /// TCP port of the server.
    pub port: u16,
}

/// Source of the Redis password.
#[derive(Clone, Debug)]
pub enum RedisPassword {
    /// From the environment when the process started.
    Fixed(SecretString),
    /// From a file, which may change while the process runs.
    File(PathBuf),
}

/// TLS settings of connections to Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// Certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate of the gateway.
    pub identity: Option<CertificatePair>,
    /// The name that the server's certificate must have, if it is not the host name.
    pub server_name: Option<String>,
    /// Whether every server certificate is accepted.
    pub insecure_skip_verify: bool,
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
