//! The environment variables of a server.

use std::ffi::OsString;

use crate::backend::BackendError;
use crate::config::{ServerCommand, ValueSource};

/// The variables that every server gets from the gateway, if the gateway has them.
const USUAL_VARIABLES: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];

/// The shortest value that is hidden in the server's output, in bytes. A shorter one occurs in ordinary words, and is too short for a
/// secret.
const MIN_HIDDEN_BYTES: usize = 4;

/// The environment variables of one process.
#[derive(Debug)]
pub(super) struct Environment {
    /// All variables, by name.
    pub(super) variables: Vec<(OsString, OsString)>,
    /// The values that the server's output must not show: those that are not in the configuration, each line by itself, the longest first.
    pub(super) secrets: Vec<String>,
}

impl Environment {
    /// Reads the values of the configured variables.
    ///
    /// # Errors
    /// When a variable has no value.
    pub(super) async fn resolve(command: &ServerCommand) -> Result<Self, BackendError> {
        let is_passed = |name: &OsString| {
            command.inherits_environment || USUAL_VARIABLES.iter().any(|usual| name == usual)
        };
        let mut variables: Vec<_> = std::env::vars_os().filter(|(name, _)| is_passed(name)).collect();
        let mut secrets = Vec::new();
        for (name, source) in &command.variables {
            let missing = |reason: String| BackendError::MissingVariable(format!("{name}: {reason}"));
            let value = match source {
                ValueSource::Value(value) => value.clone(),
                ValueSource::Env(variable) => std::env::var(variable).map_err(|_| {
                    missing(format!(
                        "the environment variable {variable} is not set, or not UTF-8"
                    ))
                })?,
                ValueSource::File(file) => {
                    let text = tokio::fs::read_to_string(file).await;
                    let text = text.map_err(|error| missing(format!("{}: {error}", file.display())))?;
                    vmcp_crds::config::without_line_break(&text).to_owned()
                }
            };
            if !matches!(source, ValueSource::Value(_)) {
                // The output is read line by line.
                let lines = value.lines().filter(|line| line.len() >= MIN_HIDDEN_BYTES);
                secrets.extend(lines.map(str::to_owned));
            }
            variables.push((name.into(), value.into()));
        }
        // A value that contains another one is hidden first, and as a whole.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Self { variables, secrets })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vmcp_crds::config::ProcessMode;

    use super::*;

    #[tokio::test]
    async fn each_line_of_a_secret_is_hidden_and_values_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "first line\nab\nthe second line\n").unwrap();
        let command = ServerCommand {
            program: "x".to_owned(),
            arguments: Vec::new(),
            variables: vec![
                ("KEY".to_owned(), ValueSource::File(file)),
                ("PLAIN".to_owned(), ValueSource::Value("public".to_owned())),
            ],
            inherits_environment: false,
            directory: None,
            mode: ProcessMode::PerSession,
            max_processes: 1,
            idle_timeout: Duration::ZERO,
        };
        let environment = Environment::resolve(&command).await.unwrap();
        assert_eq!(environment.secrets, ["the second line", "first line"]);
        let key = environment.variables.iter().find(|(name, _)| name == "KEY");
        assert_eq!(key.unwrap().1, "first line\nab\nthe second line");
    }
}
