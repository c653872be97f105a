//! The single upstream session of a backend with `sharedSession`, for the requests of all clients and of the gateway itself.
//!
//! Only discovery opens it, so there is one at a time. Its id is in the store, so that all replicas use the same session. A session that
//! the backend has lost is dropped here, and the next discovery round opens another or finds the one that another replica opened.
//!
//! All requests in one session need different ids, across clients and replicas. Each replica takes ids from a block that it claims in
//! the store. It renews the claim, so that a store that lost the claim learns of it again; if another replica claimed the block
//! meanwhile, it takes another block. Blocks are drawn at random, also while the store is unavailable, so that two replicas rarely
//! share one until then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::{Backend, BackendError, Cookies, UpstreamSession};
use crate::backend::initialize_result::{InitializeResult, ServerCapabilities};
use crate::mcp::revision::Revision;

/// How long a request waits for the session to be opened.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long discovery waits for the store before it opens a session.
const STORE_DEADLINE: Duration = Duration::from_secs(3);

/// The number of ids in a block.
const BLOCK: u32 = 1 << 20;
/// The number of blocks. The last id of the last block is the largest of 31 bits.
pub const ID_BLOCKS: u32 = 1 << 11;

/// What this process knows about the session.
#[derive(Debug, Default)]
pub(super) struct SharedSessionState {
    current: watch::Sender<Option<SharedSession>>,
    /// The number of store look-ups.
    consulted: watch::Sender<u64>,
    /// Signals that the store must be read or written.
    wanted: Notify,
    ids: IdBlock,
}

/// The shared session and its `initialize` result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSession {
    /// The result of `initialize`.
    pub initialize_result: InitializeResult,
    /// A random number that identifies the session, independent of the backend's session id.
    pub number: u64,
    /// Whether the store has it.
    pub is_stored: bool,
}

/// The id block of this process.
#[derive(Debug)]
struct IdBlock {
    /// The block in the upper half, and the number of ids taken from it in the lower half.
    state: AtomicU64,
    /// Whether the block is claimed.
    is_set: AtomicBool,
}

impl Default for IdBlock {
    fn default() -> Self {
        Self {
            state: AtomicU64::new(u64::from(random_id_block()) << 32),
            is_set: AtomicBool::default(),
        }
    }
}

/// A random block, for a process that could not claim one yet.
#[must_use]
pub fn random_id_block() -> u32 {
    u32::try_from(crate::runtime::random::u64() % u64::from(ID_BLOCKS)).unwrap_or_default()
}

impl IdBlock {
    /// Takes the next id. A used-up block starts over until there is another one.
    fn next(&self) -> u32 {
        let state = self.state.fetch_add(1, Ordering::Relaxed);
        let [block, taken] =
            [state >> 32, state & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(0));
        // No id is 0: some servers treat it as missing.
        (block % ID_BLOCKS) * BLOCK + 1 + taken % (BLOCK - 1)
    }

    fn block(&self) -> u32 {
        u32::try_from(self.state.load(Ordering::Relaxed) >> 32).unwrap_or_default() % ID_BLOCKS
    }

    fn set(&self, block: u32) {
        self.state.store(u64::from(block) << 32, Ordering::Relaxed);
        self.is_set.store(true, Ordering::Relaxed);
    }

    /// Whether another block is needed: half of this one is taken, or there is none yet.
    fn is_used_up(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        !self.is_set.load(Ordering::Relaxed) || state & u64::from(u32::MAX) >= u64::from(BLOCK / 2)
    }
}

impl Backend {
    /// Whether all clients share one session.
    #[must_use]
    pub fn shares_session(&self) -> bool {
        self.inner.shares_session.load(Ordering::Relaxed)
    }

    /// The shared session, if this process knows one.
    #[must_use]
    pub fn shared_session(&self) -> Option<SharedSession> {
        self.inner.shared.current.borrow().clone()
    }

    /// Waits for the shared session. The caller makes sure that discovery runs.
    ///
    /// # Errors
    /// When there is no session in time.
    pub async fn wait_for_shared_session(&self) -> Result<UpstreamSession, BackendError> {
        let mut current = self.inner.shared.current.subscribe();
        let waiting = tokio::time::timeout(OPEN_DEADLINE, current.wait_for(Option::is_some));
        let session = match waiting.await {
            Ok(Ok(current)) => current
                .as_ref()
                .map(|current| current.initialize_result.session.clone()),
            Ok(Err(_)) | Err(_) => None,
        };
        let nothing =
            || BackendError::Unreachable("the session that all clients share is not open".to_owned());
        session.ok_or_else(nothing)
    }

    /// Makes `session` the shared session.
    pub fn share_session(&self, session: SharedSession) {
        self.inner.shared.current.send_replace(Some(session));
        self.inner.shared.wanted.notify_one();
        self.inner.has_single_session.store(false, Ordering::Relaxed);
    }

    /// Records that the store has the session with this number.
    pub fn mark_shared_session_stored(&self, number: u64) {
        self.inner.shared.current.send_if_modified(|current| {
            let stored = current.as_mut().filter(|current| current.number == number);
            stored.is_some_and(|current| !std::mem::replace(&mut current.is_stored, true))
        });
    }

    /// Requests that the shared session is written to the store again, because its cookies have changed.
    pub fn request_shared_session_write(&self) {
        self.inner.shared.current.send_if_modified(|current| {
            let stored = current.as_mut().filter(|current| current.is_stored);
            stored.is_some_and(|current| std::mem::replace(&mut current.is_stored, false))
        });
        self.inner.shared.wanted.notify_one();
    }

    /// Drops the shared session if it is `lost`, and returns whether it was.
    pub fn drop_shared_session(&self, lost: &UpstreamSession) -> bool {
        self.inner.shared.current.send_if_modified(|current| {
            let is_lost = current
                .as_ref()
                .is_some_and(|current| current.initialize_result.session == *lost);
            if is_lost {
                *current = None;
            }
            is_lost
        })
    }

    /// Waits for a store look-up of the shared session, but not for long.
    pub(crate) async fn consult_store(&self) {
        let mut consulted = self.inner.shared.consulted.subscribe();
        self.inner.shared.wanted.notify_one();
        // Discovery continues when the store does not respond.
        drop(tokio::time::timeout(STORE_DEADLINE, consulted.changed()).await);
    }

    /// Records a store look-up.
    pub fn note_store_read(&self) {
        self.inner.shared.consulted.send_modify(|times| *times += 1);
    }

    /// Waits until the store must be read or written.
    pub async fn wait_for_store_request(&self) {
        self.inner.shared.wanted.notified().await;
    }

    /// Whether this process needs another id block.
    #[must_use]
    pub fn needs_id_block(&self) -> bool {
        self.inner.shared.ids.is_used_up()
    }

    /// Returns the block that ids are taken from.
    #[must_use]
    pub fn id_block(&self) -> u32 {
        self.inner.shared.ids.block()
    }

    /// Takes ids from this block from now on.
    pub fn set_id_block(&self, block: u32) {
        self.inner.shared.ids.set(block);
    }

    /// Takes the id of the next request in the shared session.
    pub(super) fn next_shared_id(&self) -> u32 {
        self.inner.shared.ids.next()
    }
}

/// The stored form of the shared session.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    /// The backend's origin digest.
    origin: String,
    number: u64,
    id: Option<String>,
    revision: String,
    address: Option<std::net::IpAddr>,
    #[serde(default, skip_serializing_if = "Cookies::is_empty")]
    cookies: Cookies,
    capabilities: [bool; 6],
    instructions: Option<String>,
}

impl SharedSession {
    /// Creates the shared session from a new `initialize` result.
    #[must_use]
    pub fn new(initialize_result: InitializeResult) -> Self {
        Self {
            initialize_result,
            number: crate::runtime::random::u64(),
            is_stored: false,
        }
    }

    /// Serializes the session for the store; `None` if its id is not text.
    #[must_use]
    pub fn write(&self, backend: &Backend) -> Option<Vec<u8>> {
        let UpstreamSession {
            id,
            revision,
            address,
            cookies,
        } = &self.initialize_result.session;
        let of = self.initialize_result.capabilities;
        let stored = Stored {
            origin: backend.origin().to_owned(),
            number: self.number,
            id: id
                .as_ref()
                .map(|id| id.to_str().map(str::to_owned))
                .transpose()
                .ok()?,
            revision: revision.as_str().to_owned(),
            address: *address,
            cookies: cookies.clone(),
            capabilities: [
                of.tools,
                of.prompts,
                of.resources,
                of.subscribe,
                of.completions,
                of.logging,
            ],
            instructions: self.initialize_result.instructions.clone(),
        };
        serde_json::to_vec(&stored).ok()
    }

    /// Reads the stored session of `backend`; `None` if it belongs to another origin or is unreadable.
    #[must_use]
    pub fn read(backend: &Backend, bytes: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        if stored.origin != backend.origin() {
            return None;
        }
        let [tools, prompts, resources, subscribe, completions, logging] = stored.capabilities;
        let session = UpstreamSession {
            id: stored.id.map(HeaderValue::try_from).transpose().ok()?,
            revision: Revision::parse(&stored.revision)?,
            address: stored.address,
            cookies: stored.cookies,
        };
        let initialize_result = InitializeResult {
            session,
            capabilities: ServerCapabilities {
                tools,
                prompts,
                resources,
                subscribe,
                completions,
                logging,
            },
            instructions: stored.instructions,
            server_info: None,
        };
        Some(Self {
            initialize_result,
            number: stored.number,
            is_stored: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::HttpClient;
    use crate::runtime::tasks::Tasks;

    fn backend(url: &str) -> Backend {
        let configured = crate::config::BackendSettings::for_test("a", url.parse().unwrap());
        Backend::new(&configured, HttpClient::new(Tasks::default()))
    }

    fn session(id: &'static str) -> SharedSession {
        SharedSession::new(InitializeResult {
            session: UpstreamSession {
                id: Some(HeaderValue::from_static(id)),
                revision: Revision::LATEST,
                address: None,
                cookies: Cookies::default(),
            },
            capabilities: ServerCapabilities {
                tools: true,
                ..ServerCapabilities::default()
            },
            instructions: Some("x".to_owned()),
            server_info: None,
        })
    }

    #[tokio::test]
    async fn shared_session_survives_the_store() {
        let here = backend("http://localhost/mcp");
        let opened = session("s");
        let bytes = opened.write(&here).unwrap();
        let read = SharedSession::read(&here, &bytes).unwrap();
        assert!(read.is_stored);
        assert_eq!(
            SharedSession {
                is_stored: false,
                ..read
            },
            opened
        );
        assert_eq!(
            SharedSession::read(&backend("http://localhost/other"), &bytes),
            None
        );
        assert_eq!(SharedSession::read(&here, b"{}"), None);
    }

    #[test]
    fn id_blocks_are_disjoint_and_have_31_bits() {
        let block = |number| {
            let ids = IdBlock::default();
            ids.set(number);
            ids
        };
        let (first, last) = (block(0), block(ID_BLOCKS - 1));
        assert_eq!([first.next(), first.next()], [1, 2]);
        let mut seen = std::collections::HashSet::new();
        for number in [1, 2, ID_BLOCKS - 1] {
            let ids = block(number);
            assert!((0..100).all(|_| seen.insert(ids.next())));
        }
        assert!(!first.is_used_up());
        for _ in 0..BLOCK {
            let id = last.next();
            assert!(i32::try_from(id).is_ok_and(|id| id > 0), "{id}");
        }
        assert!(last.is_used_up());
    }

    /// The store may be unavailable for as long as two replicas live.
    #[test]
    fn ids_begin_in_a_random_block() {
        let blocks: std::collections::HashSet<_> = (0..64).map(|_| IdBlock::default().block()).collect();
        assert!(blocks.len() > 32, "{blocks:?}");
        assert!(IdBlock::default().is_used_up());
        let ids = IdBlock::default();
        ids.set(7);
        assert_eq!((ids.block(), ids.next()), (7, 7 * BLOCK + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_request_gets_the_next_shared_session() {
        let backend = backend("http://localhost/mcp");
        let (one, two) = (session("1"), session("2"));
        let error = backend.wait_for_shared_session().await.unwrap_err();
        assert!(matches!(error, BackendError::Unreachable(_)), "{error}");
        backend.share_session(one.clone());
        let lost = backend.wait_for_shared_session().await.unwrap();
        assert!(backend.drop_shared_session(&lost) && !backend.drop_shared_session(&lost));
        let opening = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            backend.share_session(two.clone());
        };
        let (waited, ()) = tokio::join!(backend.wait_for_shared_session(), opening);
        assert_eq!(waited.unwrap(), two.initialize_result.session);
        assert!(!backend.drop_shared_session(&lost), "another one is in use");
    }
}
