//! How much the gateway takes on at a time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much the gateway takes on at a time. What is beyond a limit is refused, with 503 and `Retry-After` where trying again later
/// helps, and nobody who is within it is disturbed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsConfig {
    /// The largest body of a request, in bytes, from 1024 to 268435456. A larger one is answered with 413 and not kept.
    #[schemars(range(min = 1024, max = 268_435_456), extend("default" = default_request_bytes()))]
    #[serde(
        default = "default_request_bytes",
        skip_serializing_if = "is_default_request_bytes"
    )]
    pub request_bytes: u32,
    /// How many requests run in this process at a time, from when their bodies begin to arrive until their answers have gone out.
    /// Open streams of sessions (`GET`) are not among them, and neither are cancellations and answers of clients, on which running
    /// requests may wait.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = default_requests_in_flight()))]
    #[serde(
        default = "default_requests_in_flight",
        skip_serializing_if = "is_default_requests_in_flight"
    )]
    pub requests_in_flight: u32,
    /// How many bytes this process buffers at a time, from 1048576: request bodies, answers that are read whole, events that are
    /// assembled, gathered batches and catalogs. One backend's answers may take a quarter of it, all catalogs together half. What finds no
    /// room is refused: a request with 503 and `Retry-After`, an answer of a backend with an error for its request. What is not larger
    /// than 4 KiB is not counted. At least `requestBytes`. Without it: a quarter of the memory limit of the container, at least 16 MiB
    /// and twice `requestBytes`; 128 MiB where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffered_bytes: Option<u64>,
    /// How many of the buffered bytes may be request bodies, while they arrive and until their answers begin; at least
    /// `requestBytes`. One client that has authenticated may take a quarter of them, and at least `requestBytes`. Without it: half of
    /// `bufferedBytes`, and at least `requestBytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes_in_flight: Option<u32>,
    /// How many requests of one session run in this process at a time.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = default_requests_in_flight_per_session()))]
    #[serde(
        default = "default_requests_in_flight_per_session",
        skip_serializing_if = "is_default_requests_in_flight_per_session"
    )]
    pub requests_in_flight_per_session: u32,
    /// How many sessions are opened in this process in a second; as many may come at once.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = default_initializes_per_second()))]
    #[serde(
        default = "default_initializes_per_second",
        skip_serializing_if = "is_default_initializes_per_second"
    )]
    pub initializes_per_second: u32,
    /// How many sessions one client opens in this process in a second; as many may come at once. What is beyond it does not count towards
    /// `initializesPerSecond`, so that one client does not keep others out. Without it: a tenth of `initializesPerSecond`, at least 1, for
    /// a client that has authenticated, and no limit of their own for anonymous clients, who cannot be told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initializes_per_second_per_principal: Option<u32>,
    /// How many sessions of the virtual server there are at a time, over all its replicas. A session whose client says more than 1 KiB of
    /// itself in `initialize` weighs more: of those with N KiB there are at most an N-th part.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = default_sessions()))]
    #[serde(default = "default_sessions", skip_serializing_if = "is_default_sessions")]
    pub sessions: u32,
    /// How many of them belong to one client. Without it: 1000 to a client that has authenticated, and any number to anonymous
    /// clients, who cannot be told apart. With it: so many to anonymous clients together.
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
