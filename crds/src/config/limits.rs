//! Limits on requests, memory and sessions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{cel, rules};

/// Limits on requests, memory and sessions. A request beyond a limit is rejected, with 503 and `Retry-After` if a later retry can
/// succeed. Requests within the limits are not affected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = byte_rules()))]
pub struct LimitsConfig {
    /// Maximum size of a request body in bytes, from 1024 to 268435456. A larger body is answered with 413 and not buffered.
    #[schemars(range(min = 1024, max = 268_435_456), extend("default" = default_request_bytes()))]
    #[serde(
        default = "default_request_bytes",
        skip_serializing_if = "is_default_request_bytes"
    )]
    pub request_bytes: u32,
    /// Maximum number of concurrent requests in one process, from the first byte of the body to the end of the response. Open streams of
    /// sessions (`GET`) do not count. Cancellations and responses from clients do not count either, because running requests may wait for
    /// them.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = default_requests_in_flight()))]
    #[serde(
        default = "default_requests_in_flight",
        skip_serializing_if = "is_default_requests_in_flight"
    )]
    pub requests_in_flight: u32,
    /// Maximum number of bytes that one process buffers, at least 1048576 and `requestBytes`: request bodies, buffered responses,
    /// assembled events, batches and catalogs. The responses of one backend may use a quarter of it, and all catalogs together half. If
    /// there is no room, a request is answered with 503 and `Retry-After`, and a backend's response is replaced by an error. Buffers of
    /// at most 4 KiB do not count. Default: a quarter of the container's memory limit, but at least 16 MiB and twice `requestBytes`;
    /// 128 MiB without a memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffered_bytes: Option<u64>,
    /// Part of `bufferedBytes` that request bodies may use, from their arrival until the response begins; at least `requestBytes`. One
    /// authenticated client may use a quarter of it, and at least `requestBytes`. Default: half of `bufferedBytes`, and at least
    /// `requestBytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes_in_flight: Option<u32>,
    /// Maximum number of concurrent requests of one session in one process.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = default_requests_in_flight_per_session()))]
    #[serde(
        default = "default_requests_in_flight_per_session",
        skip_serializing_if = "is_default_requests_in_flight_per_session"
    )]
    pub requests_in_flight_per_session: u32,
    /// Maximum number of sessions that clients open per second in one process. A burst of the same size is allowed.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = default_initializes_per_second()))]
    #[serde(
        default = "default_initializes_per_second",
        skip_serializing_if = "is_default_initializes_per_second"
    )]
    pub initializes_per_second: u32,
    /// Maximum number of sessions that one client opens per second in one process. A burst of the same size is allowed. Rejected requests
    /// do not count towards `initializesPerSecond`, so that one client cannot block others. Default: a tenth of `initializesPerSecond`,
    /// at least 1, for an authenticated client. Anonymous clients cannot be distinguished, and have no separate limit by default.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initializes_per_second_per_principal: Option<u32>,
    /// Maximum number of sessions of the virtual server, over all its replicas. A session counts once for each KiB that its client sends
    /// about itself in `initialize`: with N KiB each, only an N-th of this number of sessions fits.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = default_sessions()))]
    #[serde(default = "default_sessions", skip_serializing_if = "is_default_sessions")]
    pub sessions: u32,
    /// Maximum number of sessions of one client. All anonymous clients together count as one client. Default: 1000 for an authenticated
    /// client, and no limit for anonymous clients.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_per_principal: Option<u32>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            request_bytes: default_request_bytes(),
            requests_in_flight: default_requests_in_flight(),
            buffered_bytes: None,
            request_bytes_in_flight: None,
            requests_in_flight_per_session: default_requests_in_flight_per_session(),
            initializes_per_second: default_initializes_per_second(),
            initializes_per_second_per_principal: None,
            sessions: default_sessions(),
            sessions_per_principal: None,
        }
    }
}

fn byte_rules() -> Json {
    let request_bytes = format!(
        "(has(self.requestBytes) ? self.requestBytes : {})",
        default_request_bytes()
    );
    let in_flight =
        format!("!has(self.requestBytesInFlight) || self.requestBytesInFlight >= {request_bytes}");
    let buffered = format!(
        "!has(self.bufferedBytes) || (self.bufferedBytes >= {request_bytes} && self.bufferedBytes >= {})",
        rules::MIN_BUFFERED_BYTES
    );
    json!([
        cel::rule_of_field(
            "requestBytesInFlight",
            &in_flight,
            rules::REQUEST_BYTES_IN_FLIGHT_EXPECTED
        ),
        cel::rule_of_field("bufferedBytes", &buffered, rules::BUFFERED_BYTES_EXPECTED),
    ])
}

fn default_request_bytes() -> u32 {
    4 * 1024 * 1024
}

fn default_requests_in_flight() -> u32 {
    4096
}

fn default_requests_in_flight_per_session() -> u32 {
    256
}

fn default_initializes_per_second() -> u32 {
    1000
}

fn default_sessions() -> u32 {
    100_000
}

fn is_default_request_bytes(bytes: &u32) -> bool {
    *bytes == default_request_bytes()
}

fn is_default_requests_in_flight(requests: &u32) -> bool {
    *requests == default_requests_in_flight()
}

fn is_default_requests_in_flight_per_session(requests: &u32) -> bool {
    *requests == default_requests_in_flight_per_session()
}

fn is_default_initializes_per_second(initializes: &u32) -> bool {
    *initializes == default_initializes_per_second()
}

fn is_default_sessions(sessions: &u32) -> bool {
    *sessions == default_sessions()
}
