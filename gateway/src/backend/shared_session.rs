//! The one upstream session of a backend with `sharedSession`: requests of all clients go in it, beside the gateway's own.
//!
//! It is opened by the gateway's look at the backend, and by nobody else, so that there is one at a time. Its id stands in the store, so
//! that every replica uses the same one; who has it in the store already does not open another. A session that the backend has lost is
//! given up here, and the next look opens one, or finds the one that another replica has opened.
//!
//! In one session the ids of all requests must differ, whichever client and replica they come from: they are counted in blocks, and each
//! replica takes blocks that no other one has.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::{Backend, BackendError, Cookies, UpstreamSession};
use crate::backend::initialize_result::{InitializeResult, ServerCapabilities};
use crate::mcp::revision::Revision;

/// How long a request waits for a session that is about to be opened.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long a look waits for what the store knows before it opens a session.
const STORE_DEADLINE: Duration = Duration::from_secs(3);

/// How many ids there are in a block.
const BLOCK: u32 = 1 << 20;
/// How many blocks there are. Their last id is the largest of 31 bits.
const BLOCKS: u32 = 1 << 11;

/// What this process knows of the session.
#[derive(Debug, Default)]
pub(super) struct SharedSessionState {
    current: watch::Sender<Option<SharedSession>>,
    /// How often the store was asked for it.
    consulted: watch::Sender<u64>,
    /// Says that the store is to be asked, or told.
    wanted: Notify,
    ids: IdBlock,
}

/// The session, and what the backend said when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSession {
    /// What the backend said.
    pub greeting: InitializeResult,
    /// Which of the sessions it is: no two have the same number, whatever ids the backend gives them.
    pub number: u64,
    /// Whether every replica can find it in the store.
    pub is_stored: bool,
}

/// The ids of this process.
#[derive(Debug, Default)]
struct IdBlock {
    /// The block in the upper half, and how many of its ids are taken in the lower.
    state: AtomicU64,
    is_set: AtomicBool,
}

impl IdBlock {
    /// The next id. Where all of a block are taken they begin anew, until there is another block.
    fn next(&self) -> u32 {
        let state = self.state.fetch_add(1, Ordering::Relaxed);
        let [block, taken] =
            [state >> 32, state & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(0));
        // No id is 0: some servers take it for none.
        (block % BLOCKS) * BLOCK + 1 + taken % (BLOCK - 1)
    }

    fn set(&self, block: u32) {
        self.state.store(u64::from(block) << 32, Ordering::Relaxed);
        self.is_set.store(true, Ordering::Relaxed);
    }

    /// Whether there should be another block: half of this one is taken, or there was none yet.
    fn is_used_up(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        !self.is_set.load(Ordering::Relaxed) || state & u64::from(u32::MAX) >= u64::from(BLOCK / 2)
    }
}

impl Backend {
    /// Whether requests of all clients go in one session.
    #[must_use]
    pub fn shares_session(&self) -> bool {
        self.inner.shares_session.load(Ordering::Relaxed)
    }

    /// The session of all clients, if it is open as far as is known.
    #[must_use]
    pub fn shared_session(&self) -> Option<SharedSession> {
        self.inner.shared.current.borrow().clone()
    }

    /// The session of all clients, as soon as there is one. Whoever asks makes sure that somebody opens one.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn wait_for_shared_session(&self) -> Result<UpstreamSession, BackendError> {
        let mut current = self.inner.shared.current.subscribe();
        let waiting = tokio::time::timeout(OPEN_DEADLINE, current.wait_for(Option::is_some));
        let session = match waiting.await {
            Ok(Ok(current)) => current.as_ref().map(|current| current.greeting.session.clone()),
            Ok(Err(_)) | Err(_) => None,
        };
        let nothing =
            || BackendError::Unreachable("the session that all clients share is not open".to_owned());
        session.ok_or_else(nothing)
    }

    /// Uses `session` as the session of all clients from now on.
    pub fn share_session(&self, session: SharedSession) {
        self.inner.shared.current.send_replace(Some(session));
        self.inner.shared.wanted.notify_one();
        self.inner.has_single_session.store(false, Ordering::Relaxed);
    }

    /// Says that every replica finds the session with this number in the store.
    pub fn shared_session_is_stored(&self, number: u64) {
        self.inner.shared.current.send_if_modified(|current| {
            let stored = current.as_mut().filter(|current| current.number == number);
            stored.is_some_and(|current| !std::mem::replace(&mut current.is_stored, true))
        });
    }

    /// Has the session of all clients written to the store once more: what it is found by has changed.
    pub fn store_shared_session_again(&self) {
        self.inner.shared.current.send_if_modified(|current| {
            let stored = current.as_mut().filter(|current| current.is_stored);
            stored.is_some_and(|current| std::mem::replace(&mut current.is_stored, false))
        });
        self.inner.shared.wanted.notify_one();
    }

    /// Gives up the session of all clients, if that is `lost`, and says whether it was.
    pub fn lose_shared_session(&self, lost: &UpstreamSession) -> bool {
        self.inner.shared.current.send_if_modified(|current| {
            let is_lost = current
                .as_ref()
                .is_some_and(|current| current.greeting.session == *lost);
            if is_lost {
                *current = None;
            }
            is_lost
        })
    }

    /// Waits until the store was asked for the session of all clients, but not for long.
    pub(crate) async fn consult_store(&self) {
        let mut consulted = self.inner.shared.consulted.subscribe();
        self.inner.shared.wanted.notify_one();
        // A store that does not answer is no reason to leave the backend alone.
        drop(tokio::time::timeout(STORE_DEADLINE, consulted.changed()).await);
    }

    /// Says that the store was asked.
    pub fn store_was_consulted(&self) {
        self.inner.shared.consulted.send_modify(|times| *times += 1);
    }

    /// Ends when the store is to be asked for the session, or told of it.
    pub async fn wants_store(&self) {
        self.inner.shared.wanted.notified().await;
    }

    /// Whether the ids of this process are about to be used up.
    #[must_use]
    pub fn needs_id_block(&self) -> bool {
        self.inner.shared.ids.is_used_up()
    }

    /// Counts ids in this block from now on.
    pub fn set_id_block(&self, block: u32) {
        self.inner.shared.ids.set(block);
    }

    /// The id of the next request in the session of all clients.
    pub(super) fn next_shared_id(&self) -> u32 {
        self.inner.shared.ids.next()
    }
}

/// The form in which it stands in the store.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    /// A digest of where the backend is.
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
    /// A session that was just opened.
    #[must_use]
    pub fn new(greeting: InitializeResult) -> Self {
        Self {
            greeting,
            number: crate::runtime::random::u64(),
            is_stored: false,
        }
    }

    /// The form in which it stands in the store; `None` where its id cannot.
    #[must_use]
    pub fn write(&self, backend: &Backend) -> Option<Vec<u8>> {
        let UpstreamSession {
            id,
            revision,
            address,
            cookies,
        } = &self.greeting.session;
        let of = self.greeting.capabilities;
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
            instructions: self.greeting.instructions.clone(),
        };
        serde_json::to_vec(&stored).ok()
    }

    /// What `bytes` say of the session of `backend`; `None` where they are of another place, or cannot be read.
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
        let greeting = InitializeResult {
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
        };
        Some(Self {
            greeting,
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
    fn ids_of_two_blocks_never_meet_and_have_31_bits() {
        let block = |number| {
            let ids = IdBlock::default();
            ids.set(number);
            ids
        };
        let (first, last) = (block(0), block(BLOCKS - 1));
        assert_eq!([first.next(), first.next()], [1, 2]);
        let mut seen = std::collections::HashSet::new();
        for number in [1, 2, BLOCKS - 1] {
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

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_session_that_follows_the_lost_one() {
        let backend = backend("http://localhost/mcp");
        let (one, two) = (session("1"), session("2"));
        let error = backend.wait_for_shared_session().await.unwrap_err();
        assert!(matches!(error, BackendError::Unreachable(_)), "{error}");
        backend.share_session(one.clone());
        let lost = backend.wait_for_shared_session().await.unwrap();
        assert!(backend.lose_shared_session(&lost) && !backend.lose_shared_session(&lost));
        let opening = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            backend.share_session(two.clone());
        };
        let (waited, ()) = tokio::join!(backend.wait_for_shared_session(), opening);
        assert_eq!(waited.unwrap(), two.greeting.session);
        assert!(!backend.lose_shared_session(&lost), "another one is in use");
    }
}
