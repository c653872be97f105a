//! The id of the request that is being answered: in the answer's header, in the access log, and in whatever else is logged meanwhile.
//!
//! A proxy in front may give it, so that its log and ours can be laid side by side; otherwise the gateway makes one. It travels with
//! the task and not through every signature, because only logs need it.

use std::fmt;
use std::future::Future;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header, of requests and of answers.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a client.
const MAX_BYTES: usize = 128;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// The id of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// What the request brought. Otherwise its id is the number.
    brought: Option<HeaderValue>,
    /// A number of this process that no other request has, and that is as good as random.
    number: u64,
}

/// Shows the id of the request that is being answered, or `-`.
#[derive(Clone, Copy, Debug)]
pub struct CurrentRequestId;

impl RequestId {
    /// The id that the request brings, if it is one that can stand in a log, or else a new one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        static SEED: LazyLock<u64> = LazyLock::new(crate::runtime::random::u64);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = mix(SEED.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)));
        let brought = headers.get(HEADER).filter(|value| is_sane(value.as_bytes()));
        Self {
            brought: brought.cloned(),
            number,
        }
    }

    /// The value of the answer's header.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        let made =
            || HeaderValue::from_bytes(&hexadecimal(self.number)).unwrap_or(HeaderValue::from_static("-"));
        self.brought.clone().unwrap_or_else(made)
    }

    /// Whether this request is one of those that are picked at random, so many of 2^32.
    #[must_use]
    pub fn is_sampled(&self, threshold: u64) -> bool {
        self.number >> 32 < threshold
    }

    /// Runs `work` as part of answering this request.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Does something as part of answering this request.
    pub fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), act)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.brought {
            Some(value) => f.write_str(value.to_str().unwrap_or("-")),
            None => write!(f, "{:016x}", self.number),
        }
    }
}

impl fmt::Display for CurrentRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        CURRENT
            .try_with(|id| id.fmt(f))
            .unwrap_or_else(|_| f.write_str("-"))
    }
}

fn is_sane(id: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    !id.is_empty() && id.len() <= MAX_BYTES && id.iter().all(allowed)
}

/// Spreads the bits of a counter over the whole number: neighbours have nothing in common, and no two have the same.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn hexadecimal(number: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (index, digit) in text.iter_mut().enumerate() {
        let nibble = (number >> (60 - 4 * index)) & 0xf;
        *digit = b"0123456789abcdef"[usize::try_from(nibble).unwrap_or_default()];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brought(id: &str) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, id.parse().unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn a_sane_id_is_kept_and_another_one_is_replaced() {
        for id in ["4bf92f3577b34da6", "a-b_c.d:e/f+g=@", &"x".repeat(128)] {
            assert_eq!(brought(id).to_string(), id);
        }
        for id in ["", "a b", "a\"b", "{}", &"x".repeat(129)] {
            let made = brought(id).to_string();
            assert!(made != id && made.len() == 16, "{made}");
        }
        let (one, two) = (RequestId::of(&HeaderMap::new()), RequestId::of(&HeaderMap::new()));
        assert_ne!(one.to_string(), two.to_string());
    }

    #[tokio::test]
    async fn it_is_known_while_its_request_is_answered() {
        assert_eq!(CurrentRequestId.to_string(), "-");
        let id = brought("abc");
        assert_eq!(
            id.clone().scope(async { CurrentRequestId.to_string() }).await,
            "abc"
        );
        assert_eq!(id.within(|| CurrentRequestId.to_string()), "abc");
    }

    #[test]
    fn so_many_are_picked_as_were_asked_for() {
        let picked = |threshold| {
            let ids = std::iter::repeat_with(|| RequestId::of(&HeaderMap::new()));
            ids.take(10_000).filter(|id| id.is_sampled(threshold)).count()
        };
        assert_eq!((picked(0), picked(1 << 32)), (0, 10_000));
        let tenth = picked((1 << 32) / 10);
        assert!((800..1200).contains(&tenth), "{tenth}");
    }
}
