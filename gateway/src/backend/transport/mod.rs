//! The transports to a backend. Each has a folder here and one arm of [`Transport`].
//!
//! The rest of the gateway sends messages through the methods in this file. It depends on a transport only through [`SessionScope`], which
//! says where sessions may be kept. A new transport is a new folder, an arm of [`Transport`], and its branch in each `match` below.

mod http_sse;
mod streamable_http;

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::value::RawValue;

use crate::backend::http_client::SendError;
use crate::backend::initialize::Attempt;
use crate::backend::{
    Backend, BackendError, BackendResponse, InitializeResult, ResponseEvents, UpstreamSession,
};
use crate::config::BackendTransport;
use crate::mcp::revision::Revision;

use http_sse::SseStreams;

/// The transport of one backend, with its state in this process.
#[derive(Debug)]
pub(super) enum Transport {
    /// Streamable HTTP, since revision 2025-03-26.
    StreamableHttp,
    /// HTTP+SSE of revision 2024-11-05, with the open streams.
    HttpSse(SseStreams),
}

/// Where the sessions of a transport can exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionScope {
    /// A session is data. The session record contains it, and every replica can use it.
    Stored,
    /// A session is a connection of this process. It is in no record, other replicas open their own, and it ends with the connection.
    ProcessLocal,
}

impl Transport {
    /// Creates the transport for the configured protocol.
    pub(super) fn new(protocol: BackendTransport) -> Self {
        match protocol {
            BackendTransport::StreamableHttp => Self::StreamableHttp,
            BackendTransport::Sse => Self::HttpSse(SseStreams::default()),
        }
    }

    /// The protocol for which it was created.
    pub(super) fn protocol(&self) -> BackendTransport {
        match self {
            Self::StreamableHttp => BackendTransport::StreamableHttp,
            Self::HttpSse(_) => BackendTransport::Sse,
        }
    }

    fn session_scope(&self) -> SessionScope {
        match self {
            Self::StreamableHttp => SessionScope::Stored,
            Self::HttpSse(_) => SessionScope::ProcessLocal,
        }
    }
}

impl Backend {
    /// Where sessions of this backend can exist.
    #[must_use]
    pub fn session_scope(&self) -> SessionScope {
        self.inner.transport.session_scope()
    }

    /// Sends the request `message` with the id `id`, and returns the response in the backend's framing.
    ///
    /// # Errors
    /// When there is no response. [`BackendError::SessionLost`] means that the backend needs a new `initialize` and has not executed the
    /// request.
    pub async fn call(
        &self,
        session: &UpstreamSession,
        message: Bytes,
        id: &RawValue,
    ) -> Result<BackendResponse, BackendError> {
        let called = match &self.inner.transport {
            Transport::StreamableHttp => self.call_over_http(session, message, id).await,
            // Boxed: the state of this future must not enlarge that of the common case.
            Transport::HttpSse(_) => Box::pin(self.call_over_sse(session, message, id)).await,
        };
        called.map_err(|error| self.hide_values(error))
    }

    /// Sends the notification or response `message`.
    ///
    /// # Errors
    /// When the backend does not accept it. [`BackendError::SessionLost`] means that the backend no longer knows the session.
    pub async fn notify(&self, session: &UpstreamSession, message: Bytes) -> Result<(), BackendError> {
        let sent = match &self.inner.transport {
            Transport::StreamableHttp => self.notify_over_http(session, message).await,
            Transport::HttpSse(_) => self.notify_over_sse(session, message).await,
        };
        sent.map_err(|error| self.hide_values(error))
    }

    /// Deletes the session at the backend. A backend without deletion responds with 405, which counts as success.
    ///
    /// # Errors
    /// When the backend cannot be reached.
    pub async fn close(&self, session: &UpstreamSession) -> Result<(), BackendError> {
        if session.id.is_none() {
            return Ok(());
        }
        match &self.inner.transport {
            Transport::StreamableHttp => {
                let deleted = self.delete_over_http(session).await;
                deleted.map_err(|error| self.hide_values(error))
            }
            Transport::HttpSse(streams) => {
                streams.close(session);
                Ok(())
            }
        }
    }

    /// Opens the stream for server-initiated messages of `session`, after the event `position` if given. The stream of a call can be
    /// resumed in the same way, because its event ids identify it.
    ///
    /// # Errors
    /// When there is no stream. The status 405 means that the backend offers none.
    pub async fn listen(
        &self,
        session: &UpstreamSession,
        position: Option<&HeaderValue>,
    ) -> Result<ResponseEvents, BackendError> {
        match (&self.inner.transport, position) {
            (Transport::StreamableHttp, _) => {
                let opened = self.listen_over_http(session, position).await;
                opened.map_err(|error| self.hide_values(error))
            }
            (Transport::HttpSse(streams), None) => streams.listen(session),
            // The stream has no event ids to resume from.
            (Transport::HttpSse(_), Some(_)) => {
                Err(BackendError::status(StatusCode::METHOD_NOT_ALLOWED.as_u16()))
            }
        }
    }

    /// Opens a session with the request `message`, an `initialize` with the id `id`, at `address` if given.
    pub(super) async fn send_initialize(
        &self,
        revision: Revision,
        message: Bytes,
        address: Option<IpAddr>,
        id: &RawValue,
        attempt: &mut Attempt,
    ) -> Result<InitializeResult, SendError> {
        match &self.inner.transport {
            Transport::StreamableHttp => {
                self.initialize_over_http(revision, message, address, id, attempt)
                    .await
            }
            Transport::HttpSse(_) => {
                self.initialize_over_sse(revision, message, address, id, attempt)
                    .await
            }
        }
    }

    /// Returns the number of the process-local session `session`; `None` when it is not open in this process.
    #[must_use]
    pub fn local_session_number(&self, session: &UpstreamSession) -> Option<u64> {
        match &self.inner.transport {
            Transport::StreamableHttp => None,
            Transport::HttpSse(streams) => streams.number(session),
        }
    }

    /// Closes all process-local sessions, when the backend is removed from the configuration.
    pub fn close_local_sessions(&self) {
        match &self.inner.transport {
            Transport::StreamableHttp => {}
            Transport::HttpSse(streams) => streams.close_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderName;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::backend::{Cookies, HttpClient};
    use crate::config::{BackendSettings, ConfiguredHeader, HeaderSource, UpstreamSettings};
    use crate::runtime::tasks::Tasks;

    // A backend that repeats a header in a redirect, or in the name of an encoding, does not bring it into the error of a GET stream.
    #[tokio::test]
    async fn header_echoed_to_get_stream_is_hidden() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let header = ConfiguredHeader {
            name: HeaderName::from_static("x-key"),
            prefix: String::new(),
            source: HeaderSource::Value("s3cret".to_owned()),
        };
        let mut configured = BackendSettings::for_test("a", url.parse().unwrap());
        configured.upstream = Arc::new(UpstreamSettings {
            headers: vec![header],
            ..UpstreamSettings::default()
        });
        let backend = Backend::new(&configured, HttpClient::new(Tasks::default()));
        let session = UpstreamSession {
            id: None,
            revision: Revision::LATEST,
            address: None,
            cookies: Cookies::default(),
        };
        let error = async |answer: &str| {
            let answering = async {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    connection.read_buf(&mut request).await.unwrap();
                }
                assert!(String::from_utf8_lossy(&request).contains("x-key: s3cret"));
                let answer = format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx");
                connection.write_all(answer.as_bytes()).await.unwrap();
            };
            let (opened, ()) = tokio::join!(backend.listen(&session, None), answering);
            let error = match opened {
                Ok(mut events) => events.next().await.unwrap_err(),
                Err(error) => error,
            };
            error.to_string()
        };
        let redirected = error("302 Found\r\nlocation: http://s3cret.test/").await;
        assert!(redirected.contains("http://<hidden>.test"), "{redirected}");
        let encoded = error("200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: s3cret").await;
        assert!(encoded.contains("<hidden>"), "{encoded}");
    }
}
