//! Logs: JSON lines on standard error, with a level that may change while the process runs.
//!
//! The size of a line is bounded, even if it contains text of a client or a backend: errors are truncated where they are formatted, and any
//! other long text is truncated here.

use std::borrow::Cow;
use std::io;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};
use vmcp_crds::config::LogLevel;

use crate::runtime::truncate::{MAX_ERROR_BYTES, brief};

/// Largest size of a line in bytes. The texts of longer lines are truncated.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Changes the log level. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct LevelHandle {
    reload: reload::Handle<Targets, Registry>,
}

/// Starts logging to standard error for the whole process.
#[must_use]
pub fn init() -> LevelHandle {
    let (filter, reload) = reload::Layer::new(filter(LogLevel::default()));
    let json = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(|| BoundedLines(io::stderr()));
    // A second subscriber cannot be installed. The first one stays, and this handle has no effect.
    drop(tracing_subscriber::registry().with(filter).with(json).try_init());
    LevelHandle { reload }
}

impl LevelHandle {
    /// Changes the level to `level`.
    pub fn set(&self, level: LogLevel) {
        if let Err(error) = self.reload.reload(filter(level)) {
            tracing::warn!(%error, "failed to change the log level");
        }
    }
}

/// Writes lines of at most [`MAX_LINE_BYTES`]. Each call of `write` must pass one complete line.
struct BoundedLines<W>(W);

impl<W: io::Write> io::Write for BoundedLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(&bounded(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Returns the line, with truncated texts if it is too long.
fn bounded(line: &[u8]) -> Cow<'_, [u8]> {
    if line.len() <= MAX_LINE_BYTES {
        return Cow::Borrowed(line);
    }
    let shortened = serde_json::from_slice(line).ok().and_then(|mut fields| {
        shorten(&mut fields);
        let mut line = serde_json::to_vec(&fields).ok()?;
        line.push(b'\n');
        (line.len() <= MAX_LINE_BYTES).then_some(line)
    });
    let placeholder = || Vec::from(&b"{\"level\":\"WARN\",\"message\":\"log line dropped: too long\"}\n"[..]);
    Cow::Owned(shortened.unwrap_or_else(placeholder))
}

fn shorten(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = brief(&*text, MAX_ERROR_BYTES),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(shorten),
        serde_json::Value::Array(values) => values.iter_mut().for_each(shorten),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

/// Applies `level` to the gateway. Libraries log only warnings, except at level `trace`.
fn filter(level: LogLevel) -> Targets {
    let (own, libraries) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    Targets::new()
        .with_default(libraries)
        .with_target("vmcp_gateway", own)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn log_line_is_bounded_and_stays_json() {
        let error = "x".repeat(3 << 20);
        let line = format!("{{\"level\":\"WARN\",\"error\":\"{error}\",\"status\":5}}\n");
        let mut written = Vec::new();
        BoundedLines(&mut written).write_all(line.as_bytes()).unwrap();
        assert!(written.len() < MAX_LINE_BYTES && written.ends_with(b"}\n"));
        let fields: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!((&fields["level"], &fields["status"]), (&"WARN".into(), &5.into()));
        assert!(fields["error"].as_str().unwrap().starts_with("xxx"));

        for whole in ["{\"message\":\"a\"}\n", "no JSON\n"] {
            assert_eq!(bounded(whole.as_bytes()), whole.as_bytes());
        }
        let many = format!("{{{}\"a\":1}}\n", "\"a\":1,".repeat(MAX_LINE_BYTES));
        for line in ["x".repeat(MAX_LINE_BYTES + 1), many] {
            assert!(bounded(line.as_bytes()).len() < 100);
        }
    }
}
