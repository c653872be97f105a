//! A client that holds a session's own stream, and resumes it after the last event whenever it ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::http_client::Session;
use crate::stream::Stream;
use crate::wait;

/// How long the last event may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Pause after a stream that could not be opened.
const RETRY: Duration = Duration::from_millis(20);

/// A listener on a thread of its own. Dropping it stops the thread when its stream ends or has its next event.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    report: Mutex<ListenerReport>,
}

/// What a listener has received so far.
#[derive(Clone, Debug, Default)]
pub struct ListenerReport {
    /// The texts of the log messages, in the order of their arrival.
    pub messages: Vec<String>,
    /// The number of streams that were opened.
    pub opened: u64,
    /// Why a stream could not be opened, one text for each attempt.
    pub refused: Vec<String>,
}

impl Listener {
    /// Listens to the stream of `session`.
    #[must_use]
    pub fn start(gateway: SocketAddr, session: Session) -> Self {
        let shared = Arc::<Shared>::default();
        let listening = Arc::clone(&shared);
        std::thread::spawn(move || listen(gateway, &session, &listening));
        Self { shared }
    }

    /// What it has received so far.
    #[must_use]
    pub fn report(&self) -> ListenerReport {
        self.shared.report().clone()
    }

    /// Checks that each of the log messages `event-0` to `event-(count - 1)` arrived once and in order. Waits for the last one.
    ///
    /// # Errors
    /// When one is missing or arrived twice.
    pub fn heard_exactly(&self, count: u64) -> anyhow::Result<()> {
        let expected: Vec<_> = (0..count).map(|event| format!("event-{event}")).collect();
        let outcome = wait::until("the last event is heard", LIMIT, || {
            let report = self.shared.report();
            let last = report.messages.last();
            ensure!(last == expected.last(), "{last:?} is the last");
            Ok(())
        });
        let heard = self.report().messages;
        let missing: Vec<_> = expected.iter().filter(|event| !heard.contains(event)).collect();
        outcome.with_context(|| format!("missing: {missing:?}"))?;
        ensure!(
            heard == expected,
            "lost: {missing:?}; {} heard of {count}",
            heard.len()
        );
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, ListenerReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(gateway: SocketAddr, session: &Session, shared: &Shared) {
    let mut last: Option<String> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let mut stream = match open(gateway, session, last.as_deref()) {
            Ok(stream) => stream,
            Err(error) => {
                shared.report().refused.push(format!("{error:#}"));
                std::thread::sleep(RETRY);
                continue;
            }
        };
        shared.report().opened += 1;
        while let Ok(Some(event)) = stream.next_event() {
            if let Some(message) = event.message()
                && message["method"] == "notifications/message"
                && let Some(text) = message["params"]["data"].as_str()
            {
                shared.report().messages.push(text.to_owned());
            }
            last = event.id.or(last);
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

fn open(gateway: SocketAddr, session: &Session, last: Option<&str>) -> anyhow::Result<Stream> {
    let mut stream = Stream::get(gateway, session, last)?;
    if stream.status != 200 {
        let status = stream.status;
        let text = stream.rest().unwrap_or_default();
        anyhow::bail!("status {status}: {text}");
    }
    Ok(stream)
}
