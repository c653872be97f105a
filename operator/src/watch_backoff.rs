//! The pauses between attempts of a watch.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;

/// Upper bound of a pause. It also bounds how long the operator sees nothing after an API server is back.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The client library's backoff, with a lower upper bound: its own is 30 s, and still there when a second outage follows within two minutes.
#[derive(Default)]
pub(crate) struct WatchBackoff(DefaultBackoff);

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|delay| delay.min(MAX_DELAY))
    }
}

impl Backoff for WatchBackoff {
    /// Does nothing. A failed list begins with an event, after which the library resets the backoff. [`DefaultBackoff`] resets itself after two
    /// minutes without a failure.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_grows_up_to_five_seconds() {
        let mut backoff = WatchBackoff::default();
        let next = || {
            backoff.reset();
            backoff.next()
        };
        let delays: Vec<Duration> = std::iter::from_fn(next).take(20).collect();
        assert!(delays[0] < Duration::from_secs(2), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= MAX_DELAY), "{delays:?}");
        assert_eq!(delays.last(), Some(&MAX_DELAY));
    }
}
