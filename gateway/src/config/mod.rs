//! The validated configuration. The rest of the gateway is built from it and does not check it again.

mod access;
pub mod aggregation;
mod backend_endpoint;
mod canonical_uri;
pub mod file_watcher;
mod incoming_auth;
mod kept_connection;
mod limits;
mod pattern;
mod redis;
mod resilience;
mod upstream;
mod validate;
mod value_source;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
#[cfg(test)]
use http::Uri;
use secrecy::SecretString;
pub use vmcp_crds::config::BackendTransport;
use vmcp_crds::config::{GatewayConfig, LogLevel, read, split_file};

pub use access::{AccessPolicy, HostPort, Origin};
pub use aggregation::{
    Aggregation, ConflictResolution, ExposurePolicy, FailureMode, ItemOverride, ItemRules, NameFilter,
};
pub use backend_endpoint::{BackendEndpoint, ServerCommand};
pub(crate) use canonical_uri::canonical;
pub use incoming_auth::{IncomingAuth, OidcSettings};
pub use kept_connection::KeptConnection;
pub use limits::{RequestLimits, SessionLimits};
pub use pattern::Pattern;
pub use redis::{RedisAddress, RedisPassword, RedisStorage, RedisTls, RedisTopology};
pub use resilience::{BreakerSettings, ConcurrencySettings, HealthSettings, ResilienceSettings};
pub use upstream::{ConfiguredHeader, Timeouts, UpstreamSettings, UpstreamTls};
pub use validate::InvalidConfig;
pub use value_source::ValueSource;

pub use crate::certificates::CertificatePair;

/// The configuration of this process.
#[derive(Debug)]
pub struct Config {
    /// The virtual server that this process serves.
    pub server: ServerName,
    /// Address of the MCP endpoint.
    pub mcp_listener: SocketAddr,
    /// The certificate of the MCP endpoint, if it uses TLS.
    pub mcp_tls: Option<CertificatePair>,
    /// Address of the admin port, for the operator and probes.
    pub admin_listener: SocketAddr,
    /// How clients are authenticated.
    pub incoming_auth: IncomingAuth,
    /// The session store that is used.
    pub session_storage: SessionStorage,
    /// How cached sessions are used, and whether they are served during an outage of the store.
    pub sessions: SessionPolicy,
    /// Time after which an unused session expires.
    pub session_ttl: Duration,
    /// Time after which a session expires even if it is used.
    pub session_max_lifetime: Duration,
    /// The directory with the session keys, if one is configured.
    pub session_keys: Option<PathBuf>,
    /// How long a connection to the MCP endpoint may be idle.
    pub idle_timeout: Duration,
    /// Time after SIGTERM in which the listener still accepts connections.
    pub drain_delay: Duration,
    /// The part that may change while the process runs.
    pub hot: HotSettings,
    /// The file that holds the hot part, if the configuration comes from a file.
    pub hot_source: Option<HotSource>,
}

/// The file that holds the hot part of the configuration.
#[derive(Clone, Debug)]
pub enum HotSource {
    /// A file that holds only the hot part.
    Separate(PathBuf),
    /// The file that holds the whole configuration.
    Combined(PathBuf),
}

/// `namespace/name` of the virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    /// Kubernetes namespace of the virtual server.
    pub namespace: String,
    /// Name of the virtual server. Clients see it.
    pub name: String,
}

impl std::fmt::Display for ServerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kind of session store, with its settings.
#[derive(Debug)]
pub enum SessionStorage {
    /// The memory of this process.
    Memory,
    /// Redis, shared by all replicas.
    Redis(Box<RedisStorage>),
}

/// How cached sessions are used, and whether they are served during an outage of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPolicy {
    /// Maximum age of cached session state that is not known to be current.
    pub max_staleness: Duration,
    /// Whether cached sessions are served while the store is unavailable.
    pub serve_in_outage: bool,
    /// How long cached sessions are served during an outage.
    pub outage_grace: Duration,
}

/// The part that may change while the process runs.
#[derive(Clone, Debug, Default)]
pub struct HotSettings {
    /// Lowest severity of the messages that are logged.
    pub log_level: LogLevel,
    /// Sampling of successful requests in the access log.
    pub access_log: AccessLogSampling,
    /// The backends, in the order of the file.
    pub backends: Vec<BackendSettings>,
    /// Client headers that at least one backend receives.
    pub pass_headers: Arc<[HeaderName]>,
    /// How the catalogs of the backends are merged.
    pub aggregation: Arc<Aggregation>,
    /// The configured identity of the gateway in the `initialize` result.
    pub identity: ServerIdentity,
    /// Whether clients see the only backend's identity and capabilities in place of the gateway's.
    pub presents_backend: bool,
    /// The hosts and origins that requests may name.
    pub access: AccessPolicy,
    /// Time after which the response to a pending call becomes an event stream.
    pub stream_calls_after: Option<Duration>,
    /// Limits of concurrent requests, memory and sessions.
    pub limits: RequestLimits,
    /// [`vmcp_crds::status::config_hash`] of the text of the hot part.
    pub hash: String,
    /// The backends whose connection settings are not those of the file.
    pub kept_connections: Vec<KeptConnection>,
}

/// Sampling of successful requests in the access log. Failed requests are always logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessLogSampling {
    /// Number of requests out of 2^32 that are logged.
    pub threshold: u64,
}

/// The identity of the gateway in the `initialize` result. Fields that are not configured have defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// The name for programs.
    pub name: Option<String>,
    /// The title for people.
    pub title: Option<String>,
    /// The version that clients see.
    pub version: Option<String>,
    /// Instructions for the model. An empty text sends none.
    pub instructions: Option<String>,
}

/// The validated settings of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSettings {
    /// Unique name of the backend.
    pub name: BackendName,
    /// Where the server is: a URL, or a program.
    pub endpoint: BackendEndpoint,
    /// What of its catalog is advertised to clients, and under which names.
    pub exposure: Arc<ExposurePolicy>,
    /// Circuit breaker, concurrency limit and health checks.
    pub resilience: ResilienceSettings,
    /// How the gateway connects to it and sends requests.
    pub upstream: Arc<UpstreamSettings>,
    /// Whether the state of a session at the backend may be lost, so that a lost upstream session can be replaced silently.
    pub disposable: bool,
}

#[cfg(test)]
impl BackendSettings {
    pub(crate) fn for_test(name: &str, url: Uri) -> Self {
        Self {
            name: BackendName::for_test(name),
            endpoint: BackendEndpoint::Http {
                url,
                transport: BackendTransport::default(),
            },
            exposure: Arc::default(),
            resilience: ResilienceSettings::default(),
            upstream: Arc::default(),
            disposable: false,
        }
    }
}

/// The name of a backend: a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendName(Arc<str>);

impl BackendName {
    /// Borrows the name as text.
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
    /// Reads and validates `file` and the hot file that it names. `redis_password` comes from the environment.
    ///
    /// # Errors
    /// If a file cannot be read or is invalid. The message names the file, the path of the field, the value, and what is allowed.
    pub fn load(file: &Path, redis_password: Option<SecretString>) -> Result<Self, InvalidConfig> {
        validate::config(&read(file)?, file, redis_password)
    }

    /// Validates a configuration that comes from no file. Errors name `origin` in place of the file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn of(raw: GatewayConfig, origin: &Path) -> Result<Self, InvalidConfig> {
        validate::parsed(raw, origin)
    }
}

impl HotSource {
    /// Path of the file that holds the hot part.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Separate(file) | Self::Combined(file) => file,
        }
    }

    /// Reads and validates the hot part again. `before` is the hot part in use. Also returns the rest of a combined file, which must not
    /// change while the process runs.
    ///
    /// # Errors
    /// As [`Config::load`]. Also if a combined file has lost its hot part, because it may be incomplete while it is being written.
    pub fn reload(
        &self,
        before: &HotSettings,
    ) -> Result<(HotSettings, Option<GatewayConfig>), InvalidConfig> {
        match self {
            Self::Separate(file) => Ok((HotSettings::load(file)?, None)),
            Self::Combined(file) => {
                let (hot, rest) = validate::hot_part(&read(file)?, file, before)?;
                Ok((hot, Some(rest)))
            }
        }
    }

    /// Reads the part of a combined file besides the hot part. `None` for a separate or unreadable file.
    #[must_use]
    pub fn read_rest(&self) -> Option<GatewayConfig> {
        let Self::Combined(file) = self else { return None };
        let config = GatewayConfig::parse(&read(file).ok()?, file).ok()?;
        Some(GatewayConfig { hot: None, ..config })
    }
}

/// The client headers that at least one of `backends` receives.
fn pass_headers(backends: &[BackendSettings]) -> Arc<[HeaderName]> {
    let of_each = backends.iter().map(|backend| &backend.upstream.pass_headers);
    let mut names: Vec<_> = of_each.flatten().cloned().collect();
    names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names.into()
}

impl HotSettings {
    /// Reads and validates a hot file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(file: &Path) -> Result<Self, InvalidConfig> {
        validate::hot_file(&split_file::read_parts(file)?, file)
    }
}
