//! Checks that a backend has a URL or a command, and only the fields that go with it.

use super::super::{BackendConfig, BackendTransport, CatalogScope, ProcessMode, VariableSource};
use super::backend_check::in_range;
use super::{FieldError, at, endpoint, range, words};

/// Maximum number of processes of one backend.
const MAX_PROCESSES: u32 = 4096;

impl BackendConfig {
    /// The fields that only a backend with a command has.
    pub const COMMAND_FIELDS: [&str; 6] = [
        "command",
        "env",
        "workingDirectory",
        "processes",
        "maxProcesses",
        "idleTimeout",
    ];

    /// Checks the URL of a backend without a command.
    pub(super) fn check_url(&self) -> Result<(), FieldError> {
        if self.url.is_empty() {
            return Err(("url".into(), words::URL_OR_COMMAND_EXPECTED.to_owned()));
        }
        endpoint(&self.url).map_err(at("url"))?;
        let default = Self::default();
        let has_effect = [
            ("env", self.env.is_empty()),
            ("workingDirectory", self.working_directory.is_none()),
            ("processes", self.processes == default.processes),
            ("maxProcesses", self.max_processes == default.max_processes),
            ("idleTimeout", self.idle_timeout == default.idle_timeout),
        ];
        absent(&has_effect, words::WITHOUT_EFFECT_BESIDE_URL)
    }

    /// Checks the command of a backend that has one.
    pub(super) fn check_command(&self) -> Result<(), FieldError> {
        absent(
            &[
                ("url", self.url.is_empty()),
                ("addresses", self.addresses.is_empty()),
                ("tls", self.tls.is_none()),
                ("transport", self.transport == BackendTransport::default()),
                ("headers", self.headers.is_empty()),
                ("passHeaders", self.pass_headers.is_empty()),
                ("sharedSession", !self.shared_session),
            ],
            words::WITHOUT_EFFECT_BESIDE_COMMAND,
        )?;
        if self.command.first().is_none_or(String::is_empty) {
            return Err(("command[0]".into(), words::PROGRAM_EXPECTED.to_owned()));
        }
        if let Some(index) = self.command.iter().position(|part| part.contains('\0')) {
            return Err((
                format!("command[{index}]").into(),
                words::NUL_IN_COMMAND.to_owned(),
            ));
        }
        for (name, source) in &self.env {
            let checked = check_variable(name, source);
            checked.map_err(|message| (format!("env.{name}").into(), message.to_owned()))?;
        }
        if self.max_processes == 0 || self.max_processes > MAX_PROCESSES {
            let message = format!("found {}; allowed are 1 to {MAX_PROCESSES}", self.max_processes);
            return Err(("maxProcesses".into(), message));
        }
        if self.processes == ProcessMode::Shared && self.catalog == CatalogScope::PerSession {
            return Err(("processes".into(), words::SHARED_PROCESS_WITH_CATALOG.to_owned()));
        }
        in_range("idleTimeout", range::PROCESS_IDLE_TIMEOUT, self.idle_timeout)
    }
}

/// Refuses the first field that is set.
fn absent(fields: &[(&'static str, bool)], message: &str) -> Result<(), FieldError> {
    match fields.iter().find(|(_, is_absent)| !is_absent) {
        None => Ok(()),
        Some((field, _)) => Err(((*field).into(), message.to_owned())),
    }
}

/// Checks one environment variable. The message does not contain its value.
fn check_variable(name: &str, source: &VariableSource) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_name =
        !name.is_empty() && name.bytes().all(allowed) && !name.starts_with(|c: char| c.is_ascii_digit());
    if !is_name {
        return Err(words::VARIABLE_NAME_EXPECTED);
    }
    let sources = [
        source.env.is_some(),
        source.file.is_some(),
        source.value.is_some(),
    ];
    if sources.iter().filter(|is_set| **is_set).count() != 1 {
        return Err(words::VARIABLE_SOURCE_EXPECTED);
    }
    match &source.value {
        Some(value) if value.contains('\0') => Err(words::NUL_IN_COMMAND),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AggregationConfig;

    fn check(text: &str) -> Result<(), String> {
        let backend: BackendConfig = serde_yaml::from_str(&format!("{{name: a, {text}}}")).unwrap();
        let checked = backend.check(&AggregationConfig::default());
        checked.map_err(|(field, message)| format!("{field}: {message}"))
    }

    #[test]
    fn valid_commands_are_accepted() {
        for text in [
            "command: [uvx, mcp-server-git, '']",
            "command: [./server], env: {TOKEN: {env: GIT_TOKEN}, KEY: {file: key}, LEVEL: {value: ''}}, workingDirectory: /repo",
            "command: [x], processes: shared, maxProcesses: 1, idleTimeout: 1h",
            "command: [x], timeouts: {call: 5m}, prefix: y_, tools: {allow: [a]}",
        ] {
            check(text).unwrap();
        }
    }

    #[test]
    fn invalid_command_is_rejected_with_its_path() {
        for (text, path, reason) in [
            ("timeouts: {call: 1s}", "url", "in `command` the program"),
            ("command: [], url: ''", "url", "in `command` the program"),
            ("command: ['']", "command[0]", "the program to run"),
            ("command: [a, \"b\\0\"]", "command[1]", "NUL"),
            (
                "command: [a], url: 'http://a/mcp'",
                "url",
                "has no effect with `command`",
            ),
            (
                "command: [a], headers: {X-A: {env: X}}",
                "headers",
                "has no effect",
            ),
            ("command: [a], transport: sse", "transport", "has no effect"),
            (
                "command: [a], sharedSession: true",
                "sharedSession",
                "has no effect",
            ),
            (
                "command: [a], addresses: [127.0.0.1]",
                "addresses",
                "has no effect",
            ),
            ("command: [a], passHeaders: [X-A]", "passHeaders", "has no effect"),
            ("command: [a], tls: {}", "tls", "has no effect"),
            (
                "command: [a], env: {1A: {value: x}}",
                "env.1A",
                "name of an environment variable",
            ),
            ("command: [a], env: {A: {}}", "env.A", "exactly one"),
            (
                "command: [a], env: {A: {value: x, file: y}}",
                "env.A",
                "exactly one",
            ),
            ("command: [a], env: {A: {value: \"x\\0\"}}", "env.A", "NUL"),
            ("command: [a], maxProcesses: 0", "maxProcesses", "1 to 4096"),
            ("command: [a], maxProcesses: 5000", "maxProcesses", "1 to 4096"),
            ("command: [a], idleTimeout: 0s", "idleTimeout", "1s to 24h"),
            (
                "command: [a], processes: shared, catalog: perSession",
                "processes",
                "no effect",
            ),
            (
                "url: 'http://a/mcp', env: {A: {value: x}}",
                "env",
                "has no effect with `url`",
            ),
            (
                "url: 'http://a/mcp', workingDirectory: /",
                "workingDirectory",
                "has no effect",
            ),
            (
                "url: 'http://a/mcp', processes: shared",
                "processes",
                "has no effect",
            ),
            (
                "url: 'http://a/mcp', maxProcesses: 3",
                "maxProcesses",
                "has no effect",
            ),
            (
                "url: 'http://a/mcp', idleTimeout: 3s",
                "idleTimeout",
                "has no effect",
            ),
        ] {
            let error = check(text).unwrap_err();
            assert!(
                error.starts_with(&format!("{path}: ")) && error.contains(reason),
                "{text}: {error}"
            );
        }
    }
}
