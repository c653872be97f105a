//! Pins processes to cores with `taskset` of Linux.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};

/// The cores of a run.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// The core for the measured process, which runs there alone.
    pub measured: usize,
    /// The core for all other processes.
    pub others: usize,
}

impl Cores {
    /// Selects two of the cores that this process may use, and moves this process to one of them.
    ///
    /// # Errors
    /// If there are fewer than two cores, or the system is not Linux.
    pub fn take() -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")
            .context("the bench needs Linux: it pins processes to cores, and reads their usage from /proc")?;
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed = numbers(allowed.unwrap_or_default().trim())?;
        let [measured, others, ..] = *allowed else {
            bail!("the bench needs two cores: one for the measured process, one for all others");
        };
        let this = std::process::id().to_string();
        let output = Command::new("taskset")
            .args(["-a", "-p", "-c", &others.to_string(), &this])
            .output()
            .context("failed to run taskset, from Debian's util-linux")?;
        if !output.status.success() {
            bail!("taskset: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self { measured, others })
    }
}

/// Pins `command` to `core`.
#[must_use]
pub fn on(core: usize, command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned
        .args(["-c", &core.to_string()])
        .arg(command.get_program())
        .args(command.get_args());
    pinned
}

/// Parses a list of numbers such as `0-2,7`.
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
    fn ranges_of_cores_are_parsed() {
        assert_eq!(numbers("0-2,7").unwrap(), [0, 1, 2, 7]);
        assert_eq!(numbers("3").unwrap(), [3]);
        assert!(numbers("").is_err());
    }
}
