//! Commands that install something.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

use anyhow::{Context as _, bail};

use crate::progress::Progress;

/// How much of a failed command's output an error shows: the end, where the cause usually is.
const SHOWN_LINES: usize = 30;

/// How many lines of the beginning it shows, too: npm says there what is wrong, and how it is called afterwards.
const SHOWN_FIRST: usize = 10;

/// How much of a command's standard output is returned. Callers read versions and paths.
const MAX_RETURNED: usize = 64 * 1024;

/// Runs `command` to its end and returns what it printed on standard output, at most 64 KiB. Its output is shown only
/// when it fails; a command that takes long shows that it is still running, and the last line that it printed.
///
/// # Errors
/// When the command cannot be run or fails; the message has the end of its output.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    run_with(command, Progress::on_stderr())
}

/// A line of output.
enum Line {
    Out(String),
    Err(String),
}

fn run_with<W: Write>(command: &mut Command, mut progress: Progress<W>) -> anyhow::Result<String> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let (sender, lines) = mpsc::channel();
    if let Some(out) = child.stdout.take() {
        read_lines(out, sender.clone(), Line::Out);
    }
    if let Some(err) = child.stderr.take() {
        read_lines(err, sender, Line::Err);
    }
    let mut returned = String::new();
    let mut first_lines = Vec::with_capacity(SHOWN_FIRST);
    let mut last_lines = VecDeque::with_capacity(SHOWN_LINES);
    let mut is_cut = false;
    loop {
        let line = match lines.recv_timeout(progress.until_next()) {
            Ok(Line::Out(line)) => {
                if returned.len() + line.len() < MAX_RETURNED {
                    returned.push_str(&line);
                    returned.push('\n');
                }
                Some(line)
            }
            Ok(Line::Err(line)) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Some(line) = line {
            if last_lines.len() == SHOWN_LINES {
                let oldest = last_lines.pop_front();
                if first_lines.len() < SHOWN_FIRST {
                    first_lines.extend(oldest);
                } else {
                    is_cut = true;
                }
            }
            last_lines.push_back(line);
        }
        progress.tick(last_lines.back().map_or("", String::as_str));
    }
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    drop(progress);
    if status.success() {
        return Ok(returned);
    }
    first_lines.extend(is_cut.then(|| "[...]".to_owned()));
    first_lines.extend(last_lines);
    bail!("{name}: {status}\n{}", first_lines.join("\n"))
}

/// Sends the lines of `output` from a thread of its own, which ends with the output.
fn read_lines(output: impl Read + Send + 'static, sender: Sender<Line>, line: fn(String) -> Line) {
    thread::spawn(move || {
        for bytes in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if sender.send(line(text)).is_err() {
                return;
            }
        }
    });
}

/// The last lines of `text`.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn failure_names_command_status_and_output() {
        let error = run(&mut shell("echo no such package >&2; exit 3")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("sh -c") && text.contains('3') && text.contains("no such package"),
            "{text}"
        );
    }

    #[test]
    fn long_command_shows_time_and_last_line() {
        // The command goes on when its last line has been seen, or after five seconds. Output and errors come through two pipes, so only what
        // has been seen comes before what is printed later.
        let dir = std::env::temp_dir().join(format!("vmcp-progress-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let seen = dir.join("seen");
        let file = std::fs::File::create(&seen).unwrap();
        let mut command = shell(
            "seen() { tries=100; until grep -q \"after .*$1\" \"$SEEN\" || [ $tries = 0 ]; do tries=$((tries - 1)); sleep 0.05; done; }
             echo first; seen first
             echo Compiling serde >&2; seen serde
             echo end",
        );
        command.env("SEEN", &seen);
        let printed = run_with(
            &mut command,
            Progress::new(file, false, Duration::from_millis(20)),
        );
        let shown = std::fs::read_to_string(&seen).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        assert_eq!(printed.unwrap(), "first\nend\n");
        assert!(
            shown.contains("    still running after 0 s: Compiling serde\n"),
            "{shown}"
        );
    }

    #[test]
    fn long_output_is_cut_at_its_beginning() {
        let text: String = (0..100).map(|line| format!("line {line}\n")).collect();
        assert!(tail(&text).starts_with("line 70\n") && tail(&text).ends_with("line 99"));
    }

    #[test]
    fn failure_shows_beginning_and_end_of_output() {
        let error = run(&mut shell("seq 100; exit 1")).unwrap_err().to_string();
        assert!(
            error.contains("\n1\n") && error.contains("\n10\n[...]\n71\n") && error.ends_with("\n100"),
            "{error}"
        );
        let error = run(&mut shell("seq 40; exit 1")).unwrap_err().to_string();
        assert!(error.contains("\n10\n11\n"), "{error}");
    }

    #[test]
    fn returned_output_is_bounded() {
        let printed = run(&mut shell("yes 1234567 | head -n 100000")).unwrap();
        assert!(printed.len() <= MAX_RETURNED, "{}", printed.len());
    }
}
