//! The subcommands that print something and end.

use std::process::ExitCode;

use anyhow::Context as _;
use secrecy::SecretString;
use vmcp_crds::config::{GatewayConfig, REDIS_PASSWORD_ENV, without_line_break};
use vmcp_crds::session_key::SessionKey;

use crate::args::{ConfigFile, ServerArgs};
use crate::config::{Config, InvalidConfig};
use crate::preflight;
use crate::session::id::signing_keys::SigningKeys;
use crate::supervisor;

/// Reads and validates the configuration, with the password of the session store from the environment.
///
/// # Errors
/// When the configuration is invalid, or a file that the gateway needs to start cannot be used.
pub fn load(file: &ConfigFile) -> Result<Config, InvalidConfig> {
    let password = std::env::var(REDIS_PASSWORD_ENV)
        .ok()
        .map(|password| without_line_break(&password).to_owned())
        .filter(|password| !password.is_empty());
    preflight::load(&file.config, password.map(SecretString::from))
}

/// `validate`: prints the configuration with all defaults.
///
/// # Errors
/// As [`load`], and when a program of a backend cannot be executed.
pub fn validate(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let config = load(file)?;
    preflight::check_programs(&config, &file.config)?;
    let effective = GatewayConfig::load(&file.config)?.effective();
    print!("{}", serde_yaml::to_string(&effective)?);
    Ok(ExitCode::SUCCESS)
}

/// `keygen`: prints a new session key.
///
/// # Errors
/// When the system has no random numbers.
pub fn keygen() -> anyhow::Result<ExitCode> {
    println!("{}", SessionKey::generate()?.to_text());
    Ok(ExitCode::SUCCESS)
}

/// `status-token`: prints the bearer token of `/status`.
///
/// # Errors
/// As [`load`], and when there are no session keys.
pub fn status_token(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let config = load(file)?;
    let directory = config.session_keys.as_deref();
    let keys = SigningKeys::load(directory.context("no sessionKeys are configured; /status is open")?)?;
    let server = &config.server;
    println!("{}", keys.current().status_token(&server.namespace, &server.name));
    Ok(ExitCode::SUCCESS)
}

/// `supervise`: runs a server until it ends.
///
/// # Errors
/// As [`supervisor::supervise`].
pub fn supervise(server: &ServerArgs) -> anyhow::Result<ExitCode> {
    let (program, arguments) = server.command.split_first().context("no program")?;
    supervisor::supervise(program, arguments)
}
