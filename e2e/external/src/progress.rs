//! A sign of life from a command whose output is hidden.

use std::io::{IsTerminal as _, Write};
use std::time::{Duration, Instant};

/// How often a line is written where there is no terminal, such as the log of a CI run.
const LINE_INTERVAL: Duration = Duration::from_secs(15);
/// How often the line on a terminal is written again.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// How much of a command's last line is shown: an entry that wraps cannot be written over.
const SHOWN_CHARS: usize = 60;

/// Shows how long a command has been running and the last line that it printed: as one line that is written over on a
/// terminal, and as a line every 15 seconds elsewhere. A command that ends before the first interval shows nothing.
pub(crate) struct Progress<W: Write> {
    out: W,
    is_terminal: bool,
    interval: Duration,
    started: Instant,
    next: Duration,
    is_shown: bool,
}

impl Progress<std::io::Stderr> {
    /// Progress on standard error.
    pub(crate) fn on_stderr() -> Self {
        let out = std::io::stderr();
        let is_terminal = out.is_terminal();
        let interval = if is_terminal {
            REFRESH_INTERVAL
        } else {
            LINE_INTERVAL
        };
        Self::new(out, is_terminal, interval)
    }
}

impl<W: Write> Progress<W> {
    pub(crate) fn new(out: W, is_terminal: bool, interval: Duration) -> Self {
        Self {
            out,
            is_terminal,
            interval,
            started: Instant::now(),
            next: interval,
            is_shown: false,
        }
    }

    /// How long until [`Progress::tick`] has something to write.
    pub(crate) fn until_next(&self) -> Duration {
        self.next.saturating_sub(self.started.elapsed())
    }

    /// Writes the line if it is due.
    pub(crate) fn tick(&mut self, last_line: &str) {
        let elapsed = self.started.elapsed();
        if elapsed < self.next {
            return;
        }
        self.next = elapsed + self.interval;
        let mut line = format!("    still running after {} s", elapsed.as_secs());
        let last_line = printable(last_line);
        if !last_line.is_empty() {
            line = format!("{line}: {last_line}");
        }
        let (before, after) = if self.is_terminal { (CLEAR, "") } else { ("", "\n") };
        self.is_shown = self.is_terminal;
        // Without its sign of life the command still does what it should.
        drop(write!(self.out, "{before}{line}{after}").and_then(|()| self.out.flush()));
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        if self.is_shown {
            drop(write!(self.out, "{CLEAR}").and_then(|()| self.out.flush()));
        }
    }
}

/// Goes to the beginning of the terminal's line and clears it.
const CLEAR: &str = "\r\x1b[K";

/// The end of what `line` shows on a terminal, without control characters: programs draw progress bars with them.
fn printable(line: &str) -> String {
    let line = line.trim_end().rsplit('\r').next().unwrap_or_default();
    line.chars()
        .filter(|character| !character.is_control())
        .collect::<String>()
        .trim()
        .chars()
        .take(SHOWN_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_command_shows_nothing() {
        let mut out = Vec::new();
        Progress::new(&mut out, true, LINE_INTERVAL).tick("one");
        assert!(out.is_empty());
    }

    #[test]
    fn terminal_line_is_written_over() {
        let mut out = Vec::new();
        let mut progress = Progress::new(&mut out, true, Duration::ZERO);
        progress.tick("one");
        progress.tick("two");
        drop(progress);
        let line = "\r\x1b[K    still running after 0 s";
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("{line}: one{line}: two\r\x1b[K")
        );
    }

    #[test]
    fn last_progress_line_is_printable_and_short() {
        assert_eq!(printable("10%\r\x1b20%\r"), "20%");
        assert_eq!(printable("   Compiling serde v1\n"), "Compiling serde v1");
        assert_eq!(printable(&"x".repeat(500)).len(), SHOWN_CHARS);
        assert_eq!(printable(""), "");
    }
}
