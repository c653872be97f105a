//! Sessions at a backend that are no longer needed: deleted one after the other.
//!
//! The places are the backend's own, so that one that hangs holds up its own deletions and nobody else's. What it gathers is bounded: so
//! many run at a time, the others wait for a place only so long, and while the breaker is open nothing is sent. What is not deleted is
//! left to the backend, which forgets idle sessions by itself.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::{Backend, BackendError, UpstreamSession};

/// How many run at a time.
const AT_A_TIME: usize = 16;
/// How many there may be, those that wait included.
const AT_MOST: usize = 2048;
/// How long one waits for its place.
const WAIT: Duration = Duration::from_secs(10);

/// The deletions at one backend.
#[derive(Debug)]
pub(super) struct DeleteQueue {
    all: Semaphore,
    running: Semaphore,
}

impl Default for DeleteQueue {
    fn default() -> Self {
        Self {
            all: Semaphore::new(AT_MOST),
            running: Semaphore::new(AT_A_TIME),
        }
    }
}

impl Backend {
    /// Deletes `session` when it is its turn. How long that takes depends on nothing but this backend, and is bounded.
    ///
    /// # Errors
    /// When it is not known to be deleted: the backend cannot be reached, its breaker is open, or too many others are before it.
    pub async fn enqueue_delete(&self, session: &UpstreamSession) -> Result<(), BackendError> {
        if session.id.is_none() || self.has_streams_for_sessions() {
            return self.close(session).await;
        }
        let (admission, closing) = (&self.inner.admission, &self.inner.closing);
        admission.would_refuse()?;
        let Ok(counted) = closing.all.try_acquire() else {
            tracing::warn!(backend = %self.name(), "too many sessions are to be deleted there; one is left to its own end");
            return Err(BackendError::Overloaded(AT_MOST));
        };
        let place = tokio::time::timeout(WAIT, closing.running.acquire()).await;
        let place = place.map_err(|_| BackendError::Overloaded(AT_A_TIME))?;
        // Meanwhile it may have been found to be away.
        admission.would_refuse()?;
        let closed = self.close(session).await;
        drop((place, counted));
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
    async fn while_the_breaker_is_open_nothing_is_sent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = backend(listener.local_addr().unwrap());
        backend.isolate(&ResilienceSettings {
            breaker: BreakerSettings {
                failures: 1,
                open_for: Duration::from_secs(10),
            },
            ..ResilienceSettings::default()
        });
        backend.admit().await.unwrap().failed(&BackendError::Status(500));
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
    async fn what_a_silent_backend_gathers_is_over_after_a_while() {
        // It takes connections, and says nothing.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = backend(listener.local_addr().unwrap());
        let session = session();
        let began = Instant::now();
        let closing = (0..AT_MOST + 1).map(|_| backend.enqueue_delete(&session));
        let outcomes = futures::future::join_all(closing).await;
        assert!(
            began.elapsed() <= WAIT + Duration::from_secs(6),
            "{:?}",
            began.elapsed()
        );
        assert!(outcomes.iter().all(Result::is_err));
        assert!(matches!(
            outcomes[AT_MOST],
            Err(BackendError::Overloaded(AT_MOST))
        ));
    }
}
