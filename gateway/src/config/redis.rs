//! How Redis is reached.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::certificates::CertificatePair;

/// How to reach Redis, and how keys there begin.
#[derive(Clone, Debug)]
pub struct RedisStorage {
    /// Which servers there are, and which of them to talk to.
    pub topology: RedisTopology,
    /// The database's number; 0 in a cluster.
    pub db: u16,
    /// What every key begins with.
    pub key_prefix: String,
    /// The ACL user, if not the default one.
    pub username: Option<String>,
    /// The password, if any.
    pub password: Option<RedisPassword>,
    /// How connections are encrypted, if they are.
    pub tls: Option<RedisTls>,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// How long an operation may take.
    pub command_timeout: Duration,
    /// How long sessions are served while Redis does not answer. What they need to go on is kept for as long.
    pub outage_grace: Duration,
}

/// Which servers there are, and which of them to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisTopology {
    /// One server.
    Single(RedisAddress),
    /// The primary that sentinels name.
    Sentinel {
        /// Under which name they know it.
        master_name: String,
        /// The sentinels.
        sentinels: Vec<RedisAddress>,
    },
    /// The node of a cluster that has the virtual server's keys; they are all in one slot.
    Cluster(Vec<RedisAddress>),
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisAddress {
    /// Its name or IP address, the latter without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Where the password comes from.
#[derive(Clone, Debug)]
pub enum RedisPassword {
    /// It was there when the process started.
    Fixed(SecretString),
    /// A file, which may change.
    File(PathBuf),
}

/// How connections are encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// The certificates of the authorities to trust; without it, the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate and the key that the gateway shows.
    pub identity: Option<CertificatePair>,
    /// The name that the server's certificate must bear, if not the host's.
    pub server_name: Option<String>,
    /// Whether the server's certificate is believed whatever it says.
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
