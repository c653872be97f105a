//! The upstream sessions of a session: opened on first use, kept in the record, found there by every replica.
//!
//! An upstream session is opened when the first call needs it, and bound in the record before that call is sent. Two replicas may
//! open one at the same moment; the store lets one of them win, and the loser deletes its own and uses the winner's. A replica that
//! finds a binding sends the stored id at once, without a handshake: the state that the backend keeps for that id is thereby kept.
//!
//! The work runs as a task of its own, so that a client that goes away in the middle leaves no upstream session behind that no record
//! names.

use std::sync::Arc;

use futures::FutureExt as _;
use serde_json::value::RawValue;

use super::Session;
use super::record::{Binding, Record};
use super::store::{Bound, Loaded, Unavailable};
use crate::backend::{Backend, BackendError, Hello, UpstreamSession};
use crate::core::{UpstreamError, Upstreams};

impl Upstreams for Session {
    async fn open(&self, backend: &Backend) -> Result<UpstreamSession, UpstreamError> {
        match usable(&self.record.load(), backend, None) {
            Some(session) => Ok(session),
            None => self.bind(backend, None).await,
        }
    }

    async fn replace(
        &self,
        backend: &Backend,
        lost: &UpstreamSession,
    ) -> Result<UpstreamSession, UpstreamError> {
        self.bind(backend, Some(lost.clone())).await
    }
}

impl Session {
    /// Opens and binds an upstream session, or joins those who are about to.
    async fn bind(
        &self,
        backend: &Backend,
        lost: Option<UpstreamSession>,
    ) -> Result<UpstreamSession, UpstreamError> {
        let target = (self.key, backend.name().to_string(), lost.clone());
        let attempt = || {
            let (session, backend) = (self.clone(), backend.clone());
            let tasks = self.sessions.inner.tasks.clone();
            let binding = tasks.spawn(async move { session.bind_now(&backend, lost.as_ref()).await });
            let ended = |ended: Result<_, tokio::task::JoinError>| {
                ended.unwrap_or_else(|error| Err(BackendError::Broken(error.to_string()).into()))
            };
            binding.map(ended).boxed()
        };
        let session = self.sessions.inner.flights.join(target, attempt).await?;
        if self.generation(backend, &session).is_none() {
            // Somebody else's attempt; without the binding its id means nothing to this request. The call itself needs no more.
            drop(self.reload().await);
        }
        Ok(session)
    }

    async fn bind_now(
        &self,
        backend: &Backend,
        lost: Option<&UpstreamSession>,
    ) -> Result<UpstreamSession, UpstreamError> {
        let inner = &*self.sessions.inner;
        let name = backend.name().as_str();
        // Another call, or another replica, may have done the work since the request came in.
        let record = match self.sessions.observed(inner.store.load(&self.key).await)? {
            Loaded::Found(record) => Arc::new(record),
            Loaded::Gone => return Err(UpstreamError::Gone),
        };
        self.record.store(Arc::clone(&record));
        if let Some(session) = usable(&record, backend, lost) {
            return Ok(session);
        }
        let session = backend.initialize(&hello(&record)?).await?;
        inner.metrics.handshake(backend.name());
        let expected = record.generation(name);
        let binding = Binding {
            origin: backend.origin().to_owned(),
            session: session.clone(),
            generation: expected + 1,
        };
        match self.sessions.observed(
            inner
                .store
                .bind_backend(&self.key, name, expected, &binding)
                .await,
        )? {
            Bound::Bound(record) => {
                let record = Arc::new(record);
                self.record.store(Arc::clone(&record));
                tokio::join!(
                    self.replay(&record, backend, &session),
                    self.hear(backend, &session)
                );
                self.streams().changed(&self.key);
                Ok(session)
            }
            Bound::Lost(record) => {
                let winner = usable(&record, backend, lost);
                self.record.store(Arc::new(record));
                if winner.as_ref() == Some(&session) {
                    return Ok(session);
                }
                self.sessions.close_upstream(backend.clone(), session);
                let changing = || Unavailable::new("the upstream session changed again and again");
                winner.ok_or_else(|| changing().into())
            }
            Bound::Gone => {
                self.sessions.close_upstream(backend.clone(), session);
                Err(UpstreamError::Gone)
            }
        }
    }
}

/// The bound upstream session, if it was given by this very backend and is not the one that was lost.
fn usable(record: &Record, backend: &Backend, lost: Option<&UpstreamSession>) -> Option<UpstreamSession> {
    let binding = record.bindings.get(backend.name().as_str())?;
    let usable = binding.origin == backend.origin() && Some(&binding.session) != lost;
    usable.then(|| binding.session.clone())
}

fn hello(record: &Record) -> Result<Hello<'_>, UpstreamError> {
    let raw = |text| -> Result<&RawValue, UpstreamError> {
        serde_json::from_str(text)
            .map_err(|error| Unavailable::new(format!("unreadable record: {error}")).into())
    };
    Ok(Hello {
        revision: record.revision,
        capabilities: raw(&record.capabilities)?,
        client_info: raw(&record.client_info)?,
    })
}

impl From<Unavailable> for UpstreamError {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error.to_string())
    }
}
