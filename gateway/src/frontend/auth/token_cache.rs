//! Tokens that were found good, so that a signature is checked once and not with every request.
//!
//! A token is known by a keyed digest, under a key that only this process has, so that nothing kept here is a token or tells one.
//! An entry ends with its token, and when the issuer's keys change. The cache is bounded: each shard has two generations, and when
//! the young one is full it becomes the old one, whose entries are forgotten unless they were asked for meanwhile.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmcp_crds::session_key::SessionKey;

use crate::core::Principal;

const SHARDS: usize = 16;
/// 16 shards with two generations of this size: at most 16,384 tokens.
const GENERATION: usize = 512;

/// Stands for a token.
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
    /// The serial of the keys with which it was judged.
    serial: u64,
    /// When it ends, in seconds since 1970.
    until: u64,
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

    /// Whose token it is, if it was good with the keys `serial` and has not ended.
    pub(super) fn get(&self, digest: &TokenDigest, serial: u64, now: u64) -> Option<Principal> {
        let mut shard = self.shard(digest)?;
        if let Some(entry) = shard.young.get(digest) {
            return entry.at(serial, now);
        }
        let entry = shard.old.remove(digest)?;
        let principal = entry.at(serial, now)?;
        shard.put(*digest, entry);
        Some(principal)
    }

    pub(super) fn put(&self, digest: TokenDigest, serial: u64, until: u64, principal: Principal) {
        let entry = CachedToken {
            principal,
            serial,
            until,
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
    fn at(&self, serial: u64, now: u64) -> Option<Principal> {
        (self.serial == serial && now < self.until).then(|| self.principal.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_its_tokens_ends_with_it_and_with_the_keys() {
        let validated = TokenCache::new().unwrap();
        let principal = Principal::subject("https://i".into(), "a");
        let digest = validated.digest(b"token");
        validated.put(digest, 1, 100, principal.clone());
        assert_eq!(validated.get(&digest, 1, 99), Some(principal));
        assert_eq!(validated.get(&digest, 1, 100), None);
        assert_eq!(validated.get(&digest, 2, 99), None);
        assert_eq!(validated.get(&validated.digest(b"tokem"), 1, 99), None);
        let elsewhere = TokenCache::new().unwrap().digest(b"token");
        assert_ne!(elsewhere, digest, "the digest depends on the process's own key");
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_asked_for() {
        let validated = TokenCache::new().unwrap();
        let used = validated.digest(b"used");
        validated.put(used, 1, 100, Principal::Anonymous);
        for number in 0..40_000_u32 {
            let digest = validated.digest(&number.to_be_bytes());
            validated.put(digest, 1, 100, Principal::Anonymous);
            assert!(validated.get(&used, 1, 1).is_some(), "forgotten after {number}");
        }
        let kept: usize = validated
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap())
            .map(|shard| shard.young.len() + shard.old.len())
            .sum();
        assert!(kept <= SHARDS * 2 * GENERATION, "{kept}");
    }
}
