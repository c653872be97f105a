//! Logging setup.

use clap::ValueEnum;
use tracing::Metadata;
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

/// Format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable text
    Text,
    /// One JSON object per line
    Json,
}

/// Installs the global logger, which writes to standard error. `filter` is a level, or directives such as
/// `info,vmcp_operator=debug`.
///
/// # Errors
/// When `filter` is not a valid filter.
pub fn init(format: LogFormat, filter: &str) -> Result<(), ParseError> {
    subscriber(format, filter, std::io::stderr)?.init();
    if names_a_library(filter) {
        tracing::warn!(
            filter,
            "log filter names a library; library messages are never logged because they can contain Secrets"
        );
    }
    Ok(())
}

/// Creates the subscriber that writes the log to `writer`.
///
/// # Errors
/// When `filter` is not a valid filter.
pub fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, ParseError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(filter)?;
    let log = tracing_subscriber::fmt::layer().with_writer(writer);
    let log = match format {
        LogFormat::Text => log.boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    Ok(Box::new(Registry::default().with(
        log.with_filter(filter).with_filter(filter_fn(is_own_message)),
    )))
}

/// Whether an event or a span is the operator's own. The client library logs a response that it cannot parse at WARN, and more at
/// DEBUG. A response may be a Secret, so library messages are dropped at every level.
fn is_own_message(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("vmcp")
}

fn names_a_library(filter: &str) -> bool {
    filter.split(',').any(|directive| {
        let target = directive.split(['=', '[']).next().unwrap_or_default().trim();
        directive.contains('=') && !target.is_empty() && !target.starts_with("vmcp")
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct LogBuffer(Arc<Mutex<Vec<u8>>>);

    impl Write for LogBuffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn library_message_is_never_logged() {
        for filter in [
            "info",
            "trace",
            "kube_client=trace,info",
            "kube=trace,hyper=trace",
        ] {
            for format in [LogFormat::Text, LogFormat::Json] {
                let written = LogBuffer::default();
                let writer = written.clone();
                let log = subscriber(format, filter, move || writer.clone()).unwrap();
                tracing::subscriber::with_default(log, || {
                    tracing::error!(target: "kube_client::client", "hunter2");
                    let span = tracing::error_span!(target: "kube_client::client", "HTTP", url = "hunter2");
                    span.in_scope(|| tracing::error!("ours"));
                });
                let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
                assert!(!text.contains("hunter2"), "{filter}: {text}");
                assert_eq!(
                    text.contains("ours"),
                    filter.contains("info") || filter == "trace",
                    "{filter}: {text}"
                );
            }
        }
    }

    #[test]
    fn filter_naming_a_library_is_detected() {
        for filter in ["kube_client=debug", "info,hyper=trace"] {
            assert!(names_a_library(filter), "{filter}");
        }
        for filter in [
            "info",
            "info,vmcp_operator=debug",
            "vmcp_operator::apply[x]=trace",
        ] {
            assert!(!names_a_library(filter), "{filter}");
        }
    }
}
