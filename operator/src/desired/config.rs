//! The gateway's two configuration files, rendered from the spec and the members of its group.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use kube::ResourceExt as _;
use vmcp_crds::config::{
    BackendConfig, ConfigError, ConfigVersion, Duration, GatewayConfig, HotConfig, IncomingAuth, Listeners,
    LogLevel, SessionKeys, SessionStorage, SessionStorageProvider, rules,
};
use vmcp_crds::status::config_hash;
use vmcp_crds::v1alpha1::{self, VirtualMCPServer, field_rules};

use super::deployment::{ADMIN_PORT, BACKENDS_DIR, DRAIN_SECONDS, KEYS_DIR, MCP_PORT};

/// The entry of the start-up ConfigMap.
pub(super) const STARTUP_FILE: &str = "gateway.yaml";
/// The entry of the hot ConfigMap.
pub(super) const HOT_FILE: &str = "backends.yaml";

/// The most that the two files may hold: the API server refuses ConfigMaps of more than 1 MiB.
const MAX_BYTES: usize = 1_000_000;

/// One MCP server of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The name of its MCPServerEntry.
    pub name: String,
    /// Where it answers.
    pub url: String,
}

impl Backend {
    /// Why it cannot be offered, if it cannot. The CRD's schema refuses most such URLs, and cannot express every rule.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let url = rules::endpoint(&self.url)
            .err()
            .map(|problem| format!("spec.url: {problem}"));
        let name =
            || (!rules::is_dns_label(&self.name)).then(|| format!("the name is not {}", rules::DNS_LABEL));
        let long = || {
            (self.url.len() > field_rules::MAX_URL)
                .then(|| format!("spec.url has more than {} bytes", field_rules::MAX_URL))
        };
        long().or(url).or_else(name)
    }
}

/// The gateway's configuration as texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFiles {
    /// The start-up part.
    pub startup: String,
    /// [`config_hash`] of the start-up part.
    pub startup_hash: String,
    /// The hot part.
    pub hot: String,
    /// [`config_hash`] of the hot part.
    pub hot_hash: String,
}

/// Why there is no configuration that a gateway could read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigProblem {
    /// A value of the spec does not fit into the file. The CRD's schema refuses such values; this is for objects that
    /// are older than the schema.
    #[error("spec.sessionStorage.db is {0}, but Redis databases are numbered from 0 to 65535")]
    Database(i32),
    /// A field of the session storage does not fit the others.
    #[error("spec.sessionStorage.{field}: {problem}")]
    SessionStorage {
        /// The field.
        field: std::borrow::Cow<'static, str>,
        /// What was found and what is allowed.
        problem: String,
    },
    /// The files are too big for a ConfigMap.
    #[error(
        "the backends of the group need {0} bytes of configuration, but a ConfigMap holds {MAX_BYTES}: split the group"
    )]
    TooBig(usize),
    /// The gateway's own reader refuses the files.
    #[error("the rendered configuration is not valid: {0}")]
    Refused(#[from] ConfigError),
    /// The files cannot be written.
    #[error("the configuration cannot be written as YAML: {0}")]
    Unwritable(#[from] serde_yaml::Error),
}

/// Renders the files. `backends` are in the order in which they are written.
///
/// # Errors
/// When the result is not a configuration that a gateway reads.
pub fn config_files(server: &VirtualMCPServer, backends: &[Backend]) -> Result<ConfigFiles, ConfigProblem> {
    let startup = startup(server)?;
    let storage = server.spec.session_storage.as_ref();
    let has_password = storage.is_some_and(|storage| storage.password_ref.is_some());
    startup
        .session_storage
        .check(has_password)
        .map_err(|(field, problem)| ConfigProblem::SessionStorage { field, problem })?;
    let startup = serde_yaml::to_string(&startup)?;
    let hot = serde_yaml::to_string(&hot(backends))?;
    if hot.len() > MAX_BYTES {
        return Err(ConfigProblem::TooBig(hot.len()));
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

fn startup(server: &VirtualMCPServer) -> Result<GatewayConfig, ConfigProblem> {
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
        drain_delay: Duration::from_secs(DRAIN_SECONDS),
        hot: None,
        hot_file: Some(Path::new(BACKENDS_DIR).join(HOT_FILE)),
    })
}

fn session_storage(spec: &v1alpha1::SessionStorage) -> Result<SessionStorage, ConfigProblem> {
    let default = SessionStorage::default();
    let db = spec.db.unwrap_or_default();
    Ok(SessionStorage {
        provider: match spec.provider {
            v1alpha1::SessionStorageProvider::Memory => SessionStorageProvider::Memory,
            v1alpha1::SessionStorageProvider::Redis => SessionStorageProvider::Redis,
        },
        address: spec.address.clone(),
        db: u16::try_from(db).map_err(|_| ConfigProblem::Database(db))?,
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
        // One that cannot be called is left out alone; the status says why.
        backends: backends
            .iter()
            .filter(|backend| backend.problem().is_none())
            .map(backend)
            .collect(),
        ..HotConfig::default()
    }
}
