//! How a gateway runs an MCP server that speaks on its standard streams.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// Which clients a process of a server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProcessMode {
    /// Each session has a process of its own.
    #[default]
    PerSession,
    /// All sessions use one process.
    Shared,
}

impl ProcessMode {
    /// The mode's name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PerSession => "perSession",
            Self::Shared => "shared",
        }
    }

    /// The mode's name as an option of the bridge.
    #[must_use]
    pub fn as_option(self) -> &'static str {
        match self {
            Self::PerSession => "per-session",
            Self::Shared => "shared",
        }
    }
}

/// The source of an environment variable of a server: a variable of the gateway, a file, or the configuration itself. A secret value is
/// never in the configuration. Example: `TOKEN: {env: GIT_TOKEN}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "`env`, `file` or `value`, the source of the value"
)]
pub struct VariableSource {
    /// Environment variable of the gateway that contains the value. Either this, `file` or `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// File that contains the value; a line break at the end is ignored. A relative path starts at the directory of this configuration
    /// file. It is read each time a process starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The value itself, for example `info`. Not for secrets: everyone who can read the configuration can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The environment variables of a server, by name.
pub type Variables = BTreeMap<String, VariableSource>;

/// The default of `maxProcesses`.
#[must_use]
pub(super) fn default_max_processes() -> u32 {
    32
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(super) fn is_default_max_processes(value: &u32) -> bool {
    *value == default_max_processes()
}

/// The default of `idleTimeout`.
#[must_use]
pub(super) fn default_process_idle_timeout() -> Duration {
    Duration::from_millis(10 * 60 * 1000)
}

pub(super) fn is_default_process_idle_timeout(value: &Duration) -> bool {
    *value == default_process_idle_timeout()
}
