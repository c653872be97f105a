//! Notices when the file with the hot configuration changes.
//!
//! A mounted ConfigMap changes by a symbolic link that is swapped, so that the file itself is never written to: the directory is
//! watched, and whatever happens in it makes the file be read again. The file may be a link into another directory, or a directory above it
//! be exchanged, of which nothing is told: twice a second it is looked whether another file stands there, or another version of it. A look
//! every few seconds covers file systems whose files do not say when they were written.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Changes that come this close together are one.
const SETTLE: Duration = Duration::from_millis(100);
/// How often it is looked whether the file is another.
const COMPARE_EVERY: Duration = Duration::from_millis(500);
/// How often the file is read when nothing was told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Which file it is, and which version of it: another one differs in one of these.
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

/// Tells when it is worth looking at the file again.
#[derive(Debug)]
pub struct FileWatcher {
    file: PathBuf,
    /// What stood there the last time.
    seen: Option<FileVersion>,
    changes: mpsc::Receiver<()>,
    /// Watches as long as it lives; `None` where the system offers no watching.
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
        // One waiting sign is enough: it makes the file be read after everything that happened before.
        let (told, changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                told.try_send(()).ok();
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let watcher = watching.map_err(|error| {
            tracing::warn!(%error, directory = %directory.display(), "the configuration cannot be watched; looking twice a second");
        });
        Self {
            seen: FileVersion::of(file),
            file: file.to_owned(),
            changes,
            _watcher: watcher.ok(),
        }
    }

    /// Waits until it is worth looking again.
    pub async fn changed(&mut self) {
        let until = Instant::now() + LOOK_EVERY;
        while Instant::now() < until {
            let told = tokio::time::timeout(COMPARE_EVERY, self.changes.recv()).await;
            let is_told = matches!(told, Ok(Some(())));
            if matches!(told, Ok(None)) {
                // Nothing is ever told.
                tokio::time::sleep(COMPARE_EVERY).await;
            }
            if is_told || FileVersion::of(&self.file) != self.seen {
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

    /// Whether a change is noticed at once, and not only when the file is read anyway.
    async fn is_noticed(watch: &mut FileWatcher) -> bool {
        let began = Instant::now();
        watch.changed().await;
        began.elapsed() < Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_stands_elsewhere_and_a_directory_that_is_exchanged_are_noticed_within_a_second() {
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
