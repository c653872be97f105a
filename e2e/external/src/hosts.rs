//! Runs a program with its own `/etc/hosts`, so that a test decides which addresses names have for it.
//!
//! The program gets its own mount namespace, which root may create, and on many systems every user.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::ensure;

/// What the shell in the namespace does: `$0` is the file, the rest is the program.
const SCRIPT: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;

/// A command that runs `program` with the file `hosts` as `/etc/hosts`. The program sees later changes of the file.
///
/// # Errors
/// When this system allows no such thing.
pub fn command(program: &Path, hosts: &Path) -> anyhow::Result<Command> {
    let mut command = unshare(supported()?);
    command.args(["sh", "-c", SCRIPT]).arg(hosts).arg(program);
    Ok(command)
}

/// How a mount namespace is to be had here.
///
/// # Errors
/// When it is not.
pub fn supported() -> anyhow::Result<&'static [&'static str]> {
    for options in [&["--mount"][..], &["--map-root-user", "--mount"]] {
        let mut command = unshare(options);
        command.args(["sh", "-c", SCRIPT, "/dev/null", "true"]);
        let tried = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if tried.is_ok_and(|status| status.success()) {
            return Ok(options);
        }
    }
    ensure!(
        cfg!(target_os = "linux"),
        "only Linux has mount namespaces, in which names can resolve as a test wants"
    );
    anyhow::bail!("neither root nor this user may have a mount namespace (unshare, mount)")
}

fn unshare(options: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(options);
    command
}
