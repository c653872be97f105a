//! Answers whose client takes nothing of them.
//!
//! What a client does not read cannot be sent, and hyper asks an answer for nothing while it cannot send: the deadline that the answer
//! itself watches would never be noticed, and its call would hold its places for as long as the client likes. So the connection
//! watches it. An answer that comes in parts says, in its extensions, until when it must have gone out ([`EndBy`]). When that has passed and
//! the connection can take no more, it is closed, and the answer is dropped with it. A client that reads, however slowly, has a moment
//! to learn from the answer itself that the deadline has passed.
//!
//! An answer that says nothing of this kind, such as a session's own stream, may last as long as it likes; but a client that takes
//! nothing of it for a minute, although there is something to take, is given up, too.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How much longer than an answer may last a client may take to notice.
const GRACE: Duration = Duration::from_secs(1);
/// How long a client may take nothing of an answer that has no end of its own.
const STALL: Duration = Duration::from_secs(60);

/// Until when an answer must have gone out. A cheap-clone handle: whoever makes the answer may move the moment.
#[derive(Clone, Debug)]
pub(crate) struct EndBy(Arc<Mutex<Instant>>);

impl EndBy {
    pub(crate) fn new(at: Instant) -> Self {
        Self(Arc::new(Mutex::new(at)))
    }

    /// Moves the moment.
    pub(crate) fn set(&self, at: Instant) {
        *lock(&self.0) = at;
    }

    fn last(&self) -> Instant {
        *lock(&self.0) + GRACE
    }
}

/// The answer that is going out on a connection, if it has to end. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Current(Arc<Mutex<Option<EndBy>>>);

impl Current {
    /// Takes note of the next answer.
    pub(crate) fn is<B>(&self, response: &mut Response<B>) {
        let end_by = response.extensions_mut().remove::<EndBy>();
        *lock(&self.0) = end_by;
    }

    fn last(&self) -> Option<Instant> {
        lock(&self.0).as_ref().map(EndBy::last)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that is given up when its client has not taken in time what goes out on it.
#[derive(Debug)]
pub(crate) struct Unread<S> {
    stream: S,
    current: Current,
    /// Only while the client takes nothing.
    stalled: Option<Stalled>,
}

#[derive(Debug)]
struct Stalled {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> Unread<S> {
    pub(crate) fn new(stream: S, current: Current) -> Self {
        Self {
            stream,
            current,
            stalled: None,
        }
    }

    /// Passes on what came of a write, unless the client has taken nothing for too long.
    fn sent<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            let since = Instant::now();
            let timer = Box::pin(tokio::time::sleep_until(since));
            Stalled { since, timer }
        });
        loop {
            // It may be moved while it is waited for.
            let end = self.current.last();
            let last = end.unwrap_or(stalled.since + STALL);
            if last <= Instant::now() {
                let message = match end {
                    Some(_) => "the client does not read, and the deadline of its call has passed",
                    None => "the client has read nothing for too long",
                };
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
            }
            if stalled.timer.deadline() != last {
                stalled.timer.as_mut().reset(last);
            }
            ready!(stalled.timer.as_mut().poll(context));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unread<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unread<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.sent(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.sent(context, written)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair(end_by: Option<EndBy>) -> (Unread<tokio::io::DuplexStream>, tokio::io::DuplexStream, Current) {
        let (server, client) = tokio::io::duplex(16);
        let (current, mut response) = (Current::default(), Response::new(()));
        response.extensions_mut().extend(
            end_by
                .map(|end_by| {
                    let mut extensions = http::Extensions::new();
                    extensions.insert(end_by);
                    extensions
                })
                .unwrap_or_default(),
        );
        current.is(&mut response);
        (Unread::new(server, current.clone()), client, current)
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_ends_at_its_deadline_and_not_before() {
        let began = Instant::now();
        let end_by = EndBy::new(began + Duration::from_secs(5));
        let (mut server, _client, _) = pair(Some(end_by.clone()));
        let moved = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            end_by.set(began + Duration::from_secs(60));
        };
        let (written, ()) = tokio::join!(server.write_all(&[0; 100]), moved);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), Duration::from_secs(60) + GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_in_parts_ends_too_and_what_has_been_taken_is_counted() {
        let (mut server, _client, _) = pair(Some(EndBy::new(Instant::now())));
        assert!(server.is_write_vectored());
        let parts = [IoSlice::new(&[0; 10]), IoSlice::new(&[0; 10])];
        assert_eq!(
            server.write_vectored(&parts).await.unwrap(),
            16,
            "all that there is room for"
        );
        let refused = server.write_vectored(&parts).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_end_of_a_connection_reaches_its_client() {
        let (mut server, mut client, _) = pair(None);
        server.write_all(&[7]).await.unwrap();
        server.shutdown().await.unwrap();
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, [7]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_again_gets_everything() {
        let end_by = EndBy::new(Instant::now() + Duration::from_secs(5));
        let (mut server, mut client, _) = pair(Some(end_by));
        let reading = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            let mut read = [0; 100];
            client.read_exact(&mut read).await.unwrap();
        };
        let (written, ()) = tokio::join!(server.write_all(&[0; 100]), reading);
        written.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_answer_on_the_connection_has_its_own_end_or_none() {
        let (mut server, _client, current) = pair(Some(EndBy::new(Instant::now())));
        current.is(&mut Response::new(()));
        let began = Instant::now();
        let stalled = server.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), STALL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_little_now_and_then_is_waited_for() {
        let (mut server, mut client, _) = pair(None);
        let reading = async {
            for _ in 0..10 {
                tokio::time::sleep(STALL - Duration::from_secs(1)).await;
                client.read_exact(&mut [0; 10]).await.unwrap();
            }
            client
        };
        let (written, _client) = tokio::join!(server.write_all(&[0; 100]), reading);
        written.unwrap();
    }
}
