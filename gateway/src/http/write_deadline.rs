//! Answers whose client takes nothing of them.
//!
//! What a client does not read cannot be sent, and hyper asks an answer for nothing while it cannot send: the deadline that the answer
//! itself watches would never be noticed, and its call would hold its places for as long as the client likes. So the connection
//! watches it. An answer that comes in parts says, in its extensions, until when it must have gone out ([`Delivery`]). When that has passed
//! and the connection can take no more, it is closed, and the answer is dropped with it. A client that reads, however slowly, has a moment
//! to learn from the answer itself that the deadline has passed.
//!
//! An answer that says nothing of this kind, such as a session's own stream, may last as long as it likes; but a client that takes
//! nothing of it for a minute, although there is something to take, is given up, too. So is one that takes nothing for a moment, where what
//! it does not take is in the way of others.

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

/// How much longer than an answer may last a client may take to notice.
const GRACE: Duration = Duration::from_secs(1);
/// How long a client may take nothing of an answer that has no end of its own.
const STALL: Duration = Duration::from_secs(60);

/// What is going out on a connection. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct CurrentResponse(Arc<Mutex<Answers>>);

#[derive(Debug, Default)]
struct Answers {
    /// The answer that is going out, if it says something of its delivery.
    newest: Option<Delivery>,
    /// Those before it of which something has not gone out: a client may have sent the next request early.
    before: Vec<Delivery>,
}

impl CurrentResponse {
    /// Takes note of the next answer.
    pub(crate) fn is<B>(&self, response: &mut Response<B>) {
        let next = response.extensions_mut().remove::<Delivery>();
        let mut answers = lock(&self.0);
        let last = std::mem::replace(&mut answers.newest, next);
        answers.before.extend(last);
        answers.before.retain(Delivery::is_counted);
    }

    fn last(&self) -> Option<Instant> {
        let answers = lock(&self.0);
        answers.newest.as_ref()?.end().map(|end| end + GRACE)
    }

    /// Whether others need the room of what does not go out.
    fn is_given_up(&self) -> bool {
        lock(&self.0).all().any(Delivery::is_given_up)
    }

    fn stalls(&self, since: Instant, connection: &Waker) {
        for delivery in lock(&self.0).all() {
            delivery.stalls(since, connection);
        }
    }

    fn moves(&self) {
        for delivery in lock(&self.0).all() {
            delivery.moves();
        }
    }
}

impl Answers {
    fn all(&self) -> impl Iterator<Item = &Delivery> {
        self.newest.iter().chain(&self.before)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that is given up when its client has not taken in time what goes out on it.
#[derive(Debug)]
pub(crate) struct WriteDeadline<S> {
    stream: S,
    current: CurrentResponse,
    /// Only while the client takes nothing.
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

    /// Passes on what came of a write, unless the client has taken nothing for too long.
    fn sent<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.stalled.take().is_some() {
                self.current.moves();
            }
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            let since = Instant::now();
            let timer = Box::pin(tokio::time::sleep_until(since));
            Stalled { since, timer }
        });
        self.current.stalls(stalled.since, context.waker());
        if self.current.is_given_up() {
            let message = "the client does not read, and others need the room";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
        }
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
        ready!(poll_budget::poll_turn(context));
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        if let Poll::Ready(Ok(bytes)) = written {
            poll_budget::count(bytes);
        }
        self.sent(context, written)
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
        current.is(&mut response);
        (WriteDeadline::new(server, current.clone()), client, current)
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_ends_at_its_deadline_and_not_before() {
        let began = Instant::now();
        let delivery = until(began + Duration::from_secs(5));
        let (mut server, _client, _) = pair(Some(delivery.clone()));
        let moved = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            delivery.extend(began + Duration::from_secs(60));
        };
        let (written, ()) = tokio::join!(server.write_all(&[0; 100]), moved);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), Duration::from_secs(60) + GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_in_parts_ends_too_and_what_has_been_taken_is_counted() {
        let (mut server, _client, _) = pair(Some(until(Instant::now())));
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

    #[tokio::test(start_paused = true)]
    async fn the_next_answer_on_the_connection_has_its_own_end_or_none() {
        let (mut server, _client, current) = pair(Some(until(Instant::now())));
        current.is(&mut Response::new(()));
        let began = Instant::now();
        let stalled = server.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), STALL);
    }

    /// A client that reads as fast as it can does not keep the thread, and is not taken for one that does not read.
    #[tokio::test]
    async fn poll_moves_a_turn_of_bytes() {
        let (stream, mut client) = tokio::io::duplex(4 * poll_budget::TURN_BYTES);
        let overdue = CurrentResponse::default();
        let mut response = Response::new(());
        response.extensions_mut().insert(until(Instant::now() - GRACE));
        overdue.is(&mut response);
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
            "what is read counts, too"
        );
    }

    /// A client may send the next request before it has read the last answer.
    #[tokio::test(start_paused = true)]
    async fn unread_answer_is_given_up_behind_the_next_one() {
        let delivery = Delivery::default();
        let account = crate::budget::Account::root(100_000);
        let answer = delivery.count(&account, bytes::Bytes::from(vec![0; 5000]));
        let (mut server, _client, current) = pair(Some(delivery.clone()));
        current.is(&mut Response::new(()));
        let giving_up = async {
            while delivery.stalled(&account).is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            delivery.give_up();
        };
        let began = Instant::now();
        let (written, ()) = tokio::join!(server.write_all(&answer), giving_up);
        assert!(written.unwrap_err().to_string().contains("others need the room"));
        assert!(began.elapsed() < STALL);
        drop(answer);
        current.is(&mut Response::new(()));
        assert!(!current.is_given_up(), "it is gone");
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
