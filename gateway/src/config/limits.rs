//! How much the gateway takes on at a time.

use vmcp_crds::config::LimitsConfig;

/// How many sessions one authenticated client has at a time, where the configuration does not say.
const SESSIONS_PER_PRINCIPAL: u32 = 1000;

/// How many bytes of bodies are kept at a time, where the configuration does not say: several times that, with what is made of them, fits
/// into a small pod.
const BYTES_IN_FLIGHT: u32 = 64 * 1024 * 1024;

/// How much the gateway takes on at a time. Every number is at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest body of a request, in bytes.
    pub request_bytes: usize,
    /// How many requests run in the process at a time.
    pub requests_in_flight: usize,
    /// How many bytes of bodies are kept at a time; at least `request_bytes`.
    pub request_bytes_in_flight: usize,
    /// How many of them belong to one session.
    pub requests_in_flight_per_session: usize,
    /// How many sessions are opened in a second.
    pub initializes_per_second: u32,
    /// How many sessions there are at a time, over all replicas.
    sessions: u32,
    sessions_per_principal: Option<u32>,
}

/// How many sessions there may be at a time when one more is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Of the virtual server, over all replicas.
    pub server: u32,
    /// Of the one for whom it is created.
    pub principal: u32,
}

impl Limits {
    /// The limits when one more session is created. Anonymous clients cannot be told apart: unless the configuration says how many
    /// sessions they have together, only the server's limit holds for them.
    #[must_use]
    pub fn sessions(&self, anonymous: bool) -> SessionLimits {
        let default = if anonymous {
            self.sessions
        } else {
            SESSIONS_PER_PRINCIPAL
        };
        SessionLimits {
            server: self.sessions,
            principal: self.sessions_per_principal.unwrap_or(default),
        }
    }
}

impl From<&LimitsConfig> for Limits {
    fn from(raw: &LimitsConfig) -> Self {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            request_bytes: size(raw.request_bytes),
            requests_in_flight: size(raw.requests_in_flight),
            request_bytes_in_flight: size(
                raw.request_bytes_in_flight
                    .unwrap_or(BYTES_IN_FLIGHT.max(raw.request_bytes)),
            ),
            requests_in_flight_per_session: size(raw.requests_in_flight_per_session),
            initializes_per_second: raw.initializes_per_second,
            sessions: raw.sessions,
            sessions_per_principal: raw.sessions_per_principal,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&LimitsConfig::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_clients_have_a_limit_of_their_own_only_where_the_configuration_gives_one() {
        let of = |raw: LimitsConfig, anonymous| Limits::from(&raw).sessions(anonymous).principal;
        let with = |per_principal| LimitsConfig {
            sessions: 5000,
            sessions_per_principal: per_principal,
            ..LimitsConfig::default()
        };
        assert_eq!((of(with(None), true), of(with(None), false)), (5000, 1000));
        assert_eq!((of(with(Some(7)), true), of(with(Some(7)), false)), (7, 7));
    }
}
