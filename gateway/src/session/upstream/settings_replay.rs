//! Brings the settings of a session to its upstream sessions: the log level and resource subscriptions.

use std::time::Duration;

use futures::future::join_all;

use super::UpstreamSessions;
use crate::backend::{Backend, UpstreamSession};
use crate::session::record::Record;

/// Maximum time that a client waits for backends to apply a setting. A slower backend applies it later.
const DEADLINE: Duration = Duration::from_secs(2);

impl UpstreamSessions {
    /// Sends the record's settings to an upstream session that was just bound.
    pub(in crate::session) async fn replay_settings(
        &self,
        record: &Record,
        backend: &Backend,
        upstream: &UpstreamSession,
    ) {
        let replaying = async {
            if let Some(level) = &record.log_level {
                self.send_log_level(backend, upstream, level).await;
            }
            for (uri, owner) in &record.subscriptions {
                if owner == backend.name().as_str()
                    && let Err(error) = backend.subscribe(upstream, uri).await
                {
                    tracing::warn!(backend = %backend.name(), %error, "failed to renew subscription");
                }
            }
        };
        if tokio::time::timeout(DEADLINE, replaying).await.is_err() {
            tracing::warn!(backend = %backend.name(), "replaying session settings timed out");
        }
    }

    /// Sets the log level in all of `upstreams` that support logging. A backend that fails is no error.
    pub(in crate::session) async fn send_log_levels(
        &self,
        upstreams: Vec<(Backend, UpstreamSession)>,
        level: &str,
    ) {
        let sending = upstreams
            .iter()
            .map(|(backend, upstream)| self.send_log_level(backend, upstream, level));
        if tokio::time::timeout(DEADLINE, join_all(sending)).await.is_err() {
            tracing::debug!("setting the log level at backends timed out");
        }
    }

    /// Sets the log level at `backend`, unless the backend does not declare logging.
    async fn send_log_level(&self, backend: &Backend, upstream: &UpstreamSession, level: &str) {
        let catalog = self.inner.core.catalog();
        let logs = catalog
            .capabilities(backend.name())
            .is_none_or(|declared| declared.logging);
        if logs && let Err(error) = backend.set_log_level(upstream, level).await {
            tracing::warn!(backend = %backend.name(), %error, "failed to set log level");
        }
    }
}
