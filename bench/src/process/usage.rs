//! CPU time and memory of a process on Linux.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Clock ticks per second in `/proc/<pid>/stat` (`USER_HZ`, which is 100 on all supported architectures).
const TICKS: f64 = 100.0;

/// The CPU time of the process in user and kernel mode.
///
/// # Errors
/// If there is no such process.
pub fn cpu(process: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let ticks = ticks(&stat).with_context(|| format!("cannot read /proc/{process}/stat"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS))
}

/// The CPU time of the process and its running descendants. Those that have ended do not count.
///
/// # Errors
/// If there is no such process.
pub fn cpu_of_tree(process: u32) -> anyhow::Result<Duration> {
    let mut time = cpu(process)?;
    // Each thread has its own list of the processes that it has started.
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        for child in fs::read_to_string(thread?.path().join("children"))?.split_whitespace() {
            time += cpu_of_tree(child.parse()?)?;
        }
    }
    Ok(time)
}

/// The resident memory of the process in bytes.
///
/// # Errors
/// If there is no such process.
pub fn resident(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib = kib.and_then(|kib| kib.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| format!("cannot read /proc/{process}/status"))? * 1024)
}

/// The sum of the fields 14 and 15 of `/proc/<pid>/stat`. The second field is a name in parentheses that may contain any characters.
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
    fn cpu_time_is_found_after_any_process_name() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 1 0 100 1000 10";
        assert_eq!(ticks(stat), Some(42));
    }
}
