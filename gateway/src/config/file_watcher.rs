//! Reports when a file may have changed.
//!
//! A mounted ConfigMap changes by the swap of a symbolic link, without a write to the file. The directory is therefore watched, and every
//! event in it counts as a possible change. No event arrives when the file is a link into another directory, or when a parent directory
//! is replaced. The metadata of the file is therefore compared twice a second. File systems without modification times are covered by a
//! report every few seconds.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Changes within this time count as one.
const SETTLE: Duration = Duration::from_millis(100);
/// Time between two comparisons of the file's metadata.
const COMPARE_EVERY: Duration = Duration::from_millis(500);
/// Time after which a change is reported even without a sign of one.
const MAX_INTERVAL: Duration = Duration::from_secs(5);

/// Identifies a file and a version of it. Different versions differ in at least one field.
#[derive(Debug, PartialEq, Eq)]
struct FileVersion {
    device: u64,
    inode: u64,
    bytes: u64,
    written: Option<SystemTime>,
}

impl FileVersion {
    fn of(file: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(file).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            written: metadata.modified().ok(),
        })
    }
}

/// Watches one file, and reports when it should be read again.
#[derive(Debug)]
pub struct FileWatcher {
    file: PathBuf,
    /// The version at the last report.
    seen: Option<FileVersion>,
    changes: mpsc::Receiver<()>,
    /// Watches while this value exists. `None` if the system cannot watch directories.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl FileWatcher {
    /// Watches the directory of `file`.
    #[must_use]
    pub fn new(file: &Path) -> Self {
        let directory = match file.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        // A single pending event is enough, because the file is read after all earlier events.
        let (event_sender, changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                event_sender.try_send(()).ok();
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let watcher = watching.map_err(|error| {
            tracing::warn!(%error, directory = %directory.display(), "failed to watch the directory; polling the file instead");
        });
        Self {
            seen: FileVersion::of(file),
            file: file.to_owned(),
            changes,
            _watcher: watcher.ok(),
        }
    }

    /// Waits until the file should be read again.
    pub async fn changed(&mut self) {
        let until = Instant::now() + MAX_INTERVAL;
        while Instant::now() < until {
            let event = tokio::time::timeout(COMPARE_EVERY, self.changes.recv()).await;
            let has_event = matches!(event, Ok(Some(())));
            if matches!(event, Ok(None)) {
                // There is no watcher, so no event ever arrives.
                tokio::time::sleep(COMPARE_EVERY).await;
            }
            if has_event || FileVersion::of(&self.file) != self.seen {
                tokio::time::sleep(SETTLE).await;
                self.changes.try_recv().ok();
                break;
            }
        }
        self.seen = FileVersion::of(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Whether a change is reported before the regular report.
    async fn is_noticed(watch: &mut FileWatcher) -> bool {
        let began = Instant::now();
        watch.changed().await;
        began.elapsed() < Duration::from_secs(1)
    }

    /// A change of a linked file, and the swap of a parent directory, are reported within a second.
    #[tokio::test(start_paused = true)]
    async fn changes_behind_links_are_noticed_within_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for version in ["one", "two"] {
            std::fs::create_dir(path(version)).unwrap();
            std::fs::write(path(version).join("hot.yaml"), version).unwrap();
        }
        symlink("one", path("current")).unwrap();
        std::fs::create_dir(path("beside")).unwrap();
        let (linked, below) = (path("beside/hot.yaml"), path("current/hot.yaml"));
        symlink(&below, &linked).unwrap();
        let mut watches = [FileWatcher::new(&linked), FileWatcher::new(&below)];
        symlink("two", path("next")).unwrap();
        std::fs::rename(path("next"), path("current")).unwrap();
        for watch in &mut watches {
            assert!(is_noticed(watch).await, "{watch:?}");
        }
        std::fs::write(path("two/hot.yaml"), "again").unwrap();
        for watch in &mut watches {
            assert!(is_noticed(watch).await, "{watch:?}");
        }
        assert!(!is_noticed(&mut watches[0]).await, "nothing has changed");
    }
}
