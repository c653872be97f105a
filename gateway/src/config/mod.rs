//! The validated configuration: what the rest of the gateway is built from, and never checks again.

mod access;
pub mod aggregation;
mod canonical_uri;
pub mod file_watcher;
mod incoming_auth;
mod limits;
mod pattern;
mod redis;
mod resilience;
mod upstream;
mod validate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use secrecy::SecretString;
pub use vmcp_crds::config::BackendTransport as Protocol;
use vmcp_crds::config::{GatewayConfig, LogLevel, read};

pub use access::{AccessPolicy, HostPort, Origin};
pub use aggregation::{
    Aggregation, ConflictResolution, ExposurePolicy, FailureMode, ItemOverride, ItemRules, NameFilter,
};
pub(crate) use canonical_uri::canonical;
pub use incoming_auth::{IncomingAuth, OidcSettings};
pub use limits::{RequestLimits, SessionLimits};
pub use pattern::Pattern;
pub use redis::{RedisAddress, RedisPassword, RedisStorage, RedisTls, RedisTopology};
pub use resilience::{BreakerSettings, ConcurrencySettings, HealthSettings, ResilienceSettings};
pub use upstream::{ConfiguredHeader, HeaderSource, Timeouts, UpstreamSettings, UpstreamTls};
pub use validate::InvalidConfig;

pub use crate::certificates::CertificatePair;

/// The configuration of this process.
#[derive(Debug)]
pub struct Config {
    /// Whose sessions these are.
    pub server: ServerName,
    /// Where clients connect.
    pub mcp_listener: SocketAddr,
    /// The certificate of the MCP endpoint, if it uses TLS.
    pub mcp_tls: Option<CertificatePair>,
    /// Where the operator and probes connect.
    pub admin_listener: SocketAddr,
    /// Who may call.
    pub incoming_auth: IncomingAuth,
    /// Where sessions are kept.
    pub session_storage: SessionStorage,
    /// How sessions are served while their store cannot be asked, or need not be.
    pub sessions: SessionPolicy,
    /// How long a session lives without use.
    pub session_ttl: Duration,
    /// How long a session lives at most.
    pub session_max_lifetime: Duration,
    /// The directory with the session keys, if one is named.
    pub session_keys: Option<PathBuf>,
    /// How long a connection to the MCP endpoint may be idle.
    pub idle_timeout: Duration,
    /// How long the listener stays open after SIGTERM.
    pub drain_delay: Duration,
    /// The part that may change while the process runs.
    pub hot: HotSettings,
    /// Where the hot part comes from.
    pub hot_source: HotSource,
}

/// Where the hot part of the configuration comes from.
#[derive(Clone, Debug)]
pub enum HotSource {
    /// A file of its own.
    Own(PathBuf),
    /// A file that holds the rest, too.
    Shared(PathBuf),
}

/// `namespace/name` of the virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    /// The namespace.
    pub namespace: String,
    /// The name; clients see it.
    pub name: String,
}

impl std::fmt::Display for ServerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where sessions are kept.
#[derive(Debug)]
pub enum SessionStorage {
    /// In this process.
    Memory,
    /// In a Redis server.
    Redis(Box<RedisStorage>),
}

/// How sessions are served while their store cannot be asked, or need not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPolicy {
    /// How long what is known of a session counts without a proof that it is true.
    pub max_staleness: Duration,
    /// Whether sessions that are known are served while the store does not answer.
    pub serve_in_outage: bool,
    /// For how long.
    pub outage_grace: Duration,
}

/// The part that may change while the process runs.
#[derive(Clone, Debug, Default)]
pub struct HotSettings {
    /// How much is logged.
    pub log_level: LogLevel,
    /// Which requests are logged where nothing went wrong.
    pub access_log: AccessLog,
    /// The backends, in the order of the file.
    pub backends: Vec<BackendSettings>,
    /// Which headers of clients any of them gets.
    pub pass_headers: Arc<[HeaderName]>,
    /// How their offers become one.
    pub aggregation: Arc<Aggregation>,
    /// Who the gateway says it is.
    pub identity: ServerIdentity,
    /// Under which names the endpoint is reached, and which pages of the web may use it.
    pub access: AccessPolicy,
    /// After how long a call whose answer has not begun is answered as a stream.
    pub stream_calls_after: Option<Duration>,
    /// How much the gateway takes on at a time.
    pub limits: RequestLimits,
    /// [`vmcp_crds::status::config_hash`] of the text it came from.
    pub hash: String,
}

/// Which requests are logged where nothing went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessLog {
    /// So many of 2^32.
    pub threshold: u64,
}

/// Who the gateway says it is, as far as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// The name that programs see.
    pub name: Option<String>,
    /// The title that people see.
    pub title: Option<String>,
    /// The version.
    pub version: Option<String>,
    /// What it tells a model about using it; empty means nothing.
    pub instructions: Option<String>,
}

/// One backend, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSettings {
    /// Its name.
    pub name: BackendName,
    /// Its endpoint.
    pub url: Uri,
    /// The transport that it speaks.
    pub protocol: Protocol,
    /// On which terms its offers are offered to clients.
    pub terms: Arc<ExposurePolicy>,
    /// What keeps its troubles its own.
    pub isolation: ResilienceSettings,
    /// How it is talked to.
    pub contact: Arc<UpstreamSettings>,
    /// Whether a session's state there may be lost, so that another upstream session is as good.
    pub disposable: bool,
}

#[cfg(test)]
impl BackendSettings {
    pub(crate) fn for_test(name: &str, url: Uri) -> Self {
        Self {
            name: BackendName::for_test(name),
            url,
            protocol: Protocol::default(),
            terms: Arc::default(),
            isolation: ResilienceSettings::default(),
            contact: Arc::default(),
            disposable: false,
        }
    }
}

/// The name of a backend: a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendName(Arc<str>);

impl BackendName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn for_test(name: &str) -> Self {
        Self(name.into())
    }
}

impl std::borrow::Borrow<str> for BackendName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for BackendName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Config {
    /// Reads and validates `file`, the hot file that it names, and the environment's `redis_password`.
    ///
    /// # Errors
    /// When a file cannot be read, or something in it is not allowed. The message names file, path, what was found and what
    /// is allowed.
    pub fn load(file: &Path, redis_password: Option<SecretString>) -> Result<Self, InvalidConfig> {
        validate::config(&read(file)?, file, redis_password)
    }
}

impl HotSource {
    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Own(file) | Self::Shared(file) => file,
        }
    }

    /// Reads and validates the hot part again, which was `before`, and what the file says besides it, if it says anything else.
    ///
    /// # Errors
    /// As [`Config::load`]; and when the hot part was there and is not any more: whoever writes the file may not be done.
    pub fn reload(
        &self,
        before: &HotSettings,
    ) -> Result<(HotSettings, Option<GatewayConfig>), InvalidConfig> {
        match self {
            Self::Own(file) => Ok((HotSettings::load(file)?, None)),
            Self::Shared(file) => {
                let (hot, rest) = validate::hot_part(&read(file)?, file, before)?;
                Ok((hot, Some(rest)))
            }
        }
    }

    /// What the file says now besides the hot part, if it says anything else.
    #[must_use]
    pub fn rest(&self) -> Option<GatewayConfig> {
        let Self::Shared(file) = self else { return None };
        let config = GatewayConfig::parse(&read(file).ok()?, file).ok()?;
        Some(GatewayConfig { hot: None, ..config })
    }
}

impl HotSettings {
    /// Reads and validates a hot file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(file: &Path) -> Result<Self, InvalidConfig> {
        validate::hot_file(&read(file)?, file)
    }
}
