//! The body of a backend's response, in chunks, decoded and limited.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::BackendError;
use super::content_encoding::Decoder;
use super::request_headers::RequestHeaders;
use crate::backend::http_client::root_cause;
use crate::budget::Account;

/// How many bytes a body reads before it yields to other tasks.
const YIELD_BYTES: usize = 128 * 1024;

/// The body of a backend's response.
#[derive(Debug)]
pub struct UpstreamBody {
    inner: Incoming,
    /// The decoder of an encoded body, or the reason why it cannot be decoded. Boxed: most bodies have none, and
    /// responses are moved often.
    encoding: Option<Box<Encoding>>,
    /// The longest pause between two chunks.
    idle: Duration,
    /// The most decoded bytes, and how many have arrived.
    limit: u64,
    received: u64,
    /// The bytes since the last yield.
    since_yield: usize,
    /// The budget account for buffered bytes.
    account: Account,
    /// The configured headers of the request, whose values the backend may repeat.
    sent: Option<Arc<RequestHeaders>>,
}

type Encoding = Result<Decoder, BackendError>;

impl UpstreamBody {
    /// Creates the body of a response with these headers, to a request with the configured headers `sent`.
    pub(super) fn new(
        inner: Incoming,
        headers: &HeaderMap,
        idle: Duration,
        limit: u64,
        account: Account,
        sent: Option<Arc<RequestHeaders>>,
    ) -> Self {
        let encoding = Decoder::of(headers, &account).transpose().map(Box::new);
        Self {
            inner,
            encoding,
            idle,
            limit,
            received: 0,
            since_yield: 0,
            account,
            sent,
        }
    }

    /// Hides the values of the request's headers in the text that the backend may have written.
    fn hide_values(sent: Option<&RequestHeaders>, error: BackendError) -> BackendError {
        match sent {
            Some(sent) => error.hide_values(sent),
            None => error,
        }
    }

    /// The budget account for buffered bytes of the body.
    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// Rejects a body whose announced size exceeds the limit.
    pub(super) fn check_size(&self) -> Result<(), BackendError> {
        if self.expected() > self.limit {
            return Err(BackendError::TooLarge(self.limit));
        }
        Ok(())
    }

    /// The announced number of bytes that are still missing; 0 if unknown.
    pub(super) fn expected(&self) -> u64 {
        match &self.encoding {
            None => self.inner.size_hint().lower(),
            Some(_) => 0,
        }
    }

    /// Whether the body is complete.
    pub(super) fn is_at_end(&self) -> bool {
        self.encoding.is_none() && self.inner.is_end_stream()
    }

    /// Returns the next chunk, or `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// When the connection breaks, the backend pauses for too long, or the body exceeds its limit.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BackendError> {
        let idle = self.idle;
        let chunk = timeout(idle, self.stream_chunk()).await;
        let chunk = chunk.unwrap_or(Err(BackendError::Paused(idle)))?;
        self.received += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.received > self.limit {
            return Err(BackendError::TooLarge(self.limit));
        }
        Ok(chunk)
    }

    /// Returns the next chunk of an event stream, in which pauses and total size have no limit.
    pub(super) async fn stream_chunk(&mut self) -> Result<Option<Bytes>, BackendError> {
        // Without a yield a fast backend would starve other tasks.
        if self.since_yield >= YIELD_BYTES {
            self.since_yield = 0;
            tokio::task::yield_now().await;
        }
        let mut decoder = match self.encoding.as_deref_mut() {
            None => None,
            Some(Ok(decoder)) => Some(decoder),
            Some(Err(error)) => return Err(Self::hide_values(self.sent.as_deref(), error.clone())),
        };
        loop {
            if let Some(decoder) = &mut decoder
                && let Some(bytes) = decoder.next()?
            {
                self.since_yield = self.since_yield.saturating_add(bytes.len());
                return Ok(Some(bytes));
            }
            let data = match self.inner.frame().await {
                None => {
                    let missing = decoder.as_mut().map(|decoder| decoder.finish());
                    return missing.unwrap_or(Ok(())).map(|()| None);
                }
                Some(Err(error)) => {
                    let error = BackendError::Broken(root_cause(&error));
                    return Err(Self::hide_values(self.sent.as_deref(), error));
                }
                Some(Ok(frame)) => frame.into_data(),
            };
            match (data, &mut decoder) {
                (Ok(data), None) => {
                    self.since_yield = self.since_yield.saturating_add(data.len());
                    return Ok(Some(data));
                }
                (Ok(data), Some(decoder)) => decoder.push(data),
                // Trailers.
                (Err(_), _) => {}
            }
        }
    }
}
