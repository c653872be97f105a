//! What happens to sessions when the session store fails: outages ([`outage`]), lost data ([`lost_data`]), and the writes and terminations
//! whose outcome is unknown.

pub(super) mod failover_wait;
pub(super) mod lost_data;
pub(super) mod observed_store;
pub(super) mod outage;
pub(super) mod pending_terminations;
pub(super) mod recent_writes;
