//! `vmcp-gateway bridge`: one server that speaks on its standard streams, as an HTTP endpoint.
//!
//! It is the gateway with one backend, whose names, capabilities, identity and instructions clients see unchanged. Sessions are in memory,
//! because they end with their processes in any case.

use std::net::SocketAddr;
use std::path::Path;

use vmcp_crds::config::{BackendConfig, ConflictStrategy, Duration, GatewayConfig, HotConfig, ProcessMode};

use crate::args::BridgeArgs;
use crate::config::{BackendEndpoint, Config, InvalidConfig, ServerCommand};

/// The name of the backend in logs, metrics and `/status`.
const BACKEND: &str = "server";

/// The file that errors name.
const NO_FILE: &str = "command line";

impl BridgeArgs {
    /// The configuration of the bridge.
    ///
    /// # Errors
    /// When an argument is invalid. The message names the field of the configuration.
    pub fn to_config(&self) -> Result<Config, InvalidConfig> {
        let backend = BackendConfig {
            name: BACKEND.to_owned(),
            command: self.command.clone(),
            processes: match self.processes {
                BridgeProcesses::PerSession => ProcessMode::PerSession,
                BridgeProcesses::Shared => ProcessMode::Shared,
            },
            max_processes: self.max_processes,
            idle_timeout: self.idle_timeout,
            ..BackendConfig::default()
        };
        let mut hot = HotConfig {
            backends: vec![backend],
            ..HotConfig::default()
        };
        hot.aggregation.strategy = ConflictStrategy::None;
        let origin = Path::new(NO_FILE);
        let mut config = GatewayConfig::parse("{version: v1, name: bridge}", origin)?;
        config.hot = Some(hot);
        config.listeners.mcp = self.listen;
        config.listeners.admin = self.admin;
        let mut config = Config::of(config, origin)?;
        config.hot.presents_backend = true;
        // The server is alone in this environment, which is its own.
        for backend in &mut config.hot.backends {
            if let BackendEndpoint::Command(command) = &backend.endpoint {
                let inheriting = ServerCommand {
                    inherits_environment: true,
                    ..ServerCommand::clone(command)
                };
                backend.endpoint = BackendEndpoint::Command(inheriting.into());
            }
        }
        Ok(config)
    }
}

/// Which clients a process of the server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum BridgeProcesses {
    /// Each session has a process of its own.
    #[default]
    PerSession,
    /// All sessions use one process.
    Shared,
}

/// The default of `--listen`.
pub(crate) const DEFAULT_LISTEN: SocketAddr = any_address(8080);
/// The default of `--admin`.
pub(crate) const DEFAULT_ADMIN: SocketAddr = any_address(9483);

const fn any_address(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), port)
}

/// Parses a duration, such as `10m`.
///
/// # Errors
/// What a duration looks like.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    text.parse()
}
