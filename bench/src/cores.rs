//! Which core a process runs on, by Linux's `taskset`.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};

/// The cores of a run.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// What is measured runs here, alone.
    pub measured: usize,
    /// Everything else runs here.
    pub others: usize,
}

impl Cores {
    /// Two of the cores that this process may use, and moves this process to one of them.
    ///
    /// # Errors
    /// When there are fewer than two, or the system is not Linux.
    pub fn take() -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context(
            "the bench needs Linux: it puts processes on cores, and reads what they use from /proc",
        )?;
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed = numbers(allowed.unwrap_or_default().trim())?;
        let [measured, others, ..] = *allowed else {
            bail!("the bench needs two cores: one for what is measured, one for everything else");
        };
        let this = std::process::id().to_string();
        let output = Command::new("taskset")
            .args(["-a", "-p", "-c", &others.to_string(), &this])
            .output()
            .context("cannot run taskset, of Debian's util-linux")?;
        if !output.status.success() {
            bail!("taskset: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self { measured, others })
    }
}

/// `command` on one core.
#[must_use]
pub fn on(core: usize, command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned
        .args(["-c", &core.to_string()])
        .arg(command.get_program())
        .args(command.get_args());
    pinned
}

/// The numbers of a list such as `0-2,7`.
fn numbers(list: &str) -> anyhow::Result<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<usize>()?..=last.parse::<usize>()?);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn a_list_of_cores_is_read_with_its_ranges() {
        assert_eq!(numbers("0-2,7").unwrap(), [0, 1, 2, 7]);
        assert_eq!(numbers("3").unwrap(), [3]);
        assert!(numbers("").is_err());
    }
}
