//! One HTTP/2 connection: a task for each stream, a limit for idle connections, and the drain.
//!
//! A client that does not read one response must not hold up the others of its connection, which may be a proxy's for many clients. So
//! every stream has its own deadline ([`Unsent`]), and only that stream is reset. This needs more control over a stream than hyper gives,
//! so the connection is served with [`h2`] itself.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::budget::delivery::Delivery;
use crate::http::parse_error::HeadLimits;
use crate::http::unsent::{OutgoingData, Stopped, Unsent};
use crate::runtime::drain::Drain;
use crate::runtime::incoming_body::{Http2Body, IncomingBody};
use crate::runtime::tasks::Tasks;
use crate::runtime::{BoxError, clock};

/// Most concurrent requests of a connection. The client keeps further ones back.
const MAX_CONCURRENT_STREAMS: u32 = 128;
/// Flow-control windows for request bodies: of one stream and of a connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Most unsent bytes of a response when its next part is asked for.
const MAX_UNSENT_BYTES: usize = 64 * 1024;
/// How long a connection without streams stays open after GOAWAY, so that the client can read it.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// Headers that are about one HTTP/1.1 connection and are not allowed in HTTP/2 (RFC 9113, section 8.2.2).
const CONNECTION_HEADERS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Serves the HTTP/2 connection `io` with `answer` until it ends, or is idle for the deadline of `limits`, or the drain begins and its
/// requests are answered.
pub(super) async fn serve<S, A, F, B>(io: S, drain: Drain, tasks: Tasks, limits: HeadLimits, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: Fn(Request<IncomingBody>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(limits.bytes).unwrap_or(u32::MAX));
    let handshake = builder.handshake::<_, OutgoingData>(io);
    let mut connection = match tokio::time::timeout(limits.deadline, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, "HTTP/2 handshake failed");
            return;
        }
        Err(_) => return,
    };
    let open = OpenStreams::default();
    let mut idle = pin!(tokio::time::sleep(limits.deadline));
    let mut draining = pin!(drain.begun());
    let mut idle_limit = limits.deadline;
    let mut is_closing = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                None => return,
                Some(Ok((request, respond))) => {
                    let stream = open.open();
                    let responding = respond_to(request, respond, answer.clone());
                    tasks.spawn(tasks.fair_queue().fair(async move {
                        responding.await;
                        drop(stream);
                    }));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "connection failed");
                    return;
                }
            },
            () = &mut draining, if !is_closing => {
                is_closing = true;
                idle_limit = GOAWAY_TIMEOUT;
                connection.graceful_shutdown();
                idle.as_mut().reset(Instant::now() + idle_limit);
            }
            () = &mut idle => {
                let now = Instant::now();
                let ends = open.idle_since().map_or(now, |since| since) + idle_limit;
                if ends > now {
                    idle.as_mut().reset(ends);
                } else if is_closing {
                    return;
                } else {
                    is_closing = true;
                    idle_limit = GOAWAY_TIMEOUT;
                    connection.graceful_shutdown();
                    idle.as_mut().reset(now + idle_limit);
                }
            }
        }
    }
}

/// The streams of one connection, counted.
#[derive(Clone, Debug)]
struct OpenStreams(Arc<Mutex<StreamCount>>);

#[derive(Debug)]
struct StreamCount {
    open: usize,
    /// When the last one ended.
    last_end: Instant,
}

/// Counts as an open stream until it is dropped.
struct OpenStream(OpenStreams);

impl Default for OpenStreams {
    fn default() -> Self {
        let count = StreamCount {
            open: 0,
            last_end: Instant::now(),
        };
        Self(Arc::new(Mutex::new(count)))
    }
}

impl OpenStreams {
    fn open(&self) -> OpenStream {
        self.change(|count| count.open = count.open.saturating_add(1));
        OpenStream(self.clone())
    }

    /// Since when no stream is open; `None` while one is.
    fn idle_since(&self) -> Option<Instant> {
        self.change(|count| (count.open == 0).then_some(count.last_end))
    }

    fn change<T>(&self, change: impl FnOnce(&mut StreamCount) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.change(|count| {
            count.open = count.open.saturating_sub(1);
            count.last_end = Instant::now();
        });
    }
}

/// Responds to one request. A client that resets the stream cancels its request, as one that closes an HTTP/1.1 connection does.
async fn respond_to<A, F, B>(request: Request<RecvStream>, mut respond: SendResponse<OutgoingData>, answer: A)
where
    A: Fn(Request<IncomingBody>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error: Into<BoxError> + Send>,
{
    let has_body = request.method() != Method::HEAD;
    let (parts, stream) = request.into_parts();
    let body = IncomingBody::Http2(Http2Body::new(&parts.headers, stream));
    let mut response = tokio::select! {
        response = answer(Request::from_parts(parts, body)) => response,
        _ = poll_fn(|context| respond.poll_reset(context)) => return,
    };
    let delivery = response.extensions_mut().remove::<Delivery>().unwrap_or_default();
    let (mut head, body) = response.into_parts();
    complete_headers(&mut head.headers, &body);
    let is_empty = !has_body || body.is_end_stream();
    let head = Response::from_parts(head, ());
    let Ok(mut stream) = respond.send_response(head, is_empty) else {
        return;
    };
    if is_empty {
        return;
    }
    match send_body(&mut stream, body, delivery).await {
        Ok(()) | Err(Stopped::Reset) => {}
        Err(Stopped::Unread) => stream.send_reset(Reason::CANCEL),
    }
}

async fn send_body<B>(
    stream: &mut h2::SendStream<OutgoingData>,
    body: B,
    delivery: Delivery,
) -> Result<(), Stopped>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + Send>,
{
    let mut unsent = Unsent::new(delivery);
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = poll_fn(|context| stream.poll_reset(context)) => return Err(Stopped::Reset),
        };
        let (data, is_last) = match frame {
            None => (Bytes::new(), true),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => (data, body.is_end_stream()),
                Err(_trailers) => continue,
            },
            Some(Err(error)) => {
                let error: BoxError = error.into();
                tracing::debug!(%error, "response body failed");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
        };
        if stream.send_data(unsent.track(data), is_last).is_err() {
            return Err(Stopped::Reset);
        }
        if is_last {
            return unsent.falls_to(0, stream).await;
        }
        unsent.falls_to(MAX_UNSENT_BYTES, stream).await?;
    }
}

/// Does for the headers of a response what hyper does for HTTP/1.1.
fn complete_headers(headers: &mut HeaderMap, body: &impl Body) {
    for name in CONNECTION_HEADERS {
        headers.remove(name);
    }
    if let Some(bytes) = body.size_hint().exact() {
        headers
            .entry(header::CONTENT_LENGTH)
            .or_insert_with(|| bytes.into());
    }
    let now = UNIX_EPOCH + Duration::from_secs(clock::unix_seconds());
    if !headers.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(now))
    {
        headers.insert(header::DATE, date);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tasks end with the test")]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream;
    use h2::client::SendRequest;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::io::DuplexStream;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 64 * 1024,
        deadline: Duration::from_secs(75),
    };
    const DEADLINE: Duration = Duration::from_secs(20);

    type Chunks = Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, BoxError>> + Send>>;

    /// A served connection, and the number of responses that exist.
    struct Served {
        client: SendRequest<Bytes>,
        drain: Drain,
        responses: Arc<AtomicUsize>,
        connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
    }

    /// Ends the count of a response when its body is dropped.
    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Serves `/large` with 4 MiB until [`DEADLINE`], `/echo` with the request's body, `/endless` with a first event and nothing more, and
    /// everything else with `fine`.
    async fn answer(request: Request<IncomingBody>, count: Arc<AtomicUsize>) -> Response<StreamBody<Chunks>> {
        count.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(count);
        let path = request.uri().path().to_owned();
        let chunk = |bytes: Bytes| Ok::<_, BoxError>(Frame::data(bytes));
        let chunks: Chunks = match &*path {
            "/large" => Box::pin(stream::iter(
                (0..64).map(move |_| chunk(Bytes::from(vec![b'x'; 64 * 1024]))),
            )),
            "/echo" => {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Box::pin(stream::iter([chunk(body)]))
            }
            "/endless" => {
                let first = stream::iter([chunk(Bytes::from("first"))]);
                Box::pin(futures::StreamExt::chain(first, stream::pending()))
            }
            _ => Box::pin(stream::iter([chunk(Bytes::from("fine"))])),
        };
        let chunks = futures::StreamExt::map(chunks, move |chunk| {
            let _counted = &counted;
            chunk
        });
        let mut response = Response::new(StreamBody::new(Box::pin(chunks) as Chunks));
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        if path == "/large" {
            let delivery = Delivery::default();
            delivery.extend(Instant::now() + DEADLINE);
            response.extensions_mut().insert(delivery);
        }
        response
    }

    async fn served() -> Served {
        let (server, client): (DuplexStream, DuplexStream) = tokio::io::duplex(64 * 1024);
        let (drain, tasks, responses) = (Drain::default(), Tasks::default(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&responses);
        let serving = serve(server, drain.clone(), tasks, LIMITS, move |request| {
            answer(request, Arc::clone(&count))
        });
        tokio::spawn(serving);
        // As common clients: a connection may take more than one of its streams.
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(8 * 1024 * 1024);
        let (client, connection) = builder.handshake(client).await.unwrap();
        let connection = tokio::spawn(connection);
        Served {
            client,
            drain,
            responses,
            connection,
        }
    }

    impl Served {
        async fn send(&mut self, path: &str, body: Option<Bytes>) -> Result<Response<RecvStream>, h2::Error> {
            let request = Request::post(format!("https://a.test{path}")).body(()).unwrap();
            let mut client = self.client.clone().ready().await?;
            let (response, mut stream) = client.send_request(request, body.is_none())?;
            if let Some(body) = body {
                stream.send_data(body, true)?;
            }
            response.await
        }
    }

    /// Reads the whole body, as a client that takes everything.
    async fn read(response: Response<RecvStream>) -> Result<Vec<u8>, h2::Error> {
        let (mut body, mut whole) = (response.into_body(), Vec::new());
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            whole.extend_from_slice(&data);
        }
        Ok(whole)
    }

    /// Requests and responses of any size pass; a response has a date and no header of HTTP/1.1 connections.
    #[tokio::test]
    async fn requests_and_responses_of_any_size_pass() {
        let mut served = served().await;
        for bytes in [0, 1, 100_000, 3_000_000] {
            let sent = Bytes::from(vec![b'y'; bytes]);
            let response = served.send("/echo", Some(sent.clone())).await.unwrap();
            assert!(response.headers().contains_key(header::DATE));
            assert!(!response.headers().contains_key(header::CONNECTION));
            assert_eq!(read(response).await.unwrap(), sent);
        }
        let large = served.send("/large", None).await.unwrap();
        assert_eq!(read(large).await.unwrap().len(), 4 * 1024 * 1024);
    }

    /// A response that the client does not read ends at its deadline; other requests of the connection are answered before and after.
    #[tokio::test(start_paused = true)]
    async fn unread_response_is_reset_alone_at_its_deadline() {
        let mut served = served().await;
        let began = Instant::now();
        let mut unread = served.send("/large", None).await.unwrap();
        let fine = served.send("/", None).await.unwrap();
        assert_eq!(read(fine).await.unwrap(), b"fine");
        let reset = poll_fn(|context| {
            // Data that has arrived is taken without giving the window back.
            while let std::task::Poll::Ready(data) = unread.body_mut().poll_data(context) {
                if let Some(Err(error)) = data {
                    return std::task::Poll::Ready(error);
                }
            }
            std::task::Poll::Pending
        });
        let reset = reset.await;
        assert_eq!(reset.reason(), Some(Reason::CANCEL));
        assert_eq!(
            began.elapsed().as_secs(),
            (DEADLINE + Duration::from_secs(1)).as_secs()
        );
        let fine = served.send("/", None).await.unwrap();
        assert_eq!(read(fine).await.unwrap(), b"fine");
        assert_eq!(served.responses.load(Ordering::Relaxed), 0);
    }

    /// A client that resets a stream, or closes the connection, cancels the request.
    #[tokio::test]
    async fn reset_stream_drops_its_response() {
        let mut served = served().await;
        let mut endless = served.send("/endless", None).await.unwrap();
        assert_eq!(endless.body_mut().data().await.unwrap().unwrap(), "first");
        assert_eq!(served.responses.load(Ordering::Relaxed), 1);
        drop(endless);
        while served.responses.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _second = served.send("/endless", None).await.unwrap();
        served.connection.abort();
        while served.responses.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The drain lets open requests finish, and takes no further ones.
    #[tokio::test(start_paused = true)]
    async fn drain_finishes_open_requests_and_ends_the_connection() {
        let mut served = served().await;
        let large = served.send("/large", None).await.unwrap();
        served.drain.begin();
        assert_eq!(read(large).await.unwrap().len(), 4 * 1024 * 1024);
        let ended = tokio::time::timeout(GOAWAY_TIMEOUT * 2, served.connection).await;
        assert!(ended.is_ok(), "the connection is still open");
    }

    /// An idle connection ends after the limit; one with an open stream does not.
    #[tokio::test(start_paused = true)]
    async fn idle_connection_ends_and_used_one_stays() {
        let (mut idle, mut used) = (served().await, served().await);
        read(idle.send("/", None).await.unwrap()).await.unwrap();
        let mut endless = used.send("/endless", None).await.unwrap();
        endless.body_mut().data().await.unwrap().unwrap();
        let began = Instant::now();
        // The client ends when the server has said goodbye.
        idle.connection.await.unwrap().unwrap();
        assert!(
            began.elapsed() >= LIMITS.deadline && began.elapsed() <= LIMITS.deadline + GOAWAY_TIMEOUT * 2
        );
        tokio::time::sleep(LIMITS.deadline * 2).await;
        read(used.send("/", None).await.unwrap()).await.unwrap();
    }
}
