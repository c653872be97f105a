//! Cache of verified session ids, so that a session's id is not verified with each request.
//!
//! The key of an entry is the whole id, and it is valid for one principal, so a hit equals a new verification. Only a
//! valid id gets in. An evicted id is verified again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use vmcp_crds::session_key::SessionKey;

use crate::core::Principal;
use crate::session::id::SessionId;
use crate::session::id::signing_keys::SigningKeys;

/// Maximum number of ids per generation; there are two. An entry takes about 300 bytes.
const GENERATION: usize = 2048;

/// Ids whose signature was verified recently.
#[derive(Debug, Default)]
pub(in crate::session) struct VerifiedIds {
    generations: Mutex<Generations>,
}

/// A two-generation cache: the young ids, and those of the previous generation. A hit moves an id to the young ones,
/// so ids in use survive, and eviction drops one whole generation at once.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Box<[u8]>, Verified>,
    old: HashMap<Box<[u8]>, Verified>,
}

#[derive(Clone, Debug)]
struct Verified {
    id: SessionId,
    signer: Arc<SessionKey>,
    principal: Principal,
}

impl VerifiedIds {
    /// The cached result for `text`, if it was verified for `principal` and its key is still in use.
    pub(in crate::session) fn get(
        &self,
        text: &[u8],
        keys: &SigningKeys,
        principal: &Principal,
    ) -> Option<(SessionId, Arc<SessionKey>)> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verified) = generations.young.get(text) {
            return verified.read(keys, principal);
        }
        let (text, verified) = generations.old.remove_entry(text)?;
        let read = verified.read(keys, principal);
        generations.put(text, verified);
        read
    }

    /// Caches that `text`, signed with `signer`, verified as `id` for `principal`.
    pub(in crate::session) fn add(
        &self,
        text: &[u8],
        id: &SessionId,
        signer: &Arc<SessionKey>,
        principal: &Principal,
    ) {
        let verified = Verified {
            id: id.clone(),
            signer: Arc::clone(signer),
            principal: principal.clone(),
        };
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.put(text.into(), verified);
    }
}

impl Verified {
    fn read(&self, keys: &SigningKeys, principal: &Principal) -> Option<(SessionId, Arc<SessionKey>)> {
        let usable = self.principal == *principal && keys.accept(&self.signer);
        usable.then(|| (self.id.clone(), Arc::clone(&self.signer)))
    }
}

impl Generations {
    fn put(&mut self, text: Box<[u8]>, verified: Verified) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(text, verified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::revision::Revision;
    use crate::session::client_capabilities::ClientCapabilities;
    use crate::session::record::{Incarnation, PrincipalTag, RecordKey};

    fn id(number: u32) -> SessionId {
        SessionId {
            key: RecordKey([1; 16]),
            incarnation: Incarnation([2; 8]),
            created: number,
            end: number,
            principal_tag: PrincipalTag([3; 16]),
            revision: Revision::negotiate("2025-11-25"),
            capabilities: ClientCapabilities(0),
        }
    }

    #[test]
    fn verified_id_needs_all_bytes_and_a_current_key() {
        // A cached id matches only with all its bytes, its principal, and a key that is in use.
        let (keys, verified) = (SigningKeys::random().unwrap(), VerifiedIds::default());
        let principal = Principal::Anonymous;
        verified.add(b"v1.abc", &id(7), &keys.current(), &principal);
        assert_eq!(verified.get(b"v1.abc", &keys, &principal).unwrap().0, id(7));
        assert!(verified.get(b"v1.abd", &keys, &principal).is_none());
        let rotated = SigningKeys::random().unwrap();
        assert!(verified.get(b"v1.abc", &rotated, &principal).is_none());
    }

    #[test]
    fn verified_ids_in_use_survive_eviction() {
        // The cache holds two generations at most, and an id in use stays.
        let (keys, verified) = (SigningKeys::random().unwrap(), VerifiedIds::default());
        let principal = Principal::Anonymous;
        verified.add(b"often", &id(0), &keys.current(), &principal);
        for number in 1..20_000_u32 {
            verified.add(&number.to_be_bytes(), &id(number), &keys.current(), &principal);
            assert!(verified.get(b"often", &keys, &principal).is_some());
        }
        let generations = verified.generations.lock().unwrap();
        assert!(generations.young.len() <= GENERATION && generations.old.len() <= GENERATION);
    }
}
