//! Requests and notifications of a client session beside its calls: log level, resource subscriptions, cancellation, ping.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Backend, BackendError, UpstreamSession};
use crate::mcp::jsonrpc;

/// How long a backend may take to accept a cancellation.
const CANCEL_DEADLINE: Duration = Duration::from_secs(10);

impl Backend {
    /// Sets the log level of `session`.
    ///
    /// # Errors
    /// When the backend refuses or does not respond.
    pub async fn set_log_level(&self, session: &UpstreamSession, level: &str) -> Result<(), BackendError> {
        #[derive(Serialize)]
        struct Params<'a> {
            level: &'a str,
        }
        let params = serde_json::to_vec(&Params { level });
        let params = params.map_err(|error| BackendError::Invalid(error.to_string()))?;
        self.ask(session, "logging/setLevel", &params).await.map(drop)
    }

    /// Subscribes `session` to changes of the resource `uri`.
    ///
    /// # Errors
    /// When the backend refuses or does not respond.
    pub async fn subscribe(&self, session: &UpstreamSession, uri: &str) -> Result<(), BackendError> {
        #[derive(Serialize)]
        struct Params<'a> {
            uri: &'a str,
        }
        let params = serde_json::to_vec(&Params { uri });
        let params = params.map_err(|error| BackendError::Invalid(error.to_string()))?;
        self.ask(session, "resources/subscribe", &params).await.map(drop)
    }

    /// Cancels the request `id` of `session`.
    ///
    /// # Errors
    /// When the backend does not accept the notification.
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

    /// Pings the backend in `session`.
    ///
    /// # Errors
    /// [`BackendError::SessionLost`] when the session has ended. Other errors say nothing about the session.
    pub async fn ping(&self, session: &UpstreamSession) -> Result<(), BackendError> {
        self.ask(session, "ping", b"{}").await.map(drop)
    }
}
