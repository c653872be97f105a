//! Ids of the gateway's own requests to a backend.
//!
//! They are integers of at most 31 bits: some servers take no strings, and some read ids as `i32`. In a session of the gateway's own they
//! count from 1. In a client's upstream session the ids of the client's requests stand beside them, and those are small as a rule. There
//! they are drawn by chance from the upper half, so that they meet no id in flight, whichever replica draws.
//!
//! In a session that all clients share the ids of clients' requests are the gateway's own, too, and all are counted together
//! ([`super::shared_session`]).
//!
//! No prefix or other mark is needed: the answer to a request comes in the response to its own POST.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::value::RawValue;

use super::{Backend, BackendError};

/// Where the upper half begins.
const UPPER_HALF: u32 = 1 << 30;

/// Whose session the gateway's own requests are sent in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SessionOwner {
    #[default]
    Client,
    Gateway,
}

/// Counts the requests in the gateway's own sessions at one backend.
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
    /// The same backend, for requests in a session of the gateway's own.
    #[must_use]
    pub fn for_own_session(&self) -> Self {
        Self {
            session_owner: SessionOwner::Gateway,
            ..self.clone()
        }
    }

    /// The id of the next request of a client, where all clients share a session, and the client's own could be another one's, too.
    #[must_use]
    pub fn id_in_shared_session(&self) -> Option<Box<RawValue>> {
        self.shares_session().then(|| self.next_id().ok()).flatten()
    }

    /// The id of the next request of the gateway's own.
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
    fn own_ids_count_from_1_and_others_are_apart() {
        let counter = RequestCounter::default();
        let own: Vec<u32> = (0..3).map(|_| counter.next(SessionOwner::Gateway)).collect();
        assert_eq!(own, [1, 2, 3]);
        for _ in 0..100 {
            let id = counter.next(SessionOwner::Client);
            assert!(id >= UPPER_HALF && i32::try_from(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn own_ids_stay_below_the_upper_half_for_ever() {
        let counter = RequestCounter(AtomicU32::new(UPPER_HALF - 2));
        let own: Vec<u32> = (0..2).map(|_| counter.next(SessionOwner::Gateway)).collect();
        assert_eq!(own, [UPPER_HALF - 1, 1]);
    }
}
