//! Sends a request, and once more in a new upstream session if the backend has lost the first one.
//!
//! A backend that no longer knows the session has not executed the request, so it is safe to send it again.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Core, UpstreamError, UpstreamOpener};
use crate::backend::{Backend, BackendError, BackendResponse, UpstreamSession};
use crate::telemetry::request_id::CurrentRequestId;

impl Core {
    /// Sends the request and stores in `sent_in` the session that it was last sent in, also when this future is dropped early.
    pub(super) async fn exchange(
        &self,
        upstreams: &impl UpstreamOpener,
        backend: &Backend,
        message: &Bytes,
        id: &RawValue,
        sent_in: &mut Option<UpstreamSession>,
    ) -> Result<BackendResponse, UpstreamError> {
        let mut session = &*sent_in.insert(upstreams.open(backend).await?);
        let mut outcome = backend.call(session, message.clone(), id).await;
        if matches!(outcome, Err(BackendError::SessionLost)) {
            let lost = session.clone();
            *sent_in = None;
            self.metrics.repaired(backend.name());
            tracing::info!(request_id = %CurrentRequestId, backend = %backend.name(), "upstream session lost; opening another");
            session = &*sent_in.insert(Box::pin(upstreams.replace(backend, &lost)).await?);
            outcome = Box::pin(backend.call(session, message.clone(), id)).await;
        }
        // Before the client gets the response: its next call may reach another replica.
        if session.has_cookies_to_store() {
            Box::pin(upstreams.keep_cookies(backend, session)).await;
        }
        Ok(outcome?)
    }
}
