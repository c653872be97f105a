//! Runs a command, shows its output as it arrives, and measures the times between lines.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use vmcp_external::process::{Process, Signal};

/// Time between two reads of the output.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Time without output after which a command counts as hanging.
const MAX_SILENCE: Duration = Duration::from_secs(15 * 60);

/// The output of a demo that waits for Ctrl-C.
const WAITS_FOR_CTRL_C: &str = "Ctrl-C ends it";

/// Times in the output of a command.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// The printed steps with their durations.
    pub(super) steps: Vec<(String, String)>,
    /// The longest time without output, and the line before it.
    pub(super) silence: (Duration, String),
}

/// Runs `command` to its end and shows its output. If it waits for Ctrl-C, it gets SIGINT.
pub(super) fn follow(command: &Command, timing: &mut Timing) -> anyhow::Result<()> {
    let mut process = Process::start("fresh", command)?;
    let mut output = File::open(process.log()).context("failed to read the output")?;
    let mut reader = Reader::new(timing);
    loop {
        // Checked before reading, so that all output before the end is read.
        let ended = process.ended()?;
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes)?;
        std::io::stdout().lock().write_all(&bytes)?;
        if reader.read(&bytes, Instant::now()) {
            process.signal(Signal::INT)?;
        }
        if let Some(status) = ended {
            if !status.success() {
                bail!("{status}");
            }
            return Ok(());
        }
        if reader.last.elapsed() > MAX_SILENCE {
            bail!("no output for {} minutes", MAX_SILENCE.as_secs() / 60);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Splits the output into lines and records the times.
struct Reader<'a> {
    timing: &'a mut Timing,
    started: Instant,
    /// Time of the last output.
    last: Instant,
    last_line: String,
    partial: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(timing: &'a mut Timing) -> Self {
        let started = Instant::now();
        Self {
            timing,
            started,
            last: started,
            last_line: "the start".to_owned(),
            partial: Vec::new(),
        }
    }

    /// Processes new output. Returns whether the command waits for Ctrl-C.
    fn read(&mut self, bytes: &[u8], now: Instant) -> bool {
        if bytes.is_empty() {
            return false;
        }
        let silence = now.saturating_duration_since(self.last);
        if silence > self.timing.silence.0 {
            self.timing.silence = (silence, self.last_line.clone());
        }
        self.last = now;
        self.partial.extend_from_slice(bytes);
        let mut waits = false;
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            waits |= line.contains(WAITS_FOR_CTRL_C);
            self.add_step(&line, now);
            if !line.is_empty() {
                self.last_line = line;
            }
        }
        waits
    }

    /// Records the duration of a step if `line` is the end of one.
    fn add_step(&mut self, line: &str, now: Instant) {
        if self.timing.steps.is_empty() && line.starts_with("==> ") {
            let took = now.saturating_duration_since(self.started).as_secs_f32();
            let name = "compile cargo xtask".to_owned();
            self.timing.steps.push((name, format!("{took:.1} s")));
        }
        let Some((name, result)) = line.strip_prefix("<== ").and_then(|line| line.rsplit_once(": ")) else {
            return;
        };
        let took = result.strip_prefix("done in ").unwrap_or(result);
        self.timing.steps.push((name.to_owned(), took.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_longest_silence_are_recorded() {
        let mut timing = Timing::default();
        let mut reader = Reader::new(&mut timing);
        let at = Duration::from_secs;
        let start = reader.started;
        assert!(!reader.read(b"   Compiling serde\n==> install x\n", start + at(2)));
        assert!(!reader.read(b"", start + at(20)));
        assert!(!reader.read(b"<== install x: done", start + at(42)));
        assert!(!reader.read(b" in 40.0 s\n<== test: a: FAILED after 1.0 s\n", start + at(43)));
        assert!(reader.read(b"\nCtrl-C ends it, and both servers.\n", start + at(44)));
        let steps: Vec<_> = timing
            .steps
            .iter()
            .map(|(name, took)| (name.as_str(), took.as_str()))
            .collect();
        assert_eq!(
            steps,
            [
                ("compile cargo xtask", "2.0 s"),
                ("install x", "40.0 s"),
                ("test: a", "FAILED after 1.0 s")
            ]
        );
        assert_eq!(timing.silence, (at(40), "==> install x".to_owned()));
    }

    #[test]
    fn command_that_waits_for_ctrl_c_is_interrupted() {
        // A shell that starts with SIGINT ignored, as in the background of another shell, cannot trap it.
        let mut command = Command::new("env");
        let script = "trap 'echo ended; exit 0' INT; echo Ctrl-C ends it; for _ in $(seq 200); do sleep 0.05; done; exit 3";
        command.args(["--default-signal=INT", "sh", "-c", script]);
        let mut timing = Timing::default();
        follow(&command, &mut timing).unwrap();
        command = Command::new("false");
        let error = follow(&command, &mut timing).unwrap_err().to_string();
        assert!(error.contains("exit status: 1"), "{error}");
    }
}
