//! Randomness from the operating system.

/// Fills a new array. Linux gives randomness without fail once it has booted; were it to fail, the process ends, because ids
/// that can be guessed are worse than none.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "the operating system gives no randomness");
        std::process::abort();
    }
    bytes
}

/// A random number.
pub(crate) fn u64() -> u64 {
    u64::from_ne_bytes(bytes())
}
