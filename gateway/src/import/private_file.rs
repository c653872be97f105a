//! Writes files that only the user can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Read and write for the owner.
const MODE: u32 = 0o600;

/// Creates the file `path` with this text. A file that exists is an error unless `replace` is set; then the new file takes its place, so that
/// neither its permissions nor its links remain.
pub(super) fn create(path: &Path, text: &str, replace: bool) -> anyhow::Result<()> {
    let target = if replace { temporary(path) } else { path.to_owned() };
    let created = write_new(&target, text).and_then(|()| {
        if replace {
            fs::rename(&target, path)
        } else {
            Ok(())
        }
    });
    created
        .inspect_err(|error| {
            // A file of another program is not removed.
            if error.kind() != ErrorKind::AlreadyExists {
                drop(fs::remove_file(&target));
            }
        })
        .with_context(|| format!("cannot write {}", path.display()))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// A name beside `path` that no other process uses.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn existing_file_is_kept_unless_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmcp.env");
        create(&path, "one", false).unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), mode(&path)),
            ("one", 0o600)
        );
        let error = format!("{:#}", create(&path, "two", false).unwrap_err());
        assert!(error.contains("vmcp.env: File exists"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");

        // A file that others can read, and a link to it: both lose nothing, and the new file is private.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        create(&path, "two", true).unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), mode(&path)),
            ("two", 0o600)
        );
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        create(&link, "three", true).unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), mode(&link)),
            ("two", 0o600)
        );
        assert!(create(&link, "four", false).is_err());
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            2,
            "no temporary file is left"
        );
    }
}
