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
pub(crate) struct SharedBody {
    next: Bytes,
    /// The parts after it. Boxed: most bodies have one part, and responses are moved often.
    rest: Option<Box<[Bytes; 2]>>,
}

impl SharedBody {
    /// A body of these parts in order.
    pub(super) fn new([next, second, third]: [Bytes; 3]) -> Self {
        Self {
            next,
            rest: Some(Box::new([second, third])),
        }
    }

    fn left(&self) -> usize {
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        self.next.len() + rest.map(Bytes::len).sum::<usize>()
    }
}

impl From<Bytes> for SharedBody {
    fn from(whole: Bytes) -> Self {
        Self {
            next: whole,
            rest: None,
        }
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
        let this = &mut *self;
        let rest = this.rest.iter_mut().flat_map(|rest| rest.iter_mut());
        let part = std::iter::once(&mut this.next)
            .chain(rest)
            .find(|part| !part.is_empty());
        Poll::Ready(part.map(|part| Ok(Frame::data(slice(part)))))
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
