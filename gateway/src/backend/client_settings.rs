//! What a session tells a backend beside its calls: how much it wants to see logged, and which resources it watches.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Backend, BackendError, UpstreamSession};
use crate::mcp::jsonrpc;

/// How long a backend may take to accept a cancellation.
const CANCEL_DEADLINE: Duration = Duration::from_secs(10);

impl Backend {
    /// Tells the backend from which level on `session` wants log messages.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub async fn set_log_level(&self, session: &UpstreamSession, level: &str) -> Result<(), BackendError> {
        #[derive(Serialize)]
        struct Params<'a> {
            level: &'a str,
        }
        let params = serde_json::to_vec(&Params { level });
        let params = params.map_err(|error| BackendError::Invalid(error.to_string()))?;
        self.ask(session, "logging/setLevel", &params).await.map(drop)
    }

    /// Tells the backend that `session` wants to hear when the resource `uri` changes.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub async fn subscribe(&self, session: &UpstreamSession, uri: &str) -> Result<(), BackendError> {
        #[derive(Serialize)]
        struct Params<'a> {
            uri: &'a str,
        }
        let params = serde_json::to_vec(&Params { uri });
        let params = params.map_err(|error| BackendError::Invalid(error.to_string()))?;
        self.ask(session, "resources/subscribe", &params).await.map(drop)
    }

    /// Tells the backend that nobody waits any longer for the answer to the request `id` of `session`.
    ///
    /// # Errors
    /// When it does not take the message.
    pub async fn cancel(
        &self,
        session: &UpstreamSession,
        id: &RawValue,
        reason: &str,
    ) -> Result<(), BackendError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Params<'a> {
            request_id: &'a RawValue,
            reason: &'a str,
        }
        let params = serde_json::to_vec(&Params {
            request_id: id,
            reason,
        });
        let params = params.map_err(|error| BackendError::Invalid(error.to_string()))?;
        let message = jsonrpc::notification_with("notifications/cancelled", &params);
        tokio::time::timeout(CANCEL_DEADLINE, self.notify(session, message))
            .await
            .unwrap_or(Err(BackendError::Deadline(CANCEL_DEADLINE)))
    }

    /// Asks whether `session` lives.
    ///
    /// # Errors
    /// [`BackendError::SessionLost`] when it does not. Any other error says nothing of the session.
    pub async fn ping(&self, session: &UpstreamSession) -> Result<(), BackendError> {
        self.ask(session, "ping", b"{}").await.map(drop)
    }
}
