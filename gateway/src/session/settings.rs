//! Settings that a client makes for its session: the log level and resource subscriptions.
//!
//! The record is changed first, then the backends. An upstream session that is opened later gets the settings from
//! the record that its bind returned. So an upstream session misses no setting.

use std::sync::Arc;

use super::SessionError;
use super::cache::SessionCache;
use super::client_session::ClientSession;
use super::record::{Record, RecordKey};
use super::recovery::lost_data::Recovery;
use super::recovery::observed_store::ObservedStore;
use super::store::{SetOutcome, SettingChange};
use super::upstream::UpstreamSessions;
use crate::backend::{Backend, ClientHeaders};
use crate::runtime::rate_limit::KeyedRateLimit;
use crate::session::cache::freshness::ReadStamp;

/// Maximum rate at which a session changes its settings. A client may subscribe to many resources at once.
const SETTINGS_PER_SECOND: u32 = 256;

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

/// Changes the settings of sessions: in the record, then at the backends.
#[derive(Debug)]
pub(super) struct SessionSettings {
    store: Arc<ObservedStore>,
    cache: Arc<SessionCache>,
    recovery: Recovery,
    upstreams: UpstreamSessions,
    /// Each change is a write in the store.
    rates: KeyedRateLimit<RecordKey>,
}

impl SessionSettings {
    pub(super) fn new(
        store: Arc<ObservedStore>,
        cache: Arc<SessionCache>,
        recovery: Recovery,
        upstreams: UpstreamSessions,
    ) -> Self {
        Self {
            store,
            cache,
            recovery,
            upstreams,
            rates: KeyedRateLimit::default(),
        }
    }

    /// Sets the minimum level of log messages, in the record and at every backend that supports logging.
    ///
    /// # Errors
    /// The record cannot be changed. A backend that fails is no error.
    pub(super) async fn set_log_level(
        &self,
        client: &ClientSession,
        level: &str,
        headers: &ClientHeaders,
    ) -> Result<(), SettingError> {
        self.set(client, &SettingChange::LogLevel(level.to_owned()))
            .await?;
        let bound = self.upstreams.bound(client, headers);
        self.upstreams.send_log_levels(bound, level).await;
        Ok(())
    }

    /// Stores a subscription of the client to the resource `uri` of `backend`.
    ///
    /// # Errors
    /// The record cannot be changed, or a limit is reached.
    pub(super) async fn subscribe(
        &self,
        client: &ClientSession,
        backend: &Backend,
        uri: &str,
    ) -> Result<(), SettingError> {
        let backend = backend.name().as_str().to_owned();
        let uri = uri.to_owned();
        // Concurrent requests may exceed the limit by one URI each, and their number is bounded.
        let watched = client.record().subscription_bytes();
        if watched + uri.len() > MAX_SUBSCRIPTION_BYTES && subscribed_backend(client, &uri).is_none() {
            return Err(SettingError::Full);
        }
        self.set(client, &SettingChange::Subscribe { uri, backend }).await
    }

    /// Removes the client's subscription to the resource `uri`.
    ///
    /// # Errors
    /// The record cannot be changed.
    pub(super) async fn unsubscribe(&self, client: &ClientSession, uri: &str) -> Result<(), SettingError> {
        self.set(client, &SettingChange::Unsubscribe { uri: uri.to_owned() })
            .await
    }

    async fn set(&self, client: &ClientSession, setting: &SettingChange) -> Result<(), SettingError> {
        let key = &client.key;
        if !self.rates.allows(key, SETTINGS_PER_SECOND) {
            return Err(SettingError::TooOften);
        }
        let stamp = self.cache.stamp_now();
        let mut outcome = self.store.set(key, setting).await;
        if matches!(outcome, Ok(SetOutcome::Gone)) {
            let found = self.recovery.resolve_missing(key, None).await;
            if found.map_err(SessionError::from)?.is_some() {
                outcome = self.store.set(key, setting).await;
            }
        }
        match outcome.map_err(SessionError::from)? {
            SetOutcome::Set(record) => {
                self.recovery.note_write(*key);
                let lost = self.recovery.complete_record(key, &record, stamp).await;
                if lost.map_err(SessionError::from)?.is_none() {
                    return self.cache_changed(client, record, stamp);
                }
                // Writing back overwrote the new setting, so it is set again.
                let stamp = self.cache.stamp_now();
                let again = self.store.set(key, setting).await;
                match again.map_err(SessionError::from)? {
                    SetOutcome::Set(record) => self.cache_changed(client, record, stamp),
                    SetOutcome::Full => Err(SettingError::Full),
                    SetOutcome::Gone => Err(SessionError::NotFound.into()),
                }
            }
            SetOutcome::Full => Err(SettingError::Full),
            SetOutcome::Gone => Err(SessionError::NotFound.into()),
        }
    }

    fn cache_changed(
        &self,
        client: &ClientSession,
        record: Record,
        stamp: ReadStamp,
    ) -> Result<(), SettingError> {
        let is_alive = self.cache.update(&client.key, &client.entry, record, stamp);
        is_alive.then_some(()).ok_or(SessionError::NotFound.into())
    }
}

/// Name of the backend of the subscribed resource `uri`.
pub(super) fn subscribed_backend(client: &ClientSession, uri: &str) -> Option<String> {
    client.record().subscriptions.get(uri).cloned()
}

/// Whether the client subscribed to `uri` at `backend`, or to a resource that contains it. A server may report a
/// sub-resource (specification 2025-11-25, server/resources).
pub(super) fn is_subscribed(client: &ClientSession, backend: &Backend, uri: &str) -> bool {
    let record = client.record();
    record.subscriptions.iter().any(|(watched, owner)| {
        owner == backend.name().as_str() && uri.strip_prefix(&**watched).is_some_and(is_part)
    })
}

/// Whether the rest of a URI, after a subscribed one, is empty or names a part of it.
fn is_part(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['/', '?', '#'])
}
