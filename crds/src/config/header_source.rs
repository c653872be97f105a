//! The source of a header's value in requests to backends.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The source of a header's value: an environment variable of the gateway, or a file. The value itself is usually a secret, and is
/// never in the configuration. Example: `Authorization: {env: TOKEN, prefix: 'Bearer '}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "`env` or `file`, the source of the value"
)]
pub struct HeaderSource {
    /// Environment variable that contains the value. Either this or `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// File that contains the value; a line break at the end is ignored. A relative path starts at the directory of this configuration
    /// file. A changed file is read again within one second. If it cannot be read, the last value stays in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Text before the value, for example `Bearer ` with a space at the end.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}
