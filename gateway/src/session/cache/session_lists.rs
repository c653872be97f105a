//! Lists that backends with `catalog: perSession` have given to one client session.
//!
//! A list is cached with the session's entry, in this process only. It belongs to the upstream session that gave it: a new
//! upstream session discards the lists of the previous one.
//!
//! States of a list: *unknown* (never requested in this upstream session, or dropped to make room), *fresh*, and *stale*
//! (the backend has reported a change).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use crate::backend::{Backend, BackendError, BackendList, ListKind};
use crate::budget::{Account, Reservation};
use crate::catalog::{BackendOffer, ViewOwner};
use crate::config::BackendName;
use crate::session::cache::list_attempts::ListAttempts;
use crate::session::id::upstream_tag::UpstreamTag;

/// Estimated size of a list per item, without its description.
const ITEM_BYTES: usize = 128;
/// Number of outdated entries that a queue may hold beyond twice the number of lists.
const QUEUE_SLACK: usize = 64;

/// What backends list to one session.
#[derive(Debug, Default)]
pub(in crate::session) struct SessionLists {
    pub(in crate::session) view: ViewOwner,
    backends: Mutex<BTreeMap<BackendName, BackendLists>>,
    pub(in crate::session) attempts: ListAttempts,
}

/// The lists of one backend in one session.
#[derive(Debug)]
struct BackendLists {
    /// The upstream session that gave them.
    upstream: UpstreamTag,
    lists: [Option<KnownList>; ListKind::ALL.len()],
}

/// A list that the backend has given.
#[derive(Debug)]
pub(in crate::session) struct KnownList {
    pub(in crate::session) content: ListContent,
    /// When the request to the backend began.
    pub(in crate::session) asked: Instant,
    /// Earliest time of the next request.
    pub(in crate::session) next: Instant,
    pub(in crate::session) is_stale: bool,
}

#[derive(Debug)]
pub(in crate::session) enum ListContent {
    /// The gateway's own session got the same list. Valid while the backend's shared list stays the same.
    Shared(Weak<BackendOffer>),
    /// A list of this session alone.
    Own(
        Arc<BackendList>,
        #[expect(dead_code, reason = "it is held")] Reservation,
    ),
}

impl ListContent {
    /// Stores `list`, which a session got while the gateway's own session got `shared`.
    pub(in crate::session) fn new(
        list: BackendList,
        kind: ListKind,
        shared: Option<&Arc<BackendOffer>>,
        account: &Account,
    ) -> Result<Self, BackendError> {
        if let Some(shared) = shared
            && *shared.list(kind) == list
        {
            return Ok(Self::Shared(Arc::downgrade(shared)));
        }
        let keys: usize = list.items.iter().map(|item| item.key.len() + ITEM_BYTES).sum();
        let reserved = account.reserve(keys);
        let reserved = reserved.ok_or_else(|| BackendError::CatalogTooLarge(account.limit()))?;
        Ok(Self::Own(Arc::new(list), reserved))
    }

    /// Whether the list is still current while the gateway's own session has `shared`.
    pub(in crate::session) fn is_current(&self, shared: Option<&Arc<BackendOffer>>) -> bool {
        match self {
            Self::Shared(offer) => {
                shared.is_some_and(|shared| std::ptr::eq(offer.as_ptr(), Arc::as_ptr(shared)))
            }
            Self::Own(..) => true,
        }
    }
}

impl SessionLists {
    /// Calls `act` with the list of this kind in the upstream session `upstream` of `backend`.
    pub(in crate::session) fn with<T>(
        &self,
        backend: &BackendName,
        upstream: UpstreamTag,
        kind: ListKind,
        act: impl FnOnce(&mut KnownList) -> T,
    ) -> Option<T> {
        let mut backends = self.lock();
        let lists = backends
            .get_mut(backend)
            .filter(|lists| lists.upstream == upstream)?;
        lists.lists.get_mut(kind as usize)?.as_mut().map(act)
    }

    pub(in crate::session) fn put(
        &self,
        backend: &BackendName,
        upstream: UpstreamTag,
        kind: ListKind,
        known: KnownList,
    ) {
        let nothing = || BackendLists {
            upstream,
            lists: Default::default(),
        };
        let mut backends = self.lock();
        let lists = backends.entry(backend.clone()).or_insert_with(nothing);
        // Lists of a previous upstream session mean nothing in this one.
        if lists.upstream != upstream {
            *lists = nothing();
        }
        if let Some(place) = lists.lists.get_mut(kind as usize) {
            *place = Some(known);
        }
    }

    /// Drops the list of this kind that was requested at `asked`.
    fn drop_list(&self, backend: &BackendName, kind: ListKind, asked: Instant) {
        let mut backends = self.lock();
        let list = backends
            .get_mut(backend)
            .and_then(|lists| lists.lists.get_mut(kind as usize));
        let dropped = list.and_then(|list| list.take_if(|known| known.asked == asked));
        drop(backends);
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BackendName, BackendLists>> {
        lock(&self.backends)
    }
}

/// Eviction order of all sessions' lists. Lists are dropped with their sessions.
#[derive(Debug, Default)]
pub(in crate::session) struct ListQueue {
    queues: Mutex<HashMap<BackendName, VecDeque<QueuedList>>>,
}

#[derive(Debug)]
pub(in crate::session) struct QueuedList {
    pub(in crate::session) lists: Weak<SessionLists>,
    pub(in crate::session) kind: ListKind,
    pub(in crate::session) asked: Instant,
}

impl QueuedList {
    fn is_needed(&self, backend: &BackendName) -> bool {
        self.lists.upgrade().is_some_and(|lists| {
            let backends = lists.lock();
            let known = backends
                .get(backend)
                .and_then(|lists| lists.lists.get(self.kind as usize));
            known.is_some_and(|known| known.as_ref().is_some_and(|known| known.asked == self.asked))
        })
    }
}

impl ListQueue {
    pub(in crate::session) fn push(&self, backend: &BackendName, queued: QueuedList) {
        let mut queues = lock(&self.queues);
        let queue = queues.entry(backend.clone()).or_default();
        queue.push_back(queued);
        if queue.len() >= queue.capacity().max(QUEUE_SLACK) {
            queue.retain(|queued| queued.is_needed(backend));
            queue.reserve(queue.len() + QUEUE_SLACK);
        }
    }

    /// Drops the lists of `backend` that were requested first, until half of its memory budget is free. `drop_views`
    /// drops the views, which hold lists.
    pub(in crate::session) fn make_room(&self, backend: &Backend, drop_views: impl FnOnce()) {
        let account = backend.session_catalog_account();
        if account.reserved() > account.limit() / 2 {
            drop_views();
        }
        while account.reserved() > account.limit() / 2 {
            let oldest = lock(&self.queues)
                .get_mut(backend.name())
                .and_then(VecDeque::pop_front);
            let Some(oldest) = oldest else { return };
            if let Some(lists) = oldest.lists.upgrade() {
                lists.drop_list(backend.name(), oldest.kind, oldest.asked);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::HttpClient;
    use crate::config;
    use crate::runtime::tasks::Tasks;

    fn backend() -> Backend {
        let url = "http://localhost/mcp".parse().unwrap();
        Backend::new(
            &config::BackendSettings::for_test("a", url),
            HttpClient::new(Tasks::default()),
        )
    }

    fn upstream(number: u8) -> UpstreamTag {
        UpstreamTag::take(&mut &[number; 8][..]).unwrap()
    }

    fn known(backend: &Backend, part: usize) -> KnownList {
        let account = backend.session_catalog_account();
        let reserved = account.reserve(account.limit() / part).unwrap();
        KnownList {
            content: ListContent::Own(Arc::default(), reserved),
            asked: Instant::now(),
            next: Instant::now(),
            is_stale: false,
        }
    }

    fn is_known(lists: &SessionLists, backend: &Backend, of: u8) -> bool {
        lists
            .with(backend.name(), upstream(of), ListKind::Tools, |_| ())
            .is_some()
    }

    /// Lists of ended sessions are evicted first, although views keep them.
    #[tokio::test(start_paused = true)]
    async fn lists_requested_first_are_evicted_first() {
        let (backend, queue) = (backend(), ListQueue::default());
        let sessions: Vec<_> = (0..3).map(|_| Arc::new(SessionLists::default())).collect();
        for lists in &sessions {
            let known = known(&backend, 4);
            let queued = QueuedList {
                lists: Arc::downgrade(lists),
                kind: ListKind::Tools,
                asked: known.asked,
            };
            lists.put(backend.name(), upstream(1), ListKind::Tools, known);
            queue.push(backend.name(), queued);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let account = backend.session_catalog_account();
        let kept_by_view = account.reserve(account.limit() / 4).unwrap();
        queue.make_room(&backend, || drop(kept_by_view));
        let kept: Vec<_> = sessions
            .iter()
            .map(|lists| is_known(lists, &backend, 1))
            .collect();
        assert_eq!(kept, [false, true, true]);
        drop(sessions);
        assert_eq!(
            backend.session_catalog_account().reserved(),
            0,
            "lists are freed with their sessions"
        );
    }

    #[tokio::test]
    async fn eviction_queue_drops_entries_of_ended_sessions() {
        let (backend, queue) = (backend(), ListQueue::default());
        for _ in 0..10_000 {
            let lists = Arc::new(SessionLists::default());
            let queued = QueuedList {
                lists: Arc::downgrade(&lists),
                kind: ListKind::Tools,
                asked: Instant::now(),
            };
            queue.push(backend.name(), queued);
        }
        let queues = lock(&queue.queues);
        assert!(queues.values().all(|queue| queue.len() <= 4 * QUEUE_SLACK));
    }

    #[tokio::test]
    async fn new_upstream_session_discards_earlier_lists() {
        let (backend, lists) = (backend(), SessionLists::default());
        lists.put(backend.name(), upstream(1), ListKind::Tools, known(&backend, 9));
        assert!(is_known(&lists, &backend, 1) && !is_known(&lists, &backend, 2));
        lists.put(backend.name(), upstream(2), ListKind::Prompts, known(&backend, 9));
        assert!(!is_known(&lists, &backend, 1) && !is_known(&lists, &backend, 2));
    }

    #[test]
    fn list_equal_to_the_shared_one_takes_no_memory() {
        let (backend, list) = (backend(), BackendList::default());
        let offer = Arc::new(BackendOffer::default());
        let account = backend.session_catalog_account();
        let content = ListContent::new(list, ListKind::Tools, Some(&offer), account).unwrap();
        assert!(matches!(content, ListContent::Shared(_)) && content.is_current(Some(&offer)));
        let newer = Arc::new(BackendOffer::default());
        assert!(!content.is_current(Some(&newer)) && !content.is_current(None));
    }
}
