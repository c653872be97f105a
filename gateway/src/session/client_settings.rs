//! What a client has set for its session: how much it wants to see logged, and which resources it watches.
//!
//! The record is changed first, and then the backends are told. An upstream session that is opened later is told by whoever opens it,
//! from the record that the binding returned: between the two nothing is missed.

use std::time::Duration;

use futures::future::join_all;

use super::record::Record;
use super::store::{SetOutcome, SettingChange};
use super::{Session, SessionError, Sessions};
use crate::backend::{Backend, UpstreamSession};
use crate::session::recovery::outage::StoreOperation;

/// How long backends have to take a setting. One that needs longer gets it, but the client does not wait for it.
const DEADLINE: Duration = Duration::from_secs(2);

/// How many bytes the URIs that a session watches may have: they are stored with it.
const MAX_SUBSCRIPTION_BYTES: usize = 32 * 1024;

/// Why a setting was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The session cannot be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The session watches as many resources as it may.
    #[error(
        "the session watches as much as it may, {} resources or {} bytes of URIs",
        super::store::MAX_SUBSCRIPTIONS,
        MAX_SUBSCRIPTION_BYTES
    )]
    Full,
    /// The session changes its settings too often.
    #[error("the session changes its settings too often; try again")]
    TooOften,
}

impl Session {
    /// Makes `level` the lowest at which the client gets log messages, and tells every backend that logs.
    ///
    /// # Errors
    /// When the record cannot be changed. A backend that does not take it is no error.
    pub async fn set_log_level(&self, level: &str) -> Result<(), SettingError> {
        self.set(&SettingChange::LogLevel(level.to_owned())).await?;
        let telling = self.bound().into_iter().map(|(backend, upstream)| async move {
            self.sessions.tell_level(&backend, &upstream, level).await;
        });
        if tokio::time::timeout(DEADLINE, join_all(telling)).await.is_err() {
            tracing::debug!("a backend takes its time to take a log level");
        }
        Ok(())
    }

    /// Notes that the client watches the resource `uri` of `backend`.
    ///
    /// # Errors
    /// When the record cannot be changed.
    pub async fn watch(&self, backend: &Backend, uri: &str) -> Result<(), SettingError> {
        let backend = backend.name().as_str().to_owned();
        let uri = uri.to_owned();
        // Requests that come at the same moment may go beyond it by what each of them brings, which is bounded, too.
        let watched = self.record().subscription_bytes();
        if watched + uri.len() > MAX_SUBSCRIPTION_BYTES && self.watched(&uri).is_none() {
            return Err(SettingError::Full);
        }
        self.set(&SettingChange::Subscribe { uri, backend }).await
    }

    /// Notes that the client watches the resource `uri` no more.
    ///
    /// # Errors
    /// When the record cannot be changed.
    pub async fn unwatch(&self, uri: &str) -> Result<(), SettingError> {
        self.set(&SettingChange::Unsubscribe { uri: uri.to_owned() })
            .await
    }

    /// The name of the backend whose resource `uri` the client watches.
    #[must_use]
    pub fn watched(&self, uri: &str) -> Option<String> {
        self.record().subscriptions.get(uri).cloned()
    }

    /// Whether the client watches `uri` at `backend`, or a resource there of which this is a part: a server may tell of that instead
    /// (specification 2025-11-25, server/resources).
    #[must_use]
    pub fn watches(&self, backend: &Backend, uri: &str) -> bool {
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
        let reading = inner.proof.stamp_now();
        let mut outcome = inner.store.set(&self.key, setting).await;
        if matches!(outcome, Ok(SetOutcome::Gone)) {
            let found = self.sessions.missing(&self.key, None).await;
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
                inner.writes.note(self.key);
                let lost = self
                    .sessions
                    .write_back_what_is_lost(&self.key, &record, reading)
                    .await
                    .map_err(SessionError::from)?;
                if lost.is_none() {
                    return Ok(self.know(record, reading)?);
                }
                // What is known of before has taken the place of what was just set.
                let reading = inner.proof.stamp_now();
                let again = inner.store.set(&self.key, setting).await;
                match self
                    .sessions
                    .observed(StoreOperation::Set, again)
                    .map_err(SessionError::from)?
                {
                    SetOutcome::Set(record) => Ok(self.know(record, reading)?),
                    SetOutcome::Full => Err(SettingError::Full),
                    SetOutcome::Gone => Err(SessionError::NotFound.into()),
                }
            }
            SetOutcome::Full => Err(SettingError::Full),
            SetOutcome::Gone => Err(SessionError::NotFound.into()),
        }
    }
}

/// Whether what stands in a URI behind another one names a part of it, or nothing more.
fn is_part(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['/', '?', '#'])
}

impl Sessions {
    /// Tells an upstream session that was just bound what the client has set.
    pub(super) async fn replay(&self, record: &Record, backend: &Backend, upstream: &UpstreamSession) {
        let telling = async {
            if let Some(level) = &record.log_level {
                self.tell_level(backend, upstream, level).await;
            }
            for (uri, owner) in &record.subscriptions {
                if owner == backend.name().as_str()
                    && let Err(error) = backend.subscribe(upstream, uri).await
                {
                    tracing::warn!(backend = %backend.name(), %error, "a subscription could not be renewed");
                }
            }
        };
        if tokio::time::timeout(DEADLINE, telling).await.is_err() {
            tracing::warn!(backend = %backend.name(), "a new session could not be told all that the client had set");
        }
    }

    /// Tells `backend` the level, unless it has said that it does not log.
    async fn tell_level(&self, backend: &Backend, upstream: &UpstreamSession, level: &str) {
        let catalog = self.inner.core.catalog();
        let logs = catalog
            .capabilities(backend.name())
            .is_none_or(|declared| declared.logging);
        if logs && let Err(error) = backend.set_log_level(upstream, level).await {
            tracing::warn!(backend = %backend.name(), %error, "a log level was not taken");
        }
    }
}
