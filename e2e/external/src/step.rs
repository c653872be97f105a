//! Prints one line per step with its duration, as progress for the user.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a step that takes long reports that it still runs. Programs that it starts may be silent: cargo prints nothing while it
/// compiles one large crate.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Runs `work` as a named step: the name is printed when it begins, every minute while it runs, and with its time when it ends.
///
/// # Errors
/// Those of `work`, with the step's name as context.
pub fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprintln!("==> {name}");
    let started = Instant::now();
    let result = reporting(
        REPORT_INTERVAL,
        |minutes| eprintln!("... {name}: {minutes} min"),
        work,
    );
    let seconds = started.elapsed().as_secs_f32();
    match &result {
        Ok(_) => eprintln!("<== {name}: done in {seconds:.1} s"),
        Err(_) => eprintln!("<== {name}: FAILED after {seconds:.1} s"),
    }
    result.map_err(|error| error.context(name.to_owned()))
}

/// Runs `work`, and meanwhile calls `report` with 1, 2, 3 and so on, once per `interval`.
fn reporting<T>(interval: Duration, report: impl Fn(u32) + Send, work: impl FnOnce() -> T) -> T {
    let (running, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            for count in 1.. {
                if ended.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                report(count);
            }
        });
        let result = work();
        drop(running);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_is_reported_while_it_runs() {
        let (sender, reports) = mpsc::channel();
        let work = || [reports.recv().unwrap(), reports.recv().unwrap()];
        let seen = reporting(
            Duration::from_millis(1),
            |count| sender.send(count).unwrap_or_default(),
            work,
        );
        assert_eq!(seen, [1, 2]);
    }
}
