//! Headers of requests to backends.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the value of a header comes from: either an environment variable of the gateway or a file. The value itself, which is
/// usually a secret, never stands in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "`env` or `file`, which says where the value is"
)]
pub struct HeaderSource {
    /// The environment variable that holds the value. Either this or `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// The file that holds the value, without the line end behind it; a relative path starts at the directory of the file in which
    /// this stands. It is read again within a second when it changes; while it cannot be read the last value stays in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// What stands in front of the value, for example `Bearer ` with its blank.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}
