//! How often a client is told that a list has changed.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first change. It doubles with every change that comes right behind.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause. Where nothing changes for as long, the next change is the first again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Exponential backoff of notifications: the first is sent at once, and those of a list that changes again and again are sent together,
/// ever less often. Each makes the client ask for the whole list.
#[derive(Debug, Default)]
pub(super) struct ListChangedThrottle {
    pause: Duration,
    /// When the pause after the last notification is over.
    over: Option<Instant>,
}

impl ListChangedThrottle {
    /// How long the next notification has to wait; `None` when it may be sent.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let left = self.over?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Takes note of a notification.
    pub(super) fn told(&mut self, now: Instant) {
        let is_calm = self.over.is_none_or(|over| now >= over + LONGEST_PAUSE);
        self.pause = if is_calm {
            FIRST_PAUSE
        } else {
            (self.pause * 2).min(LONGEST_PAUSE)
        };
        self.over = Some(now + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_change_is_told_at_once_and_the_next_ever_later() {
        let (mut pace, start) = (ListChangedThrottle::default(), Instant::now());
        let mut now = start;
        let mut told = Vec::new();
        for _ in 0..8 {
            now += pace.pause(now).unwrap_or_default();
            pace.told(now);
            told.push((now - start).as_secs());
        }
        assert_eq!(told, [0, 1, 3, 7, 15, 31, 61, 91]);
        now += LONGEST_PAUSE * 2;
        assert_eq!(pace.pause(now), None, "it has been calm");
        pace.told(now);
        assert_eq!(pace.pause(now), Some(FIRST_PAUSE));
    }
}
