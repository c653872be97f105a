//! The HTTP server under both listeners: accepts, bounds, and ends with the drain.
//!
//! It speaks HTTP/1.1, which every client and proxy does.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::drain::Drain;
use crate::end_by::{Current, Unread};
use crate::tasks::Tasks;

/// How long a connection may be without the whole head of a request, be it new, idle, or slow. Longer than the 60 s for which common
/// proxies keep an idle connection: the side that sends requests must be the one that gives up first, or a request meets the end.
const HEAD_DEADLINE: Duration = Duration::from_secs(75);
/// How many bytes the head of a request may have.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How many connections may be open at a time. Those beyond wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16 * 1024;
/// How long to wait after a failed accept: the usual cause, no free file descriptor, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `listener` with `answer` until the drain closes it. Connections are tasks of `tasks`, and finish what they are doing.
pub(crate) async fn serve<A, F, B>(listener: TcpListener, drain: Drain, tasks: Tasks, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepting = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = drain.closed() => return,
            accepted = accepting => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = connection(stream, drain.clone(), answer.clone());
                tasks.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<A, F, B>(stream: TcpStream, drain: Drain, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Send,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    // Without this an answer of two writes waits 40 ms for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
    let mut builder = http1::Builder::new();
    // A request may have 100 headers, which is hyper's own limit: room for a number that is named would be made anew for each request.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES);
    let current = Current::default();
    let stream = Unread::new(stream, current.clone());
    let service = service_fn(move |request| {
        let (answering, current) = (answer(request), current.clone());
        async move {
            let mut response = answering.await;
            current.is(&mut response);
            Ok::<_, Infallible>(response)
        }
    });
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let mut closed = pin!(drain.closed());
    let mut is_registered = false;
    // A connection is polled a few times per request, and asking the token each time takes its lock. It has the waker of this task,
    // which stays the same, from the first time on; after that the flag says whether there is anything to ask.
    let served = poll_fn(|context| {
        if (!is_registered || drain.is_closing()) && closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        is_registered = true;
        serving.as_mut().poll(context).map(Some)
    });
    let outcome = match served.await {
        Some(outcome) => outcome,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http_body_util::{Full, StreamBody};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_and_a_connection_that_says_nothing_are_given_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::default();
        let answer = |_| async { Response::new(Full::<Bytes>::default()) };
        tasks.spawn(serve(listener, Drain::default(), tasks.clone(), answer));
        for begun in ["POST /mcp HTTP/1.1\r\nhost: a\r\nx-slow: ", ""] {
            let began = Instant::now();
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(begun.as_bytes()).await.unwrap();
            client.read_to_end(&mut Vec::new()).await.unwrap();
            let took = began.elapsed();
            assert!(
                (HEAD_DEADLINE..HEAD_DEADLINE * 2).contains(&took),
                "{begun:?}: {took:?}"
            );
        }
        // The listener is left.
        assert_eq!(tasks.running(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_of_an_endless_answer_is_given_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::default();
        let answer = |_| async {
            let chunk = || Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(&[0; 65536])));
            let chunks = futures::stream::repeat_with(chunk);
            Response::new(StreamBody::new(chunks))
        };
        tasks.spawn(serve(listener, Drain::default(), tasks.clone(), answer));
        let mut client = TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let given_up = async {
            while tasks.running() != 2 {
                tokio::task::yield_now().await;
            }
            while tasks.running() != 1 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), given_up)
            .await
            .unwrap();
    }
}
