//! Authentication: tokens of a real issuer, and sessions that belong to their subjects.

mod issuer_keys;
mod session_owner;
mod support;
mod tokens;
