//! Notices when the file with the hot configuration changes.
//!
//! A mounted ConfigMap changes by a symbolic link that is swapped, so that the file itself is never written to: the directory is
//! watched, and whatever happens in it makes the file be read again. A look every few seconds covers file systems that tell nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Changes that come this close together are one.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the file is looked at when nothing was told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Tells when it is worth looking at the file again.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<()>,
    /// Watches as long as it lives; `None` where the system offers no watching.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
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
            tracing::warn!(%error, directory = %directory.display(), "the configuration cannot be watched; looking every 5 s");
        });
        Self {
            changes,
            _watcher: watcher.ok(),
        }
    }

    /// Waits until it is worth looking again.
    pub async fn changed(&mut self) {
        if let Ok(Some(())) = tokio::time::timeout(LOOK_EVERY, self.changes.recv()).await {
            tokio::time::sleep(SETTLE).await;
            self.changes.try_recv().ok();
        }
    }
}
