//! Time limits of connections and calls to a backend.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::range;
use super::{Duration, is_default};

/// Time limits of connections and calls to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// Time limit for opening a connection: DNS lookup, connect and TLS handshake together. A call that exceeds it has not been sent.
    #[schemars(
        extend("default" = default_connect().to_string()),
        extend("x-kubernetes-validations" = range::TIMEOUT.cel())
    )]
    #[serde(default = "default_connect", skip_serializing_if = "is_default_connect")]
    pub connect: Duration,
    /// Time limit until the first byte of the response. Default: the time limit of the whole call. Set it only for a backend that responds
    /// with event streams: a backend that responds with JSON sends nothing until the tool has finished.
    #[schemars(extend("x-kubernetes-validations" = range::TIMEOUT.cel()))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<Duration>,
    /// Maximum pause in the middle of a JSON response. An event stream may be silent until the time limit of its call.
    #[schemars(
        extend("default" = default_idle().to_string()),
        extend("x-kubernetes-validations" = range::TIMEOUT.cel())
    )]
    #[serde(default = "default_idle", skip_serializing_if = "is_default_idle")]
    pub idle: Duration,
    /// Time limit of a call, from its arrival to the end of its response, at most `24h`. `tools.deadlines` overrides it for single tools.
    /// After that the client gets an error, and the gateway sends a cancellation to the backend. When a client resumes the stream of a
    /// call, the time starts again.
    #[schemars(
        extend("default" = default_call().to_string()),
        extend("x-kubernetes-validations" = range::TIMEOUT.cel())
    )]
    #[serde(default = "default_call", skip_serializing_if = "is_default_call")]
    pub call: Duration,
    /// Whether each progress notification of the backend restarts the time limit of the call.
    #[serde(default, skip_serializing_if = "is_default")]
    pub extend_on_progress: bool,
}

impl Timeouts {
    /// Default time limit of a call.
    pub const DEFAULT_CALL: Duration = Duration::from_secs(120);
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: default_connect(),
            first_byte: None,
            idle: default_idle(),
            call: default_call(),
            extend_on_progress: false,
        }
    }
}

fn default_connect() -> Duration {
    Duration::from_secs(2)
}

fn is_default_connect(value: &Duration) -> bool {
    *value == default_connect()
}

fn default_idle() -> Duration {
    Duration::from_secs(60)
}

fn is_default_idle(value: &Duration) -> bool {
    *value == default_idle()
}

fn default_call() -> Duration {
    Timeouts::DEFAULT_CALL
}

fn is_default_call(value: &Duration) -> bool {
    *value == default_call()
}
