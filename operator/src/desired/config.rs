//! Renders the gateway's two configuration files from the spec and the members of its group.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use kube::ResourceExt as _;
use vmcp_crds::config::{
    BackendConfig, ConfigError, ConfigVersion, Duration, GatewayConfig, HotConfig, IncomingAuth, Listeners,
    LogLevel, SessionKeys, SessionStorage, SessionStorageProvider, rules,
};
use vmcp_crds::status::config_hash;
use vmcp_crds::v1alpha1::{self, VirtualMCPServer, field_rules};

use super::deployment::{ADMIN_PORT, BACKENDS_DIR, DRAIN_DELAY_SECONDS, KEYS_DIR, MCP_PORT};

/// Key in the start-up ConfigMap.
pub(super) const STARTUP_FILE: &str = "gateway.yaml";
/// Key in the hot ConfigMap.
pub(super) const HOT_FILE: &str = "backends.yaml";

/// Maximum size of the hot file: the API server rejects ConfigMaps of more than 1 MiB.
const MAX_CONFIG_BYTES: usize = 1_000_000;

/// One MCP server of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The name of its MCPServerEntry.
    pub name: String,
    /// The URL of its MCP endpoint.
    pub url: String,
}

impl Backend {
    /// Why this backend cannot be used; `None` if it can. The CRD's schema rejects most such URLs, but cannot express every rule.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let invalid_url = rules::endpoint(&self.url)
            .err()
            .map(|problem| format!("spec.url: {problem}"));
        let invalid_name =
            || (!rules::is_dns_label(&self.name)).then(|| format!("the name is not {}", rules::DNS_LABEL));
        let too_long = || {
            (self.url.len() > field_rules::MAX_URL)
                .then(|| format!("spec.url has more than {} bytes", field_rules::MAX_URL))
        };
        too_long().or(invalid_url).or_else(invalid_name)
    }
}

/// The gateway's configuration files and their hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFiles {
    /// The text of the start-up file.
    pub startup: String,
    /// [`config_hash`] of the start-up file.
    pub startup_hash: String,
    /// The text of the hot file.
    pub hot: String,
    /// [`config_hash`] of the hot file.
    pub hot_hash: String,
}

/// Why no valid configuration can be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ConfigRenderError {
    /// The database number is out of range. The CRD's schema rejects such values, but an object may be older than the schema.
    #[error("spec.sessionStorage.db is {0}; expected a number from 0 to 65535")]
    Database(i32),
    /// A field of the session storage is invalid, or contradicts another one.
    #[error("spec.sessionStorage.{field}: {problem}")]
    SessionStorage {
        /// The name of the field.
        field: std::borrow::Cow<'static, str>,
        /// What was found and what is allowed.
        problem: String,
    },
    /// The hot file is too big for a ConfigMap.
    #[error(
        "the backends of the group need {0} bytes of configuration, but a ConfigMap holds {MAX_CONFIG_BYTES}: split the group"
    )]
    TooBig(usize),
    /// The gateway's own parser rejects the files.
    #[error("the rendered configuration is not valid: {0}")]
    Rejected(#[from] ConfigError),
    /// The configuration cannot be serialized.
    #[error("cannot serialize the configuration as YAML: {0}")]
    Serialization(#[from] serde_yaml::Error),
}

/// Renders the configuration files. The backends are written in the order of `backends`.
///
/// # Errors
/// When the gateway would reject the result.
pub fn config_files(
    server: &VirtualMCPServer,
    backends: &[Backend],
) -> Result<ConfigFiles, ConfigRenderError> {
    let startup = startup(server)?;
    let storage = server.spec.session_storage.as_ref();
    let has_password = storage.is_some_and(|storage| storage.password_ref.is_some());
    startup
        .session_storage
        .check(has_password)
        .map_err(|(field, problem)| ConfigRenderError::SessionStorage { field, problem })?;
    let startup = serde_yaml::to_string(&startup)?;
    let hot = serde_yaml::to_string(&hot(backends))?;
    if hot.len() > MAX_CONFIG_BYTES {
        return Err(ConfigRenderError::TooBig(hot.len()));
    }
    GatewayConfig::parse(&startup, Path::new(STARTUP_FILE))?;
    HotConfig::parse(&hot, Path::new(HOT_FILE))?;
    Ok(ConfigFiles {
        startup_hash: config_hash(&startup),
        startup,
        hot_hash: config_hash(&hot),
        hot,
    })
}

fn startup(server: &VirtualMCPServer) -> Result<GatewayConfig, ConfigRenderError> {
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    Ok(GatewayConfig {
        version: ConfigVersion::V1,
        namespace: server.namespace().unwrap_or_default(),
        name: server.name_any(),
        listeners: Listeners {
            mcp: any(MCP_PORT),
            admin: any(ADMIN_PORT),
            ..Listeners::default()
        },
        incoming_auth: IncomingAuth::default(),
        session_storage: server
            .spec
            .session_storage
            .as_ref()
            .map_or_else(|| Ok(SessionStorage::default()), session_storage)?,
        session_keys: Some(SessionKeys {
            directory: PathBuf::from(KEYS_DIR),
        }),
        drain_delay: Duration::from_secs(DRAIN_DELAY_SECONDS),
        hot: None,
        hot_file: Some(Path::new(BACKENDS_DIR).join(HOT_FILE)),
    })
}

fn session_storage(spec: &v1alpha1::SessionStorageSpec) -> Result<SessionStorage, ConfigRenderError> {
    let default = SessionStorage::default();
    let db = spec.db.unwrap_or_default();
    Ok(SessionStorage {
        provider: match spec.provider {
            v1alpha1::StorageProvider::Memory => SessionStorageProvider::Memory,
            v1alpha1::StorageProvider::Redis => SessionStorageProvider::Redis,
        },
        address: spec.address.clone(),
        db: u16::try_from(db).map_err(|_| ConfigRenderError::Database(db))?,
        key_prefix: spec
            .key_prefix
            .clone()
            .unwrap_or_else(|| default.key_prefix.clone()),
        username: spec.username.clone(),
        ..default
    })
}

fn hot(backends: &[Backend]) -> HotConfig {
    let backend = |backend: &Backend| BackendConfig {
        name: backend.name.clone(),
        url: backend.url.clone(),
        ..BackendConfig::default()
    };
    HotConfig {
        log_level: LogLevel::default(),
        // A backend that cannot be called does not affect the others; the status says why it is missing.
        backends: backends
            .iter()
            .filter(|backend| backend.problem().is_none())
            .map(backend)
            .collect(),
        ..HotConfig::default()
    }
}
