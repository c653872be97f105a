//! Closes connections whose client has stopped reading the response.
//!
//! hyper does not poll a response body while the connection cannot be written. A deadline inside the body
//! would never be noticed, and the call would hold its permits for as long as the client likes. The
//! connection therefore watches the deadline. A streamed response has its deadline in its extensions
//! ([`Delivery`]). If it has passed and the connection accepts no more bytes, the connection is closed and
//! the response dropped. A client that reads slowly has a short time to read the deadline error in the
//! response itself.
//!
//! A response without a deadline, such as a session's own stream, may last indefinitely. Its client is
//! disconnected if it reads nothing for a minute although there is something to read, or earlier if the
//! unread bytes use up memory that others need.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::budget::delivery::Delivery;
use crate::runtime::poll_budget;

/// How long after the deadline a client may take to read the error.
pub(super) const DEADLINE_GRACE: Duration = Duration::from_secs(1);
/// How long a client may read nothing of a response without a deadline.
pub(super) const MAX_STALL: Duration = Duration::from_secs(60);

/// The responses that a connection is sending. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct CurrentResponse(Arc<Mutex<PendingResponses>>);

#[derive(Debug, Default)]
struct PendingResponses {
    /// The newest response, if it has a delivery.
    newest: Option<Delivery>,
    /// Earlier responses with unsent bytes: a client may have pipelined the next request.
    before: Vec<Delivery>,
}

impl CurrentResponse {
    /// Records the next response of the connection.
    pub(crate) fn set_next<B>(&self, response: &mut Response<B>) {
        let next = response.extensions_mut().remove::<Delivery>();
        let mut answers = lock(&self.0);
        let last = std::mem::replace(&mut answers.newest, next);
        answers.before.extend(last);
        answers.before.retain(Delivery::is_counted);
    }

    fn latest_end(&self) -> Option<Instant> {
        let answers = lock(&self.0);
        answers.newest.as_ref()?.end().map(|end| end + DEADLINE_GRACE)
    }

    /// Whether another response needs the memory of the unsent bytes.
    fn is_given_up(&self) -> bool {
        lock(&self.0).all().any(Delivery::is_given_up)
    }

    fn mark_stalled(&self, since: Instant, connection: &Waker) {
        for delivery in lock(&self.0).all() {
            delivery.mark_stalled(since, connection);
        }
    }

    fn mark_moving(&self) {
        for delivery in lock(&self.0).all() {
            delivery.mark_moving();
        }
    }
}

impl PendingResponses {
    fn all(&self) -> impl Iterator<Item = &Delivery> {
        self.newest.iter().chain(&self.before)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that fails if its client does not read a response in time.
#[derive(Debug)]
pub(crate) struct WriteDeadline<S> {
    stream: S,
    current: CurrentResponse,
    /// Set while the client reads nothing.
    stalled: Option<Stalled>,
}

#[derive(Debug)]
struct Stalled {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> WriteDeadline<S> {
    pub(crate) fn new(stream: S, current: CurrentResponse) -> Self {
        Self {
            stream,
            current,
            stalled: None,
        }
    }

    /// Passes on the result of a write, unless the client has read nothing for too long.
    fn check_progress<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.stalled.take().is_some() {
                self.current.mark_moving();
            }
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            let since = Instant::now();
            let timer = Box::pin(tokio::time::sleep_until(since));
            Stalled { since, timer }
        });
        self.current.mark_stalled(stalled.since, context.waker());
        if self.current.is_given_up() {
            let message = "the client does not read, and others need the room";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
        }
        loop {
            // The deadline may move while the connection waits.
            let end = self.current.latest_end();
            let last = end.unwrap_or(stalled.since + MAX_STALL);
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

impl<S: AsyncRead + Unpin> AsyncRead for WriteDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        poll_budget::count(buffer.filled().len().saturating_sub(before));
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteDeadline<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(poll_budget::poll_turn(context));
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(bytes)) = written {
            poll_budget::count(bytes);
        }
        self.check_progress(context, written)
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
        ready!(poll_budget::poll_turn(context));
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        if let Poll::Ready(Ok(bytes)) = written {
            poll_budget::count(bytes);
        }
        self.check_progress(context, written)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn until(end: Instant) -> Delivery {
        let delivery = Delivery::default();
        delivery.extend(end);
        delivery
    }

    fn pair(
        delivery: Option<Delivery>,
    ) -> (
        WriteDeadline<tokio::io::DuplexStream>,
        tokio::io::DuplexStream,
        CurrentResponse,
    ) {
        let (server, client) = tokio::io::duplex(16);
        let (current, mut response) = (CurrentResponse::default(), Response::new(()));
        response.extensions_mut().extend(
            delivery
                .map(|delivery| {
                    let mut extensions = http::Extensions::new();
                    extensions.insert(delivery);
                    extensions
                })
                .unwrap_or_default(),
        );
        current.set_next(&mut response);
        (WriteDeadline::new(server, current.clone()), client, current)
    }

    /// A response that the client does not read ends at its deadline, and not before.
    #[tokio::test(start_paused = true)]
    async fn unread_response_ends_at_its_deadline() {
        let began = Instant::now();
        let delivery = until(began + Duration::from_secs(5));
        let (mut server, _client, _) = pair(Some(delivery.clone()));
        let moved = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            delivery.extend(began + Duration::from_secs(60));
        };
        let (written, ()) = tokio::join!(server.write_all(&[0; 100]), moved);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), Duration::from_secs(60) + DEADLINE_GRACE);
    }

    /// Vectored writes end at the deadline, too.
    #[tokio::test(start_paused = true)]
    async fn vectored_write_ends_at_the_deadline() {
        let (mut server, _client, _) = pair(Some(until(Instant::now())));
        assert!(server.is_write_vectored());
        let parts = [IoSlice::new(&[0; 10]), IoSlice::new(&[0; 10])];
        assert_eq!(
            server.write_vectored(&parts).await.unwrap(),
            16,
            "the write fills the buffer"
        );
        let refused = server.write_vectored(&parts).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    }

    /// The end of a connection reaches its client.
    #[tokio::test]
    async fn shutdown_reaches_the_client() {
        let (mut server, mut client, _) = pair(None);
        server.write_all(&[7]).await.unwrap();
        server.shutdown().await.unwrap();
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, [7]);
    }

    /// A client that reads again before the deadline gets everything.
    #[tokio::test(start_paused = true)]
    async fn client_that_resumes_reading_gets_everything() {
        let delivery = until(Instant::now() + Duration::from_secs(5));
        let (mut server, mut client, _) = pair(Some(delivery));
        let reading = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            let mut read = [0; 100];
            client.read_exact(&mut read).await.unwrap();
        };
        let (written, ()) = tokio::join!(server.write_all(&[0; 100]), reading);
        written.unwrap();
    }

    /// The next response on a connection has its own deadline, or none.
    #[tokio::test(start_paused = true)]
    async fn next_response_has_its_own_deadline() {
        let (mut server, _client, current) = pair(Some(until(Instant::now())));
        current.set_next(&mut Response::new(()));
        let began = Instant::now();
        let stalled = server.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), MAX_STALL);
    }

    /// A client that reads as fast as it can does not occupy the thread, and does not count as one that has
    /// stopped reading.
    #[tokio::test]
    async fn poll_moves_at_most_one_turn_of_bytes() {
        let (stream, mut client) = tokio::io::duplex(4 * poll_budget::TURN_BYTES);
        let overdue = CurrentResponse::default();
        let mut response = Response::new(());
        response
            .extensions_mut()
            .insert(until(Instant::now() - DEADLINE_GRACE));
        overdue.set_next(&mut response);
        let mut server = WriteDeadline::new(stream, overdue);
        for piece in [4 * 1024, 64 * 1024] {
            let bytes = vec![0; piece];
            poll_budget::begin();
            let moved = poll_fn(|context| {
                let mut moved = 0;
                while let Poll::Ready(written) = Pin::new(&mut server).poll_write(context, &bytes) {
                    moved += written.unwrap();
                }
                Poll::Ready(moved)
            });
            let moved = moved.await;
            assert!(
                (poll_budget::TURN_BYTES..poll_budget::TURN_BYTES + piece).contains(&moved),
                "{moved}"
            );
        }
        poll_budget::begin();
        let mut buffer = vec![0; poll_budget::TURN_BYTES];
        client.read_exact(&mut buffer).await.unwrap();
        client.write_all(&buffer).await.unwrap();
        server.read_exact(&mut buffer).await.unwrap();
        assert_eq!(
            poll_budget::moved(),
            poll_budget::TURN_BYTES,
            "bytes that are read count, too"
        );
    }

    /// A client may send the next request before it has read the last response.
    #[tokio::test(start_paused = true)]
    async fn unread_response_ends_behind_a_pipelined_one() {
        let delivery = Delivery::default();
        let account = crate::budget::Account::root(100_000);
        let answer = delivery.count(&account, bytes::Bytes::from(vec![0; 5000]));
        let (mut server, _client, current) = pair(Some(delivery.clone()));
        current.set_next(&mut Response::new(()));
        let giving_up = async {
            while delivery.stalled(&account).is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            delivery.give_up();
        };
        let began = Instant::now();
        let (written, ()) = tokio::join!(server.write_all(&answer), giving_up);
        assert!(written.unwrap_err().to_string().contains("others need the room"));
        assert!(began.elapsed() < MAX_STALL);
        drop(answer);
        current.set_next(&mut Response::new(()));
        assert!(!current.is_given_up(), "the sent response is forgotten");
    }

    /// A client that reads a little now and then is not disconnected.
    #[tokio::test(start_paused = true)]
    async fn slow_reader_is_not_disconnected() {
        let (mut server, mut client, _) = pair(None);
        let reading = async {
            for _ in 0..10 {
                tokio::time::sleep(MAX_STALL - Duration::from_secs(1)).await;
                client.read_exact(&mut [0; 10]).await.unwrap();
            }
            client
        };
        let (written, _client) = tokio::join!(server.write_all(&[0; 100]), reading);
        written.unwrap();
    }
}
