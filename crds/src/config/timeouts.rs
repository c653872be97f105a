//! How long a backend may take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, is_default};

/// How long a backend may take, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// How long making a connection may take: looking up the name, connecting and the TLS handshake together. A call that meets
    /// this was not sent.
    #[schemars(extend("default" = default_connect().to_string()))]
    #[serde(default = "default_connect", skip_serializing_if = "is_default_connect")]
    pub connect: Duration,
    /// How long the backend may take until the first byte of its answer. Without it, as long as the whole call. Set it only for a
    /// backend that answers with streams: one that answers with JSON sends nothing until its tool has finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<Duration>,
    /// How long the backend may pause in the middle of an answer in JSON. A stream of events may be silent for as long as its call
    /// may last.
    #[schemars(extend("default" = default_idle().to_string()))]
    #[serde(default = "default_idle", skip_serializing_if = "is_default_idle")]
    pub idle: Duration,
    /// How long a call may last from its arrival to the end of its answer, whatever happens in between; `tools.deadlines` says
    /// otherwise for single tools. After that the client gets an error for it, and the backend is told that it is cancelled. A
    /// client that comes back to the stream of a call begins a new span. At most `24h`.
    #[schemars(extend("default" = default_call().to_string()))]
    #[serde(default = "default_call", skip_serializing_if = "is_default_call")]
    pub call: Duration,
    /// Whether the deadline of a call begins anew whenever the backend reports progress on it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub extend_on_progress: bool,
}

impl Timeouts {
    /// How long a call may last where the configuration does not say.
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
