//! Until when a call may last.

use std::time::Duration;

use tokio::time::Instant;

use super::BackendError;

/// Until when a call may last, from its arrival to the end of its answer.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    length: Duration,
    extends: bool,
}

impl Deadline {
    /// A deadline that is `length` away; `extends` says whether progress begins it anew.
    #[must_use]
    pub fn new(length: Duration, extends: bool) -> Self {
        Self {
            at: Instant::now() + length,
            length,
            extends,
        }
    }

    /// The moment.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Whether progress begins it anew.
    #[must_use]
    pub fn extends(&self) -> bool {
        self.extends
    }

    /// Begins it anew.
    pub fn begin_anew(&mut self) {
        self.at = Instant::now() + self.length;
    }

    /// What went wrong when it has passed.
    #[must_use]
    pub fn passed(&self) -> BackendError {
        BackendError::Deadline(self.length)
    }
}
