//! Settings that a client makes for its session: the log level and resource subscriptions.
//!
//! The record is changed first, then the backends. An upstream session that is opened later gets the settings from
//! the record that its bind returned. So an upstream session misses no setting.

use std::time::Duration;

use futures::future::join_all;

use super::record::Record;
use super::store::{SetOutcome, SettingChange};
use super::{Session, SessionError, Sessions};
use crate::backend::{Backend, ClientHeaders, UpstreamSession};
use crate::session::recovery::outage::StoreOperation;

/// Maximum time that a client waits for backends to apply a setting. A slower backend applies it later.
const DEADLINE: Duration = Duration::from_secs(2);

/// Maximum total length of the subscribed URIs, because they are stored in the record.
const MAX_SUBSCRIPTION_BYTES: usize = 32 * 1024;

/// Why a setting was refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The client session cannot be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The session has as many subscriptions as it may.
    #[error(
        "the session has reached its limit of subscriptions: {} resources, {} bytes of URIs; unsubscribe first",
        super::store::MAX_SUBSCRIPTIONS,
        MAX_SUBSCRIPTION_BYTES
    )]
    Full,
    /// The rate limit of the session's settings is reached.
    #[error("the session changes its settings too often; try again")]
    TooOften,
}

impl Session {
    /// Sets the minimum level of log messages, in the record and at every backend that supports logging.
    ///
    /// # Errors
    /// The record cannot be changed. A backend that fails is no error.
    pub async fn set_log_level(&self, level: &str, headers: &ClientHeaders) -> Result<(), SettingError> {
        self.set(&SettingChange::LogLevel(level.to_owned())).await?;
        let telling = self
            .bound(headers)
            .into_iter()
            .map(|(backend, upstream)| async move {
                self.sessions.send_log_level(&backend, &upstream, level).await;
            });
        if tokio::time::timeout(DEADLINE, join_all(telling)).await.is_err() {
            tracing::debug!("setting the log level at backends timed out");
        }
        Ok(())
    }

    /// Stores a subscription of the client to the resource `uri` of `backend`.
    ///
    /// # Errors
    /// The record cannot be changed, or a limit is reached.
    pub async fn subscribe(&self, backend: &Backend, uri: &str) -> Result<(), SettingError> {
        let backend = backend.name().as_str().to_owned();
        let uri = uri.to_owned();
        // Concurrent requests may exceed the limit by one URI each, and their number is bounded.
        let watched = self.record().subscription_bytes();
        if watched + uri.len() > MAX_SUBSCRIPTION_BYTES && self.subscribed_backend(&uri).is_none() {
            return Err(SettingError::Full);
        }
        self.set(&SettingChange::Subscribe { uri, backend }).await
    }

    /// Removes the client's subscription to the resource `uri`.
    ///
    /// # Errors
    /// The record cannot be changed.
    pub async fn unsubscribe(&self, uri: &str) -> Result<(), SettingError> {
        self.set(&SettingChange::Unsubscribe { uri: uri.to_owned() })
            .await
    }

    /// Name of the backend of the subscribed resource `uri`.
    #[must_use]
    pub fn subscribed_backend(&self, uri: &str) -> Option<String> {
        self.record().subscriptions.get(uri).cloned()
    }

    /// Whether the client subscribed to `uri` at `backend`, or to a resource that contains it. A server may report a
    /// sub-resource (specification 2025-11-25, server/resources).
    pub(super) fn is_subscribed(&self, backend: &Backend, uri: &str) -> bool {
        let record = self.record();
        record.subscriptions.iter().any(|(watched, owner)| {
            owner == backend.name().as_str() && uri.strip_prefix(&**watched).is_some_and(is_part)
        })
    }

    async fn set(&self, setting: &SettingChange) -> Result<(), SettingError> {
        let inner = &*self.sessions.inner;
        if !inner.setting_rates.allows(&self.key, super::SETTINGS_PER_SECOND) {
            return Err(SettingError::TooOften);
        }
        let stamp = inner.freshness.stamp_now();
        let mut outcome = inner.store.set(&self.key, setting).await;
        if matches!(outcome, Ok(SetOutcome::Gone)) {
            let found = self.sessions.resolve_missing(&self.key, None).await;
            if found.map_err(SessionError::from)?.is_some() {
                outcome = inner.store.set(&self.key, setting).await;
            }
        }
        match self
            .sessions
            .observed(StoreOperation::Set, outcome)
            .map_err(SessionError::from)?
        {
            SetOutcome::Set(record) => {
                inner.recent_writes.note(self.key);
                let lost = self
                    .sessions
                    .complete_record(&self.key, &record, stamp)
                    .await
                    .map_err(SessionError::from)?;
                if lost.is_none() {
                    return Ok(self.update_record(record, stamp)?);
                }
                // Writing back overwrote the new setting, so it is set again.
                let stamp = inner.freshness.stamp_now();
                let again = inner.store.set(&self.key, setting).await;
                match self
                    .sessions
                    .observed(StoreOperation::Set, again)
                    .map_err(SessionError::from)?
                {
                    SetOutcome::Set(record) => Ok(self.update_record(record, stamp)?),
                    SetOutcome::Full => Err(SettingError::Full),
                    SetOutcome::Gone => Err(SessionError::NotFound.into()),
                }
            }
            SetOutcome::Full => Err(SettingError::Full),
            SetOutcome::Gone => Err(SessionError::NotFound.into()),
        }
    }
}

/// Whether the rest of a URI, after a subscribed one, is empty or names a part of it.
fn is_part(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['/', '?', '#'])
}

impl Sessions {
    /// Sends the record's settings to an upstream session that was just bound.
    pub(super) async fn replay(&self, record: &Record, backend: &Backend, upstream: &UpstreamSession) {
        let telling = async {
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
        if tokio::time::timeout(DEADLINE, telling).await.is_err() {
            tracing::warn!(backend = %backend.name(), "replaying session settings timed out");
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
