//! Whether the programs of backends with a command can be executed.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::config::{BackendEndpoint, Config, HotSource, InvalidConfig, ServerCommand, ValueSource};

use super::reject;

/// Checks that each program exists and can be executed. `serve` does not: a program may be installed later, and the other backends do not
/// depend on it.
///
/// # Errors
/// Names the field of the first program that cannot be executed, and the reason.
pub fn check_programs(config: &Config, file: &Path) -> Result<(), InvalidConfig> {
    for (index, backend) in config.hot.backends.iter().enumerate() {
        let BackendEndpoint::Command(command) = &backend.endpoint else {
            continue;
        };
        if let Err(reason) = find(command) {
            let (part, path) = match &config.hot_source {
                Some(HotSource::Separate(file)) => ("", file.as_path()),
                Some(HotSource::Combined(_)) | None => ("hot.", file),
            };
            let field = format!("{part}backends[{index}].command");
            let advice = "install the program, or write its whole path";
            return reject(path, &field, anyhow::Error::msg(reason), advice);
        }
    }
    Ok(())
}

/// Looks for the program as the system will.
fn find(command: &ServerCommand) -> Result<(), String> {
    let program = &command.program;
    if program.contains('/') {
        let directory = command.directory.as_deref().unwrap_or_else(|| Path::new(""));
        return executable(&directory.join(program)).map_err(|reason| format!("{program:?} {reason}"));
    }
    let search = search_path(command);
    let mut reason = None;
    for directory in env::split_paths(&search) {
        match executable(&directory.join(program)) {
            Ok(()) => return Ok(()),
            Err(NOT_THERE) => {}
            Err(other) => reason = Some(format!("{:?} {other}", directory.join(program))),
        }
    }
    Err(reason.unwrap_or_else(|| format!("{program:?} is in no directory of PATH ({})", search.display())))
}

/// The `PATH` of the server: the configured one, or that of the gateway.
fn search_path(command: &ServerCommand) -> OsString {
    let configured = command.variables.iter().find(|(name, _)| name == "PATH");
    match configured {
        Some((_, ValueSource::Value(path))) => path.into(),
        Some((_, ValueSource::Env(variable))) => env::var_os(variable).unwrap_or_default(),
        Some((_, ValueSource::File(_))) | None => env::var_os("PATH").unwrap_or_default(),
    }
}

const NOT_THERE: &str = "does not exist";

fn executable(file: &Path) -> Result<(), &'static str> {
    match fs::metadata(file) {
        Ok(found) if found.is_dir() => Err("is a directory"),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Err("is not executable"),
        Ok(_) => Ok(()),
        Err(_) => Err(NOT_THERE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of the check of `command`, in a directory with an executable file `server` and a file `text`.
    fn error(command: &str) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        for (name, mode) in [("server", 0o755), ("text", 0o644)] {
            fs::write(at.join(name), "").unwrap();
            fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let command = command.replace("DIR", &at.display().to_string());
        let file = at.join("gateway.yaml");
        let text = format!("version: v1\nhot:\n  backends:\n    - name: a\n      {command}\n");
        fs::write(&file, text).unwrap();
        let config = Config::load(&file, None).unwrap();
        check_programs(&config, &file)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn program_that_exists_is_accepted() {
        for command in [
            "command: [sh, -c, exit]",
            "command: [DIR/server]",
            "command: [./server]\n      workingDirectory: .",
            "command: [server]\n      env: {PATH: {value: DIR}}",
        ] {
            assert_eq!(error(command), None, "{command}");
        }
    }

    #[test]
    fn absent_program_is_named_with_its_line() {
        for (command, reason) in [
            (
                "command: [no-such-program]",
                "\"no-such-program\" is in no directory of PATH",
            ),
            ("command: [DIR/nothing]", "nothing\" does not exist"),
            ("command: [DIR/text]", "text\" is not executable"),
            ("command: [DIR]", "is a directory"),
            (
                "command: [text]\n      env: {PATH: {value: DIR}}",
                "text\" is not executable",
            ),
        ] {
            let error = error(command).unwrap();
            assert!(
                error.contains("gateway.yaml:5: at `hot.backends[0].command`") && error.contains(reason),
                "{command}: {error}"
            );
        }
    }
}
