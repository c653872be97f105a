//! Cache of verified tokens, so that a signature is not checked with every request.
//!
//! Entries are keyed by a digest under a key that only this process has: the cache holds no tokens, and its
//! content does not reveal any. An entry expires with its token, and when the issuer's keys change. The cache
//! is bounded: each shard has two generations. When the young generation is full it becomes the old one, and
//! the old one is dropped; a hit in the old generation moves the entry to the young one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmcp_crds::session_key::SessionKey;

use crate::core::Principal;

const SHARDS: usize = 16;
/// Entries per generation. 16 shards with two generations each hold at most 16,384 tokens.
const GENERATION: usize = 512;

/// Keyed digest of a token.
pub(super) type TokenDigest = [u8; 32];

#[derive(Debug)]
pub(super) struct TokenCache {
    key: SessionKey,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<TokenDigest, CachedToken>,
    old: HashMap<TokenDigest, CachedToken>,
}

#[derive(Clone, Debug)]
struct CachedToken {
    principal: Principal,
    /// The serial of the key set that verified the token.
    serial: u64,
    /// End of the token's validity, in seconds since 1970.
    valid_until: u64,
}

impl TokenCache {
    pub(super) fn new() -> anyhow::Result<Self> {
        let key = SessionKey::generate()?;
        let shards = std::array::from_fn(|_| Mutex::default());
        Ok(Self { key, shards })
    }

    pub(super) fn digest(&self, token: &[u8]) -> TokenDigest {
        self.key.mac("vmcp validated token", &[token])
    }

    /// The principal of a token that was verified with the key set `serial` and has not expired at `now`.
    pub(super) fn get(&self, digest: &TokenDigest, serial: u64, now: u64) -> Option<Principal> {
        let mut shard = self.shard(digest)?;
        if let Some(entry) = shard.young.get(digest) {
            return entry.principal_at(serial, now);
        }
        let entry = shard.old.remove(digest)?;
        let principal = entry.principal_at(serial, now)?;
        shard.put(*digest, entry);
        Some(principal)
    }

    pub(super) fn put(&self, digest: TokenDigest, serial: u64, valid_until: u64, principal: Principal) {
        let entry = CachedToken {
            principal,
            serial,
            valid_until,
        };
        if let Some(mut shard) = self.shard(&digest) {
            shard.put(digest, entry);
        }
    }

    fn shard(&self, digest: &TokenDigest) -> Option<MutexGuard<'_, Shard>> {
        let [first, ..] = digest;
        let shard = self.shards.get(usize::from(*first) % SHARDS)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shard {
    fn put(&mut self, digest: TokenDigest, entry: CachedToken) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, entry);
    }
}

impl CachedToken {
    fn principal_at(&self, serial: u64, now: u64) -> Option<Principal> {
        (self.serial == serial && now < self.valid_until).then(|| self.principal.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry belongs to one token, and expires with it and with the key set.
    #[test]
    fn entry_expires_with_its_token_and_the_keys() {
        let cache = TokenCache::new().unwrap();
        let principal = Principal::subject("https://i".into(), "a");
        let digest = cache.digest(b"token");
        cache.put(digest, 1, 100, principal.clone());
        assert_eq!(cache.get(&digest, 1, 99), Some(principal));
        assert_eq!(cache.get(&digest, 1, 100), None);
        assert_eq!(cache.get(&digest, 2, 99), None);
        assert_eq!(cache.get(&cache.digest(b"tokem"), 1, 99), None);
        let elsewhere = TokenCache::new().unwrap().digest(b"token");
        assert_ne!(elsewhere, digest, "the digest depends on the process's own key");
    }

    /// The cache is bounded, and keeps the tokens that are in use.
    #[test]
    fn cache_is_bounded_and_keeps_used_tokens() {
        let cache = TokenCache::new().unwrap();
        let used = cache.digest(b"used");
        cache.put(used, 1, 100, Principal::Anonymous);
        for number in 0..40_000_u32 {
            let digest = cache.digest(&number.to_be_bytes());
            cache.put(digest, 1, 100, Principal::Anonymous);
            assert!(cache.get(&used, 1, 1).is_some(), "forgotten after {number}");
        }
        let kept: usize = cache
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap())
            .map(|shard| shard.young.len() + shard.old.len())
            .sum();
        assert!(kept <= SHARDS * 2 * GENERATION, "{kept}");
    }
}
