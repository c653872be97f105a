//! The body of a request: read as far as it may go, and no further.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::respond::{self, Body};
use crate::patience::within;
use crate::wire::code;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How much of a refused body is read and thrown away, at most this long.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);

/// The body, refused as soon as it is larger than `largest`. One that says so has been refused before.
pub(super) async fn read(mut body: Incoming, largest: usize) -> Result<Bytes, Response<Body>> {
    let Some(whole) = within(BODY_DEADLINE, collect(&mut body, largest)).await else {
        let message = format!("The body did not arrive within {} s", BODY_DEADLINE.as_secs());
        return Err(respond::error(
            StatusCode::REQUEST_TIMEOUT,
            None,
            code::INVALID_REQUEST,
            &message,
        ));
    };
    match whole {
        Ok(whole) => Ok(whole),
        Err(Unread::TooLarge) => Err(too_large(body, largest).await),
        Err(Unread::Broken) => {
            let message = "The body ended before it was complete";
            Err(respond::error(
                StatusCode::BAD_REQUEST,
                None,
                code::PARSE_ERROR,
                message,
            ))
        }
    }
}

/// Why there is no whole body.
enum Unread {
    TooLarge,
    Broken,
}

/// Nearly every body comes with its head, in one piece, which is taken as it is.
async fn collect(body: &mut Incoming, largest: usize) -> Result<Bytes, Unread> {
    let first = match body.frame().await {
        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        Some(Err(_)) => return Err(Unread::Broken),
        None => Bytes::new(),
    };
    if first.len() <= largest && body.is_end_stream() {
        return Ok(first);
    }
    let Some(left) = largest.checked_sub(first.len()) else {
        return Err(Unread::TooLarge);
    };
    let rest = Limited::new(body, left).collect().await;
    let rest = rest.map_err(|error| match error.is::<LengthLimitError>() {
        true => Unread::TooLarge,
        false => Unread::Broken,
    })?;
    let mut whole = first.chain(rest.aggregate());
    Ok(whole.copy_to_bytes(whole.remaining()))
}

pub(super) async fn too_large(body: Incoming, largest: usize) -> Response<Body> {
    discard(body).await;
    let message = format!("The body is larger than {largest} bytes");
    respond::error(
        StatusCode::PAYLOAD_TOO_LARGE,
        None,
        code::INVALID_REQUEST,
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

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up_with_words_that_say_so() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let service = service_fn(async |request: http::Request<Incoming>| {
            let read = read(request.into_body(), 1024).await;
            Ok::<_, Infallible>(read.map_or_else(|refusal| refusal, |_| respond::accepted()))
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
