//! `cargo xtask fresh`: runs the commands of the README as on a new machine.

mod follow;
mod machine;
mod readme;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use vmcp_external::{run::run, step::step};

use self::follow::{Timing, follow};
use self::machine::Machine;
use crate::cargo::root;

/// Run the commands of the README as a new user does: in a fresh clone, with nothing compiled, installed or downloaded.
///
/// All files are in a temporary folder that is removed at the end, even after Ctrl-C: a clone of the last commit with its target folder,
/// and the home and cache folders of cargo, Go, npm, pip and vmcp. The toolchains, Node.js, Python and the Debian packages are those of
/// this machine. Prints each step with its duration, and a table at the end.
///
/// On two cores, the demos take about ten minutes and 5 GB of disk. The tests take one or two hours and 40 GB, because they compile
/// Kubernetes where possible.
#[derive(Args)]
pub(crate) struct Fresh {
    /// Run only these commands of the README, separated by commas: demo, "demo outages", test
    #[arg(long, value_delimiter = ',', value_name = "COMMANDS", conflicts_with = "skip")]
    only: Vec<String>,
    /// Skip these commands of the README
    #[arg(long, value_delimiter = ',', value_name = "COMMANDS")]
    skip: Vec<String>,
    /// Create the temporary folder in this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Fail if a command prints nothing for longer than this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    max_silence: u64,
}

/// The result of a command.
struct Run {
    command: String,
    took: Duration,
    timing: Timing,
    failure: Option<String>,
}

impl Fresh {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let readme = std::fs::read_to_string(root().join("README.md")).context("failed to read README.md")?;
        let commands = self.chosen(&readme::commands(&readme))?;
        let changed = run(Command::new("git")
            .args(["status", "--porcelain"])
            .current_dir(root()))?;
        if !changed.is_empty() {
            eprintln!("note: the clone does not contain uncommitted changes");
        }
        let parent = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let machine = Machine::new(&parent)?;
        step(
            &format!("clone the repository into {}", machine.dir().display()),
            || machine.clone_repository(),
        )?;
        let runs: Vec<Run> = commands
            .iter()
            .map(|command| self.time(&machine, command))
            .collect();
        step("remove the temporary folder", || machine.remove())?;
        println!("\n{}", table(&runs));
        let failed: Vec<_> = runs.iter().filter(|run| run.failure.is_some()).collect();
        if !failed.is_empty() {
            bail!(
                "{} of {} commands failed on a fresh machine",
                failed.len(),
                runs.len()
            );
        }
        Ok(())
    }

    /// The commands that `--only` and `--skip` select.
    fn chosen(&self, commands: &[String]) -> anyhow::Result<Vec<String>> {
        for name in self.only.iter().chain(&self.skip) {
            ensure!(
                commands.contains(name),
                "the README has no command `cargo xtask {name}`; it has: {}",
                commands.join(", ")
            );
        }
        let is_chosen =
            |name: &&String| !self.skip.contains(name) && (self.only.is_empty() || self.only.contains(name));
        let chosen: Vec<_> = commands.iter().filter(is_chosen).cloned().collect();
        ensure!(!chosen.is_empty(), "there is no command left to run");
        Ok(chosen)
    }

    fn time(&self, machine: &Machine, command: &str) -> Run {
        let mut timing = Timing::default();
        let started = Instant::now();
        let name = format!("cargo xtask {command}");
        let result = step(&name, || {
            follow(&machine.cargo(&format!("xtask {command}")), &mut timing)
        });
        let mut failure = result.err().map(|error| format!("{:#}", error.root_cause()));
        if failure.is_none() && timing.silence.0 > Duration::from_secs(self.max_silence) {
            failure = Some(format!("no output for more than {} s", self.max_silence));
        }
        Run {
            command: name,
            took: started.elapsed(),
            timing,
            failure,
        }
    }
}

/// A table of the commands with their steps and durations.
fn table(runs: &[Run]) -> String {
    let mut lines = Vec::new();
    for run in runs {
        let took = format!("{:.1} s", run.took.as_secs_f32());
        let result = run.failure.as_deref().map_or("done", |_| "FAILED");
        lines.push(format!("{:60} {took:>10}  {result}", run.command));
        for (name, took) in &run.timing.steps {
            lines.push(format!("  {name:58} {took:>10}"));
        }
        let (silence, line) = &run.timing.silence;
        lines.push(format!(
            "  longest silence: {:.0} s, after: {line}",
            silence.as_secs_f32()
        ));
        lines.extend(run.failure.iter().map(|failure| format!("  failed: {failure}")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(only: &[&str], skip: &[&str]) -> Fresh {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Fresh {
            only: owned(only),
            skip: owned(skip),
            dir: None,
            max_silence: 180,
        }
    }

    #[test]
    fn commands_are_selected_by_name() {
        let readme = ["demo", "demo outages", "test"].map(str::to_owned);
        let chosen = |only: &[&str], skip: &[&str]| fresh(only, skip).chosen(&readme);
        assert_eq!(chosen(&[], &[]).unwrap(), readme);
        assert_eq!(chosen(&["demo"], &[]).unwrap(), ["demo"]);
        assert_eq!(chosen(&[], &["test", "demo"]).unwrap(), ["demo outages"]);
        let error = chosen(&["tests"], &[]).unwrap_err().to_string();
        assert!(
            error.contains("no command `cargo xtask tests`; it has: demo, demo outages, test"),
            "{error}"
        );
        assert!(chosen(&[], &["demo", "demo outages", "test"]).is_err());
    }

    #[test]
    fn table_shows_failures_and_silences() {
        let run = Run {
            command: "cargo xtask demo".to_owned(),
            took: Duration::from_millis(61_250),
            timing: Timing {
                steps: vec![("install npm-servers".to_owned(), "9.1 s".to_owned())],
                silence: (Duration::from_secs(43), "Compiling redis".to_owned()),
            },
            failure: Some("exit status: 1".to_owned()),
        };
        let table = table(&[run]);
        let lines: Vec<_> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "cargo xtask demo 61.2 s FAILED",
                "install npm-servers 9.1 s",
                "longest silence: 43 s, after: Compiling redis",
                "failed: exit status: 1",
            ]
        );
    }
}
