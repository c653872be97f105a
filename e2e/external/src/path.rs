//! The search path of a program that runs others.

use std::env;
use std::path::Path;
use std::process::Command;

/// Makes `command` and its children look for programs in `dir` first. A folder that cannot stand in a search path,
/// because of a colon in its name, is left out.
pub(crate) fn put_first(command: &mut Command, dir: &Path) {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(dir.to_owned()).chain(env::split_paths(&path));
    if let Ok(path) = env::join_paths(dirs) {
        command.env("PATH", path);
    }
}
