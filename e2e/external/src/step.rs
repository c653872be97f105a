//! Prints one line per step with its duration, as progress for the user.

use std::time::Instant;

/// Runs `work` as a named step: the name is printed when it begins, and again with its time when it ends.
///
/// # Errors
/// Those of `work`, with the step's name as context.
pub fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprintln!("==> {name}");
    let started = Instant::now();
    let result = work();
    let seconds = started.elapsed().as_secs_f32();
    match &result {
        Ok(_) => eprintln!("<== {name}: done in {seconds:.1} s"),
        Err(_) => eprintln!("<== {name}: FAILED after {seconds:.1} s"),
    }
    result.map_err(|error| error.context(name.to_owned()))
}
