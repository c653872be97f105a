//! The id of the current request, for the response header, the access log and other log messages.
//!
//! A proxy may send the id, so that its log can be correlated with the gateway's. Otherwise the gateway generates one. The id is task-local
//! instead of a parameter, because only logs need it.

use std::fmt;
use std::future::Future;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header of requests and responses that contains the id.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is accepted from a client.
const MAX_BYTES: usize = 128;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// The id of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// The id that the request had. Otherwise `number` is the id.
    received: Option<HeaderValue>,
    /// Pseudo-random number, unique in this process.
    number: u64,
}

/// Formats the id of the current request, or `-` outside of requests.
#[derive(Clone, Copy, Debug)]
pub struct CurrentRequestId;

impl RequestId {
    /// The id in `headers` if it is safe to log, or else a new one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        static SEED: LazyLock<u64> = LazyLock::new(crate::runtime::random::u64);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = mix(SEED.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)));
        let received = headers
            .get(HEADER)
            .filter(|value| is_safe_to_log(value.as_bytes()));
        Self {
            received: received.cloned(),
            number,
        }
    }

    /// The value of the response header.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        let generated =
            || HeaderValue::from_bytes(&hexadecimal(self.number)).unwrap_or(HeaderValue::from_static("-"));
        self.received.clone().unwrap_or_else(generated)
    }

    /// Whether this request belongs to a random sample of `threshold` out of 2^32 requests.
    #[must_use]
    pub fn is_sampled(&self, threshold: u64) -> bool {
        self.number >> 32 < threshold
    }

    /// Runs `work` with this id as the current one.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Runs `act` with this id as the current one.
    pub fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), act)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.received {
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

fn is_safe_to_log(id: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    !id.is_empty() && id.len() <= MAX_BYTES && id.iter().all(allowed)
}

/// The SplitMix64 finalizer: a bijection that turns a counter into pseudo-random numbers.
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

    fn received(id: &str) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, id.parse().unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn id_that_is_unsafe_to_log_is_replaced() {
        for id in ["4bf92f3577b34da6", "a-b_c.d:e/f+g=@", &"x".repeat(128)] {
            assert_eq!(received(id).to_string(), id);
        }
        for id in ["", "a b", "a\"b", "{}", &"x".repeat(129)] {
            let generated = received(id).to_string();
            assert!(generated != id && generated.len() == 16, "{generated}");
        }
        let (one, two) = (RequestId::of(&HeaderMap::new()), RequestId::of(&HeaderMap::new()));
        assert_ne!(one.to_string(), two.to_string());
    }

    #[tokio::test]
    async fn current_id_is_set_within_its_scope() {
        assert_eq!(CurrentRequestId.to_string(), "-");
        let id = received("abc");
        assert_eq!(
            id.clone().scope(async { CurrentRequestId.to_string() }).await,
            "abc"
        );
        assert_eq!(id.within(|| CurrentRequestId.to_string()), "abc");
    }

    #[test]
    fn sample_has_the_requested_size() {
        let sampled = |threshold| {
            let ids = std::iter::repeat_with(|| RequestId::of(&HeaderMap::new()));
            ids.take(10_000).filter(|id| id.is_sampled(threshold)).count()
        };
        assert_eq!((sampled(0), sampled(1 << 32)), (0, 10_000));
        let tenth = sampled((1 << 32) / 10);
        assert!((800..1200).contains(&tenth), "{tenth}");
    }
}
