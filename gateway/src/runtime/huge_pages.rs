//! Disables transparent huge pages.
//!
//! The kernel clears 2 MiB at the first access to a huge page. That takes half a millisecond, and several milliseconds in a virtual machine
//! whose host has to provide the memory. All calls of the thread wait for it, whenever one of them needs a large buffer. Memory is also
//! returned more slowly, because one small object keeps a whole page.

/// Disables transparent huge pages for this process.
#[cfg(target_os = "linux")]
pub fn disable() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "failed to disable transparent huge pages");
    }
}

/// Does nothing, because only Linux has transparent huge pages.
#[cfg(not(target_os = "linux"))]
pub fn disable() {}
