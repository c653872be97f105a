//! Responds to a malformed, too large or incomplete request head with an error that names the fault.
//!
//! hyper responds to a malformed head with a bare status, and does not respond at all to a head that does not
//! arrive in time. [`HeadReader`] therefore withholds hyper's own response, and when the connection ends,
//! [`ParseErrorResponse`] is written instead.
//!
//! The response is the last one on its connection, while the client may still be sending. Closing a
//! connection with unread bytes resets it, and the client would lose the response. The write side is
//! therefore shut down first, and incoming bytes are discarded for a while.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// How long sending an error response may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes that are read and discarded after the response.
const MAX_DISCARDED_BYTES: u64 = 16 * 1024 * 1024;
/// Most headers that hyper parses in a request.
const MAX_HEADERS: usize = 100;

/// Encodes an error message for a listener: media type and body.
pub(crate) type ErrorBody = fn(&str) -> (HeaderValue, Bytes);

/// The limits of a request head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Largest size in bytes.
    pub(crate) bytes: usize,
    /// How long the head may take to arrive.
    pub(crate) deadline: Duration,
}

/// The error response to a head that could not be parsed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParseErrorResponse {
    status: StatusCode,
    message: String,
}

impl ParseErrorResponse {
    /// The response to a connection that ended with `error` after `read` of a head had arrived. `None` if
    /// there was no head: on an idle connection, the client would take it for the response to its next
    /// request.
    pub(crate) fn of(error: &hyper::Error, read: &[u8], limits: HeadLimits) -> Option<Self> {
        let (status, message) = if error.is_timeout() {
            if read.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                return None;
            }
            let seconds = limits.deadline.as_secs();
            (
                StatusCode::REQUEST_TIMEOUT,
                format!("The head of the request did not arrive within {seconds} s"),
            )
        } else if error.is_parse_version_h2() {
            (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "This endpoint supports only HTTP/1.1".to_owned(),
            )
        } else if error.is_parse_too_large() {
            too_large(read, limits.bytes)
        } else if error.is_parse() {
            (
                StatusCode::BAD_REQUEST,
                format!("The head of the request is not HTTP/1.1: {error}"),
            )
        } else {
            return None;
        };
        Some(Self { status, message })
    }

    /// Sends the response, and waits a moment for the client to read it.
    pub(crate) async fn send<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S, error_body: ErrorBody) {
        let (media_type, body) = error_body(&self.message);
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.status,
            media_type.to_str().unwrap_or_default(),
            body.len()
        );
        let answer = [head.as_bytes(), &body].concat();
        let sending = async {
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            let mut rest = (&mut stream).take(MAX_DISCARDED_BYTES);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        };
        // A client that is slower than this may miss the response.
        if let Ok(Err(error)) = tokio::time::timeout(SEND_TIMEOUT, sending).await {
            tracing::debug!(%error, "failed to send an error response");
        }
    }
}

fn too_large(read: &[u8], most: usize) -> (StatusCode, String) {
    if read.len() < most {
        let message = format!("The request has more than {MAX_HEADERS} headers");
        return (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message);
    }
    // The first line is incomplete, and only its target can be long.
    if memchr::memchr(b'\n', read).is_none() {
        let message =
            format!("The target of the request is longer than the {most} bytes that a head may have");
        return (StatusCode::URI_TOO_LONG, message);
    }
    let message = format!("The head of the request is larger than {most} bytes");
    (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message)
}

/// A connection that withholds hyper's own error responses.
#[derive(Debug)]
pub(crate) struct HeadReader<S> {
    stream: S,
    has_withheld: bool,
    /// Whether the last write is pending, so that part of a response may not have been sent.
    is_blocked: bool,
}

impl<S> HeadReader<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            has_withheld: false,
            is_blocked: false,
        }
    }

    /// The connection, if a response may be written to it. After part of another response, it would be read
    /// as the rest of that one.
    pub(crate) fn into_writable(self) -> Option<S> {
        (!self.is_blocked).then_some(self.stream)
    }

    /// Records whether the connection accepts writes.
    fn record_write<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.is_blocked = written.is_pending();
        written
    }
}

/// Whether `bytes` are hyper's own response to a malformed head. It is the only response with these statuses
/// and no body; the gateway's own ones name their reason. In nearly all writes, only a few bytes are
/// compared.
fn is_bare_error(bytes: &[u8]) -> bool {
    // The minor version is that of the connection's last request.
    let Some(status) = bytes.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(1..5)) else {
        return false;
    };
    matches!(status, b" 400" | b" 414" | b" 431")
        && bytes.ends_with(b"\r\n\r\n")
        && memmem::find(bytes, b"\r\ncontent-length: 0\r\n").is_some()
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadReader<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadReader<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if is_bare_error(bytes) {
            self.has_withheld = true;
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.record_write(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_withheld {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = parts
            && is_bare_error(only)
        {
            self.has_withheld = true;
            return Poll::Ready(Ok(only.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.record_write(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After part of a response, no other response is written.
    #[tokio::test]
    async fn partly_sent_response_blocks_an_error_response() {
        let (server, mut client) = tokio::io::duplex(16);
        let mut server = HeadReader::new(server);
        let mut answer = Box::pin(server.write_all(&[0; 20]));
        assert!(futures::poll!(&mut answer).is_pending());
        drop(answer);
        assert!(server.is_blocked);
        client.read_exact(&mut [0; 16]).await.unwrap();
        server.write_all(&[0; 4]).await.unwrap();
        assert!(server.into_writable().is_some());
    }

    /// Only hyper's own error responses, which have no body, are withheld.
    #[tokio::test]
    async fn only_bare_error_responses_are_withheld() {
        let (server, mut client) = tokio::io::duplex(1024);
        let mut server = HeadReader::new(server);
        let own = |status: &str, length| {
            format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
        };
        let (withheld, sent) = (
            own("431 Request Header Fields Too Large", 0),
            own("404 Not Found", 0),
        );
        for answer in [&withheld, &sent, &own("400 Bad Request", 5)] {
            server.write_all(answer.as_bytes()).await.unwrap();
        }
        // The connection stays open for the error response.
        server.shutdown().await.unwrap();
        server.write_all(b"words").await.unwrap();
        drop(server);
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, format!("{sent}{}words", own("400 Bad Request", 5)));
    }
}
