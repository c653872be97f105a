//! The GET stream of an upstream session: server-initiated messages, and the rest of an interrupted response.

use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::{Backend, BackendError, ResponseEvents, UpstreamSession};
use crate::mcp::sse::Event;

/// The backoff before an ended stream is opened again, unless the backend sets `retry`.
const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
/// The longest backoff between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The shortest backoff that a backend may ask for.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// A stream that ends sooner grows the backoff, unless the backend sets `retry`: the backend may not support streams properly.
const MIN_STREAM_LIFETIME: Duration = Duration::from_secs(5);
/// A backend that ends a resumed stream this often without an event does not know the event id. The id is then dropped.
const MAX_EMPTY_RESUMES: u32 = 2;

/// Why a backend offers no stream. Asking again does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStream {
    /// The backend offers no GET stream, like most backends.
    NotOffered,
    /// The backend may not know the session any more. Some backends respond the same when they offer no stream, so this alone does not
    /// justify a new session.
    SessionInDoubt,
}

/// The GET stream of an upstream session. It is opened again whenever it ends, with exponential backoff.
#[derive(Debug)]
pub struct ListenStream {
    backend: Backend,
    session: UpstreamSession,
    /// The id of the last event, where the backend sends ids.
    position: Option<HeaderValue>,
    events: Option<ResponseEvents>,
    /// The backoff that the backend asked for with `retry`.
    requested_backoff: Option<Duration>,
    backoff: Duration,
    /// When the backoff ends.
    next_opening: Instant,
    opened_at: Instant,
    has_events_since_open: bool,
    empty_resumes: u32,
    /// The number of times that the stream was opened.
    opened: u64,
}

impl ListenStream {
    /// Creates the stream of `session` at `backend`, after the event `position` if given.
    #[must_use]
    pub fn new(backend: Backend, session: UpstreamSession, position: Option<HeaderValue>) -> Self {
        Self {
            backend,
            session,
            position,
            events: None,
            requested_backoff: None,
            backoff: Duration::ZERO,
            next_opening: Instant::now(),
            opened_at: Instant::now(),
            has_events_since_open: false,
            empty_resumes: 0,
            opened: 0,
        }
    }

    /// Creates it from a stream that is already open.
    #[must_use]
    pub fn from_open(backend: Backend, session: UpstreamSession, events: ResponseEvents) -> Self {
        Self {
            events: Some(events),
            opened: 1,
            ..Self::new(backend, session, None)
        }
    }

    /// The number of times that the stream was opened. After a reopening, messages may have been missed.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Returns the next event. Reopens the stream when it ends, after the last event where the backend sends ids.
    ///
    /// Cancel safe: the backoff continues when the future is dropped, and an interrupted opening is repeated.
    ///
    /// # Errors
    /// When the backend offers no stream.
    pub async fn next(&mut self) -> Result<Event, NoStream> {
        loop {
            if let Some(event) = self.step().await? {
                return Ok(event);
            }
        }
    }

    /// As [`Self::next`], but returns `None` after each attempt to open the stream, so the caller sees in [`Self::opened`] that the stream
    /// is open before its first event.
    ///
    /// # Errors
    /// When the backend offers no stream.
    pub async fn step(&mut self) -> Result<Option<Event>, NoStream> {
        if let Some(events) = &mut self.events {
            match events.next().await {
                Ok(Some(event)) => {
                    self.on_event(&event);
                    return Ok(Some(event));
                }
                Ok(None) => self.on_end(),
                Err(error) => {
                    tracing::debug!(backend = %self.backend.name(), %error, "GET stream broken");
                    self.on_end();
                }
            }
        }
        tokio::time::sleep_until(self.next_opening).await;
        self.open().await?;
        Ok(None)
    }

    async fn open(&mut self) -> Result<(), NoStream> {
        let opening = self.backend.listen(&self.session, self.position.as_ref()).await;
        self.backoff =
            (self.backoff * 2).clamp(self.requested_backoff.unwrap_or(INITIAL_BACKOFF), MAX_BACKOFF);
        let error = match opening {
            Ok(events) => {
                self.events = Some(events);
                self.has_events_since_open = false;
                self.opened_at = Instant::now();
                self.opened += 1;
                return Ok(());
            }
            Err(error) => error,
        };
        self.next_opening = Instant::now() + self.backoff;
        match error {
            BackendError::Status { code: 400 | 404, .. } if self.position.is_some() => self.position = None,
            BackendError::Status { code: 400 | 404, .. } | BackendError::SessionLost
                if self.session.id.is_some() =>
            {
                return Err(NoStream::SessionInDoubt);
            }
            // 409: another replica has the session's stream open and is about to close it. 429 and 5xx are temporary, too.
            BackendError::Status {
                code: 409 | 429 | 500..,
                ..
            }
            | BackendError::Busy { .. } => {}
            BackendError::Status { .. } | BackendError::Redirected(_) => return Err(NoStream::NotOffered),
            error => tracing::debug!(backend = %self.backend.name(), %error, "failed to open GET stream"),
        }
        Ok(())
    }

    fn on_event(&mut self, event: &Event) {
        self.has_events_since_open = true;
        self.empty_resumes = 0;
        if let Some(id) = position(event) {
            self.position = Some(id);
        }
        self.requested_backoff = retry(event).or(self.requested_backoff);
    }

    fn on_end(&mut self) {
        self.events = None;
        if self.opened_at.elapsed() >= MIN_STREAM_LIFETIME {
            self.backoff = self.requested_backoff.unwrap_or(INITIAL_BACKOFF);
        } else if self.has_events_since_open {
            self.backoff = self.requested_backoff.unwrap_or(self.backoff);
        } else if self.position.is_some() {
            self.empty_resumes += 1;
            if self.empty_resumes >= MAX_EMPTY_RESUMES {
                self.position = None;
                self.empty_resumes = 0;
            }
        }
        self.next_opening = Instant::now() + self.backoff;
    }
}

/// The event's id, if it can be sent back in a header.
#[must_use]
pub fn position(event: &Event) -> Option<HeaderValue> {
    let id = event.id.as_ref().filter(|id| !id.is_empty())?;
    HeaderValue::from_bytes(id).ok()
}

/// The backoff that the event's `retry` asks for, clamped.
#[must_use]
pub fn retry(event: &Event) -> Option<Duration> {
    let millis = std::str::from_utf8(event.retry.as_ref()?).ok()?.parse().ok()?;
    Some(Duration::from_millis(millis).clamp(MIN_BACKOFF, MAX_BACKOFF))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::backend::HttpClient;
    use crate::mcp::revision::Revision;
    use crate::runtime::tasks::Tasks;

    const STREAM: &str =
        "200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\nretry: 400\ndata: x\n\n";
    const NOT_READY: &str = "503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const LIMIT: Duration = Duration::from_secs(10);

    /// Responds with `first`, then with streams of one event. Records the times of requests in `asked`.
    async fn serve(server: &TcpListener, first: &str, asked: &mut Vec<Instant>) {
        loop {
            let (mut connection, _) = server.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let answer = if asked.is_empty() { first } else { STREAM };
            asked.push(Instant::now());
            // The client may have gone.
            connection
                .write_all(format!("HTTP/1.1 {answer}").as_bytes())
                .await
                .ok();
        }
    }

    #[tokio::test]
    async fn backoff_continues_while_the_future_is_dropped() {
        for (first, opened, backoff) in [
            (STREAM, 2, Duration::from_millis(400)),
            (NOT_READY, 1, INITIAL_BACKOFF),
        ] {
            let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/mcp", server.local_addr().unwrap());
            let configured = crate::config::BackendSettings::for_test("a", url.parse().unwrap());
            let session = UpstreamSession {
                id: Some(HeaderValue::from_static("s")),
                revision: Revision::LATEST,
                address: None,
                cookies: crate::backend::Cookies::default(),
            };
            let backend = Backend::new(&configured, HttpClient::new(Tasks::default()));
            let mut listener = ListenStream::new(backend, session, None);
            let mut asked = Vec::new();
            let waiting = async {
                listener.open().await.unwrap();
                while listener.opened() < opened {
                    // The event does not matter: the future is dropped and created again.
                    tokio::time::timeout(Duration::from_millis(50), listener.next())
                        .await
                        .ok();
                }
            };
            tokio::select! {
                () = serve(&server, first, &mut asked) => {}
                waited = tokio::time::timeout(LIMIT, waiting) => waited.unwrap(),
            }
            assert!(asked[1] - asked[0] >= backoff, "{:?}", asked[1] - asked[0]);
        }
    }
}
