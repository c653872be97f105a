//! `spec.operational` of a virtual server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::rules::range;
use crate::config::{AccessLogConfig, Duration, LogLevel, Timeouts};

/// Logging, connections and time limits of the gateway pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationalSpec {
    /// Log level of the gateway. Running pods take a change without a restart. Default: `info`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub log_level: LogLevel,
    /// Which successful requests are logged. Running pods take a change without a restart.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access_log: AccessLogConfig,
    /// Time after SIGTERM in which a pod still accepts connections but reports that it is not ready, so that load balancers stop sending
    /// requests before the listener closes. A change replaces the pods. Default: `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_delay: Option<Duration>,
    /// Time after which the gateway closes an idle connection of a client, from `1s` to `24h`. It must be longer than the idle timeout of a
    /// load balancer in front of the gateway. A change replaces the pods. Default: `75s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = range::IDLE_TIMEOUT.cel()))]
    pub idle_timeout: Option<Duration>,
    /// Time limits of connections and calls to backends. An MCPServer or MCPServerEntry can set other limits in its own `timeouts`. A
    /// terminating pod waits for running calls as long as the longest limit of a call, so a change of `call` replaces the pods.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
