//! GET: what a backend says when nobody has asked, and the rest of an answer that broke off.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::{Backend, BackendError, ResponseEvents, UpstreamSession};
use crate::mcp::header_names;
use crate::mcp::sse::Event;

/// The pause before a stream that ended is opened again, until the backend names another.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The shortest pause that a backend may ask for.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// A stream that ends sooner is opened again later and later, unless the backend says when: it may be wrong about streams.
const SHORT: Duration = Duration::from_secs(5);
/// A backend that ends the stream at once this often, when it is asked to go on behind an event, does not know the event.
const MAX_EMPTY_RESUMES: u32 = 2;

/// Why a backend gives no stream, and will not when it is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStream {
    /// It offers none: most backends.
    NotOffered,
    /// It may not know the session any more. Some backends say the same when they offer no stream, so that this alone is no
    /// reason to open another session.
    SessionInDoubt,
}

/// The stream of a session at a backend, opened again whenever it ends.
#[derive(Debug)]
pub struct ListenStream {
    backend: Backend,
    session: UpstreamSession,
    /// The last event that was heard, where the backend names its events.
    position: Option<HeaderValue>,
    events: Option<ResponseEvents>,
    /// What the backend asks for.
    wanted_pause: Option<Duration>,
    pause: Duration,
    /// When the pause is over.
    next_opening: Instant,
    opened_at: Instant,
    heard_since_open: bool,
    empty_resumes: u32,
    /// How often the stream was opened.
    opened: u64,
}

impl Backend {
    /// Opens the stream of `session`, behind the event `position` if one is given. The stream of a call can be resumed this way,
    /// too: its events name it.
    ///
    /// # Errors
    /// When there is no stream. 405 is what a backend says that offers none.
    pub async fn listen(
        &self,
        session: &UpstreamSession,
        position: Option<&HeaderValue>,
    ) -> Result<ResponseEvents, BackendError> {
        if self.has_streams_for_sessions() {
            return match position {
                None => self.listen_over_sse(session),
                Some(_) => Err(BackendError::Status(StatusCode::METHOD_NOT_ALLOWED.as_u16())),
            };
        }
        let make = || {
            let mut request = self.request(Method::GET, Some(session), Bytes::new())?;
            let headers = request.headers_mut();
            headers.remove(http::header::CONTENT_TYPE);
            headers.insert(http::header::ACCEPT, header_names::EVENT_STREAM);
            if let Some(position) = position {
                headers.insert(header_names::LAST_EVENT_ID, position.clone());
            }
            Ok(request)
        };
        let response = self.send_in(session, make).await?;
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        match response.status() {
            StatusCode::OK if header_names::is_media_type(content_type, &header_names::EVENT_STREAM) => {
                Ok(ResponseEvents::new(response.into_body()))
            }
            // Whatever this is, it is no stream, and will be none the next time.
            StatusCode::OK => Err(BackendError::Status(StatusCode::METHOD_NOT_ALLOWED.as_u16())),
            _ => Err(BackendError::of_answer(&response)),
        }
    }
}

impl ListenStream {
    /// Listens to what `backend` says to `session`, behind the event `position` if one is given.
    #[must_use]
    pub fn new(backend: Backend, session: UpstreamSession, position: Option<HeaderValue>) -> Self {
        Self {
            backend,
            session,
            position,
            events: None,
            wanted_pause: None,
            pause: Duration::ZERO,
            next_opening: Instant::now(),
            opened_at: Instant::now(),
            heard_since_open: false,
            empty_resumes: 0,
            opened: 0,
        }
    }

    /// The same for a stream that is open already.
    #[must_use]
    pub fn going_on(backend: Backend, session: UpstreamSession, events: ResponseEvents) -> Self {
        Self {
            events: Some(events),
            opened: 1,
            ..Self::new(backend, session, None)
        }
    }

    /// How often the stream was opened: where it was opened anew something may have been missed.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// The next event. Whatever ends the stream, it is opened again, behind the last event where the backend names events.
    /// May be dropped while it waits, and asked again: the pause before the next opening goes on meanwhile, and an opening that was
    /// under way is made once more.
    ///
    /// # Errors
    /// When the backend gives no stream.
    pub async fn next(&mut self) -> Result<Event, NoStream> {
        loop {
            if let Some(event) = self.step().await? {
                return Ok(event);
            }
        }
    }

    /// As [`Self::next`], but ends without an event after each attempt to open the stream, so that whoever waits can see in
    /// [`Self::opened`] that it was opened, also when nothing is said on it.
    ///
    /// # Errors
    /// When the backend gives no stream.
    pub async fn step(&mut self) -> Result<Option<Event>, NoStream> {
        if let Some(events) = &mut self.events {
            match events.next().await {
                Ok(Some(event)) => {
                    self.heard(&event);
                    return Ok(Some(event));
                }
                Ok(None) => self.ended(),
                Err(error) => {
                    tracing::debug!(backend = %self.backend.name(), %error, "a stream broke");
                    self.ended();
                }
            }
        }
        tokio::time::sleep_until(self.next_opening).await;
        self.open().await?;
        Ok(None)
    }

    async fn open(&mut self) -> Result<(), NoStream> {
        let opening = self.backend.listen(&self.session, self.position.as_ref()).await;
        self.pause = (self.pause * 2).clamp(self.wanted_pause.unwrap_or(FIRST_PAUSE), MAX_PAUSE);
        let error = match opening {
            Ok(events) => {
                self.events = Some(events);
                self.heard_since_open = false;
                self.opened_at = Instant::now();
                self.opened += 1;
                return Ok(());
            }
            Err(error) => error,
        };
        self.next_opening = Instant::now() + self.pause;
        match error {
            BackendError::Status(400 | 404) if self.position.is_some() => self.position = None,
            BackendError::Status(400 | 404) | BackendError::SessionLost if self.session.id.is_some() => {
                return Err(NoStream::SessionInDoubt);
            }
            // 409: the session's stream is open elsewhere. Whoever has it is about to close it.
            // 429 and what a server says while it is not ready pass, too.
            BackendError::Status(409 | 429 | 500..) | BackendError::Busy { .. } => {}
            BackendError::Status(_) | BackendError::Redirected(_) => return Err(NoStream::NotOffered),
            error => tracing::debug!(backend = %self.backend.name(), %error, "a stream cannot be opened"),
        }
        Ok(())
    }

    fn heard(&mut self, event: &Event) {
        self.heard_since_open = true;
        self.empty_resumes = 0;
        if let Some(id) = position(event) {
            self.position = Some(id);
        }
        self.wanted_pause = retry(event).or(self.wanted_pause);
    }

    fn ended(&mut self) {
        self.events = None;
        if self.opened_at.elapsed() >= SHORT {
            self.pause = self.wanted_pause.unwrap_or(FIRST_PAUSE);
        } else if self.heard_since_open {
            self.pause = self.wanted_pause.unwrap_or(self.pause);
        } else if self.position.is_some() {
            self.empty_resumes += 1;
            if self.empty_resumes >= MAX_EMPTY_RESUMES {
                self.position = None;
                self.empty_resumes = 0;
            }
        }
        self.next_opening = Instant::now() + self.pause;
    }
}

/// The event's id, if it has one that can be sent back.
#[must_use]
pub fn position(event: &Event) -> Option<HeaderValue> {
    let id = event.id.as_ref().filter(|id| !id.is_empty())?;
    HeaderValue::from_bytes(id).ok()
}

/// How long the backend wants to be left alone before its stream is opened again, within reason.
#[must_use]
pub fn retry(event: &Event) -> Option<Duration> {
    let millis = std::str::from_utf8(event.retry.as_ref()?).ok()?.parse().ok()?;
    Some(Duration::from_millis(millis).clamp(MIN_PAUSE, MAX_PAUSE))
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

    /// Answers `first`, and then streams that say one thing and end; `asked` tells when.
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
            // Whoever asked may have gone.
            connection
                .write_all(format!("HTTP/1.1 {answer}").as_bytes())
                .await
                .ok();
        }
    }

    #[tokio::test]
    async fn a_pause_goes_on_while_nobody_waits_for_it() {
        for (first, opened, pause) in [
            (STREAM, 2, Duration::from_millis(400)),
            (NOT_READY, 1, FIRST_PAUSE),
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
                    // Whether it is heard does not matter: the waiting is dropped and begun again.
                    tokio::time::timeout(Duration::from_millis(50), listener.next())
                        .await
                        .ok();
                }
            };
            tokio::select! {
                () = serve(&server, first, &mut asked) => {}
                waited = tokio::time::timeout(LIMIT, waiting) => waited.unwrap(),
            }
            assert!(asked[1] - asked[0] >= pause, "{:?}", asked[1] - asked[0]);
        }
    }
}
