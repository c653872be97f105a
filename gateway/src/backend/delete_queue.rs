//! The bounded queue that deletes unneeded upstream sessions of one backend.
//!
//! Each backend has its own queue, so a hanging backend delays only its own deletions. Concurrency, queue length and queue time are
//! bounded, and nothing is sent while the circuit breaker is open. A session that is not deleted expires at the backend.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::{Backend, BackendError, SessionScope, UpstreamSession};

/// The most concurrent deletions.
const MAX_CONCURRENT_DELETES: usize = 16;
/// The most deletions, running or waiting.
const MAX_QUEUED_DELETES: usize = 2048;
/// The longest wait in the queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// The deletions at one backend: a limit for all of them, and one for those that run.
#[derive(Debug)]
pub(super) struct DeleteQueue {
    all: Semaphore,
    running: Semaphore,
}

impl Default for DeleteQueue {
    fn default() -> Self {
        Self {
            all: Semaphore::new(MAX_QUEUED_DELETES),
            running: Semaphore::new(MAX_CONCURRENT_DELETES),
        }
    }
}

impl Backend {
    /// Deletes `session` through the queue. The time that this takes is bounded and depends on this backend only.
    ///
    /// # Errors
    /// When the deletion is not confirmed: the backend is unreachable, its breaker is open, or the queue is full.
    pub async fn enqueue_delete(&self, session: &UpstreamSession) -> Result<(), BackendError> {
        if session.id.is_none() || self.session_scope() == SessionScope::ProcessLocal {
            return self.close(session).await;
        }
        let (admission, closing) = (&self.inner.admission, &self.inner.closing);
        admission.check_breaker()?;
        let Ok(queued) = closing.all.try_acquire() else {
            tracing::warn!(backend = %self.name(), "session deletion queue full; leaving a session to expire");
            return Err(BackendError::Overloaded(MAX_QUEUED_DELETES));
        };
        let running = tokio::time::timeout(QUEUE_TIMEOUT, closing.running.acquire()).await;
        let running = running.map_err(|_| BackendError::Overloaded(MAX_CONCURRENT_DELETES))?;
        // The breaker may have opened in the meantime.
        admission.check_breaker()?;
        let closed = self.close(session).await;
        drop((running, queued));
        closed
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::time::Instant;

    use super::*;
    use crate::backend::HttpClient;
    use crate::config::{BreakerSettings, ResilienceSettings};
    use crate::mcp::revision::Revision;
    use crate::runtime::tasks::Tasks;

    fn backend(address: std::net::SocketAddr) -> Backend {
        let url = format!("http://{address}/mcp").parse().unwrap();
        let configured = crate::config::BackendSettings::for_test("a", url);
        Backend::new(&configured, HttpClient::new(Tasks::default()))
    }

    fn session() -> UpstreamSession {
        UpstreamSession {
            id: Some(HeaderValue::from_static("s")),
            revision: Revision::LATEST,
            address: None,
            cookies: crate::backend::Cookies::default(),
        }
    }

    #[tokio::test]
    async fn open_breaker_sends_no_deletions() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = backend(listener.local_addr().unwrap());
        backend.set_resilience(&ResilienceSettings {
            breaker: BreakerSettings {
                failures: 1,
                open_for: Duration::from_secs(10),
            },
            ..ResilienceSettings::default()
        });
        backend.admit().await.unwrap().failed(&BackendError::status(500));
        let closed = backend.enqueue_delete(&session()).await;
        assert!(
            matches!(closed, Err(BackendError::CircuitOpen { .. })),
            "{closed:?}"
        );
        let connected = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
        assert!(connected.is_err());
        let nothing_to_delete = UpstreamSession {
            id: None,
            ..session()
        };
        assert_eq!(backend.enqueue_delete(&nothing_to_delete).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn deletions_at_a_silent_backend_end_in_bounded_time() {
        // It accepts connections and never responds.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = backend(listener.local_addr().unwrap());
        let session = session();
        let began = Instant::now();
        let closing = (0..MAX_QUEUED_DELETES + 1).map(|_| backend.enqueue_delete(&session));
        let outcomes = futures::future::join_all(closing).await;
        assert!(
            began.elapsed() <= QUEUE_TIMEOUT + Duration::from_secs(6),
            "{:?}",
            began.elapsed()
        );
        assert!(outcomes.iter().all(Result::is_err));
        assert!(matches!(
            outcomes[MAX_QUEUED_DELETES],
            Err(BackendError::Overloaded(MAX_QUEUED_DELETES))
        ));
    }
}
