//! What a server writes besides messages: it goes to the log, and its last lines are kept for `/status`.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::time::Instant;

use crate::backend::transport::routed_stream::lock;
use crate::config::BackendName;

/// The most bytes of a line that are logged and kept.
const MAX_LINE_BYTES: usize = 1000;
/// The number of lines that are kept.
const KEPT_LINES: usize = 10;
/// The number of lines that may be logged at once, and per second after that.
const BURST_LINES: u32 = 100;
const LINES_PER_SECOND: u32 = 10;

/// Replaces secret values of the server's environment.
const HIDDEN: &str = "<hidden>";

/// The other output of one process.
#[derive(Debug)]
pub(super) struct ProcessOutput {
    backend: BackendName,
    process: u32,
    /// Values that are hidden in the output.
    secrets: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last_lines: VecDeque<String>,
    /// The number of lines that may be logged at `filled_at`.
    allowance: u32,
    filled_at: Instant,
    suppressed: u64,
}

impl ProcessOutput {
    pub(super) fn new(backend: BackendName, process: u32, secrets: Vec<String>) -> Self {
        Self {
            backend,
            process,
            secrets,
            state: Mutex::new(State {
                last_lines: VecDeque::new(),
                allowance: BURST_LINES,
                filled_at: Instant::now(),
                suppressed: 0,
            }),
        }
    }

    /// Reads standard error to its end.
    pub(super) async fn read<R: AsyncRead + Unpin>(&self, stderr: R) {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        while let Ok(bytes) = stderr.fill_buf().await {
            if bytes.is_empty() {
                break;
            }
            let at = memchr::memchr(b'\n', bytes);
            let part = bytes.get(..at.unwrap_or(bytes.len())).unwrap_or_default();
            let room = MAX_LINE_BYTES.saturating_sub(line.len()).min(part.len());
            line.extend_from_slice(part.get(..room).unwrap_or_default());
            let read = at.map_or(bytes.len(), |at| at + 1);
            stderr.consume(read);
            if at.is_some() {
                self.add("stderr", &line);
                line.clear();
            }
        }
        if !line.is_empty() {
            self.add("stderr", &line);
        }
    }

    /// Logs and keeps one line of `stream`.
    pub(super) fn add(&self, stream: &'static str, line: &[u8]) {
        let line = if line.len() < MAX_LINE_BYTES {
            line
        } else {
            self.without_cut_secret(line.get(..MAX_LINE_BYTES).unwrap_or(line))
        };
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return;
        }
        let mut text = String::from_utf8_lossy(line).into_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), HIDDEN);
        }
        let (backend, process) = (&self.backend, self.process);
        match self.admit(&text) {
            None => {}
            Some(0) => tracing::info!(%backend, process, stream, line = text, "server output"),
            Some(suppressed) => {
                tracing::info!(%backend, process, stream, line = text, suppressed, "server output");
            }
        }
    }

    /// The beginning of a line without the part of a secret at its end, which would not be recognized.
    fn without_cut_secret<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        let cut = self.secrets.iter().filter_map(|secret| {
            let secret = secret.as_bytes();
            (1..secret.len())
                .rev()
                .find(|&length| secret.get(..length).is_some_and(|part| line.ends_with(part)))
        });
        let end = line.len() - cut.max().unwrap_or(0);
        line.get(..end).unwrap_or(line)
    }

    /// Keeps the line. Returns whether it may be logged: the number of lines before it that were not.
    fn admit(&self, line: &str) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.last_lines.len() == KEPT_LINES {
            state.last_lines.pop_front();
        }
        state.last_lines.push_back(line.to_owned());
        let seconds = u32::try_from(state.filled_at.elapsed().as_secs()).unwrap_or(u32::MAX);
        if seconds > 0 {
            let filled = state
                .allowance
                .saturating_add(seconds.saturating_mul(LINES_PER_SECOND));
            state.allowance = filled.min(BURST_LINES);
            state.filled_at += Duration::from_secs(seconds.into());
        }
        let Some(left) = state.allowance.checked_sub(1) else {
            state.suppressed += 1;
            return None;
        };
        state.allowance = left;
        Some(std::mem::take(&mut state.suppressed))
    }

    /// The last lines.
    pub(super) fn last_lines(&self) -> Vec<String> {
        lock(&self.state).last_lines.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(secrets: &[&str]) -> ProcessOutput {
        let secrets = secrets.iter().map(|&secret| secret.to_owned()).collect();
        ProcessOutput::new(BackendName::for_test("a"), 1, secrets)
    }

    #[tokio::test]
    async fn last_lines_are_kept_without_secrets() {
        let output = output(&["s3cret"]);
        let text: String = (0..20)
            .map(|number| format!("line {number} s3cret\r\n\n"))
            .collect();
        output.read(text.as_bytes()).await;
        output.read(&vec![b'x'; 5000][..]).await;
        let lines = output.last_lines();
        assert_eq!(lines.len(), KEPT_LINES);
        assert_eq!(lines[0], "line 11 <hidden>");
        assert_eq!(lines[KEPT_LINES - 1].len(), MAX_LINE_BYTES);
    }

    #[test]
    fn secret_at_the_end_of_a_cut_line_is_hidden() {
        let output = output(&["s3cret-value"]);
        for length in 1..40 {
            let line = format!("{}s3cret-value and more", "x".repeat(MAX_LINE_BYTES - length));
            output.add("stderr", line.as_bytes());
            let kept = output.last_lines().pop().unwrap();
            assert!(!kept.contains("s3c"), "{kept}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_lines_are_logged_at_a_limited_rate() {
        let output = output(&[]);
        let admitted = |count: u32| (0..count).filter_map(|_| output.admit("x")).collect::<Vec<_>>();
        assert_eq!(admitted(500).len(), 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        let next = admitted(500);
        assert_eq!((next.len(), next[0]), (10, 400));
    }
}
