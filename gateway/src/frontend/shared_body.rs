//! A complete response body in up to three parts. Responses share large parts instead of copying them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Largest chunk that is handed to a connection at a time. A connection copies what it cannot send at once;
/// smaller chunks bound that copy.
pub(super) const SLICE_BYTES: usize = 64 * 1024;

/// A complete body in parts, sent in chunks of at most [`SLICE_BYTES`].
#[derive(Debug, Default)]
pub struct SharedBody {
    parts: [Bytes; 3],
}

impl SharedBody {
    /// A body of these parts in order.
    pub(super) fn new(parts: [Bytes; 3]) -> Self {
        Self { parts }
    }

    fn left(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

impl From<Bytes> for SharedBody {
    fn from(whole: Bytes) -> Self {
        Self::new([whole, Bytes::new(), Bytes::new()])
    }
}

/// Splits the next chunk off `bytes`.
pub(super) fn slice(bytes: &mut Bytes) -> Bytes {
    bytes.split_to(bytes.len().min(SLICE_BYTES))
}

impl http_body::Body for SharedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(part) = self.parts.iter_mut().find(|part| !part.is_empty()) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(Frame::data(slice(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use super::*;

    /// The parts are sent in order, in chunks that are not copied.
    #[tokio::test]
    async fn shared_body_is_sent_in_order_without_copies() {
        let shared = Bytes::from(vec![7; 3 * SLICE_BYTES + 1]);
        let mut body = SharedBody::new([Bytes::from_static(b"<"), shared.clone(), Bytes::from_static(b">")]);
        assert_eq!(body.size_hint().exact(), Some(shared.len() as u64 + 2));
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= SLICE_BYTES);
            if data.len() > 1 {
                let within = shared.as_ptr_range();
                assert!(within.contains(&data.as_ptr()), "a copy");
            }
            read.extend_from_slice(&data);
        }
        assert!(body.is_end_stream());
        assert_eq!(read, [b"<", &shared[..], b">"].concat());
    }
}
