//! The HTTP+SSE transport of specification 2024-11-05. A GET opens a stream whose first event names the URL for POSTs, and every response
//! arrives on the stream.
//!
//! An upstream session is its stream: it ends with the connection and exists in one process only, so no session record contains it. A
//! lost stream is a lost session: running calls fail, and the next call opens another.

mod connection;
mod endpoint;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use serde_json::value::RawValue;

use super::Transport;
use crate::backend::http_client::SendError;
use crate::backend::initialize::{Attempt, INITIALIZED};
use crate::backend::{
    Backend, BackendError, BackendResponse, Cookies, InitializeResult, ResponseEvents, UpstreamSession,
};
use crate::mcp::header_names;
use crate::mcp::revision::Revision;
use crate::runtime::clock;

use super::routed_stream::lock;
use connection::SseConnection;

/// The most open streams of one backend in this process.
const MAX_STREAMS: usize = 4096;

/// The open streams of one backend, by the session ids that the gateway assigns.
#[derive(Debug, Default)]
pub(in crate::backend) struct SseStreams(Mutex<HashMap<HeaderValue, Arc<SseConnection>>>);

impl SseStreams {
    fn get(&self, id: &HeaderValue) -> Option<Arc<SseConnection>> {
        lock(&self.0).get(id).map(Arc::clone)
    }

    fn forget(&self, id: &HeaderValue) {
        lock(&self.0).remove(id);
    }

    /// Adds the stream `id`.
    fn insert(&self, id: &HeaderValue, connection: &Arc<SseConnection>) -> Result<(), BackendError> {
        let mut open = lock(&self.0);
        if open.len() >= MAX_STREAMS {
            let message = format!("{MAX_STREAMS} streams are open, which is the most");
            return Err(BackendError::Unreachable(message));
        }
        open.insert(id.clone(), Arc::clone(connection));
        Ok(())
    }

    /// Returns the number of the stream of `session`; `None` when it is not open in this process.
    pub(super) fn number(&self, session: &UpstreamSession) -> Option<u64> {
        let id = session.id.as_ref()?;
        self.get(id)?;
        u64::from_str_radix(id.to_str().ok()?, 16).ok()
    }

    /// Returns the messages on the stream of `session` that belong to no call.
    pub(super) fn listen(&self, session: &UpstreamSession) -> Result<ResponseEvents, BackendError> {
        let gone = || BackendError::status(StatusCode::NOT_FOUND.as_u16());
        let connection = session.id.as_ref().and_then(|id| self.get(id));
        let events = connection.and_then(|connection| connection.messages().listen());
        events.ok_or_else(gone)
    }

    /// Closes the stream of `session`.
    pub(super) fn close(&self, session: &UpstreamSession) {
        let Some(id) = &session.id else { return };
        if let Some(connection) = self.get(id) {
            connection.close();
        }
        self.forget(id);
    }

    /// Closes the streams of all sessions.
    pub(super) fn close_all(&self) {
        for connection in lock(&self.0).values() {
            connection.close();
        }
    }
}

impl Transport {
    fn sse_stream(&self, id: &HeaderValue) -> Option<Arc<SseConnection>> {
        match self {
            Self::HttpSse(streams) => streams.get(id),
            Self::StreamableHttp | Self::Stdio(_) => None,
        }
    }

    fn forget_sse_stream(&self, id: &HeaderValue) {
        if let Self::HttpSse(streams) = self {
            streams.forget(id);
        }
    }
}

impl Backend {
    /// Opens a stream, at `address` if given, and waits for its `endpoint` event. Returns the id of the new session.
    async fn open_stream(&self, address: Option<IpAddr>) -> Result<HeaderValue, SendError> {
        let mut request = self.request(Method::GET, None, Bytes::new())?;
        let headers = request.headers_mut();
        headers.remove(http::header::CONTENT_TYPE);
        headers.insert(http::header::ACCEPT, header_names::EVENT_STREAM);
        let response = self.send_to(request, address).await?;
        if response.status() != StatusCode::OK {
            return Err(BackendError::from_response(&response).into());
        }
        let headers = response.headers().clone();
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        if !header_names::is_media_type(content_type, &header_names::EVENT_STREAM) {
            let not = "no stream of events; is it a server of HTTP+SSE, and this the URL of its stream?";
            return Err(BackendError::content_type(content_type, not).into());
        }
        let mut events = ResponseEvents::new(response.into_body());
        let endpoint = loop {
            let Some(event) = events.next().await? else {
                let message = "the stream ended before it named its endpoint";
                return Err(BackendError::Broken(message.to_owned()).into());
            };
            if event.event.as_ref().is_some_and(|kind| &kind[..] == b"endpoint") {
                let data = event.data.unwrap_or_default();
                let data = String::from_utf8_lossy(&data);
                break endpoint::resolve(self.url(), &data).map_err(BackendError::Invalid)?;
            }
        };
        let number = format!("{:016x}", crate::runtime::random::u64());
        let id = HeaderValue::try_from(number).map_err(|error| BackendError::Invalid(error.to_string()))?;
        // The cookies by which a load balancer finds the stream's server. POSTs send them.
        let cookies = Cookies::default();
        cookies.store_from_response(&headers, &[self.url(), &endpoint], clock::unix_seconds);
        let connection = Arc::new(SseConnection::new(
            endpoint,
            address,
            cookies,
            self.shares_session(),
        ));
        if let Transport::HttpSse(streams) = &self.inner.transport {
            streams.insert(&id, &connection)?;
        }
        let (inner, drained) = (Arc::downgrade(&self.inner), self.tasks().drained());
        self.tasks()
            .spawn(connection.read(id.clone(), events, inner, drained));
        Ok(id)
    }

    /// Sends the request `message` with the id `id`. The response is the share of the stream that belongs to the call.
    pub(super) async fn call_over_sse(
        &self,
        session: &UpstreamSession,
        message: Bytes,
        id: &RawValue,
    ) -> Result<BackendResponse, BackendError> {
        let stream = session.id.as_ref().ok_or(BackendError::SessionLost)?;
        let connection = self
            .inner
            .transport
            .sse_stream(stream)
            .ok_or(BackendError::SessionLost)?;
        let events = connection.messages().call(id, &message);
        let events = events.ok_or(BackendError::SessionLost)?;
        self.post_over_sse(stream, message).await?;
        Ok(BackendResponse::Events(
            Box::new(session.clone()),
            Box::new(events),
        ))
    }

    pub(super) async fn notify_over_sse(
        &self,
        session: &UpstreamSession,
        message: Bytes,
    ) -> Result<(), BackendError> {
        let stream = session.id.as_ref().ok_or(BackendError::SessionLost)?;
        self.post_over_sse(stream, message).await
    }

    /// Posts `message` to the endpoint of the stream `id`.
    async fn post_over_sse(&self, id: &HeaderValue, message: Bytes) -> Result<(), BackendError> {
        let connection = self
            .inner
            .transport
            .sse_stream(id)
            .ok_or(BackendError::SessionLost)?;
        let mut request = self.request(Method::POST, None, message)?;
        *request.uri_mut() = connection.endpoint().clone();
        if let Some(cookies) = connection.cookies().header(clock::unix_seconds) {
            request.headers_mut().insert(http::header::COOKIE, cookies);
        }
        let response = self.send(request, connection.address()).await?;
        let urls = [connection.endpoint()];
        connection
            .cookies()
            .store_from_response(response.headers(), &urls, clock::unix_seconds);
        match response.status() {
            status if status.is_success() => Ok(()),
            // The server no longer knows the stream, although it has not closed it.
            StatusCode::NOT_FOUND => {
                connection.close();
                self.inner.transport.forget_sse_stream(id);
                Err(BackendError::SessionLost)
            }
            _ => Err(BackendError::from_response(&response)),
        }
    }

    /// Sends `initialize` on a new stream.
    pub(super) async fn initialize_over_sse(
        &self,
        revision: Revision,
        message: Bytes,
        address: Option<IpAddr>,
        id: &RawValue,
        attempt: &mut Attempt,
    ) -> Result<InitializeResult, SendError> {
        let session = UpstreamSession {
            id: Some(self.open_stream(address).await?),
            revision,
            address,
            cookies: Cookies::default(),
        };
        attempt.note_opened(&session);
        let answer = self.call_over_sse(&session, message, id).await?;
        let result = attempt.complete(&answer.whole(id).await?, session)?;
        self.notify_over_sse(&result.session, INITIALIZED).await?;
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::backend::HttpClient;
    use crate::config::{self, BackendEndpoint, BackendTransport};
    use crate::runtime::tasks::Tasks;

    /// Reads one request; a POST ends with its body.
    async fn read(connection: &mut TcpStream) -> String {
        let (mut request, mut part) = (String::new(), [0; 4096]);
        while !(request.ends_with('}') || request.starts_with("GET") && request.ends_with("\r\n\r\n")) {
            let length = connection.read(&mut part).await.unwrap();
            assert!(length > 0, "the connection ended: {request}");
            request.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
        request.to_ascii_lowercase()
    }

    /// A load balancer finds the server of a stream by the cookies that GET or a POST has set.
    #[tokio::test]
    async fn posts_send_the_cookies_of_their_stream() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/sse", listener.local_addr().unwrap());
        let configured = config::BackendSettings {
            endpoint: BackendEndpoint::Http {
                url: url.parse().unwrap(),
                transport: BackendTransport::Sse,
            },
            ..config::BackendSettings::for_test("a", url.parse().unwrap())
        };
        let backend = Backend::new(&configured, HttpClient::new(Tasks::default()));
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(!read(&mut stream).await.contains("\r\ncookie:"));
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nset-cookie: lb=1; HttpOnly\r\n\
                        set-cookie: of-sse=1; Path=/sse\r\n\r\nevent: endpoint\ndata: /message\n\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut cookies = Vec::new();
            for _ in 0..2 {
                let (mut post, _) = listener.accept().await.unwrap();
                let request = read(&mut post).await;
                let line = request.lines().find(|line| line.starts_with("cookie:"));
                cookies.push(line.map(str::to_owned).unwrap_or_default());
                let accepted = "HTTP/1.1 202 Accepted\r\nset-cookie: second=2\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                post.write_all(accepted.as_bytes()).await.unwrap();
            }
            (cookies, stream)
        };
        let posting = async {
            let id = backend
                .open_stream(None)
                .await
                .map_err(BackendError::from)
                .unwrap();
            for _ in 0..2 {
                let message = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"x"}"#);
                backend.post_over_sse(&id, message).await.unwrap();
            }
        };
        let ((cookies, _stream), ()) = tokio::join!(serving, posting);
        assert_eq!(cookies, ["cookie: lb=1", "cookie: lb=1; second=2"]);
    }
}
