//! Heads that are refused before there is a request.
//!
//! hyper answers a head that it cannot read by itself: with a status, and with no word about the fault or the limit. A head that does not
//! end in time it does not answer at all. So its own answer is withheld ([`HeadReader`]), and where the connection ends, ours is written
//! in its place ([`ParseErrorResponse`]).
//!
//! The answer is the last thing on its connection, and whoever sent the head may still be sending. A connection that is closed with
//! unread bytes in it takes the answer down with it, so that our side is shut first, and what comes is thrown away for a while.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// How long a refusal may take to be sent and read.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of what a client still sends is read and thrown away.
const MAX_DISCARDED_BYTES: u64 = 16 * 1024 * 1024;
/// How many headers hyper reads of a request.
const MAX_HEADERS: usize = 100;

/// How a listener words a refusal: its media type, and its body.
pub(crate) type ErrorBody = fn(&str) -> (HeaderValue, Bytes);

/// The bounds of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How many bytes it may have.
    pub(crate) bytes: usize,
    /// How long it may take to arrive.
    pub(crate) deadline: Duration,
}

/// What is said to the sender of a head that is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParseErrorResponse {
    status: StatusCode,
    message: String,
}

impl ParseErrorResponse {
    /// Why a connection ended, where that is the fault of a head of which `read` had arrived. `None` where there was no head: for a
    /// connection that is idle too long an answer would be one to a request that its client is about to send.
    pub(crate) fn of(error: &hyper::Error, read: &[u8], bounds: Bounds) -> Option<Self> {
        let (status, message) = if error.is_timeout() {
            if read.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                return None;
            }
            let seconds = bounds.deadline.as_secs();
            (
                StatusCode::REQUEST_TIMEOUT,
                format!("The head of the request did not arrive within {seconds} s"),
            )
        } else if error.is_parse_version_h2() {
            (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "This endpoint speaks HTTP/1.1, and no HTTP/2".to_owned(),
            )
        } else if error.is_parse_too_large() {
            too_large(read, bounds.bytes)
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

    /// Says it, and waits a moment for the client to take it.
    pub(crate) async fn send<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S, wording: ErrorBody) {
        let (media_type, body) = wording(&self.message);
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.status,
            media_type.to_str().unwrap_or_default(),
            body.len()
        );
        let answer = [head.as_bytes(), &body].concat();
        let saying = async {
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            let mut rest = (&mut stream).take(MAX_DISCARDED_BYTES);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        };
        // A client that is slower than this may miss the answer.
        if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, saying).await {
            tracing::debug!(%error, "a refusal did not reach its client");
        }
    }
}

fn too_large(read: &[u8], most: usize) -> (StatusCode, String) {
    if read.len() < most {
        let message = format!("The request has more than {MAX_HEADERS} headers");
        return (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message);
    }
    // The first line has not ended, and all that can be long in it is the target.
    if memchr::memchr(b'\n', read).is_none() {
        let message =
            format!("The target of the request is longer than the {most} bytes that a head may have");
        return (StatusCode::URI_TOO_LONG, message);
    }
    let message = format!("The head of the request is larger than {most} bytes");
    (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message)
}

/// A connection on which hyper's own answers are not sent.
#[derive(Debug)]
pub(crate) struct HeadReader<S> {
    stream: S,
    has_withheld: bool,
    /// Whether the client takes nothing at the moment, so that part of an answer may not have gone out.
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

    /// The connection, if an answer may be written on it: behind a part of another it would be taken for the rest of that.
    pub(crate) fn into_free(self) -> Option<S> {
        (!self.is_blocked).then_some(self.stream)
    }

    /// Takes note of whether the client takes what is written.
    fn written<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.is_blocked = written.is_pending();
        written
    }
}

/// Whether this is the answer of hyper itself to a head that it cannot read. It is the only one with these statuses that has no body: ours
/// name their reason. Of nearly all that is written a few bytes are looked at.
fn is_own_answer(bytes: &[u8]) -> bool {
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
        if is_own_answer(bytes) {
            self.has_withheld = true;
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written)
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
            && is_own_answer(only)
        {
            self.has_withheld = true;
            return Poll::Ready(Ok(only.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.written(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn behind_a_part_of_an_answer_no_other_is_written() {
        let (server, mut client) = tokio::io::duplex(16);
        let mut server = HeadReader::new(server);
        let mut answer = Box::pin(server.write_all(&[0; 20]));
        assert!(futures::poll!(&mut answer).is_pending());
        drop(answer);
        assert!(server.is_blocked);
        client.read_exact(&mut [0; 16]).await.unwrap();
        server.write_all(&[0; 4]).await.unwrap();
        assert!(server.into_free().is_some());
    }

    #[tokio::test]
    async fn only_an_answer_without_words_is_withheld() {
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
        // The connection stays open for the words.
        server.shutdown().await.unwrap();
        server.write_all(b"words").await.unwrap();
        drop(server);
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, format!("{sent}{}words", own("400 Bad Request", 5)));
    }
}
