//! Transparent huge pages, which this process does without.
//!
//! The kernel clears 2 MiB when a huge page is touched for the first time, which takes half a millisecond, and several in a virtual machine
//! whose host has to find the memory. All calls of a thread wait meanwhile, whenever one of them needs a large buffer. Huge pages are
//! also slower to be given back, because one small object keeps all of a page.

/// Turns them off for this process.
#[cfg(target_os = "linux")]
pub fn disable() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "failed to disable transparent huge pages");
    }
}

/// Turns them off for this process, where there are any.
#[cfg(not(target_os = "linux"))]
pub fn disable() {}
