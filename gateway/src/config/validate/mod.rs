//! Validates the deserialized configuration file.

mod aggregation;
mod incoming_auth;
#[cfg(test)]
mod lines;
mod resilience;
mod server_command;
mod session_storage;
#[cfg(test)]
mod tests;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use secrecy::SecretString;
use vmcp_crds::config::{ConfigError, GatewayConfig, HotConfig, OnStoreOutage, SessionState, rules};

use super::{
    AccessLogSampling, AccessPolicy, BackendName, BackendSettings, CertificatePair, Config, HostPort,
    HotSettings, HotSource, Origin, RequestLimits, ServerIdentity, ServerName, SessionPolicy, SessionStorage,
    pass_headers,
};

/// Error for an invalid configuration. The message is for the author of the file.
pub type InvalidConfig = ConfigError;

/// An invalid field, before its line in the file is known.
#[derive(Debug)]
struct ConfigFault {
    path: String,
    /// The value, what is allowed, and what to do.
    message: String,
}

impl ConfigFault {
    fn at(path: &str, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            message: message.into(),
        }
    }

    fn below(self, field: &str) -> Self {
        let path = format!("{field}.{}", self.path);
        Self { path, ..self }
    }

    fn in_text(self, text: &str, file: &Path) -> InvalidConfig {
        InvalidConfig::invalid(file, text, &self.path, self.message)
    }
}

impl std::fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at `{}`: {}", self.path, self.message)
    }
}

/// Validates the configuration in `text`, the content of `file`, with the hot part from the file that it names.
pub(super) fn config(
    text: &str,
    file: &Path,
    redis_password: Option<SecretString>,
) -> Result<Config, InvalidConfig> {
    let raw = GatewayConfig::parse(text, file)?;
    let (hot, source) = match raw.read_hot_file(text, file)? {
        Some((path, hot)) => (hot_file(&hot, &path)?, HotSource::Separate(path)),
        None => (
            nested_hot(&raw, text, file)?,
            HotSource::Combined(file.to_owned()),
        ),
    };
    cold_part(raw, hot, Some(source), file, redis_password).map_err(|fault| fault.in_text(text, file))
}

/// Validates a configuration that comes from no file. Errors name `origin` in place of the file.
pub(super) fn parsed(raw: GatewayConfig, origin: &Path) -> Result<Config, InvalidConfig> {
    let hot = nested_hot(&raw, "", origin)?;
    cold_part(raw, hot, None, origin, None).map_err(|fault| fault.in_text("", origin))
}

/// Validates the hot part of the configuration in `text`, the content of `file`. Also returns the rest. `before` is the hot part in use.
pub(super) fn hot_part(
    text: &str,
    file: &Path,
    before: &HotSettings,
) -> Result<(HotSettings, GatewayConfig), InvalidConfig> {
    let raw = GatewayConfig::parse(text, file)?;
    if raw.hot_file.is_some() {
        let message =
            "the gateway started without `hotFile`; restart it to move the hot part to another file";
        return Err(InvalidConfig::invalid(file, text, "hotFile", message));
    }
    if raw.hot.is_none() && !before.backends.is_empty() {
        let message = "missing, although it listed backends before, so the file may be incomplete; to remove all backends, write \
                       `hot: {backends: []}`";
        return Err(InvalidConfig::invalid(file, text, "hot", message));
    }
    let hot = nested_hot(&raw, text, file)?;
    Ok((hot, GatewayConfig { hot: None, ..raw }))
}

fn nested_hot(raw: &GatewayConfig, text: &str, file: &Path) -> Result<HotSettings, InvalidConfig> {
    let part = raw.hot.clone().unwrap_or_default();
    let hash = vmcp_crds::status::config_hash(&serde_yaml::to_string(&part).unwrap_or_default());
    hot(&part, hash, file).map_err(|fault| fault.below("hot").in_text(text, file))
}

/// Validates the hot part in `text`, the content of the separate file `file`.
pub(super) fn hot_file(text: &str, file: &Path) -> Result<HotSettings, InvalidConfig> {
    let raw = HotConfig::parse(text, file)?;
    hot(&raw, vmcp_crds::status::config_hash(text), file).map_err(|fault| fault.in_text(text, file))
}

fn cold_part(
    raw: GatewayConfig,
    hot: HotSettings,
    hot_source: Option<HotSource>,
    file: &Path,
    redis_password: Option<SecretString>,
) -> Result<Config, ConfigFault> {
    for (path, value) in [("namespace", &raw.namespace), ("name", &raw.name)] {
        if !rules::is_dns_name(value) {
            return Err(ConfigFault::at(
                path,
                format!("found {value:?}; allowed are {}", rules::DNS_NAME),
            ));
        }
    }
    let (mcp, admin) = (raw.listeners.mcp, raw.listeners.admin);
    if cannot_both_listen(mcp, admin) {
        let message =
            format!("found {admin}, which conflicts with `listeners.mcp` ({mcp}); use different ports");
        return Err(ConfigFault::at("listeners.admin", message));
    }
    let session_storage = session_storage::session_storage(&raw.session_storage, redis_password, file)?;
    if matches!(session_storage, SessionStorage::Redis(_)) && raw.session_keys.is_none() {
        return Err(ConfigFault::at(
            "sessionKeys",
            "missing; replicas that share Redis must share the keys that sign session ids: create a key with \
             `vmcp-gateway keygen > KEYS/current`, and set sessionKeys.directory to the directory KEYS",
        ));
    }
    rules::range::IDLE_TIMEOUT
        .check(raw.listeners.idle_timeout)
        .map_err(|message| ConfigFault::at("listeners.idleTimeout", message))?;
    Ok(Config {
        server: ServerName {
            namespace: raw.namespace,
            name: raw.name,
        },
        mcp_listener: raw.listeners.mcp,
        mcp_tls: raw.listeners.tls.as_ref().map(|tls| CertificatePair {
            cert_file: directory(file).join(&tls.cert_file),
            key_file: directory(file).join(&tls.key_file),
        }),
        admin_listener: raw.listeners.admin,
        incoming_auth: incoming_auth::incoming_auth(&raw.incoming_auth, file)?,
        sessions: SessionPolicy {
            max_staleness: raw.session_storage.max_staleness.get(),
            serve_in_outage: raw.session_storage.on_store_outage == OnStoreOutage::Serve,
            outage_grace: raw.session_storage.outage_grace.get(),
        },
        session_storage,
        session_ttl: raw.session_storage.ttl.get(),
        session_max_lifetime: raw.session_storage.max_lifetime.get(),
        session_keys: raw.session_keys.map(|keys| directory(file).join(keys.directory)),
        idle_timeout: raw.listeners.idle_timeout.get(),
        drain_delay: raw.drain_delay.get(),
        hot,
        hot_source,
    })
}

/// The directory at which the relative paths in `file` start.
fn directory(file: &Path) -> &Path {
    file.parent().unwrap_or_else(|| Path::new(""))
}

/// Whether two listeners conflict, so that the second one could not bind. `[::]` covers IPv4 addresses, too, and port 0 is any free port.
fn cannot_both_listen(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |one: IpAddr, other: IpAddr| {
        one == other || (one.is_unspecified() && (one.is_ipv6() || other.is_ipv4()))
    };
    one.port() != 0
        && one.port() == other.port()
        && (takes(one.ip(), other.ip()) || takes(other.ip(), one.ip()))
}

fn hot(raw: &HotConfig, hash: String, file: &Path) -> Result<HotSettings, ConfigFault> {
    raw.check()
        .map_err(|(path, message)| ConfigFault::at(&path, message))?;
    let mut backends: Vec<BackendSettings> = Vec::with_capacity(raw.backends.len());
    for (index, backend) in raw.backends.iter().enumerate() {
        let endpoint = server_command::endpoint(backend, file)
            .map_err(|message| ConfigFault::at(&format!("backends[{index}].url"), message))?;
        backends.push(BackendSettings {
            name: BackendName(backend.name.as_str().into()),
            endpoint,
            disposable: backend.session_state == SessionState::Disposable,
            exposure: Arc::new(aggregation::exposure(backend, &raw.aggregation)),
            resilience: resilience::resilience(backend),
            upstream: Arc::new(upstream::upstream(backend, file)),
        });
    }
    Ok(HotSettings {
        log_level: raw.log_level,
        access_log: AccessLogSampling {
            threshold: raw.access_log.sample.of(1 << 32),
        },
        pass_headers: pass_headers(&backends),
        backends,
        aggregation: Arc::new(aggregation::aggregation(&raw.aggregation)),
        identity: identity(raw),
        presents_backend: false,
        access: access(raw),
        stream_calls_after: raw.stream_calls_after.map(vmcp_crds::config::Duration::get),
        limits: RequestLimits::from(&raw.limits),
        hash,
        kept_connections: Vec::new(),
    })
}

fn access(raw: &HotConfig) -> AccessPolicy {
    AccessPolicy {
        hosts: raw
            .allowed_hosts
            .iter()
            .filter_map(|text| HostPort::parse(text))
            .collect(),
        origins: raw
            .allowed_origins
            .iter()
            .filter_map(|text| Origin::parse(text))
            .collect(),
    }
}

fn identity(raw: &HotConfig) -> ServerIdentity {
    let info = &raw.server_info;
    ServerIdentity {
        name: info.name.clone(),
        title: info.title.clone(),
        version: info.version.clone(),
        instructions: raw.instructions.clone(),
    }
}
