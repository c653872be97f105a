//! HTTP server of both listeners: accepts connections, limits them, and drains them.
//!
//! Without TLS it speaks HTTP/1.1, which every client and proxy supports. With TLS the client chooses HTTP/2 or HTTP/1.1 (ALPN).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::http::http2;
use crate::http::listener_tls::ListenerTls;
use crate::http::parse_error::{ErrorBody, HeadLimits, HeadReader, ParseErrorResponse};
use crate::http::write_deadline::{CurrentResponse, WriteDeadline};
use crate::runtime::BoxError;
use crate::runtime::drain::Drain;
use crate::runtime::incoming_body::IncomingBody;
use crate::runtime::tasks::Tasks;

/// Largest size of a request head in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Default time that a connection may wait for a complete request head, whether it is new, idle or slow. It
/// exceeds the 60 s for which common proxies keep an idle connection: if the server closed first, a request
/// could be lost in the closing connection.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Most open connections. Further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16 * 1024;
/// Pause after a failed accept. The usual cause, a lack of file descriptors, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One listener's server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Closes the listener and ends its connections.
    pub(crate) drain: Drain,
    /// Runs a task per connection.
    pub(crate) tasks: Tasks,
    /// Encodes the errors of malformed requests.
    pub(crate) error_body: ErrorBody,
    /// How long a connection may be idle.
    pub(crate) idle_timeout: Duration,
    /// Encrypts connections, if set.
    pub(crate) tls: Option<ListenerTls>,
}

impl Server {
    /// Serves `listener` with `answer` until the drain closes it. Connections are tasks, and finish their current requests.
    pub(crate) async fn serve<A, F, B>(self, listener: TcpListener, answer: A)
    where
        A: Fn(Request<IncomingBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
    {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepting = async {
                let permit = Arc::clone(&connections).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = self.drain.closed() => return,
                accepted = accepting => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let serving = self.clone().connection(stream, answer.clone());
                    self.tasks.spawn(self.tasks.fair_queue().fair(async move {
                        serving.await;
                        drop(permit);
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection<A, F, B>(self, stream: TcpStream, answer: A)
    where
        A: Fn(Request<IncomingBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
    {
        // Without this, a response of two writes waits 40 ms for an acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "failed to set TCP_NODELAY");
        }
        let Some(tls) = &self.tls else {
            return self.http1(stream, answer).await;
        };
        // Boxed: the state of a connection with TLS must not enlarge that of one without.
        match tls.accept(stream).await {
            Ok((stream, true)) => Box::pin(self.http2(stream, answer)).await,
            Ok((stream, false)) => Box::pin(self.http1(stream, answer)).await,
            Err(error) => tracing::debug!(%error, "TLS handshake failed"),
        }
    }

    async fn http2<S, A, F, B>(self, stream: S, answer: A)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        A: Fn(Request<IncomingBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
    {
        // Streams have deadlines of their own. Here only a connection ends that accepts no bytes at all.
        let stream = WriteDeadline::new(stream, CurrentResponse::default());
        let limits = self.head_limits();
        http2::serve(stream, self.drain, self.tasks, limits, answer).await;
    }

    async fn http1<S, A, F, B>(self, stream: S, answer: A)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        A: Fn(Request<IncomingBody>) -> F + Send,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
    {
        let limits = self.head_limits();
        let mut builder = http1::Builder::new();
        // The limit of 100 headers is hyper's default. Setting it explicitly makes hyper allocate for each
        // request.
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.deadline)
            .max_buf_size(limits.bytes);
        let current = CurrentResponse::default();
        let stream = HeadReader::new(WriteDeadline::new(stream, current.clone()));
        let service = service_fn(move |request: Request<Incoming>| {
            let (answering, current) = (answer(request.map(IncomingBody::Http1)), current.clone());
            async move {
                let mut response = answering.await;
                current.set_next(&mut response);
                Ok::<_, Infallible>(response)
            }
        });
        let mut serving = builder.serve_connection(TokioIo::new(stream), service);
        let mut closed = pin!(self.drain.closed());
        let mut is_registered = false;
        // A connection is polled several times per request, and asking the cancellation token takes its lock.
        // After the first poll the token has this task's waker, so that later polls only read a flag.
        let served = poll_fn(|context| {
            if (!is_registered || self.drain.is_closing()) && closed.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            is_registered = true;
            Pin::new(&mut serving).poll(context).map(Some)
        });
        let outcome = match served.await {
            Some(outcome) => outcome,
            None => {
                Pin::new(&mut serving).graceful_shutdown();
                (&mut serving).await
            }
        };
        let Err(error) = outcome else { return };
        tracing::debug!(%error, "connection failed");
        let ended = serving.into_parts();
        if let Some(refusal) = ParseErrorResponse::of(&error, &ended.read_buf, limits)
            && let Some(stream) = ended.io.into_inner().into_writable()
        {
            refusal.send(stream, self.error_body).await;
        }
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits {
            bytes: MAX_HEAD_BYTES,
            deadline: self.idle_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use http::HeaderValue;
    use http_body_util::{Full, StreamBody};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    fn error_body(message: &str) -> (HeaderValue, Bytes) {
        let body = format!("<{message}>");
        (HeaderValue::from_static("text/plain"), Bytes::from(body))
    }

    /// A server that responds `fine`.
    async fn started() -> (SocketAddr, Tasks) {
        started_with(|| Response::new(Full::<Bytes>::from("fine"))).await
    }

    /// A server with the given responses.
    async fn started_with<B>(
        answer: impl Fn() -> Response<B> + Clone + Send + Sync + 'static,
    ) -> (SocketAddr, Tasks)
    where
        B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::default();
        let answer = move |_| std::future::ready(answer());
        let server = Server {
            drain: Drain::default(),
            tasks: tasks.clone(),
            error_body,
            idle_timeout: IDLE_TIMEOUT,
            tls: None,
        };
        tasks.spawn(server.serve(listener, answer));
        (address, tasks)
    }

    /// Everything that the server sends in response to `sent`.
    async fn answered(server: SocketAddr, sent: &[u8]) -> String {
        let mut client = TcpStream::connect(server).await.unwrap();
        client.write_all(sent).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// A head that does not arrive in time gets 408; a connection without a head is closed without a
    /// response.
    #[tokio::test(start_paused = true)]
    async fn slow_head_gets_408_and_idle_connection_just_closes() {
        let (server, tasks) = started().await;
        let head = "POST /mcp HTTP/1.1\r\nhost: a\r\n";
        let (whole, slow) = (format!("{head}\r\n"), format!("{head}x-slow: "));
        for (sent, is_answered, is_refused) in [
            ("", false, false),
            ("\r\n", false, false),
            (&*slow, false, true),
            (&*whole, true, false),
            (&*format!("{whole}{slow}"), true, true),
        ] {
            let began = Instant::now();
            let answer = answered(server, sent.as_bytes()).await;
            let took = began.elapsed();
            assert!(
                (IDLE_TIMEOUT..IDLE_TIMEOUT + Duration::from_secs(1)).contains(&took),
                "{sent:?}: {took:?}"
            );
            assert_eq!(
                answer.contains("\r\n\r\nfine"),
                is_answered,
                "{sent:?}: {answer:?}"
            );
            let refused = answer.split("fine").last().unwrap();
            if is_refused {
                let whole = refused.starts_with("HTTP/1.1 408 Request Timeout\r\n")
                    && refused.contains("\r\nconnection: close\r\n")
                    && refused.ends_with("\r\n\r\n<The head of the request did not arrive within 75 s>");
                assert!(whole, "{sent:?}: {answer:?}");
            } else {
                assert_eq!(refused, "", "{sent:?}: {answer:?}");
            }
        }
        // The listener remains open.
        let ended = async {
            while tasks.running() > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(IDLE_TIMEOUT, ended).await.unwrap();
    }

    /// A malformed head gets one error response, which names the fault.
    #[tokio::test]
    async fn malformed_head_gets_one_error_with_its_reason() {
        let (server, _tasks) = started().await;
        let head = "POST /mcp HTTP/1.1\r\nhost: a\r\n";
        let headers: String = (0..100).map(|number| format!("x-{number}: y\r\n")).collect();
        for (sent, status, says) in [
            (
                format!("{head}{headers}\r\n"),
                "431 ",
                "<The request has more than 100 headers>",
            ),
            (
                format!("{head}x-long: {}\r\n\r\n", "y".repeat(8 << 20)),
                "431 ",
                "<The head of the request is larger than 65536 bytes>",
            ),
            (
                format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(8 << 20)),
                "414 ",
                "<The target of the request is longer than the 65536 bytes that a head may have>",
            ),
            (
                "\x16\x03\x01\x02 hello\r\n\r\n".to_owned(),
                "400 ",
                "<The head of the request is not HTTP/1.1: invalid HTTP method parsed>",
            ),
            (
                format!("{head}a b: c\r\n\r\n"),
                "400 ",
                "<The head of the request is not HTTP/1.1: invalid HTTP header parsed>",
            ),
            (
                format!("{head}content-length: 5\r\ncontent-length: 50\r\n\r\n"),
                "400 ",
                "<The head of the request is not HTTP/1.1: invalid content-length parsed>",
            ),
            (
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
                "505 ",
                "<This endpoint supports only HTTP/1.1>",
            ),
        ] {
            for (before, answers) in [("", 1), ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 2)] {
                let answer = answered(server, format!("{before}{sent}").as_bytes()).await;
                assert_eq!(answer.matches("HTTP/1.1 ").count(), answers, "{answer}");
                let refusal = answer.split("fine").last().unwrap();
                assert!(
                    refusal.starts_with(&format!("HTTP/1.1 {status}"))
                        && refusal.contains("\r\nconnection: close\r\n")
                        && refusal.ends_with(says),
                    "{status} {says}: {answer}"
                );
            }
        }
    }

    /// A 400 response of the gateway itself is not withheld.
    #[tokio::test]
    async fn own_400_response_is_sent() {
        let (server, _tasks) = started_with(|| {
            let mut response = Response::new(Full::<Bytes>::from("not so"));
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
            response
        })
        .await;
        let answer = answered(server, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("not so"),
            "{answer}"
        );
    }

    /// A client that reads nothing of an endless response is disconnected.
    #[tokio::test(start_paused = true)]
    async fn client_that_reads_nothing_is_disconnected() {
        let (address, tasks) = started_with(|| {
            let chunk = || Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(&[0; 65536])));
            Response::new(StreamBody::new(futures::stream::repeat_with(chunk)))
        })
        .await;
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
