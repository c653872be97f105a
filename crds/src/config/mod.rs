//! The gateway's configuration file, version 1.
//!
//! It has two parts. The start-up part is read once, when the process starts; a change needs a restart.
//! A running gateway reloads the hot part ([`HotConfig`]). It is in the same file under `hot`, or in a separate file
//! that `hotFile` names. The operator uses a separate file.
//!
//! Secrets are never in the file: the Redis password comes from the environment variable
//! [`REDIS_PASSWORD_ENV`] or a file of its own, the session keys from a directory that [`SessionKeys`] names.

// This module parses user input, so it must never panic.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod address;
mod aggregation;
mod backend;
pub(crate) mod cel;
mod command;
mod defaults;
mod duration;
mod header_source;
mod hot;
mod incoming_auth;
mod limits;
mod location;
mod parse;
mod resilience;
pub mod rules;
mod schema;
mod schema_shape;
mod schema_validation;
#[cfg(test)]
mod schema_validation_tests;
mod session_storage;
pub mod split_file;
mod timeouts;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use address::without_ipv6;
pub use aggregation::{AggregationConfig, Capability, ConflictStrategy, FailureMode, NameRule};
#[cfg(feature = "k8s")]
pub(crate) use backend::header_rules;
pub use backend::{
    AnnotationOverride, BackendConfig, BackendTls, BackendTransport, CatalogScope, PromptOverride,
    PromptRules, ResourceRules, SessionState, ToolOverride, ToolRules,
};
pub use command::{ProcessMode, VariableSource, Variables};
pub use duration::Duration;
pub use header_source::HeaderSource;
pub use hot::{AccessLogConfig, HotConfig, LogLevel, SampleShare, ServerInfo};
pub use incoming_auth::{Audience, IncomingAuth, IncomingAuthType, OidcConfig, SigningAlgorithm};
pub use limits::LimitsConfig;
pub use parse::{ConfigError, read};
pub use resilience::{BreakerConfig, ConcurrencyConfig, HealthConfig};
pub use schema::{json_schema, reference};
pub use session_storage::{
    OnStoreOutage, RedisCluster, RedisSentinel, RedisTls, SessionStorage, SessionStorageProvider,
};
pub use timeouts::Timeouts;

/// The environment variable that contains the password of the session store. The name is ToolHive's, so that its
/// users can keep their Secrets and manifests.
pub const REDIS_PASSWORD_ENV: &str = "THV_SESSION_REDIS_PASSWORD";

/// The password in the value of an environment variable or a Secret: without one line break at the end, which editors and `echo` add.
#[must_use]
pub fn without_line_break(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// The version of the file format. A file with another version is rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConfigVersion {
    /// The only version so far.
    #[default]
    #[serde(rename = "v1")]
    V1,
}

impl ConfigVersion {
    /// The version's name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
        }
    }
}

/// The configuration of one gateway process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayConfig {
    /// The version of this file's format.
    pub version: ConfigVersion,
    /// The namespace of the virtual server. Together with `name` it separates the sessions of virtual servers that share one Redis: a
    /// session id of one virtual server is not valid at another.
    #[schemars(extend("default" = default_namespace()))]
    #[serde(default = "default_namespace", skip_serializing_if = "is_default_namespace")]
    pub namespace: String,
    /// The name of the virtual server. Clients see it as the server's name.
    #[schemars(extend("default" = default_name()))]
    #[serde(default = "default_name", skip_serializing_if = "is_default_name")]
    pub name: String,
    /// The addresses on which the gateway listens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub listeners: Listeners,
    /// Authentication of clients.
    #[serde(default, skip_serializing_if = "is_default")]
    pub incoming_auth: IncomingAuth,
    /// Where sessions are stored.
    #[serde(default, skip_serializing_if = "is_default")]
    pub session_storage: SessionStorage,
    /// The keys that sign session ids. Required with `sessionStorage.provider: redis`. Default: each process generates its own key,
    /// which is sufficient for sessions in its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_keys: Option<SessionKeys>,
    /// Time after SIGTERM in which the gateway still accepts connections but reports that it is not ready, so that load balancers stop
    /// sending requests before the listener closes.
    #[schemars(extend("default" = default_drain_delay().to_string()))]
    #[serde(
        default = "default_drain_delay",
        skip_serializing_if = "is_default_drain_delay"
    )]
    pub drain_delay: Duration,
    /// The part of the configuration that a running gateway reloads without a restart. Either this or `hotFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot: Option<HotConfig>,
    /// A file with the content of `hot`, for example `backends.yaml`. A relative path starts at the directory of this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot_file: Option<PathBuf>,
}

/// The addresses on which the gateway listens. With port 0 the system chooses a free port, which is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listeners {
    /// Address of the MCP endpoint, whose path is `/mcp`, for example `[::]:4483` for all addresses of IPv4 and IPv6.
    #[serde(default = "default_mcp_listener", deserialize_with = "address::listener")]
    #[schemars(with = "address::Listener")]
    pub mcp: SocketAddr,
    /// Address of `/livez`, `/readyz`, `/metrics` and `/status`, for example `[::]:9483`. Not for clients.
    #[serde(default = "default_admin_listener", deserialize_with = "address::listener")]
    #[schemars(with = "address::Listener")]
    pub admin: SocketAddr,
    /// Time after which the gateway closes an idle connection to the MCP endpoint, from `1s` to `24h`. It is also the time limit for the
    /// headers of a request. It must be longer than the idle timeout of a load balancer in front of the gateway. Otherwise a request is
    /// lost when the load balancer sends it on a connection that the gateway is closing. `75s` is enough for a load balancer with 60 s.
    #[schemars(
        extend("default" = default_idle_timeout().to_string()),
        extend("x-kubernetes-validations" = rules::range::IDLE_TIMEOUT.cel())
    )]
    #[serde(
        default = "default_idle_timeout",
        skip_serializing_if = "is_default_idle_timeout"
    )]
    pub idle_timeout: Duration,
    /// TLS for the MCP endpoint. With TLS the endpoint speaks HTTP/2 and HTTP/1.1. Default: no TLS, and HTTP/1.1 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// TLS for the MCP endpoint. The files are read again when they change, so that a renewed certificate needs no restart. Relative paths
/// start at the directory of this configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// PEM file with the certificate of the endpoint and those of the intermediate authorities, for example `/etc/vmcp/tls/tls.crt`.
    pub cert_file: PathBuf,
    /// PEM file with the private key of the certificate, for example `/etc/vmcp/tls/tls.key`.
    pub key_file: PathBuf,
}

/// The keys that sign session ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionKeys {
    /// Directory with the file `current` and, during a rotation, `next` and `previous`, for example `/etc/vmcp/keys`. Each file contains
    /// one key, which is the output of `vmcp-gateway keygen`. New ids are signed with `current`; ids that were signed with any of the three
    /// keys are accepted. A relative path starts at the directory of this file.
    pub directory: PathBuf,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            mcp: default_mcp_listener(),
            admin: default_admin_listener(),
            idle_timeout: default_idle_timeout(),
            tls: None,
        }
    }
}

fn default_idle_timeout() -> Duration {
    Duration::from_secs(75)
}

fn is_default_idle_timeout(timeout: &Duration) -> bool {
    *timeout == default_idle_timeout()
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn default_name() -> String {
    "vmcp".to_owned()
}

fn default_mcp_listener() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 4483).into()
}

fn default_admin_listener() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 9483).into()
}

fn default_drain_delay() -> Duration {
    Duration::from_secs(5)
}

fn is_default_namespace(namespace: &str) -> bool {
    namespace == default_namespace()
}

fn is_default_name(name: &str) -> bool {
    name == default_name()
}

fn is_default_drain_delay(delay: &Duration) -> bool {
    *delay == default_drain_delay()
}

/// Whether a field has its default value. Such fields are not written, so that an older gateway can read a newer operator's file.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
