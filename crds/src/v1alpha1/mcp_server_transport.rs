//! How an MCPServer speaks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::MCP_PATH;

/// The transport of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServerTransport {
    /// On standard input and output, behind a bridge.
    #[default]
    Stdio,
    /// Streamable HTTP, since protocol revision 2025-03-26.
    StreamableHttp,
    /// HTTP+SSE of protocol revision 2024-11-05.
    Sse,
}

impl ServerTransport {
    /// The path of the endpoint if the spec does not say.
    #[must_use]
    pub fn default_path(self) -> &'static str {
        match self {
            Self::Stdio | Self::StreamableHttp => MCP_PATH,
            Self::Sse => "/sse",
        }
    }
}
