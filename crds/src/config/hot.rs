//! The hot part: what a running gateway takes without a restart.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;

/// What a running gateway takes without a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HotConfig {
    /// How much the gateway logs.
    #[schemars(extend("default" = LogLevel::default().as_str()))]
    #[serde(default, skip_serializing_if = "is_default")]
    pub log_level: LogLevel,
    /// The MCP servers that the gateway offers as one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendConfig>,
}

/// One MCP server behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendConfig {
    /// The name of the backend, unique among the backends: a DNS label (lower-case letters, digits and `-`, at most 63
    /// characters). Its tools are offered as `<name>_<tool>`.
    pub name: String,
    /// The URL of its streamable HTTP endpoint, for example `http://time.tools.svc:8000/mcp`.
    pub url: String,
}

/// How much the gateway logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what went wrong in the gateway itself.
    Error,
    /// Also what went wrong around it: backends, store, clients.
    Warn,
    /// Also what happens to the process as a whole.
    #[default]
    Info,
    /// Also one line per request.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level's name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
