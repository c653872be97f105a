//! Packages of npm and PyPI that an MCPServer starts.

use kube::KubeSchema;
use schemars::{JsonSchema as _, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::field_rules::quoted;
use crate::config::cel;

/// Matches the name of an npm package, with its scope.
const NPM_NAME: &str = "^(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*$";
/// Matches the name of a PyPI package.
const PYPI_NAME: &str = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$";
const NPM_EXPECTED: &str =
    "expected the name of an npm package, for example @modelcontextprotocol/server-memory";
const PYPI_EXPECTED: &str = "expected the name of a PyPI package, for example mcp-server-git";
const VERSION_EXPECTED: &str = "expected a version or a tag, for example 1.2.3";

/// A package, and its version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[cfg_attr(test, x_kube(cel))]
pub struct PackageRef {
    /// The name of the package.
    #[schemars(length(min = 1, max = 214))]
    pub package: String,
    /// The version of the package, for example `1.2.3`. Default: the newest one at each start of a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9.+!_-]*$')").message(VERSION_EXPECTED))]
    pub version: Option<String>,
}

impl PackageRef {
    /// `package@version`, as `npx` and `uvx` take it.
    #[must_use]
    pub fn specifier(&self) -> String {
        match &self.version {
            Some(version) => format!("{}@{version}", self.package),
            None => self.package.clone(),
        }
    }

    /// Checks that it can be a package of npm.
    ///
    /// # Errors
    /// The invalid field, what was found, and what is allowed.
    pub fn check_npm(&self) -> Result<(), String> {
        let (scope, name) = match self.package.strip_prefix('@').map(|rest| rest.split_once('/')) {
            Some(Some((scope, name))) => (Some(scope), name),
            Some(None) => (Some(""), ""),
            None => (None, self.package.as_str()),
        };
        let is_part = |part: &str| {
            let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let inner = |byte: u8| first(byte) || matches!(byte, b'.' | b'_' | b'-');
            part.bytes().next().is_some_and(first) && part.bytes().all(inner)
        };
        let is_valid = scope.is_none_or(is_part) && is_part(name) && self.package.len() <= 214;
        self.check(is_valid, NPM_EXPECTED)
    }

    /// Checks that it can be a package of PyPI.
    ///
    /// # Errors
    /// The invalid field, what was found, and what is allowed.
    pub fn check_pypi(&self) -> Result<(), String> {
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let name = self.package.as_bytes();
        let is_valid = edge(name.first().copied())
            && edge(name.last().copied())
            && name.iter().copied().all(inner)
            && name.len() <= 214;
        self.check(is_valid, PYPI_EXPECTED)
    }

    fn check(&self, is_valid: bool, expected: &str) -> Result<(), String> {
        if !is_valid {
            return Err(format!("package: found {}; {expected}", quoted(&self.package)));
        }
        let version = self.version.as_deref().unwrap_or("1");
        let inner =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'!' | b'_' | b'-');
        let starts_well = version
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if starts_well && version.bytes().all(inner) && version.len() <= 128 {
            return Ok(());
        }
        Err(format!("version: found {}; {VERSION_EXPECTED}", quoted(version)))
    }
}

/// The schema of a package of npm.
pub(super) fn npm(generator: &mut SchemaGenerator) -> Schema {
    named(generator, NPM_NAME, NPM_EXPECTED)
}

/// The schema of a package of PyPI.
pub(super) fn pypi(generator: &mut SchemaGenerator) -> Schema {
    named(generator, PYPI_NAME, PYPI_EXPECTED)
}

fn named(generator: &mut SchemaGenerator, pattern: &str, expected: &str) -> Schema {
    let mut schema = PackageRef::json_schema(generator);
    let rule = cel::rule(&format!("self.matches('{pattern}')"), expected);
    if let Some(package) = schema.pointer_mut("/properties/package") {
        package["x-kubernetes-validations"] = json!([rule]);
    }
    // As for every optional field.
    schema.insert("nullable".to_owned(), json!(true));
    schema
}
