//! The deadline of a call.

use std::time::Duration;

use tokio::time::Instant;

use super::BackendError;

/// The deadline of a call, from its arrival to the end of its response.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    length: Duration,
    extends: bool,
}

impl Deadline {
    /// Creates a deadline after `length`. With `extends`, progress restarts it.
    #[must_use]
    pub fn new(length: Duration, extends: bool) -> Self {
        Self {
            at: Instant::now() + length,
            length,
            extends,
        }
    }

    /// The instant of the deadline.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Whether progress restarts it.
    #[must_use]
    pub fn extends(&self) -> bool {
        self.extends
    }

    /// Restarts the deadline from now, with its full length.
    pub fn restart(&mut self) {
        self.at = Instant::now() + self.length;
    }

    /// The error of a call whose deadline has passed.
    #[must_use]
    pub fn passed(&self) -> BackendError {
        BackendError::Deadline(self.length)
    }
}
