//! Where a backend is: at a URL, or a program that the gateway runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use vmcp_crds::config::ProcessMode;

#[cfg(test)]
use super::BackendSettings;
use super::{BackendTransport, ValueSource};

/// Where a backend is, and how the gateway speaks to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendEndpoint {
    /// A server at a URL.
    Http {
        /// URL of the MCP endpoint.
        url: Uri,
        /// The MCP transport.
        transport: BackendTransport,
    },
    /// A program that speaks on its standard streams.
    Command(Arc<ServerCommand>),
}

/// A program that is an MCP server, and how many processes of it run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCommand {
    /// The program: a path, or a name that is looked up in `PATH`.
    pub program: String,
    /// The arguments after the program.
    pub arguments: Vec<String>,
    /// The configured environment variables, by name.
    pub variables: Vec<(String, ValueSource)>,
    /// Whether the program gets all environment variables of the gateway, and not only the usual ones.
    pub inherits_environment: bool,
    /// The directory in which it starts, if not that of the gateway.
    pub directory: Option<PathBuf>,
    /// Which clients a process has.
    pub mode: ProcessMode,
    /// Maximum number of processes for clients' sessions.
    pub max_processes: usize,
    /// Time without a call after which a process ends.
    pub idle_timeout: Duration,
}

#[cfg(test)]
impl BackendSettings {
    /// The URL of a backend that has one.
    pub(crate) fn url(&self) -> Option<&Uri> {
        match &self.endpoint {
            BackendEndpoint::Http { url, .. } => Some(url),
            BackendEndpoint::Command(_) => None,
        }
    }
}
