//! Programs for which names resolve as a test wants: they see another file in the place of `/etc/hosts`, and nobody else does.
//!
//! That takes a mount namespace of their own, which root may have, and on many systems everybody.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::ensure;

/// What the shell in the namespace does: `$0` is the file, the rest is the program.
const SCRIPT: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;

/// `program`, to which arguments are to be added, with `hosts` in the place of `/etc/hosts`. What is written into the file later is seen.
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
