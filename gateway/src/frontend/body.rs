//! The body of a request: read as far as it may go, and no further.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::respond::{self, Body};
use crate::wire::code;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How much of a refused body is read and thrown away, at most this long.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);

/// The body, refused as soon as it is larger than `largest`. One that says so has been refused before.
pub(super) async fn read(mut body: Incoming, largest: usize) -> Result<Bytes, Response<Body>> {
    let reading = Limited::new(&mut body, largest).collect();
    let Ok(whole) = tokio::time::timeout(BODY_DEADLINE, reading).await else {
        let message = format!("The body did not arrive within {} s", BODY_DEADLINE.as_secs());
        return Err(respond::error(
            StatusCode::REQUEST_TIMEOUT,
            None,
            code::INVALID_REQUEST,
            &message,
        ));
    };
    match whole {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(body, largest).await),
        Err(_) => {
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
