//! Random numbers from the operating system.

/// Returns random bytes. On Linux this cannot fail after boot. If it does fail, the process aborts, because predictable ids would be a
/// security hole.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "the random number generator of the operating system failed");
        std::process::abort();
    }
    bytes
}

/// Returns a random 64-bit number.
pub(crate) fn u64() -> u64 {
    u64::from_ne_bytes(bytes())
}
