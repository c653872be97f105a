//! The body of a request, over HTTP/1.1 or HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::runtime::BoxError;

/// The body of a request, with the protocol's own flow control: a client can only send what has been asked for.
#[derive(Debug)]
pub(crate) enum IncomingBody {
    /// Over HTTP/1.1.
    Http1(Incoming),
    /// Over HTTP/2.
    Http2(Http2Body),
}

/// The body of one HTTP/2 stream.
#[derive(Debug)]
pub(crate) struct Http2Body {
    stream: RecvStream,
    /// The bytes that are still to come, if the request declares its size.
    remaining: Option<u64>,
}

impl Http2Body {
    /// The body of `stream`, whose request has `headers`.
    pub(crate) fn new(headers: &HeaderMap, stream: RecvStream) -> Self {
        let declared = headers.get(header::CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
        let remaining = if stream.is_end_stream() { Some(0) } else { declared };
        Self { stream, remaining }
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let Some(data) = ready!(self.stream.poll_data(context)) else {
            return Poll::Ready(None);
        };
        let received = data.and_then(|data| {
            self.stream.flow_control().release_capacity(data.len())?;
            self.remaining = self
                .remaining
                .map(|bytes| bytes.saturating_sub(data.len() as u64));
            Ok(data)
        });
        Poll::Ready(Some(received))
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Http2(body) => {
                let data = ready!(body.poll_data(context));
                Poll::Ready(data.map(|data| data.map(Frame::data).map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body
                .remaining
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
