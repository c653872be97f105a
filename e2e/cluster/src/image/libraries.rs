//! The shared libraries that a program needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The libraries that `program` is linked to, its dynamic linker among them; none for a static program.
pub(super) fn of(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !output.status.success() {
        if said.contains("not a dynamic executable") || complained.contains("not a dynamic executable") {
            return Ok(Vec::new());
        }
        bail!("ldd {}: {}", program.display(), complained.trim());
    }
    parse(&said).with_context(|| format!("ldd {}", program.display()))
}

/// Lines are `name => path (address)`, `path (address)` for the dynamic linker, `name (address)` for the kernel's own.
fn parse(lines: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in lines.lines().map(str::trim) {
        if line.ends_with("not found") {
            bail!("{line}");
        }
        let place = line.split_once(" => ").map_or(line, |(_, place)| place);
        let path = place.split(" (").next().unwrap_or(place);
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_is_a_library_and_the_kernels_own_is_not() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(said).unwrap(), expected);
    }

    #[test]
    fn a_missing_library_is_an_error_that_names_it() {
        let error = parse("\tlibnone.so.1 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libnone.so.1"), "{error}");
    }
}
