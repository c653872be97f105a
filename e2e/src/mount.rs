//! A mounted ConfigMap with a hot configuration.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

const FILE: &str = "hot.yaml";

/// A directory in which a file changes as a kubelet changes it.
#[derive(Debug)]
pub struct Mount {
    directory: TempDir,
    version: AtomicU32,
}

impl Mount {
    /// A mount whose file holds `text`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(text: &str) -> anyhow::Result<Self> {
        let mount = Self {
            directory: tempfile::tempdir()?,
            version: AtomicU32::default(),
        };
        mount.put(text)?;
        Ok(mount)
    }

    /// The path of the file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.path().join(FILE)
    }

    /// Replaces the file's content with `text` as a kubelet does: in a new directory, by swapping a link.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, text: &str) -> anyhow::Result<()> {
        let mount = self.directory.path();
        let version = self.version.fetch_add(1, Ordering::Relaxed);
        let directory = mount.join(format!("..version-{version}"));
        std::fs::create_dir(&directory)?;
        std::fs::write(directory.join(FILE), text)?;
        let (link, new) = (mount.join("..data"), mount.join("..data_tmp"));
        symlink(&directory, &new)?;
        std::fs::rename(new, link)?;
        if !self.file().is_symlink() {
            symlink(format!("..data/{FILE}"), self.file())?;
        }
        Ok(())
    }
}
