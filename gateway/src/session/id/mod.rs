//! Signed ids and tokens: the session id, and what the gateway gives to clients in its name.

// This module parses untrusted input.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

pub(super) mod elicitation_id;
pub(super) mod event_id;
pub(super) mod progress_token;
pub(super) mod relayed_id;
pub(super) mod session_bound_token;
pub(super) mod session_id;
pub mod signing_keys;
pub(super) mod upstream_tag;
pub(super) mod verified_ids;

pub(super) use session_id::{SessionId, principal_tag};
