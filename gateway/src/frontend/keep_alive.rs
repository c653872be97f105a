//! Sends SSE comments on silent streams, so that proxies and clients do not close them as dead.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::stream::{self, StreamExt as _};

use crate::core::Caller;
use crate::runtime::BoxError;

/// Longest silence on a stream.
const SILENCE: Duration = Duration::from_secs(15);

/// Adds a comment to the event stream of `caller` after each silence. Everything that is sent counts as use
/// of its session. The inner stream is polled and never dropped in between, so that its pending work is not
/// restarted.
pub(super) fn keep_alive(
    caller: impl Caller,
    chunks: impl Stream<Item = Bytes> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    keep_alive_chunks(caller, chunks.map(Ok))
}

/// As [`keep_alive`], for a stream whose chunks may fail.
pub(super) fn keep_alive_chunks(
    caller: impl Caller,
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    with_comments(chunks).inspect(move |_| caller.record_use())
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

    /// A stream that is silent sends a comment every 15 s until its first event.
    #[tokio::test(start_paused = true)]
    async fn silent_stream_sends_keep_alive_comments() {
        let slow = stream::once(async {
            tokio::time::sleep(Duration::from_secs(31)).await;
            Ok(Bytes::from_static(b"data: x\n\n"))
        });
        let chunks: Vec<_> = with_comments(slow).map(|chunk| chunk.unwrap()).collect().await;
        assert_eq!(chunks, [": keep-alive\n\n", ": keep-alive\n\n", "data: x\n\n"]);
    }
}
