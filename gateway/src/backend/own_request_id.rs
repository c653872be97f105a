//! Ids of the gateway's own requests to a backend.
//!
//! Ids are integers of at most 31 bits, because some servers take no strings and some read ids as `i32`. In a session of the gateway they
//! count from 1. A client's upstream session also carries the client's ids, which are usually small. There the gateway draws random ids
//! from the upper half, so that two replicas and the client do not collide.
//!
//! In a shared session the gateway also assigns the ids of clients' requests, from the same counter ([`super::shared_session`]).
//!
//! Ids need no prefix: the response to a request arrives in the response to its own POST.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::value::RawValue;

use super::{Backend, BackendError};

/// The first id of the upper half.
const UPPER_HALF: u32 = 1 << 30;

/// The owner of the session that the gateway's own requests use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SessionOwner {
    #[default]
    Client,
    Gateway,
}

/// The request counter of the gateway's own sessions at one backend.
#[derive(Debug, Default)]
pub(super) struct RequestCounter(AtomicU32);

impl RequestCounter {
    fn next(&self, owner: SessionOwner) -> u32 {
        match owner {
            SessionOwner::Gateway => self.0.fetch_add(1, Ordering::Relaxed) % (UPPER_HALF - 1) + 1,
            SessionOwner::Client => {
                let [a, b, c, d, ..] = crate::runtime::random::u64().to_be_bytes();
                UPPER_HALF | (u32::from_be_bytes([a, b, c, d]) % UPPER_HALF)
            }
        }
    }
}

impl Backend {
    /// Returns the backend for requests in a session of the gateway.
    #[must_use]
    pub fn for_own_session(&self) -> Self {
        Self {
            session_owner: SessionOwner::Gateway,
            ..self.clone()
        }
    }

    /// Assigns an id to a client's request in a shared session, where the client's own id may collide with another client's.
    #[must_use]
    pub fn id_in_shared_session(&self) -> Option<Box<RawValue>> {
        self.shares_session().then(|| self.next_id().ok()).flatten()
    }

    /// Assigns the id of the gateway's next own request.
    pub(super) fn next_id(&self) -> Result<Box<RawValue>, BackendError> {
        let id = if self.shares_session() {
            self.next_shared_id()
        } else {
            self.inner.requests.next(self.session_owner)
        };
        RawValue::from_string(id.to_string()).map_err(|error| BackendError::Invalid(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_ids_count_from_1_and_avoid_client_ids() {
        let counter = RequestCounter::default();
        let own: Vec<u32> = (0..3).map(|_| counter.next(SessionOwner::Gateway)).collect();
        assert_eq!(own, [1, 2, 3]);
        for _ in 0..100 {
            let id = counter.next(SessionOwner::Client);
            assert!(id >= UPPER_HALF && i32::try_from(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn own_ids_wrap_below_the_upper_half() {
        let counter = RequestCounter(AtomicU32::new(UPPER_HALF - 2));
        let own: Vec<u32> = (0..2).map(|_| counter.next(SessionOwner::Gateway)).collect();
        assert_eq!(own, [UPPER_HALF - 1, 1]);
    }
}
