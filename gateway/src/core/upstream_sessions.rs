//! The seam between calls and whoever holds the upstream sessions.
//!
//! A session of the legacy era keeps its upstream sessions in its record, where every replica finds them; a stateless request
//! has others. A call needs neither to know.

use std::future::Future;

use crate::backend::{Backend, BackendError, UpstreamSession};

/// The upstream sessions of one caller.
pub trait UpstreamSessions: Sync {
    /// The caller's session at `backend`; opened if there is none yet.
    fn open(&self, backend: &Backend) -> impl Future<Output = Result<UpstreamSession, UpstreamError>> + Send;

    /// A session at `backend` other than `lost`, which the backend does not know any more.
    fn replace(
        &self,
        backend: &Backend,
        lost: &UpstreamSession,
    ) -> impl Future<Output = Result<UpstreamSession, UpstreamError>> + Send;

    /// Keeps the cookies that an answer in `session` has set for whoever goes on with it elsewhere.
    fn keep_cookies(&self, backend: &Backend, session: &UpstreamSession) -> impl Future<Output = ()> + Send;
}

/// Why there is no upstream session.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The backend gave none.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The caller's own session has ended meanwhile.
    #[error("the session has ended")]
    Gone,
    /// The place where upstream sessions are kept cannot be reached.
    #[error("the session store is unavailable: {0}")]
    Unavailable(String),
}
