//! Text to configuration, with errors that name the file, the line, the path, what was found and what is allowed.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::{GatewayConfig, HotConfig, line};

/// Why a configuration cannot be used. The message is for the person who wrote the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not a configuration, or its values do not fit.
    #[error("{}:{line}: at `{path}`: {message}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1; the first one where it is the whole that is wrong.
        line: usize,
        /// The path of the field, for example `hot.backends[0].url`.
        path: String,
        /// What was found and what is allowed.
        message: String,
    },
}

impl ConfigError {
    /// What is wrong with the field at `path` of `text`, which stands in `file`. The line is that of the field or, when the text does not
    /// have it, of the nearest one above.
    #[must_use]
    pub fn invalid(file: &Path, text: &str, path: &str, message: impl Into<String>) -> Self {
        Self::Invalid {
            file: file.to_owned(),
            line: line::of(text, path),
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

impl GatewayConfig {
    /// Reads a configuration from `text`; `file` is only named in errors.
    ///
    /// # Errors
    /// When the text is not YAML, a field is unknown or missing, a value has the wrong type, or both `hot` and `hotFile` are given.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let config: Self = parse(text, file)?;
        if config.hot.is_some() && config.hot_file.is_some() {
            let message = "both `hot` and `hotFile` are given; keep one";
            return Err(ConfigError::invalid(file, text, "hotFile", message));
        }
        Ok(config)
    }

    /// Reads a configuration and, when it names a `hotFile`, that file too: the result always has a hot part.
    ///
    /// # Errors
    /// When a file cannot be read or parsed.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::parse(&read(file)?, file)?;
        if let Some(path) = config.hot_path(file) {
            config.hot = Some(HotConfig::parse(&read(&path)?, &path)?);
        }
        config.hot.get_or_insert_with(HotConfig::default);
        Ok(config)
    }

    /// The path of the hot file, if one is named; `file` is the file in which it was named.
    #[must_use]
    pub fn hot_path(&self, file: &Path) -> Option<PathBuf> {
        let named = self.hot_file.as_ref()?;
        Some(file.parent().unwrap_or_else(|| Path::new("")).join(named))
    }
}

impl HotConfig {
    /// Reads the hot part from `text`; `file` is only named in errors.
    ///
    /// # Errors
    /// As [`GatewayConfig::parse`], and when the text says nothing: who writes a file may have emptied it first, and not be done.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let says_nothing = |line: &str| line.is_empty() || line.starts_with('#') || line == "---";
        if text.lines().map(str::trim).all(says_nothing) {
            let message = "the file is empty; `{}` stands for a configuration without backends";
            return Err(ConfigError::invalid(file, text, ".", message));
        }
        parse(text, file)
    }
}

/// Reads the text of a configuration.
///
/// # Errors
/// When the file cannot be read.
pub fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_owned(),
        source,
    })
}

fn parse<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        // Of a value that reads well and is not allowed, the library knows only what it stands in.
        let line = inner.location().map_or(1, |location| location.line());
        let line = line.max(line::of(text, &path));
        let message = inner.to_string();
        // The library repeats the path and the position in its message; both are said once, by us.
        let message = message.split(" at line ").next().unwrap_or(&message);
        let message = message.strip_prefix(&format!("{path}: ")).unwrap_or(message);
        let message = match message.split_once(", expected ") {
            // Where a header's source is wanted, somebody may have put its value.
            Some((_, expected)) if path.contains(".headers") => {
                format!("found something else; expected {expected}")
            }
            _ => message.to_owned(),
        };
        ConfigError::Invalid {
            file: file.to_owned(),
            line,
            path,
            message,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        ConflictStrategy, Duration, FailureMode, LimitsConfig, LogLevel, SessionStorageProvider,
    };

    fn error(text: &str) -> String {
        GatewayConfig::parse(text, Path::new("gateway.yaml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_field_is_read() {
        let text = "
version: v1
namespace: tools
name: everything
listeners:
  mcp: 0.0.0.0:8080
  admin: 127.0.0.1:8081
incomingAuth:
  type: oidc
  oidc:
    issuer: https://id.example.com
    audience: [https://tools.example.com/mcp, tools]
    resource: https://tools.example.com/mcp
    jwksUrl: https://id.example.com/keys
    scopes: [tools]
    algorithms: [ES256]
    clockLeeway: 5s
    keyRefresh: 1m
    caBundlePath: ca.pem
    insecureAllowHttp: true
sessionStorage:
  provider: redis
  address: redis:6379
  db: 3
  keyPrefix: 'acme:'
  username: gateway
sessionKeys:
  directory: /etc/vmcp/keys
drainDelay: 1s
hot:
  logLevel: debug
  backends:
    - name: time
      url: http://time:8000/mcp
      prefix: t-
      tools:
        allow: [get_*]
        deny: [get_secret]
        hidden: [get_raw]
        overrides:
          get_time:
            name: now
            title: Now
            description: The time
            annotations: {title: Now, readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false}
      prompts:
        allow: [a]
        deny: [b]
        overrides: {a: {name: c, title: C, description: D}}
      resources: {allow: ['file:*'], deny: ['file:///etc/*']}
  aggregation:
    strategy: transparent
    prefixFormat: '{backend}.'
    priority: [time]
    failureMode: hide
    refresh: 5s
    pageSize: 50
    capabilities: [tools]
  serverInfo: {name: tools, title: Tools, version: '7'}
  instructions: Use them well.
  allowedHosts: [mcp.example.com]
  allowedOrigins: ['https://app.example.com']
  limits:
    requestBytes: 2048
    requestsInFlight: 2
    requestBytesInFlight: 4096
    requestsInFlightPerSession: 3
    initializesPerSecond: 4
    sessions: 5
    sessionsPerPrincipal: 6
";
        let config = GatewayConfig::parse(text, Path::new("gateway.yaml")).unwrap();
        assert_eq!(
            (config.namespace.as_str(), config.name.as_str()),
            ("tools", "everything")
        );
        assert_eq!(config.listeners.mcp.port(), 8080);
        assert_eq!(config.session_storage.provider, SessionStorageProvider::Redis);
        assert_eq!(config.session_storage.db, 3);
        assert_eq!(config.drain_delay, Duration::from_secs(1));
        let hot = config.hot.clone().unwrap();
        assert_eq!(hot.log_level, LogLevel::Debug);
        let backend = &hot.backends[0];
        assert_eq!(
            (
                backend.name.as_str(),
                backend.url.as_str(),
                backend.prefix.as_deref()
            ),
            ("time", "http://time:8000/mcp", Some("t-"))
        );
        let tool = &backend.tools.overrides["get_time"];
        assert_eq!(
            (tool.name.as_deref(), tool.annotations.read_only_hint),
            (Some("now"), Some(true))
        );
        assert_eq!(
            (
                backend.tools.hidden.len(),
                backend.prompts.overrides.len(),
                backend.resources.deny.len()
            ),
            (1, 1, 1)
        );
        let aggregation = &hot.aggregation;
        assert_eq!(
            (
                aggregation.strategy,
                aggregation.failure_mode,
                aggregation.page_size
            ),
            (ConflictStrategy::None, FailureMode::Hide, 50)
        );
        assert_eq!(hot.server_info.version.as_deref(), Some("7"));
        assert_eq!(hot.instructions.as_deref(), Some("Use them well."));
        assert_eq!(
            (&*hot.allowed_hosts[0], &*hot.allowed_origins[0]),
            ("mcp.example.com", "https://app.example.com")
        );
        let limits = LimitsConfig {
            request_bytes: 2048,
            requests_in_flight: 2,
            request_bytes_in_flight: Some(4096),
            requests_in_flight_per_session: 3,
            initializes_per_second: 4,
            sessions: 5,
            sessions_per_principal: Some(6),
        };
        assert_eq!(hot.limits, limits);
        // What is written is read back as the same configuration.
        let written = serde_yaml::to_string(&config).unwrap();
        assert_eq!(
            GatewayConfig::parse(&written, Path::new("written.yaml")).unwrap(),
            config
        );
    }

    #[test]
    fn defaults_are_not_written() {
        let config = GatewayConfig::parse("version: v1", Path::new("gateway.yaml")).unwrap();
        assert_eq!(serde_yaml::to_string(&config).unwrap(), "version: v1\n");
    }

    #[test]
    fn an_unknown_field_is_refused_with_line_path_and_what_is_allowed() {
        let error = error("version: v1\nsessionStorage:\n  provider: redis\n  adress: redis:6379\n");
        assert!(error.starts_with("gateway.yaml:4: at `sessionStorage"), "{error}");
        assert!(error.contains("unknown field `adress`"), "{error}");
        assert!(error.contains("`address`"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_refused_with_what_was_found_and_what_is_allowed() {
        let error_text = error("version: v1\nsessionStorage:\n  provider: etcd\n");
        assert!(
            error_text.contains("at `sessionStorage.provider`"),
            "{error_text}"
        );
        assert!(
            error_text.contains("`etcd`") && error_text.contains("`redis`"),
            "{error_text}"
        );
        let error_text = error("version: v2\n");
        assert!(
            error_text.contains("`v2`") && error_text.contains("`v1`"),
            "{error_text}"
        );
        let error_text = error("version: v1\nsessionStorage:\n  db: many\n");
        assert!(error_text.contains("sessionStorage.db"), "{error_text}");
    }

    #[test]
    fn a_file_without_a_version_is_refused() {
        let error = error("name: x\n");
        assert!(error.contains("missing field `version`"), "{error}");
    }

    #[test]
    fn the_hot_file_is_read_from_beside_the_file_that_names_it() {
        let dir = std::env::temp_dir().join(format!("vmcp-config-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("gateway.yaml");
        std::fs::write(&file, "version: v1\nhotFile: hot.yaml\n").unwrap();
        let missing = GatewayConfig::load(&file).unwrap_err().to_string();
        assert!(missing.contains("hot.yaml"), "{missing}");
        std::fs::write(dir.join("hot.yaml"), "logLevel: warn\n").unwrap();
        let config = GatewayConfig::load(&file).unwrap();
        assert_eq!(config.hot.unwrap().log_level, LogLevel::Warn);
        std::fs::write(&file, "version: v1\nhot: {}\nhotFile: hot.yaml\n").unwrap();
        let both = GatewayConfig::load(&file).unwrap_err().to_string();
        assert!(both.contains("keep one"), "{both}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
