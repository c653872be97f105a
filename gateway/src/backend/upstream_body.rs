//! The body of a backend's answer, piece by piece.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::BackendError;
use super::content_encoding::Decoder;
use crate::backend::http_client::root_cause;
use crate::budget::Account;
use crate::runtime::timeout::within;

/// How much comes in before other tasks have their turn.
const TURN_BYTES: usize = 128 * 1024;

/// The body of a backend's answer.
#[derive(Debug)]
pub struct UpstreamBody {
    inner: Incoming,
    /// The decoder of an encoded body, or the reason why it cannot be decoded. Boxed: most bodies have none, and
    /// responses are moved often.
    encoding: Option<Box<Encoding>>,
    /// How long the backend may pause.
    idle: Duration,
    /// How many bytes it may have when it is decoded, and how many of them have come.
    limit: u64,
    come: u64,
    /// How much has come since other tasks had their turn.
    since_turn: usize,
    /// Where what is kept of it is counted.
    account: Account,
}

type Encoding = Result<Decoder, BackendError>;

impl UpstreamBody {
    /// The body of an answer with these headers.
    pub(super) fn new(
        inner: Incoming,
        headers: &HeaderMap,
        idle: Duration,
        limit: u64,
        account: Account,
    ) -> Self {
        let encoding = Decoder::of(headers, &account).transpose().map(Box::new);
        Self {
            inner,
            encoding,
            idle,
            limit,
            come: 0,
            since_turn: 0,
            account,
        }
    }

    /// Where whoever keeps its bytes counts them.
    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// Refuses a body of which the backend says that it is too large.
    pub(super) fn check_size(&self) -> Result<(), BackendError> {
        if self.expected() > self.limit {
            return Err(BackendError::TooLarge(self.limit));
        }
        Ok(())
    }

    /// The least number of bytes that are still to come, as far as the backend has said.
    pub(super) fn expected(&self) -> u64 {
        match &self.encoding {
            None => self.inner.size_hint().lower(),
            Some(_) => 0,
        }
    }

    /// Whether nothing more comes.
    pub(super) fn is_at_end(&self) -> bool {
        self.encoding.is_none() && self.inner.is_end_stream()
    }

    /// The next bytes, or `None` at the end. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// When the backend breaks off, pauses for too long, or sends too much.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BackendError> {
        let idle = self.idle;
        let chunk = within(idle, self.endless_chunk()).await;
        let chunk = chunk.unwrap_or(Err(BackendError::Paused(idle)))?;
        self.come += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.come > self.limit {
            return Err(BackendError::TooLarge(self.limit));
        }
        Ok(chunk)
    }

    /// The next bytes of a body without an end, in which the backend may pause for as long as it likes.
    pub(super) async fn endless_chunk(&mut self) -> Result<Option<Bytes>, BackendError> {
        // A backend that sends fast always has more.
        if self.since_turn >= TURN_BYTES {
            self.since_turn = 0;
            tokio::task::yield_now().await;
        }
        let mut decoder = match self.encoding.as_deref_mut() {
            None => None,
            Some(Ok(decoder)) => Some(decoder),
            Some(Err(error)) => return Err(error.clone()),
        };
        loop {
            if let Some(decoder) = &mut decoder
                && let Some(bytes) = decoder.next()?
            {
                self.since_turn = self.since_turn.saturating_add(bytes.len());
                return Ok(Some(bytes));
            }
            let data = match self.inner.frame().await {
                None => {
                    let missing = decoder.as_mut().map(|decoder| decoder.finish());
                    return missing.unwrap_or(Ok(())).map(|()| None);
                }
                Some(Err(error)) => return Err(BackendError::Broken(root_cause(&error))),
                Some(Ok(frame)) => frame.into_data(),
            };
            match (data, &mut decoder) {
                (Ok(data), None) => {
                    self.since_turn = self.since_turn.saturating_add(data.len());
                    return Ok(Some(data));
                }
                (Ok(data), Some(decoder)) => decoder.push(data),
                // Trailers.
                (Err(_), _) => {}
            }
        }
    }
}
