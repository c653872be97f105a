//! The wall clock of this process. All reads of it are here.
//!
//! It is used only for output to people, and for the times in the ids of sessions in the memory store. With Redis, times come from
//! Redis, because the clocks of two machines are never compared.

use std::time::{SystemTime, UNIX_EPOCH};

/// The current time in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    unix_millis() / 1000
}

/// The current time in milliseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the only place that reads the wall clock"
)]
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
