//! From the raw file to the validated configuration.

mod aggregation;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use http::Uri;
use http::uri::Scheme;
use secrecy::SecretString;
use vmcp_crds::config::{
    ConfigError, GatewayConfig, HotConfig, REDIS_PASSWORD_ENV, SessionStorage as RawStorage,
    SessionStorageProvider,
};

use super::{Backend, BackendName, Config, Hot, Identity, RedisStorage, ServerName, SessionStorage};

/// A configuration that cannot be used. The message is for the person who wrote it.
pub type Invalid = ConfigError;

/// The longest DNS label.
const MAX_LABEL: usize = 63;

pub(super) fn config(
    raw: GatewayConfig,
    file: &Path,
    redis_password: Option<SecretString>,
) -> Result<Config, Invalid> {
    let hot_file = raw.hot_path(file);
    let hot = match &hot_file {
        Some(hot_file) => Hot::load(hot_file)?,
        None => {
            let raw_hot = raw.hot.clone().unwrap_or_default();
            let text = serde_yaml::to_string(&raw_hot).unwrap_or_default();
            hot(&raw_hot, vmcp_crds::status::config_hash(&text), file)?
        }
    };
    for (path, value) in [("namespace", &raw.namespace), ("name", &raw.name)] {
        if !is_dns_name(value) {
            return Err(invalid(
                file,
                path,
                format!("found {value:?}; allowed are {DNS_NAME}"),
            ));
        }
    }
    let session_storage = session_storage(&raw.session_storage, redis_password, file)?;
    if matches!(session_storage, SessionStorage::Redis(_)) && raw.session_keys.is_none() {
        return Err(invalid(
            file,
            "sessionKeys",
            "missing; replicas that share a Redis must share the keys that sign session ids: make one with \
             `vmcp-gateway keygen > KEYS/current` and name the directory KEYS as sessionKeys.directory",
        ));
    }
    Ok(Config {
        server: ServerName {
            namespace: raw.namespace,
            name: raw.name,
        },
        mcp_listener: raw.listeners.mcp,
        admin_listener: raw.listeners.admin,
        session_storage,
        session_keys: raw.session_keys.map(|keys| {
            file.parent()
                .unwrap_or_else(|| Path::new(""))
                .join(keys.directory)
        }),
        drain_delay: raw.drain_delay.get(),
        hot,
        hot_file,
    })
}

fn session_storage(
    raw: &RawStorage,
    password: Option<SecretString>,
    file: &Path,
) -> Result<SessionStorage, Invalid> {
    match raw.provider {
        SessionStorageProvider::Memory => {
            let set = [
                ("sessionStorage.address", raw.address.is_some()),
                ("sessionStorage.username", raw.username.is_some()),
                ("sessionStorage.db", raw.db != 0),
                (
                    "sessionStorage.keyPrefix",
                    raw.key_prefix != RawStorage::default().key_prefix,
                ),
            ];
            if let Some((path, _)) = set.into_iter().find(|(_, is_set)| *is_set) {
                let message = "has no meaning with `provider: memory`; set `provider: redis` or remove it";
                return Err(invalid(file, path, message));
            }
            Ok(SessionStorage::Memory)
        }
        SessionStorageProvider::Redis => {
            let address = raw.address.as_deref().ok_or_else(|| {
                invalid(
                    file,
                    "sessionStorage.address",
                    "missing; `provider: redis` needs the server's host:port",
                )
            })?;
            let (host, port) = host_and_port(address).ok_or_else(|| {
                let message =
                    format!("found {address:?}; expected host:port, for example redis.tools.svc:6379");
                invalid(file, "sessionStorage.address", message)
            })?;
            if raw.key_prefix.contains(['{', '}']) {
                let message = format!("found {:?}; braces are not allowed", raw.key_prefix);
                return Err(invalid(file, "sessionStorage.keyPrefix", message));
            }
            if raw.username.is_some() && password.is_none() {
                let message =
                    format!("a user needs a password: set the environment variable {REDIS_PASSWORD_ENV}");
                return Err(invalid(file, "sessionStorage.username", message));
            }
            Ok(SessionStorage::Redis(RedisStorage {
                host,
                port,
                db: raw.db,
                key_prefix: raw.key_prefix.clone(),
                username: raw.username.clone(),
                password,
            }))
        }
    }
}

pub(super) fn hot(raw: &HotConfig, hash: String, file: &Path) -> Result<Hot, Invalid> {
    let mut backends: Vec<Backend> = Vec::with_capacity(raw.backends.len());
    for (index, backend) in raw.backends.iter().enumerate() {
        let path = |field: &str| format!("backends[{index}].{field}");
        if !is_dns_label(&backend.name) {
            let message = format!("found {:?}; allowed is {DNS_LABEL}", backend.name);
            return Err(invalid(file, &path("name"), message));
        }
        if backends.iter().any(|other| other.name.as_str() == backend.name) {
            let message = format!(
                "{:?} stands twice; the name of a backend must be unique",
                backend.name
            );
            return Err(invalid(file, &path("name"), message));
        }
        let url = endpoint(&backend.url).ok_or_else(|| {
            let message = format!(
                "found {:?}; expected an http or https URL without user, password or fragment, for example \
                 http://time.tools.svc:8000/mcp",
                without_userinfo(&backend.url)
            );
            invalid(file, &path("url"), message)
        })?;
        backends.push(Backend {
            name: BackendName(backend.name.as_str().into()),
            url,
            terms: Arc::new(aggregation::terms(backend, index, &raw.aggregation, file)?),
        });
    }
    aggregation::no_name_twice(&raw.aggregation, &raw.backends, file)?;
    Ok(Hot {
        log_level: raw.log_level,
        backends,
        aggregation: Arc::new(aggregation::aggregation(&raw.aggregation, file)?),
        identity: identity(raw, file)?,
        hash,
    })
}

fn identity(raw: &HotConfig, file: &Path) -> Result<Identity, Invalid> {
    let info = &raw.server_info;
    for (field, value) in [("name", &info.name), ("version", &info.version)] {
        if value.as_ref().is_some_and(String::is_empty) {
            let message = "is empty; remove it for the default";
            return Err(invalid(file, &format!("serverInfo.{field}"), message));
        }
    }
    Ok(Identity {
        name: info.name.clone(),
        title: info.title.clone(),
        version: info.version.clone(),
        instructions: raw.instructions.clone(),
    })
}

const DNS_LABEL: &str =
    "a DNS label: lower-case letters, digits and `-`, at most 63 characters, no `-` at the ends";
const DNS_NAME: &str = "DNS labels joined by `.`, at most 253 characters";

fn is_dns_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= MAX_LABEL
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

fn endpoint(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let scheme = url.scheme()?;
    let authority = url.authority()?;
    let plain = !authority.as_str().contains('@') && !text.contains('#');
    (plain && (*scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)).then_some(url)
}

/// A URL that is refused may hold a password, which an error must not repeat.
fn without_userinfo(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://<hidden>{}", &url[..scheme], &url[at..]),
        _ => url.to_owned(),
    }
}

fn host_and_port(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let valid = !host.is_empty() && !host.contains(['/', '@', ' ']);
    valid
        .then_some(())
        .and_then(|()| Some((host.to_owned(), port.parse().ok()?)))
}

fn invalid(file: &Path, path: &str, message: impl Into<String>) -> Invalid {
    Invalid::Invalid {
        file: file.to_owned(),
        path: path.to_owned(),
        message: message.into(),
    }
}
