//! Limits of concurrent requests, memory and sessions: validated settings.

use vmcp_crds::config::LimitsConfig;

/// Default limit of the sessions of one authenticated principal.
const SESSIONS_PER_PRINCIPAL: u32 = 1000;

/// Default divisor: one authenticated principal may open this part of the sessions that are allowed per second.
const PRINCIPAL_PART_OF_INITIALIZES: u32 = 10;

/// Limits of concurrent requests, memory and sessions. Every number is at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Largest body of a request, in bytes.
    pub request_bytes: usize,
    /// Most concurrent requests in the process.
    pub requests_in_flight: usize,
    /// Most bytes that are buffered at a time. `None` derives the limit from the memory of the process.
    pub buffered_bytes: Option<usize>,
    /// Most buffered bytes of request bodies. `None` derives the limit from the one of all buffered bytes.
    pub request_bytes_in_flight: Option<usize>,
    /// Most concurrent requests of one session.
    pub requests_in_flight_per_session: usize,
    /// Most sessions that are opened per second.
    pub initializes_per_second: u32,
    initializes_per_second_per_principal: Option<u32>,
    /// Most sessions at a time, over all replicas.
    sessions: u32,
    sessions_per_principal: Option<u32>,
}

/// Most sessions at a time, checked when one more is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Limit of the virtual server, over all replicas.
    pub server: u32,
    /// Limit of the principal that creates the session.
    pub principal: u32,
}

impl SessionLimits {
    /// The limits for a session that counts as `weight` sessions: the limits divided by the weight. A check of the session count alone then
    /// bounds the memory of all sessions, too. With weights up to N, that bound is about ln N times the one of sessions of weight 1.
    #[must_use]
    pub fn for_weight(self, weight: u32) -> Self {
        let part = |limit: u32| (limit / weight.max(1)).max(1);
        let (server, principal) = (part(self.server), part(self.principal));
        // A principal with its own limit must not fill the whole server.
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
    /// Most sessions that one principal opens per second. `None` if only the server's limit applies to it.
    #[must_use]
    pub fn initializes_per_second_per_principal(&self, anonymous: bool) -> Option<u32> {
        let default = (self.initializes_per_second / PRINCIPAL_PART_OF_INITIALIZES).max(1);
        self.initializes_per_second_per_principal
            .or((!anonymous).then_some(default))
    }

    /// The limits that apply to the creation of one more session. Anonymous clients cannot be distinguished. They share one principal's
    /// limit if the configuration sets it, and otherwise only the server's limit applies to them.
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
    fn limits_shrink_with_weight_but_allow_one_session() {
        let limits = |server, principal| SessionLimits { server, principal };
        assert_eq!(limits(1000, 100).for_weight(1), limits(1000, 100));
        assert_eq!(limits(1000, 100).for_weight(32), limits(31, 3));
        assert_eq!(limits(10, 9).for_weight(32), limits(2, 1));
        assert_eq!(limits(10, 10).for_weight(32), limits(1, 1));
    }

    /// Anonymous clients have a common limit only if the configuration sets one.
    #[test]
    fn anonymous_limit_needs_configuration() {
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
