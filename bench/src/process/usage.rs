//! What a process uses, as Linux counts it.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// How often Linux's clock of processes ticks in a second (`USER_HZ`, which is 100 on every architecture that this builds for).
const TICKS: f64 = 100.0;

/// The processor time that the process has used in user and kernel mode.
///
/// # Errors
/// When there is no such process.
pub fn cpu(process: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let ticks = ticks(&stat).with_context(|| format!("cannot read /proc/{process}/stat"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS))
}

/// The memory of the process that is in use, in bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib = kib.and_then(|kib| kib.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| format!("cannot read /proc/{process}/status"))? * 1024)
}

/// The sum of the fields 14 and 15 of `/proc/<pid>/stat`. The second field is a name in parentheses, and may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::ticks;

    #[test]
    fn user_and_system_time_are_found_behind_any_name() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 1 0 100 1000 10";
        assert_eq!(ticks(stat), Some(42));
    }
}
