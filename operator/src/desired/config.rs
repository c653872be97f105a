//! Renders the gateway's two configuration files from the spec and the members of its group.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use kube::ResourceExt as _;
use vmcp_crds::config::rules::{FieldError, range};
use vmcp_crds::config::split_file::{self, MAX_PARTS};
use vmcp_crds::config::{
    ConfigError, ConfigVersion, Duration, GatewayConfig, HotConfig, IncomingAuth, Listeners, SessionKeys,
    SessionStorage,
};
use vmcp_crds::status::config_hash;
use vmcp_crds::v1alpha1::{SessionStorageSpec, VirtualMCPServer};

use super::deployment::{ADMIN_PORT, BACKENDS_DIR, KEYS_DIR, MCP_PORT, listener_tls};
use super::grace_period::drain_delay;
use super::{Backend, http_route};

/// Key in the start-up ConfigMap.
pub(super) const STARTUP_FILE: &str = "gateway.yaml";
/// Key in the hot ConfigMap.
pub(super) const HOT_FILE: &str = "backends.yaml";

/// Maximum size of a part of the hot file: the API server rejects ConfigMaps of more than 1 MiB.
const MAX_PART_BYTES: usize = 1_000_000;

/// The gateway's configuration files and their hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFiles {
    /// The text of the start-up file.
    pub startup: String,
    /// [`config_hash`] of the start-up file.
    pub startup_hash: String,
    /// The text of the hot file.
    pub hot: String,
    /// The parts of the hot file. A text that fits into one ConfigMap is one part.
    pub hot_parts: Vec<String>,
    /// Whether the pods have places for several parts. A missing Secret does not matter: it must not replace pods.
    pub may_be_split: bool,
    /// [`config_hash`] of the hot file.
    pub hot_hash: String,
    /// The longest time limit of a call to one of the backends.
    pub longest_call: Duration,
}

/// Why no valid configuration can be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ConfigRenderError {
    /// A field of the spec is invalid, or contradicts another one.
    #[error("{path}: {problem}")]
    InvalidField {
        /// The path of the field, for example `spec.limits.bufferedBytes`.
        path: String,
        /// What was found and what is allowed.
        problem: String,
    },
    /// The hot file is too big.
    #[error(
        "the backends of the group need {0} bytes of configuration, but {MAX_PARTS} ConfigMaps hold {MAX_PART_BYTES} each: split the group"
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
    let startup = startup(server);
    let hot = hot(server, backends);
    check(server, &startup, &hot)?;
    let may_be_split = may_be_split(backends, &hot)?;
    let longest_call = longest_call(backends);
    let startup = serde_yaml::to_string(&startup)?;
    let hot = serde_yaml::to_string(&hot)?;
    let hot_parts = split_file::split(&hot, MAX_PART_BYTES).ok_or(ConfigRenderError::TooBig(hot.len()))?;
    GatewayConfig::parse(&startup, Path::new(STARTUP_FILE))?;
    HotConfig::parse(&hot, Path::new(HOT_FILE))?;
    Ok(ConfigFiles {
        startup_hash: config_hash(&startup),
        startup,
        hot_hash: config_hash(&hot),
        hot,
        hot_parts,
        may_be_split,
        longest_call,
    })
}

/// Checks the rules that the CRD's schema cannot express, and the others for objects that are older than the schema.
fn check(
    server: &VirtualMCPServer,
    startup: &GatewayConfig,
    hot: &HotConfig,
) -> Result<(), ConfigRenderError> {
    let at = |parent: &'static str| {
        move |(field, problem): FieldError| ConfigRenderError::InvalidField {
            path: format!("spec.{parent}{field}"),
            problem,
        }
    };
    let storage = server.spec.session_storage.as_ref();
    let has_password = storage.is_some_and(|storage| storage.password_ref.is_some());
    startup
        .session_storage
        .check(has_password)
        .map_err(at("sessionStorage."))?;
    startup.incoming_auth.check().map_err(at("incomingAuth."))?;
    range::IDLE_TIMEOUT
        .check(startup.listeners.idle_timeout)
        .map_err(|problem| at("operational.")(("idleTimeout".into(), problem)))?;
    server
        .spec
        .operational
        .timeouts
        .check()
        .map_err(at("operational.timeouts."))?;
    hot.check_without_backends().map_err(at(""))
}

pub(super) fn startup(server: &VirtualMCPServer) -> GatewayConfig {
    let spec = &server.spec;
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let idle_timeout = spec.operational.idle_timeout;
    GatewayConfig {
        version: ConfigVersion::V1,
        namespace: server.namespace().unwrap_or_default(),
        name: server.name_any(),
        listeners: Listeners {
            mcp: any(MCP_PORT),
            admin: any(ADMIN_PORT),
            idle_timeout: idle_timeout.unwrap_or(Listeners::default().idle_timeout),
            tls: listener_tls(server),
        },
        incoming_auth: incoming_auth(server),
        session_storage: spec
            .session_storage
            .as_ref()
            .map_or_else(SessionStorage::default, SessionStorageSpec::to_config),
        session_keys: Some(SessionKeys {
            directory: PathBuf::from(KEYS_DIR),
        }),
        drain_delay: drain_delay(server),
        hot: None,
        hot_file: Some(Path::new(BACKENDS_DIR).join(HOT_FILE)),
    }
}

/// The authentication of the spec, with the resource that follows from the route.
fn incoming_auth(server: &VirtualMCPServer) -> IncomingAuth {
    let mut auth = server.spec.incoming_auth.to_config();
    if let Some(oidc) = &mut auth.oidc
        && oidc.resource.is_none()
    {
        oidc.resource = http_route::resource(server);
    }
    auth
}

/// The hosts of the spec and, with a route, those of the route and of the Service.
fn allowed_hosts(server: &VirtualMCPServer) -> Vec<String> {
    let mut hosts = server.spec.hot.allowed_hosts.clone();
    let of_route = server.spec.http_route.as_ref();
    let of_route = of_route.map(|route| http_route::host_names(server, route));
    for host in of_route.into_iter().flatten() {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// The longest time limit of a call to one of `backends` with a valid spec. A missing Secret does not matter: it must not replace pods.
fn longest_call(backends: &[Backend]) -> Duration {
    let valid = backends.iter().filter(|backend| backend.problem.is_none());
    let limits = valid.map(|backend| &backend.config).flat_map(|config| {
        let of_tools = config.tools.deadlines.values();
        of_tools.chain([&config.timeouts.call])
    });
    limits.max().copied().unwrap_or(Duration::from_secs(0))
}

/// Whether the hot file needs several parts with all backends that have a valid spec. `hot` has only those whose Secrets exist, too.
fn may_be_split(backends: &[Backend], hot: &HotConfig) -> Result<bool, serde_yaml::Error> {
    let valid = backends.iter().filter(|backend| backend.problem.is_none());
    let with_all = HotConfig {
        backends: valid.map(|backend| backend.config.clone()).collect(),
        ..hot.clone()
    };
    Ok(serde_yaml::to_string(&with_all)?.len() > MAX_PART_BYTES)
}

pub(super) fn hot(server: &VirtualMCPServer, backends: &[Backend]) -> HotConfig {
    let operational = &server.spec.operational;
    HotConfig {
        log_level: operational.log_level,
        access_log: operational.access_log.clone(),
        // A backend that cannot be called does not affect the others; the status says why it is missing.
        backends: backends
            .iter()
            .filter_map(Backend::usable_config)
            .cloned()
            .collect(),
        allowed_hosts: allowed_hosts(server),
        ..server.spec.hot.clone()
    }
}
