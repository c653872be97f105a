//! Hash maps keyed by record keys, without hashing.
//!
//! The process draws the keys at random, and an id with any other key fails signature verification before the lookup.
//! So a client cannot choose colliding keys, and the key's own bits serve as its hash.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::session::record::RecordKey;

/// A hash map keyed by record keys.
pub(in crate::session) type KeyMap<V> = HashMap<RecordKey, V, BuildHasherDefault<RandomBits>>;

/// Hasher that uses the key's own random bits as the hash.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::session) struct RandomBits(u64);

impl Hasher for RandomBits {
    fn write(&mut self, bytes: &[u8]) {
        let bits = bytes.first_chunk().map_or(0, |bits| u64::from_le_bytes(*bits));
        // A multiplication spreads sequential keys, which tests use, over the buckets as well.
        let spread = u128::from(bits) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (spread >> 64) as u64 ^ spread as u64;
    }

    fn write_usize(&mut self, _length: usize) {
        // All keys have the same length, so the length adds nothing.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn key_bits_spread_over_buckets_and_tags() {
        // Sequential keys spread over the buckets and control tags of a hash table as well as random numbers.
        let spread = KeyMap::<()>::default();
        let hashes: Vec<_> = (0..4096)
            .map(|_| spread.hasher().hash_one(RecordKey::random()))
            .collect();
        let places: HashSet<_> = hashes.iter().map(|hash| hash & 4095).collect();
        let tags: HashSet<_> = hashes.iter().map(|hash| hash >> 57).collect();
        // Random numbers would give about as many buckets.
        assert!((2400..2800).contains(&places.len()), "{}", places.len());
        assert_eq!(tags.len(), 128);
    }
}
