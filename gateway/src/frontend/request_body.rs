//! Reads request bodies within limits of size, time and memory budget.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::budget::{Account, UNCOUNTED_BYTES};
use crate::frontend::rejection::Rejection;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::header_names as mcp;
use crate::runtime::incoming_body::IncomingBody;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// Largest body without a session id. `initialize` is the largest message without a session, and its parts
/// have their own limits. Without this limit, a client without a session could keep the process busy with
/// large bodies that are parsed only to be rejected.
const MAX_SESSIONLESS_BYTES: usize = 64 * 1024;
/// Limits of what is read and discarded of a rejected body, in bytes and time.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);

/// The size limit of one request body.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimit {
    bytes: usize,
    is_for_sessions: bool,
}

impl BodyLimit {
    /// The limit for a request with these headers and this body; `largest` is the limit for requests with a
    /// session. A body that declares a small size needs no look at the session id.
    pub(super) fn of(headers: &HeaderMap, body: &IncomingBody, largest: usize) -> Self {
        let upper = body.size_hint().upper();
        let is_small = upper.is_some_and(|bytes| bytes <= MAX_SESSIONLESS_BYTES as u64);
        if is_small || largest <= MAX_SESSIONLESS_BYTES || headers.contains_key(mcp::SESSION_ID) {
            return Self {
                bytes: largest,
                is_for_sessions: true,
            };
        }
        Self {
            bytes: MAX_SESSIONLESS_BYTES,
            is_for_sessions: false,
        }
    }

    /// Whether the declared size exceeds the limit, before anything is read.
    pub(super) fn is_exceeded_by(self, body: &IncomingBody) -> bool {
        body.size_hint().lower() > self.bytes as u64
    }
}

/// Why reading a body failed.
enum BodyError {
    TooLarge,
    /// The budget has no room for the body.
    BudgetExhausted,
    Incomplete,
}

/// Reads the body, and charges it to `account` until its last copy is dropped. Rejects it as soon as it
/// exceeds `limit` or the account. A body whose declared size is too large has been rejected before.
pub(super) async fn read(
    mut body: IncomingBody,
    limit: BodyLimit,
    account: impl FnOnce() -> Account,
) -> Result<Bytes, Response<ResponseBody>> {
    let Ok(whole) = timeout(BODY_DEADLINE, collect_body(&mut body, limit.bytes, account)).await else {
        let message = format!("The body did not arrive within {} s", BODY_DEADLINE.as_secs());
        return Err(Rejection::BodyTimeout.response(None, &message));
    };
    match whole {
        Ok(whole) => Ok(whole),
        Err(BodyError::TooLarge) => Err(too_large(body, limit).await),
        Err(BodyError::BudgetExhausted) => {
            discard(body).await;
            Err(response::budget_exhausted())
        }
        Err(BodyError::Incomplete) => {
            let message = "The body ended before it was complete";
            Err(Rejection::MalformedJson.response(None, message))
        }
    }
}

/// Collects the chunks of a body. Most bodies have one chunk, which is not copied.
async fn collect_body(
    body: &mut IncomingBody,
    largest: usize,
    account: impl FnOnce() -> Account,
) -> Result<Bytes, BodyError> {
    let first = next_chunk(body).await?.unwrap_or_default();
    if first.len() > largest {
        return Err(BodyError::TooLarge);
    }
    let is_whole = body.is_end_stream();
    if is_whole && first.len() <= UNCOUNTED_BYTES {
        return Ok(first);
    }
    let mut reserved = account()
        .reserve_or_wait(first.len())
        .await
        .ok_or(BodyError::BudgetExhausted)?;
    if is_whole {
        return Ok(reserved.hold(first));
    }
    let mut whole = BytesMut::from(first);
    while let Some(chunk) = next_chunk(body).await? {
        if whole.len() + chunk.len() > largest {
            return Err(BodyError::TooLarge);
        }
        if !reserved.grow_or_wait(chunk.len()).await {
            return Err(BodyError::BudgetExhausted);
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(if whole.len() <= UNCOUNTED_BYTES {
        whole.freeze()
    } else {
        reserved.hold(whole.freeze())
    })
}

async fn next_chunk(body: &mut IncomingBody) -> Result<Option<Bytes>, BodyError> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(_)) => return Err(BodyError::Incomplete),
            // A frame without data is a trailer, which is ignored.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

pub(super) async fn too_large(body: IncomingBody, limit: BodyLimit) -> Response<ResponseBody> {
    discard(body).await;
    let unless = if limit.is_for_sessions {
        ""
    } else {
        ", which is the most without the header Mcp-Session-Id"
    };
    let message = format!("The body is larger than {} bytes{unless}", limit.bytes);
    Rejection::BodyTooLarge.response(None, &message)
}

/// Reads and discards the rest of a rejected body, within limits. Closing a connection with unread bytes
/// resets it, and the client would lose the response.
pub(super) async fn discard(mut body: IncomingBody) {
    let discarding = async {
        let mut left = MAX_DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // A client that is slower than this may miss the response.
    drop(timeout(DISCARD_DEADLINE, discarding).await);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::Ipv4Addr;

    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    use super::*;

    fn limit(bytes: usize) -> BodyLimit {
        BodyLimit {
            bytes,
            is_for_sessions: true,
        }
    }

    /// Reads one request body of the given size, sent in one piece or in two.
    async fn read_one(bytes: usize, in_parts: bool, account: Account) -> Bytes {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let service = service_fn(async |request: http::Request<Incoming>| {
            let account = || account.clone();
            let body = read(
                IncomingBody::Http1(request.into_body()),
                limit(usize::MAX),
                account,
            )
            .await
            .ok()
            .unwrap();
            sender.send(body).unwrap();
            Ok::<_, Infallible>(response::accepted())
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let head =
            format!("POST /mcp HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n");
        let talking = async {
            client.write_all(head.as_bytes()).await.unwrap();
            let body = vec![b'x'; bytes];
            let (first, rest) = body.split_at(if in_parts { bytes / 2 } else { bytes });
            client.write_all(first).await.unwrap();
            if in_parts {
                tokio::time::sleep(Duration::from_millis(20)).await;
                client.write_all(rest).await.unwrap();
            }
            client.read_to_end(&mut Vec::new()).await.unwrap()
        };
        let (served, _) = tokio::join!(serving, talking);
        served.unwrap();
        receiver.recv().await.unwrap()
    }

    /// A body larger than the uncounted size is charged until its last copy is dropped.
    #[tokio::test]
    async fn body_is_charged_until_its_last_copy_is_dropped() {
        let account = Account::root(usize::MAX);
        for (bytes, in_parts, counted) in [
            (UNCOUNTED_BYTES, true, 0),
            (UNCOUNTED_BYTES + 1, false, UNCOUNTED_BYTES + 1),
            (UNCOUNTED_BYTES + 1, true, UNCOUNTED_BYTES + 1),
        ] {
            let body = read_one(bytes, in_parts, account.clone()).await;
            assert_eq!(body.len(), bytes);
            let copy = body.clone();
            drop(body);
            assert_eq!(account.reserved(), counted);
            drop(copy);
            assert_eq!(account.reserved(), 0);
        }
    }

    /// A body that does not arrive in time gets 408 with a message that names the limit.
    #[tokio::test(start_paused = true)]
    async fn endless_body_gets_408_with_a_reason() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let service = service_fn(async |request: http::Request<Incoming>| {
            let account = || Account::root(usize::MAX);
            let read = read(IncomingBody::Http1(request.into_body()), limit(1024), account).await;
            Ok::<_, Infallible>(read.map_or_else(|rejection| rejection, |_| response::accepted()))
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let began = Instant::now();
        let talking = async {
            let head = "POST /mcp HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{";
            client.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (served, answer) = tokio::join!(serving, talking);
        drop(served);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("The body did not arrive within 30 s"), "{answer}");
        assert!(began.elapsed() >= BODY_DEADLINE);
    }
}
