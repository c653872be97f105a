//! The body of a backend's answer, piece by piece.

use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::BackendError;
use super::transport::root_cause;

/// The body of a backend's answer.
#[derive(Debug)]
pub struct UpstreamBody {
    inner: Incoming,
    /// How long the backend may pause.
    idle: Duration,
}

impl UpstreamBody {
    pub(super) fn new(inner: Incoming, idle: Duration) -> Self {
        Self { inner, idle }
    }

    /// The least number of bytes that are still to come, as far as the backend has said.
    pub(super) fn expected(&self) -> u64 {
        self.inner.size_hint().lower()
    }

    /// Whether nothing more comes.
    pub(super) fn is_at_end(&self) -> bool {
        self.inner.is_end_stream()
    }

    /// The next bytes, or `None` at the end. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// When the backend breaks off, or pauses for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BackendError> {
        match tokio::time::timeout(self.idle, self.chunk_in_time()).await {
            Err(_) => Err(BackendError::Paused(self.idle)),
            Ok(chunk) => chunk,
        }
    }

    /// The same, however long the backend pauses.
    pub(super) async fn chunk_in_time(&mut self) -> Result<Option<Bytes>, BackendError> {
        loop {
            match self.inner.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(BackendError::Broken(root_cause(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
