//! The interface through which a call obtains its upstream session.
//!
//! A legacy-era session keeps its upstream sessions in its record, where every replica finds them. A stateless request uses others. A
//! call does not depend on either.

use std::future::Future;

use crate::backend::{Backend, BackendError, UpstreamSession};

/// The upstream sessions of one caller.
pub trait UpstreamSessions: Sync {
    /// Returns the caller's session at `backend`, and opens it if there is none yet.
    fn open(&self, backend: &Backend) -> impl Future<Output = Result<UpstreamSession, UpstreamError>> + Send;

    /// Returns a session at `backend` that replaces `lost`, which the backend no longer knows.
    fn replace(
        &self,
        backend: &Backend,
        lost: &UpstreamSession,
    ) -> impl Future<Output = Result<UpstreamSession, UpstreamError>> + Send;

    /// Stores the cookies that a response in `session` has set, so that the next replica that uses the session sends them.
    fn keep_cookies(&self, backend: &Backend, session: &UpstreamSession) -> impl Future<Output = ()> + Send;
}

/// Why there is no upstream session.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The backend did not open one.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The caller's own session ended in the meantime.
    #[error("the session has ended")]
    Gone,
    /// The session store cannot be reached.
    #[error("the session store is unavailable: {0}")]
    Unavailable(String),
}
