//! How much the gateway takes on at a time.

use vmcp_crds::config::LimitsConfig;

/// How many sessions one authenticated client has at a time, where the configuration does not say.
const SESSIONS_PER_PRINCIPAL: u32 = 1000;

/// The part of the sessions that one authenticated client opens in a second, where the configuration does not say.
const PRINCIPAL_PART_OF_INITIALIZES: u32 = 10;

/// How much the gateway takes on at a time. Every number is at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// The largest body of a request, in bytes.
    pub request_bytes: usize,
    /// How many requests run in the process at a time.
    pub requests_in_flight: usize,
    /// How many bytes are buffered at a time; `None` where it follows from the memory that there is.
    pub buffered_bytes: Option<usize>,
    /// How many of them may be bodies of requests; `None` where it follows from those.
    pub request_bytes_in_flight: Option<usize>,
    /// How many of the requests belong to one session.
    pub requests_in_flight_per_session: usize,
    /// How many sessions are opened in a second.
    pub initializes_per_second: u32,
    initializes_per_second_per_principal: Option<u32>,
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

impl SessionLimits {
    /// The limits for one that counts as `weight` sessions: of those that are as heavy there are at most a `weight`-th part. Whoever looks at
    /// the number of sessions alone thereby bounds their bytes, too: of weights up to N to that of about ln N times as many light ones.
    #[must_use]
    pub fn of_weight(self, weight: u32) -> Self {
        let part = |limit: u32| (limit / weight.max(1)).max(1);
        let (server, principal) = (part(self.server), part(self.principal));
        // Where a principal has a limit of its own, it keeps one.
        let least = if self.principal < self.server {
            principal.saturating_add(1)
        } else {
            1
        };
        Self {
            server: server.max(least),
            principal,
        }
    }
}

impl RequestLimits {
    /// How many sessions one principal opens in a second; `None` where only the limit of all holds for it.
    #[must_use]
    pub fn initializes_per_second_of_one(&self, anonymous: bool) -> Option<u32> {
        let default = (self.initializes_per_second / PRINCIPAL_PART_OF_INITIALIZES).max(1);
        self.initializes_per_second_per_principal
            .or((!anonymous).then_some(default))
    }

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

impl From<&LimitsConfig> for RequestLimits {
    fn from(raw: &LimitsConfig) -> Self {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            request_bytes: size(raw.request_bytes),
            requests_in_flight: size(raw.requests_in_flight),
            buffered_bytes: raw
                .buffered_bytes
                .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            request_bytes_in_flight: raw.request_bytes_in_flight.map(size),
            requests_in_flight_per_session: size(raw.requests_in_flight_per_session),
            initializes_per_second: raw.initializes_per_second,
            initializes_per_second_per_principal: raw.initializes_per_second_per_principal,
            sessions: raw.sessions,
            sessions_per_principal: raw.sessions_per_principal,
        }
    }
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self::from(&LimitsConfig::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_sessions_may_be_fewer_and_at_least_one() {
        let limits = |server, principal| SessionLimits { server, principal };
        assert_eq!(limits(1000, 100).of_weight(1), limits(1000, 100));
        assert_eq!(limits(1000, 100).of_weight(32), limits(31, 3));
        assert_eq!(limits(10, 9).of_weight(32), limits(2, 1));
        assert_eq!(limits(10, 10).of_weight(32), limits(1, 1));
    }

    #[test]
    fn anonymous_clients_have_a_limit_of_their_own_only_where_the_configuration_gives_one() {
        let of = |raw: LimitsConfig, anonymous| RequestLimits::from(&raw).sessions(anonymous).principal;
        let with = |per_principal| LimitsConfig {
            sessions: 5000,
            sessions_per_principal: per_principal,
            ..LimitsConfig::default()
        };
        assert_eq!((of(with(None), true), of(with(None), false)), (5000, 1000));
        assert_eq!((of(with(Some(7)), true), of(with(Some(7)), false)), (7, 7));
    }
}
