//! Throttles the `list_changed` notifications of one stream.

use std::time::Duration;

use tokio::time::Instant;

/// Pause after the first notification. It doubles with every change that follows immediately.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause. After as long a time without a change, the pause starts again at [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Exponential backoff of notifications. The first change is reported at once; changes that follow are
/// reported together, with growing pauses. Without it, a list that keeps changing would make every client
/// fetch the whole list each time.
#[derive(Debug, Default)]
pub(super) struct ListChangedThrottle {
    pause: Duration,
    /// End of the pause after the last notification.
    pause_ends: Option<Instant>,
}

impl ListChangedThrottle {
    /// How long the next notification must wait; `None` if it may be sent now.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let left = self.pause_ends?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Records that a notification was sent at `now`.
    pub(super) fn record(&mut self, now: Instant) {
        let is_first = self
            .pause_ends
            .is_none_or(|pause_ends| now >= pause_ends + LONGEST_PAUSE);
        self.pause = if is_first {
            FIRST_PAUSE
        } else {
            (self.pause * 2).min(LONGEST_PAUSE)
        };
        self.pause_ends = Some(now + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first change is reported at once, and further ones with growing pauses.
    #[test]
    fn list_changes_are_reported_with_growing_pauses() {
        let (mut throttle, start) = (ListChangedThrottle::default(), Instant::now());
        let mut now = start;
        let mut sent_at = Vec::new();
        for _ in 0..8 {
            now += throttle.pause(now).unwrap_or_default();
            throttle.record(now);
            sent_at.push((now - start).as_secs());
        }
        assert_eq!(sent_at, [0, 1, 3, 7, 15, 31, 61, 91]);
        now += LONGEST_PAUSE * 2;
        assert_eq!(throttle.pause(now), None, "it has been calm");
        throttle.record(now);
        assert_eq!(throttle.pause(now), Some(FIRST_PAUSE));
    }
}
