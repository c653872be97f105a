//! Parses the configuration. Errors contain the file, the line, the path, what was found and what is allowed.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::{GatewayConfig, HotConfig, schema};
use crate::config::{location, schema_validation, split_file};

/// Why a configuration cannot be used. The message is for the author of the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file does not exist or cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// Path of the file.
        file: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The text is not a valid configuration.
    #[error("{}:{line}: {}{message}", file.display(), at(path))]
    Invalid {
        /// Path of the file.
        file: PathBuf,
        /// The line number, from 1; the first line if the error concerns the whole file.
        line: usize,
        /// The path of the field, for example `hot.backends[0].url`; `.` for the whole file.
        path: String,
        /// What was found and what is allowed.
        message: String,
    },
}

impl ConfigError {
    /// An error in the field `path` of `text`, which is the content of `file`. The line is that of the field or, if it does not exist, of
    /// its nearest parent.
    #[must_use]
    pub fn invalid(file: &Path, text: &str, path: &str, message: impl Into<String>) -> Self {
        Self::Invalid {
            file: file.to_owned(),
            line: location::line_of_path(text, path),
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

impl GatewayConfig {
    /// Parses a configuration; `file` is only used in errors.
    ///
    /// # Errors
    /// When the text is not YAML, a field is unknown or missing, a value has the wrong type, or both `hot` and `hotFile` are set.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let config: Self = parse(text, file, schema::of_file())?;
        if config.hot.is_some() && config.hot_file.is_some() {
            let message = "both `hot` and `hotFile` are set; keep one";
            return Err(ConfigError::invalid(file, text, "hotFile", message));
        }
        Ok(config)
    }

    /// Reads a configuration and its `hotFile`, if it has one. The result always has a hot part.
    ///
    /// # Errors
    /// When a file cannot be read or parsed.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = read(file)?;
        let mut config = Self::parse(&text, file)?;
        if let Some((path, hot)) = config.read_hot_file(&text, file)? {
            config.hot = Some(HotConfig::parse(&hot, &path)?);
        }
        config.hot.get_or_insert_with(HotConfig::default);
        Ok(config)
    }

    /// The path of the hot file, if there is one; `file` is the path of this configuration.
    #[must_use]
    pub fn hot_path(&self, file: &Path) -> Option<PathBuf> {
        let named = self.hot_file.as_ref()?;
        Some(file.parent().unwrap_or_else(|| Path::new("")).join(named))
    }

    /// Reads the hot file, if there is one, and returns its path and text. `text` is the content of `file`, for errors.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_hot_file(&self, text: &str, file: &Path) -> Result<Option<(PathBuf, String)>, ConfigError> {
        let Some(path) = self.hot_path(file) else {
            return Ok(None);
        };
        match split_file::read_parts(&path) {
            Ok(hot) => Ok(Some((path, hot))),
            Err(ConfigError::Unreadable { source, .. }) => {
                let message = format!(
                    "{:?} cannot be read: {source}; {PATHS}",
                    path.display().to_string()
                );
                Err(ConfigError::invalid(file, text, "hotFile", message))
            }
            Err(other) => Err(other),
        }
    }
}

impl HotConfig {
    /// Parses the hot part; `file` is only used in errors.
    ///
    /// # Errors
    /// The same as [`GatewayConfig::parse`], and when the text is empty: another process may be rewriting the file.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        parse(text, file, schema::of_hot_part())
    }
}

/// Reads the text of a configuration file without its byte order mark, which some editors write.
///
/// # Errors
/// When the file cannot be read, or is not valid UTF-8.
pub fn read(file: &Path) -> Result<String, ConfigError> {
    let bytes = std::fs::read(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to());
        ConfigError::Invalid {
            file: file.to_owned(),
            line: good.unwrap_or_default().split(|byte| *byte == b'\n').count(),
            path: WHOLE.to_owned(),
            message: "found invalid UTF-8; save the file as UTF-8".to_owned(),
        }
    })?;
    match text.strip_prefix('\u{feff}') {
        Some(text) => Ok(text.to_owned()),
        None => Ok(text),
    }
}

/// The path of the whole file.
const WHOLE: &str = ".";

/// Advice for errors about paths.
const PATHS: &str = "a relative path starts at the directory of the configuration file";

fn at(path: &str) -> String {
    match path {
        WHOLE => String::new(),
        path => format!("at `{path}`: "),
    }
}

fn parse<T: DeserializeOwned>(text: &str, file: &Path, shape: &Json) -> Result<T, ConfigError> {
    let refuse = |line, path, message| ConfigError::Invalid {
        file: file.to_owned(),
        line,
        path,
        message,
    };
    if text.lines().all(is_blank_or_comment) {
        // Not treated as a configuration without backends: another process may have truncated the file to rewrite it.
        let advice = match shape.get("required") {
            Some(_) => "a minimal file is `version: v1`",
            None => "write `{}` for a configuration without backends",
        };
        return Err(refuse(
            1,
            WHOLE.to_owned(),
            format!("the file is empty; {advice}"),
        ));
    }
    if let Some(schema_error) = schema_validation::first_error(text, shape, schema::of_file()) {
        return Err(refuse(schema_error.line, schema_error.path, schema_error.message));
    }
    serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        // At invalid YAML, the path ends with `?`.
        let path = error.path().to_string();
        let path = match path.strip_suffix(".?") {
            Some(above) => above.to_owned(),
            None if path == "?" => WHOLE.to_owned(),
            None => path,
        };
        let inner = error.into_inner();
        // For a well-formed value that is not allowed, the library only knows the location of its parent.
        let line = inner.location().map_or(1, |location| location.line());
        let line = line.max(location::line_of_path(text, &path));
        let library_message = inner.to_string();
        if library_message.contains(SEVERAL_DOCUMENTS) {
            let message = "found more than one YAML document; remove everything from the second `---` on";
            return refuse(second_document(text), path, message.to_owned());
        }
        let message = message(&library_message, &path);
        if library_message.starts_with("control characters are not allowed") {
            let control = |line: &str| line.chars().any(|letter| letter.is_control() && letter != '\t');
            let line = number_of_line(text.lines().position(control).unwrap_or_default());
            let message =
                "found a control character; write it as an escape in double quotes, for example \"\\x01\"";
            return refuse(line, WHOLE.to_owned(), message.to_owned());
        }
        let is_tab = text
            .lines()
            .nth(line.saturating_sub(1))
            .is_some_and(|line| line.trim_matches(' ').starts_with('\t'));
        let advice = if is_tab && message.contains("cannot start any token") {
            "; indent YAML with spaces, not tabs"
        } else {
            ""
        };
        refuse(line, path, format!("{message}{advice}"))
    })
}

fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || line == "---"
}

/// Part of the library's message for more than one document, which has no position.
const SEVERAL_DOCUMENTS: &str = "more than one document";

/// The line number of the second document.
fn second_document(text: &str) -> usize {
    let first = text
        .lines()
        .position(|line| !is_blank_or_comment(line))
        .unwrap_or_default();
    let mut behind = text.lines().enumerate().skip(first).skip(1);
    let second = behind.find(|(_, line)| line.starts_with("---"));
    number_of_line(second.map_or(first, |(line, _)| line))
}

/// Converts an index to a line number, from 1.
fn number_of_line(index: usize) -> usize {
    index.saturating_add(1)
}

/// Removes path and position from the library's message, because [`ConfigError`] adds them, and rephrases some messages.
fn message(library_message: &str, path: &str) -> String {
    let library_message = library_message
        .split(" at line ")
        .next()
        .unwrap_or(library_message);
    // The path in the message may be that of a parent.
    let ends = path
        .char_indices()
        .filter(|(_, letter)| matches!(letter, '.' | '['));
    let above = ends.filter_map(|(end, _)| path.get(..end)).chain([path]).rev();
    let mut inner = above.filter_map(|path| library_message.strip_prefix(path)?.strip_prefix(": "));
    let library_message = inner.next().unwrap_or(library_message);
    match library_message {
        "recursion limit exceeded" => "too deeply nested".to_owned(),
        "repetition limit exceeded" => "aliases (`*`) expand to too many values".to_owned(),
        "unknown anchor" => "found an alias (`*`) without an anchor (`&`) before it".to_owned(),
        library_message => library_message.to_owned(),
    }
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
    fn every_field_is_parsed() {
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
    bufferedBytes: 2097152
    requestBytesInFlight: 4096
    requestsInFlightPerSession: 3
    initializesPerSecond: 4
    initializesPerSecondPerPrincipal: 7
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
            buffered_bytes: Some(2_097_152),
            request_bytes_in_flight: Some(4096),
            requests_in_flight_per_session: 3,
            initializes_per_second: 4,
            initializes_per_second_per_principal: Some(7),
            sessions: 5,
            sessions_per_principal: Some(6),
        };
        assert_eq!(hot.limits, limits);
        // A serialized configuration is parsed back to the same value.
        let written = serde_yaml::to_string(&config).unwrap();
        assert_eq!(
            GatewayConfig::parse(&written, Path::new("written.yaml")).unwrap(),
            config
        );
    }

    #[test]
    fn defaults_are_not_serialized() {
        let config = GatewayConfig::parse("version: v1", Path::new("gateway.yaml")).unwrap();
        assert_eq!(serde_yaml::to_string(&config).unwrap(), "version: v1\n");
    }

    // The error for an unknown field contains the line, the path and the allowed fields.
    #[test]
    fn unknown_field_is_rejected_with_location() {
        let error = error("version: v1\nsessionStorage:\n  provider: redis\n  adress: redis:6379\n");
        assert!(error.starts_with("gateway.yaml:4: at `sessionStorage"), "{error}");
        assert!(error.contains("unknown field `adress`"), "{error}");
        assert!(error.contains("`address`"), "{error}");
    }

    // The error for an invalid value contains what was found and what is allowed.
    #[test]
    fn invalid_value_is_rejected_with_allowed_values() {
        let error_text = error("version: v1\nsessionStorage:\n  provider: etcd\n");
        assert!(
            error_text.contains("at `sessionStorage.provider`"),
            "{error_text}"
        );
        assert!(
            error_text.contains("\"etcd\"") && error_text.contains("`redis`"),
            "{error_text}"
        );
        let error_text = error("version: v2\n");
        assert!(
            error_text.contains("\"v2\"") && error_text.contains("`v1`"),
            "{error_text}"
        );
        let error_text = error("version: v1\nsessionStorage:\n  db: many\n");
        assert!(error_text.contains("sessionStorage.db"), "{error_text}");
    }

    #[test]
    fn error_texts_are_complete() {
        for (text, expected) in [
            (
                "version: v1\nlisteners: {mcp: 'localhost:80'}",
                "gateway.yaml:2: at `listeners.mcp`: found \"localhost:80\"; expected an IP address and a port from 0 to 65535, for \
                 example 127.0.0.1:4483 or 0.0.0.0:4483 or [::]:4483; a name such as localhost is not looked up",
            ),
            (
                "version: v1\nhot: {backends: [{name: a, url: b, addresses: [foo]}]}",
                "gateway.yaml:2: at `hot.backends[0].addresses[0]`: found \"foo\"; expected an IP address, for example 10.0.0.7 or \
                 fd00::7; a host name belongs in `url`",
            ),
            (
                "version: v1\ndrainDelay: 5",
                "gateway.yaml:2: at `drainDelay`: found 5; expected a duration with units, for example 250ms, 5s, 30m or 1h30m",
            ),
            (
                "version: v1\ndrainDelay: soon",
                "gateway.yaml:2: at `drainDelay`: found \"soon\"; expected a duration with units, for example 250ms, 5s, \
                 30m or 1h30m",
            ),
            (
                "version: v1\nsessionStorage: {db: 65536}",
                "gateway.yaml:2: at `sessionStorage.db`: found 65536; expected a whole number from 0 to 65535",
            ),
            (
                "version: v1\nname: 1.50",
                "gateway.yaml:2: at `name`: found 1.50; expected text; put it in quotes",
            ),
            (
                "version: v1\nhotfile: hot.yaml",
                "gateway.yaml:2: at `hotfile`: unknown field `hotfile`; did you mean `hotFile`? allowed are `version`, `drainDelay`, \
                 `hot`, `hotFile`, `incomingAuth`, `listeners`, `name`, `namespace`, `sessionKeys` or `sessionStorage`",
            ),
            (
                "name: x",
                "gateway.yaml:1: missing field `version`; expected `v1`",
            ),
            (
                "# Nothing.\n",
                "gateway.yaml:1: the file is empty; a minimal file is `version: v1`",
            ),
            (
                "[a]",
                "gateway.yaml:1: found a list; expected a mapping, with fields such as `version`",
            ),
            (
                "version: v1\n? [a]\n: b\n",
                "gateway.yaml:2: invalid key; the name of a field must be text",
            ),
            (
                "version: !x v1",
                "gateway.yaml:1: at `version`: found a tag (`!`); expected `v1`",
            ),
            (
                "version: v1\nname: a\nname: b",
                "gateway.yaml:3: at `name`: duplicate key; keep one of them",
            ),
            (
                "version: v1\nsessionStorage: {db: '3'}",
                "gateway.yaml:2: at `sessionStorage.db`: found \"3\" in quotes; expected a whole number from 0 to 65535",
            ),
            (
                "version: v1\nhot: {limits: {sessions: 0}}",
                "gateway.yaml:2: at `hot.limits.sessions`: found 0; expected a whole number from 1 to 1000000000",
            ),
            (
                "version: v1\nhot: {backends: [{name: a, url: 'b'\n",
                "gateway.yaml:3: at `hot.backends[0]`: did not find expected ',' or '}'",
            ),
            (
                "version: v1\nhot:\n\tx: 1",
                "gateway.yaml:3: at `hot`: found character that cannot start any token; indent YAML with spaces, not tabs",
            ),
            (
                "version: v1\nname: a\u{1}b",
                "gateway.yaml:2: found a control character; write it as an escape in double quotes, for example \"\\x01\"",
            ),
            (
                "version: v1\nhot: {backends: [{name: a, url: b, tools: {deadlines: {'get_?': soon}}}]}",
                "gateway.yaml:2: at `hot.backends[0].tools.deadlines.get_?`: found \"soon\"; expected a duration with units, \
                 for example 250ms, 5s, 30m or 1h30m",
            ),
            (
                "version: v1\n---\nversion: v1",
                "gateway.yaml:2: found more than one YAML document; remove everything from the second `---` on",
            ),
            (
                "version: *v",
                "gateway.yaml:1: at `version`: found an alias (`*`) without an anchor (`&`) before it",
            ),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
        let long = error(&format!("version: v1\nhot: {{logLevel: {}}}", "x".repeat(5000)));
        assert!(long.len() < 250, "{long}");
    }

    // A byte order mark is ignored, and a file in another encoding is rejected.
    #[test]
    fn byte_order_mark_is_ignored() {
        let dir = std::env::temp_dir().join(format!("vmcp-config-bom-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, hot) = (dir.join("gateway.yaml"), dir.join("hot.yaml"));
        std::fs::write(&file, "\u{feff}version: v1\nhotFile: hot.yaml\n").unwrap();
        std::fs::write(&hot, "\u{feff}logLevel: warn\n").unwrap();
        let config = GatewayConfig::load(&file).unwrap();
        assert_eq!(config.hot.unwrap().log_level, LogLevel::Warn);
        std::fs::write(&hot, b"logLevel: warn\n# \xff\n").unwrap();
        let error = GatewayConfig::load(&file).unwrap_err().to_string();
        assert!(error.contains("hot.yaml:2: found invalid UTF-8"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn file_without_version_is_rejected() {
        let error = error("name: x\n");
        assert!(error.contains("missing field `version`"), "{error}");
    }

    #[test]
    fn hot_file_path_is_relative_to_configuration() {
        let dir = std::env::temp_dir().join(format!("vmcp-config-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("gateway.yaml");
        std::fs::write(&file, "version: v1\nhotFile: hot.yaml\n").unwrap();
        let missing = GatewayConfig::load(&file).unwrap_err().to_string();
        let place = format!("{}:2: at `hotFile`: ", file.display());
        assert!(missing.starts_with(&place), "{missing}");
        let path = format!(
            "{:?} cannot be read: ",
            dir.join("hot.yaml").display().to_string()
        );
        assert!(
            missing.contains(&path) && missing.contains("relative path"),
            "{missing}"
        );
        std::fs::write(dir.join("hot.yaml"), "logLevel: warn\n").unwrap();
        let config = GatewayConfig::load(&file).unwrap();
        assert_eq!(config.hot.unwrap().log_level, LogLevel::Warn);
        std::fs::write(&file, "version: v1\nhot: {}\nhotFile: hot.yaml\n").unwrap();
        let both = GatewayConfig::load(&file).unwrap_err().to_string();
        assert!(both.contains("keep one"), "{both}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
