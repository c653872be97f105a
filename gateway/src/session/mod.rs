//! Sessions of the legacy era: created by `initialize`, named by an id that the client sends with every request, ended by
//! DELETE or by time.
//!
//! A session is its record in the store. No process owns it: each request finds the record by the signed id that the client
//! sends, whichever process it reaches.

mod capabilities;
mod ears;
mod event_id;
mod flights;
mod id;
mod in_flight;
pub mod keys;
mod listen;
mod minted;
mod reach;
pub mod record;
mod sealed;
mod settings;
pub mod store;
mod streams;
mod upstreams;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use vmcp_crds::session_key::SessionKey;

use crate::backend::UpstreamSession;
use crate::config::ServerName;
use crate::core::{Core, Principal};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::wire::revision::Revision;

use capabilities::Capabilities;
use flights::Flights;
use id::SessionId;
use in_flight::InFlight;
pub use in_flight::{Busy, Running};
use keys::Keys;
use record::{NewRecord, Record, RecordKey};
use store::{Created, Life, LimitOf, Loaded, SessionStore, Terminated, Unavailable};
use streams::Streams;

pub use event_id::{BrokenCall, Positions, Resume};
pub use listen::{Heard, Listening};
pub use minted::{Kind, Minted};
pub use reach::NoUpstream;
pub use settings::SettingError;

/// How often the store is asked for a sign of life.
const WATCH_STORE_EVERY: Duration = Duration::from_secs(2);

/// How many notifications may be on their way to backends at a time.
const MAX_BACKGROUND: usize = 1024;

/// All sessions of the virtual server. A cheap-clone handle.
#[derive(Clone, Debug)]
pub struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server: ServerName,
    store: Arc<dyn SessionStore>,
    keys: Keys,
    core: Core,
    tasks: Tasks,
    metrics: Metrics,
    /// The upstream sessions that are being opened, so that calls that arrive together open one.
    flights: Flights,
    in_flight: InFlight,
    /// The sessions' own streams that are open here.
    streams: Streams,
    /// Bounds what goes on behind the requests that began it.
    background: Arc<Semaphore>,
    /// Why the store's last operation had no answer; `None` when it had one.
    store_error: ArcSwapOption<String>,
}

/// One session, as its record was when the request came in.
#[derive(Clone, Debug)]
pub struct Session {
    sessions: Sessions,
    key: RecordKey,
    /// The key that the session's id names. What is given to the client is sealed with it.
    signer: Arc<SessionKey>,
    /// The record as it was last read or written for this request.
    record: Arc<ArcSwap<Record>>,
    /// When the request was last counted as use.
    used: Arc<Mutex<Instant>>,
}

/// What a client says of itself in `initialize`, as it wrote it.
#[derive(Debug)]
pub struct Client<'a> {
    /// The revision agreed on.
    pub revision: Revision,
    /// Its capabilities.
    pub capabilities: &'a RawValue,
    /// Its name and version.
    pub info: &'a RawValue,
}

/// Why a session cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// It is unknown, expired, terminated, or somebody else's; which of these is nobody's business.
    #[error("session not found")]
    NotFound,
    /// Whether it lives cannot be known at the moment.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why there is no new session.
#[derive(Debug, thiserror::Error)]
pub enum NotCreated {
    /// There are as many as there may be.
    #[error("there are as many sessions as there may be")]
    Limit(LimitOf),
    /// The store did not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Sessions {
    /// The sessions of `server` in `store`.
    #[must_use]
    pub fn new(
        server: ServerName,
        store: Arc<dyn SessionStore>,
        keys: Keys,
        core: Core,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Self {
        let (flights, in_flight) = (Flights::default(), InFlight::default());
        let store_error = ArcSwapOption::empty();
        Self {
            inner: Arc::new(Inner {
                server,
                store,
                keys,
                core,
                tasks,
                metrics,
                flights,
                in_flight,
                streams: Streams::default(),
                background: Arc::new(Semaphore::new(MAX_BACKGROUND)),
                store_error,
            }),
        }
    }

    /// Asks the store for a sign of life every now and then, so that [`Self::store_error`] is true also when nobody calls.
    pub fn watch_store(&self) {
        let sessions = self.clone();
        self.inner.tasks.spawn_until_drain(async move {
            loop {
                // The outcome is kept where it is observed.
                drop(sessions.observed(sessions.inner.store.ping().await));
                tokio::time::sleep(WATCH_STORE_EVERY).await;
            }
        });
    }

    /// Why the store's last operation had no answer; `None` when it had one.
    #[must_use]
    pub fn store_error(&self) -> Option<String> {
        self.inner.store_error.load().as_deref().cloned()
    }

    /// `memory` or `redis`.
    #[must_use]
    pub fn store_provider(&self) -> &'static str {
        self.inner.store.provider()
    }

    /// Creates a session of `principal` and gives its id. The record is in the store before the id is known, so that every
    /// replica knows the session before the client can name it.
    ///
    /// # Errors
    /// When there are as many sessions as there may be, or the store is unavailable. Then there is no session.
    pub async fn create(&self, principal: &Principal, client: &Client<'_>) -> Result<String, NotCreated> {
        let inner = &*self.inner;
        let signer = inner.keys.current();
        let principal_tag = id::principal_tag(&signer, &inner.server, principal);
        let record = NewRecord {
            principal_tag,
            revision: client.revision,
            capabilities: client.capabilities.get().to_owned(),
            client_info: client.info.get().to_owned(),
        };
        let limits = inner.core.hot().limits.sessions(principal.is_anonymous());
        loop {
            let key = RecordKey::random();
            match self.observed(inner.store.create(&key, &record, limits).await)? {
                Created::Taken => {}
                Created::Limit(of) => return Err(NotCreated::Limit(of)),
                Created::Created { created, record } => {
                    let id = SessionId {
                        key,
                        incarnation: record.life.incarnation,
                        created,
                        end: record.life.end,
                        principal_tag,
                        revision: client.revision,
                        capabilities: Capabilities::of(client.capabilities),
                    };
                    return Ok(id.sign(&signer, &inner.server));
                }
            }
        }
    }

    /// The session that a client names with `id`, if it is a live session of `principal`.
    ///
    /// # Errors
    /// When it is not, or whether it is cannot be known. An id that was not signed for this server and this principal is
    /// refused without asking the store.
    pub async fn find(&self, id: &[u8], principal: &Principal) -> Result<Session, SessionError> {
        let (id, signer) = self.verify(id, principal)?;
        match self.observed(self.inner.store.load(&id.key).await)? {
            Loaded::Found(record) if record.principal_tag == id.principal_tag => {
                let session = Session {
                    sessions: self.clone(),
                    key: id.key,
                    signer,
                    record: Arc::new(ArcSwap::from_pointee(record)),
                    used: Arc::new(Mutex::new(Instant::now())),
                };
                session.touch();
                Ok(session)
            }
            Loaded::Found(_) | Loaded::Gone => Err(SessionError::NotFound),
        }
    }

    /// Ends the session that a client names with `id`. Its upstream sessions are deleted in the background.
    ///
    /// # Errors
    /// As [`Self::find`]. When the store is unavailable the session may live on: a revocation that may not have happened is no
    /// success.
    pub async fn terminate(&self, id: &[u8], principal: &Principal) -> Result<(), SessionError> {
        let (id, _) = self.verify(id, principal)?;
        let life = Life {
            incarnation: id.incarnation,
            end: id.end,
        };
        match self.observed(self.inner.store.terminate(&id.key, life).await)? {
            Terminated::Gone => Err(SessionError::NotFound),
            Terminated::Terminated(record) => {
                self.inner.streams.close(&id.key);
                let bindings = record.map(|record| record.bindings).unwrap_or_default();
                for (name, binding) in bindings {
                    if let Some(backend) = self.inner.core.catalog().backend(&name)
                        && backend.origin() == binding.origin
                    {
                        self.close_upstream(backend, binding.session);
                    }
                }
                Ok(())
            }
        }
    }

    fn verify(&self, id: &[u8], principal: &Principal) -> Result<(SessionId, Arc<SessionKey>), SessionError> {
        let inner = &*self.inner;
        SessionId::verify(id, &inner.keys, &inner.server, principal).ok_or(SessionError::NotFound)
    }

    fn observed<T>(&self, outcome: Result<T, Unavailable>) -> Result<T, Unavailable> {
        match &outcome {
            Err(error) => {
                self.inner.metrics.store_unavailable();
                tracing::warn!(%error, "the session store did not answer");
                self.inner.store_error.store(Some(Arc::new(error.to_string())));
            }
            Ok(_) if self.inner.store_error.load().is_some() => {
                tracing::info!("the session store answers again");
                self.inner.store_error.store(None);
            }
            Ok(_) => {}
        }
        outcome
    }

    /// Runs `work` to its end, whatever becomes of the request that began it. `false` when too much is running already.
    pub fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(permit) = Arc::clone(&self.inner.background).try_acquire_owned() else {
            return false;
        };
        self.inner.tasks.spawn(async move {
            work.await;
            drop(permit);
        });
        true
    }

    fn close_upstream(&self, backend: crate::backend::Backend, session: UpstreamSession) {
        self.inner.tasks.spawn(async move {
            if let Err(error) = backend.close(&session).await {
                tracing::debug!(backend = %backend.name(), %error, "an upstream session could not be deleted");
            }
        });
    }
}

impl Session {
    /// The revision that the client agreed to.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.record.load().revision
    }

    /// Begins the request `id` of this session.
    ///
    /// # Errors
    /// While another with that id is running, or as many as may run at a time.
    pub fn begin(&self, id: &RawValue) -> Result<Running, Busy> {
        let inner = &*self.sessions.inner;
        let limit = inner.core.hot().limits.requests_in_flight_per_session;
        inner.in_flight.begin(self.key, id, limit)
    }

    /// Says that a request which began a while ago is still running, which is use of the session.
    pub fn in_use(&self) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.elapsed() >= record::TOUCH_EVERY {
            *used = Instant::now();
            self.move_deadline();
        }
    }

    /// Moves the idle deadline, in the background, when it was not moved for a while.
    fn touch(&self) {
        if self.record.load().touch_is_due() {
            self.move_deadline();
        }
    }

    fn move_deadline(&self) {
        let (sessions, key) = (self.sessions.clone(), self.key);
        self.sessions.inner.tasks.spawn(async move {
            let touched = sessions.inner.store.touch(&[key]).await;
            // The next request tries again: a deadline that was not moved now is moved then.
            drop(sessions.observed(touched));
        });
    }
}
