//! Comments in the silence of a stream, so that proxies and clients see that it lives.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::stream::{self, StreamExt as _};

use crate::frontend::response::BoxError;
use crate::session::Session;

/// How long a stream may be silent.
const SILENCE: Duration = Duration::from_secs(15);

/// The chunks of a stream of events of `session`, and a comment after each silence. Whatever is sent is use of the session. The
/// stream is polled and never dropped in between, so that what it waits for need not begin anew.
pub(super) fn keep_alive(
    session: Session,
    chunks: impl Stream<Item = Bytes> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    keep_alive_chunks(session, chunks.map(Ok))
}

/// The same of chunks that may break off.
pub(super) fn keep_alive_chunks(
    session: Session,
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    with_comments(chunks).inspect(move |_| session.in_use())
}

fn with_comments(
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    stream::unfold(Box::pin(chunks), |mut chunks| async move {
        match tokio::time::timeout(SILENCE, chunks.next()).await {
            Err(_) => Some((Ok(Bytes::from_static(b": keep-alive\n\n")), chunks)),
            Ok(chunk) => Some((chunk?, chunks)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_says_that_it_lives_until_it_speaks() {
        let slow = stream::once(async {
            tokio::time::sleep(Duration::from_secs(31)).await;
            Ok(Bytes::from_static(b"data: x\n\n"))
        });
        let chunks: Vec<_> = with_comments(slow).map(|chunk| chunk.unwrap()).collect().await;
        assert_eq!(chunks, [": keep-alive\n\n", ": keep-alive\n\n", "data: x\n\n"]);
    }
}
