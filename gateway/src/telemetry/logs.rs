//! Logs: JSON lines on standard error, with a level that may change while the process runs.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};
use vmcp_crds::config::LogLevel;

/// Changes how much is logged. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct LevelHandle {
    reload: reload::Handle<LevelFilter, Registry>,
}

/// Sends the logs of the whole process to standard error.
#[must_use]
pub fn init() -> LevelHandle {
    let (filter, reload) = reload::Layer::new(filter(LogLevel::default()));
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    // A second subscriber cannot be installed; then the first one stays, and this handle changes nothing.
    let _ = tracing_subscriber::registry().with(filter).with(json).try_init();
    LevelHandle { reload }
}

impl LevelHandle {
    /// Logs from now on at `level`.
    pub fn set(&self, level: LogLevel) {
        if let Err(error) = self.reload.reload(filter(level)) {
            tracing::warn!(%error, "the log level cannot be changed");
        }
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
