//! The transports to a backend. Each has a folder here and one arm of [`Transport`].
//!
//! The rest of the gateway sends messages through the methods in this file. It depends on a transport only through [`SessionScope`], which
//! says where sessions may be kept. A new transport is a new folder, an arm of [`Transport`], and its branch in each `match` below.

mod http_sse;
mod message_routes;
mod routed_stream;
mod stdio;
mod streamable_http;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::value::RawValue;

use crate::backend::http_client::SendError;
use crate::backend::initialize::Attempt;
use crate::backend::{
    Backend, BackendError, BackendResponse, InitializeResult, ResponseEvents, UpstreamSession,
};
use crate::config::{BackendEndpoint, BackendTransport};
use crate::mcp::revision::Revision;

use http_sse::SseStreams;
use stdio::ServerProcesses;

pub use stdio::ProcessExit;

/// The transport of one backend, with its state in this process.
#[derive(Debug)]
pub(super) enum Transport {
    /// Streamable HTTP, since revision 2025-03-26.
    StreamableHttp,
    /// HTTP+SSE of revision 2024-11-05, with the open streams.
    HttpSse(SseStreams),
    /// The standard streams of a program that the gateway runs, with its processes.
    Stdio(ServerProcesses),
}

/// Where the sessions of a transport can exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionScope {
    /// A session is data. The session record contains it, and every replica can use it.
    Stored,
    /// A session is a connection of this gateway process, or a process that it has started. It is in no record, other replicas open their
    /// own, and it ends with the connection.
    ProcessLocal,
}

impl Transport {
    /// Creates the transport for the configured endpoint.
    pub(super) fn new(endpoint: &BackendEndpoint) -> Self {
        match endpoint {
            BackendEndpoint::Http {
                transport: BackendTransport::StreamableHttp,
                ..
            } => Self::StreamableHttp,
            BackendEndpoint::Http {
                transport: BackendTransport::Sse,
                ..
            } => Self::HttpSse(SseStreams::default()),
            BackendEndpoint::Command(command) => Self::Stdio(ServerProcesses::new(Arc::clone(command))),
        }
    }

    /// Whether it was created for `endpoint`, apart from the URL.
    pub(super) fn is_for(&self, endpoint: &BackendEndpoint) -> bool {
        match (self, endpoint) {
            (Self::StreamableHttp, BackendEndpoint::Http { transport, .. }) => {
                *transport == BackendTransport::StreamableHttp
            }
            (Self::HttpSse(_), BackendEndpoint::Http { transport, .. }) => {
                *transport == BackendTransport::Sse
            }
            (Self::Stdio(processes), BackendEndpoint::Command(command)) => processes.command() == command,
            _ => false,
        }
    }

    /// Whether a connection to an address of the backend's host comes before a session.
    pub(super) fn connects(&self) -> bool {
        !matches!(self, Self::Stdio(_))
    }

    fn session_scope(&self) -> SessionScope {
        match self {
            Self::StreamableHttp => SessionScope::Stored,
            Self::HttpSse(_) | Self::Stdio(_) => SessionScope::ProcessLocal,
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
            Transport::Stdio(_) => Box::pin(self.call_over_stdio(session, message, id)).await,
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
            Transport::Stdio(_) => self.notify_over_stdio(session, message).await,
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
            Transport::Stdio(processes) => {
                processes.close(session);
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
            (Transport::Stdio(processes), None) => processes.listen(session),
            // These streams have no event ids to resume from.
            (Transport::HttpSse(_) | Transport::Stdio(_), Some(_)) => {
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
            Transport::Stdio(_) => Ok(self.initialize_over_stdio(revision, message, id, attempt).await?),
        }
    }

    /// Returns the number of the process-local session `session`; `None` when it is not open in this process.
    #[must_use]
    pub fn local_session_number(&self, session: &UpstreamSession) -> Option<u64> {
        match &self.inner.transport {
            Transport::StreamableHttp => None,
            Transport::HttpSse(streams) => streams.number(session),
            Transport::Stdio(processes) => processes.number(session),
        }
    }

    /// Closes all process-local sessions, when the backend is removed from the configuration.
    pub fn close_local_sessions(&self) {
        match &self.inner.transport {
            Transport::StreamableHttp => {}
            Transport::HttpSse(streams) => streams.close_all(),
            Transport::Stdio(processes) => processes.close_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::backend::{Cookies, HttpClient};
    use crate::config::{BackendSettings, ConfiguredHeader, UpstreamSettings, UpstreamTls, ValueSource};
    use crate::runtime::tasks::Tasks;

    /// The value of a header of every request to [`backend`].
    const SECRET: &str = "s3cret";

    /// The backend at `listener`, and a session there.
    fn backend(listener: &TcpListener, scheme: &str, tls: UpstreamTls) -> (Backend, UpstreamSession) {
        let url = format!("{scheme}://{}/mcp", listener.local_addr().unwrap());
        let header = ConfiguredHeader {
            name: HeaderName::from_static("x-key"),
            prefix: String::new(),
            source: ValueSource::Value(SECRET.to_owned()),
        };
        let mut configured = BackendSettings::for_test("a", url.parse().unwrap());
        configured.upstream = Arc::new(UpstreamSettings {
            headers: vec![header],
            tls,
            ..UpstreamSettings::default()
        });
        let session = UpstreamSession {
            id: Some(HeaderValue::from_static("a session")),
            revision: Revision::LATEST,
            address: None,
            cookies: Cookies::default(),
        };
        (
            Backend::new(&configured, HttpClient::new(Tasks::default())),
            session,
        )
    }

    // A backend that repeats a header in a redirect, or in the name of an encoding, does not bring it into the error of a GET stream.
    #[tokio::test]
    async fn header_echoed_to_get_stream_is_hidden() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (backend, session) = backend(&listener, "http", UpstreamTls::default());
        let error = async |answer: &str| {
            let answering = async {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    connection.read_buf(&mut request).await.unwrap();
                }
                let sent = format!("x-key: {SECRET}");
                assert!(String::from_utf8_lossy(&request).contains(&sent));
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

    // A backend that repeats a header as the name in its certificate does not bring it into the error of a deletion.
    #[tokio::test]
    async fn header_echoed_to_deletion_is_hidden() {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, authority.pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([format!("{SECRET}.test")]).unwrap();
        let certificate = certificate.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = UpstreamTls {
            ca_file: Some(ca_file),
            identity: None,
        };
        let (backend, session) = backend(&listener, "https", tls);
        let presenting = async {
            let (connection, _) = listener.accept().await.unwrap();
            let refused = TlsAcceptor::from(Arc::new(config)).accept(connection).await;
            refused.unwrap_err()
        };
        let (closed, _) = tokio::join!(backend.close(&session), presenting);
        let error = closed.unwrap_err().to_string();
        assert!(
            error.contains("<hidden>.test") && !error.contains(SECRET),
            "{error}"
        );
    }
}
