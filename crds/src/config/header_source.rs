//! The source of a header's value in requests to backends.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{cel, rules};

/// The source of a header's value: an environment variable of the gateway, a file, or the configuration itself. A secret value is never in
/// the configuration. Example: `Authorization: {env: TOKEN, prefix: 'Bearer '}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "`env`, `file` or `value`, the source of the value"
)]
pub struct HeaderSource {
    /// Environment variable that contains the value. Either this, `file` or `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// File that contains the value; a line break at the end is ignored. A relative path starts at the directory of this configuration
    /// file. A changed file is read again within one second. If it cannot be read, the last value stays in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The value itself, for example `eu-west-1`. Not for secrets: everyone who can read the configuration can read it.
    #[schemars(length(max = 8192), extend("x-kubernetes-validations" = value_rules()))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Text before the value, for example `Bearer ` with a space at the end.
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = prefix_rules()))]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// True if the text has only characters that a header may contain.
const IS_HEADER_TEXT: &str = r"!self.matches('[\\x00-\\x08\\x0a-\\x1f\\x7f]')";

fn value_rules() -> Json {
    let rule = format!("size(self) > 0 && {IS_HEADER_TEXT}");
    json!([cel::rule(&rule, rules::HEADER_VALUE_EXPECTED)])
}

fn prefix_rules() -> Json {
    json!([cel::rule(IS_HEADER_TEXT, rules::HEADER_PREFIX_EXPECTED)])
}
