//! Logs: JSON lines on standard error, with a level that may change while the process runs.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};
use vmcp_crds::config::LogLevel;

/// Changes how much is logged. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct LevelHandle {
    reload: reload::Handle<Targets, Registry>,
}

/// Sends the logs of the whole process to standard error.
#[must_use]
pub fn init() -> LevelHandle {
    let (filter, reload) = reload::Layer::new(filter(LogLevel::default()));
    let json = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr);
    // A second subscriber cannot be installed; then the first one stays, and this handle changes nothing.
    drop(tracing_subscriber::registry().with(filter).with(json).try_init());
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

/// The level holds for the gateway; of the libraries only warnings are of interest, unless everything is.
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
