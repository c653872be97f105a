//! The body of a request: read as far as it may go, and no further.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::budget::{Account, UNCOUNTED_BYTES};
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::{error_code, header_names as mcp};
use crate::runtime::timeout::within;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// The largest body without a session. `initialize` is the largest message that needs none, and its parts have bounds of their own. Without
/// this a stranger could keep the process busy with bodies that are read and parsed only to be refused.
const MAX_SESSIONLESS_BYTES: usize = 64 * 1024;
/// How much of a refused body is read and thrown away, at most this long.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);

/// How large the body of one request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimit {
    bytes: usize,
    is_for_sessions: bool,
}

impl BodyLimit {
    /// The limit for a request with these headers, where a request of a session may have `largest` bytes.
    pub(super) fn of(headers: &HeaderMap, largest: usize) -> Self {
        if largest <= MAX_SESSIONLESS_BYTES || headers.contains_key(mcp::SESSION_ID) {
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

    /// Whether the body is known to be larger, before any of it is read.
    pub(super) fn is_exceeded_by(self, body: &Incoming) -> bool {
        body.size_hint().lower() > self.bytes as u64
    }
}

/// Why there is no body.
enum BodyError {
    TooLarge,
    /// The budget has no room for it.
    NoRoom,
    Incomplete,
}

/// The body, which counts as long as there is a copy of it: refused as soon as it is larger than `limit`, or finds no room in `account`. One that says
/// that it is too large has been refused before.
pub(super) async fn read(
    mut body: Incoming,
    limit: BodyLimit,
    account: impl FnOnce() -> Account,
) -> Result<Bytes, Response<ResponseBody>> {
    let Some(whole) = within(BODY_DEADLINE, gather(&mut body, limit.bytes, account)).await else {
        let message = format!("The body did not arrive within {} s", BODY_DEADLINE.as_secs());
        return Err(response::error(
            StatusCode::REQUEST_TIMEOUT,
            None,
            error_code::INVALID_REQUEST,
            &message,
        ));
    };
    match whole {
        Ok(whole) => Ok(whole),
        Err(BodyError::TooLarge) => Err(too_large(body, limit).await),
        Err(BodyError::NoRoom) => {
            discard(body).await;
            Err(response::no_room())
        }
        Err(BodyError::Incomplete) => {
            let message = "The body ended before it was complete";
            Err(response::error(
                StatusCode::BAD_REQUEST,
                None,
                error_code::PARSE_ERROR,
                message,
            ))
        }
    }
}

/// The parts of a body as one. Most come in one part, which is not copied.
async fn gather(
    body: &mut Incoming,
    largest: usize,
    account: impl FnOnce() -> Account,
) -> Result<Bytes, BodyError> {
    let first = part(body).await?.unwrap_or_default();
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
        .ok_or(BodyError::NoRoom)?;
    if is_whole {
        return Ok(reserved.hold(first));
    }
    let mut whole = BytesMut::from(first);
    while let Some(part) = part(body).await? {
        if whole.len() + part.len() > largest {
            return Err(BodyError::TooLarge);
        }
        if !reserved.grow_or_wait(part.len()).await {
            return Err(BodyError::NoRoom);
        }
        whole.extend_from_slice(&part);
    }
    Ok(if whole.len() <= UNCOUNTED_BYTES {
        whole.freeze()
    } else {
        reserved.hold(whole.freeze())
    })
}

async fn part(body: &mut Incoming) -> Result<Option<Bytes>, BodyError> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(_)) => return Err(BodyError::Incomplete),
            // What is no data is a trailer, which says nothing to us.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

pub(super) async fn too_large(body: Incoming, limit: BodyLimit) -> Response<ResponseBody> {
    discard(body).await;
    let unless = if limit.is_for_sessions {
        ""
    } else {
        ", which is the most without the header Mcp-Session-Id"
    };
    let message = format!("The body is larger than {} bytes{unless}", limit.bytes);
    response::error(
        StatusCode::PAYLOAD_TOO_LARGE,
        None,
        error_code::INVALID_REQUEST,
        &message,
    )
}

/// Reads what the client still sends of a refused body, for a while, and throws it away: a connection that is closed with unread bytes in
/// it takes the answer down with it.
pub(super) async fn discard(mut body: Incoming) {
    let discarding = async {
        let mut left = MAX_DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // A client that is slower than this may miss the answer.
    drop(tokio::time::timeout(DISCARD_DEADLINE, discarding).await);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::Ipv4Addr;

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

    /// What is read of a request with a body of so many bytes, in parts or in one.
    async fn read_one(bytes: usize, in_parts: bool, account: Account) -> Bytes {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let service = service_fn(async |request: http::Request<Incoming>| {
            let account = || account.clone();
            let body = read(request.into_body(), limit(usize::MAX), account)
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

    #[tokio::test]
    async fn a_body_counts_until_its_last_copy_is_gone() {
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

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up_with_words_that_say_so() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let service = service_fn(async |request: http::Request<Incoming>| {
            let account = || Account::root(usize::MAX);
            let read = read(request.into_body(), limit(1024), account).await;
            Ok::<_, Infallible>(read.map_or_else(|refusal| refusal, |_| response::accepted()))
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
