//! Lists that backends with `catalog: perSession` give to one client session, and the catalog made from them.
//!
//! Such a backend is asked in the client's own upstream session: for each list request of the client, because a
//! server may change a list without a notification, and for a name that no known list contains. In between, the list
//! is cached with the session in this process only. Another process asks the backend itself, in the same upstream
//! session, which the record names. So tools that a server adds to a session outlive any one process.
//!
//! States of a list: unknown (never asked in this upstream session, or dropped to make room), fresh, and stale (the backend has said
//! that it changed). A call goes by what is known, unless a backend whose list is not fresh would get it by listing the name. Where another
//! backend has the name, that one's calls wait for the list once: when it fails or does not come, it is asked for again in the background
//! ([`Attempts`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::backend::{Backend, BackendError, BackendList, ClientHeaders, ListKind};
use crate::budget::{Account, Reservation};
use crate::catalog::{BackendOffer, CatalogSnapshot, SessionList, ViewOwner};
use crate::config::BackendName;
use crate::core::{CallSubject, Contest, LocatedCall, UpstreamError, UpstreamOpener as _, locate};
use crate::mcp::error_code;
use crate::session::Session;
use crate::session::id::upstream_tag::UpstreamTag;
use crate::session::record::RecordKey;
use crate::session::upstream::list_attempts::Attempts;

/// Maximum time that a request waits for backends' lists. Afterwards the known lists decide.
const LIST_DEADLINE: Duration = Duration::from_secs(5);
/// Estimated size of a list per item, without its description.
const ITEM_BYTES: usize = 128;
/// The pause before a list is read again in the same session is this many times the processor time that it took.
const PAUSES: u32 = 19;
/// Maximum length of that pause, because a client waits for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Number of outdated entries that a queue may hold beyond twice the number of lists.
const QUEUE_SLACK: usize = 64;

/// Key of the single flight: session, backend and kind of list.
pub(in crate::session) type ListTarget = (RecordKey, String, String, ListKind);
/// When the request to the backend began.
pub(in crate::session) type ListRequest = Result<Instant, UpstreamError>;

/// What backends list to one session.
#[derive(Debug, Default)]
pub(in crate::session) struct SessionLists {
    view: ViewOwner,
    backends: Mutex<BTreeMap<BackendName, BackendLists>>,
    attempts: Attempts,
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
struct KnownList {
    content: Content,
    /// When the request to the backend began.
    asked: Instant,
    /// Earliest time of the next request.
    next: Instant,
    is_stale: bool,
}

#[derive(Debug)]
enum Content {
    /// The gateway's own session got the same list. Valid while the backend's shared list stays the same.
    Shared(Weak<BackendOffer>),
    /// A list of this session alone.
    Own(
        Arc<BackendList>,
        #[expect(dead_code, reason = "it is held")] Reservation,
    ),
}

impl Content {
    /// Stores `list`, which a session got while the gateway's own session got `shared`.
    fn new(
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
    fn is_current(&self, shared: Option<&Arc<BackendOffer>>) -> bool {
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
    fn with<T>(
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

    fn put(&self, backend: &BackendName, upstream: UpstreamTag, kind: ListKind, known: KnownList) {
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
    queues: Mutex<HashMap<BackendName, VecDeque<Queued>>>,
}

#[derive(Debug)]
struct Queued {
    lists: Weak<SessionLists>,
    kind: ListKind,
    asked: Instant,
}

impl Queued {
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
    fn push(&self, backend: &BackendName, queued: Queued) {
        let mut queues = lock(&self.queues);
        let queue = queues.entry(backend.clone()).or_default();
        queue.push_back(queued);
        if queue.len() >= queue.capacity().max(QUEUE_SLACK) {
            queue.retain(|queued| queued.is_needed(backend));
            queue.reserve(queue.len() + QUEUE_SLACK);
        }
    }

    /// Drops the lists of `backend` that were asked for first, until half of its share is free. `drop_views` drops the views, which keep
    /// lists.
    fn make_room(&self, backend: &Backend, drop_views: impl FnOnce()) {
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

impl Session {
    /// What is offered to this session, for a list of that kind. Backends that list to single sessions are asked, but for one page of a
    /// list that `goes_on`.
    pub(in crate::session) async fn catalog_to_list(
        &self,
        kind: ListKind,
        goes_on: bool,
        headers: &ClientHeaders,
    ) -> Arc<CatalogSnapshot> {
        let catalog = self.sessions.inner.core.catalog();
        let backends = catalog.listed_per_session();
        if backends.is_empty() {
            return catalog.snapshot();
        }
        Box::pin(async {
            let wanted = backends
                .iter()
                .filter(|backend| !goes_on || !self.is_fresh(backend, kind));
            self.ask_for_lists(wanted.map(|backend| (backend, kind)), headers)
                .await;
            self.view().await
        })
        .await
    }

    /// What is offered to this session, for a request with these parameters. Backends that list to single sessions are asked where what
    /// they list may decide who gets the request, and is not known.
    pub(in crate::session) async fn catalog_to_find(
        &self,
        subject: CallSubject,
        params: Option<&RawValue>,
        headers: &ClientHeaders,
    ) -> Arc<CatalogSnapshot> {
        let catalog = self.sessions.inner.core.catalog();
        let backends = catalog.listed_per_session();
        if backends.is_empty() {
            return catalog.snapshot();
        }
        Box::pin(async {
            let view = self.view().await;
            let Some(located) = locate(&view, subject, params) else {
                return view;
            };
            let wanted: Vec<_> = backends
                .iter()
                .flat_map(|backend| located.kinds.iter().map(move |kind| (backend, *kind)))
                .filter(|(backend, kind)| self.may_decide(backend, *kind, &located))
                .collect();
            if wanted.is_empty() {
                return view;
            }
            if located.backend.is_some() {
                self.ask_beside_another(wanted, headers).await;
            } else {
                self.ask_for_lists(wanted.into_iter(), headers).await;
            }
            self.view().await
        })
        .await
    }

    /// Whether what `backend` lists as `kind` may decide who gets the request for what is `located`, and is not known.
    fn may_decide(&self, backend: &Backend, kind: ListKind, located: &LocatedCall<'_>) -> bool {
        let catalog = self.sessions.inner.core.catalog();
        if !catalog.can_offer(backend.name(), kind, &located.name) {
            return false;
        }
        let Some(found) = &located.backend else {
            return true;
        };
        let may_win = match located.contest(kind) {
            Contest::Won => true,
            Contest::ByOrder => catalog.can_lose_to(found.name(), kind, backend.name()),
            Contest::Lost => false,
        };
        // In a session that the backend has not seen it has nothing of its own.
        let is_known = || self.is_fresh(backend, kind) || self.upstream_in_use(backend).is_none();
        found.name() != backend.name() && may_win && !is_known()
    }

    /// Asks for lists in the way of a request that another backend is known to have. It waits for those that have not failed, and no
    /// longer than the first request that waits for them; the others are asked for in the background.
    async fn ask_beside_another(&self, wanted: Vec<(&Backend, ListKind)>, headers: &ClientHeaders) {
        let lists = self.entry.make_lists();
        let (mut awaited, mut again) = (Vec::new(), Vec::new());
        for (backend, kind) in wanted {
            if !lists.attempts.has_failed(backend.name()) {
                let since = lists.attempts.running_since(backend.name(), kind);
                awaited.push((backend, kind, since.unwrap_or_else(Instant::now)));
            } else if lists.attempts.begin_again(backend.name(), kind) {
                again.push((backend.clone(), kind));
            }
        }
        if !again.is_empty() {
            let (session, headers) = (self.clone(), headers.clone());
            // Where too much is running already, the next request tries again.
            self.sessions.in_background(async move {
                let again = again.iter().map(|(backend, kind)| (backend, *kind));
                session.ask_for_lists(again, &headers).await;
            });
        }
        self.ask_for_lists_since(awaited.into_iter(), headers).await;
    }

    /// Notes that `backend` says in this session's upstream session that its list has changed, and says whether that is for the client:
    /// whether it lists to single sessions.
    pub(in crate::session) fn list_has_changed(&self, backend: &Backend, kinds: &[ListKind]) -> bool {
        if !backend.lists_per_session() {
            return false;
        }
        if let (Some(lists), Some(upstream)) = (self.entry.lists(), self.upstream_in_use(backend)) {
            for kind in kinds {
                lists.with(backend.name(), upstream, *kind, |known| known.is_stale = true);
            }
        }
        true
    }

    /// Whether a known list of `backend` in this session contains the resource `uri`.
    pub(in crate::session) fn is_listed(&self, backend: &Backend, uri: &str) -> bool {
        let is_listed = || {
            let lists = self.entry.lists()?;
            let upstream = self.upstream_in_use(backend)?;
            lists.with(
                backend.name(),
                upstream,
                ListKind::Resources,
                |known| match &known.content {
                    Content::Own(list, _) => list.items.iter().any(|item| item.key == uri),
                    Content::Shared(_) => false,
                },
            )
        };
        let catalog = self.sessions.inner.core.catalog();
        // Items that a filter hides are not reported.
        let passes = || catalog.can_offer(backend.name(), ListKind::Resources, uri);
        backend.lists_per_session() && is_listed().unwrap_or(false) && passes()
    }

    /// The catalog of this session, from the known lists.
    async fn view(&self) -> Arc<CatalogSnapshot> {
        let catalog = self.sessions.inner.core.catalog();
        let Some(lists) = self.entry.lists() else {
            return catalog.snapshot();
        };
        let mut own = Vec::new();
        for backend in catalog.listed_per_session().iter() {
            let Some(upstream) = self.upstream_in_use(backend) else {
                continue;
            };
            for kind in ListKind::ALL {
                let list = lists.with(backend.name(), upstream, kind, |known| match &known.content {
                    Content::Own(list, _) => Some(Arc::clone(list)),
                    Content::Shared(_) => None,
                });
                own.extend(list.flatten().map(|list| SessionList {
                    backend: backend.name().clone(),
                    kind,
                    list,
                }));
            }
        }
        catalog.view(&lists.view, own).await
    }

    fn is_fresh(&self, backend: &Backend, kind: ListKind) -> bool {
        let shared = self.sessions.inner.core.catalog().offer(backend.name());
        let is_fresh = || {
            let lists = self.entry.lists()?;
            lists.with(backend.name(), self.upstream_in_use(backend)?, kind, |known| {
                !known.is_stale && known.content.is_current(shared.as_ref())
            })
        };
        is_fresh().unwrap_or(false)
    }

    /// The upstream session that a call to `backend` would use, if there is one.
    fn upstream_in_use(&self, backend: &Backend) -> Option<UpstreamTag> {
        let upstream = self.upstream_now(backend)?;
        self.upstream_tag(backend, &upstream)
    }

    /// Asks each for its list, at most as long as a client waits for it. What cannot be had now is had later.
    async fn ask_for_lists<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a Backend, ListKind)>,
        headers: &ClientHeaders,
    ) {
        let now = Instant::now();
        let wanted = wanted.map(|(backend, kind)| (backend, kind, now));
        self.ask_for_lists_since(wanted, headers).await;
    }

    /// The same, where a client may have begun to wait before.
    async fn ask_for_lists_since<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a Backend, ListKind, Instant)>,
        headers: &ClientHeaders,
    ) {
        let arrived = Instant::now();
        let asking = wanted.map(|(backend, kind, since)| async move {
            let backend = &backend.clone().on_behalf_of(headers);
            let asking = self.ask_for_list(backend, kind, arrived);
            match tokio::time::timeout_at(since + LIST_DEADLINE, asking).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(backend = %backend.name(), method = kind.method(), %error, "no list for a session");
                }
                Err(_) => {
                    self.entry.make_lists().attempts.is_late(backend.name(), kind);
                    tracing::debug!(backend = %backend.name(), method = kind.method(), "no list for a session in time");
                }
            }
        });
        join_all(asking).await;
    }

    /// Asks `backend` for its list, or joins those who have begun to ask since `arrived`.
    async fn ask_for_list(
        &self,
        backend: &Backend,
        kind: ListKind,
        arrived: Instant,
    ) -> Result<(), UpstreamError> {
        let name = backend.name().to_string();
        let target = (self.key, name, backend.origin().to_owned(), kind);
        loop {
            let (session, backend) = (self.clone(), backend.clone());
            let attempt = move |place| {
                let tasks = session.sessions.inner.tasks.clone();
                let asking = tasks.spawn(async move {
                    let lists = session.entry.make_lists();
                    lists.attempts.begin(backend.name(), kind);
                    let asked = session.ask_now(&backend, kind).await;
                    lists.attempts.end(backend.name(), kind, asked.is_ok());
                    drop(place);
                    asked
                });
                let ended = |ended: Result<_, tokio::task::JoinError>| {
                    ended.unwrap_or_else(|error| Err(BackendError::Broken(error.to_string()).into()))
                };
                asking.map(ended).boxed()
            };
            let asked = self.sessions.inner.lists.join(target.clone(), attempt).await?;
            // A list requested earlier may be older than the change that the client knows of.
            if asked >= arrived {
                return Ok(());
            }
        }
    }

    async fn ask_now(&self, backend: &Backend, kind: ListKind) -> ListRequest {
        let (inner, lists) = (&*self.sessions.inner, self.entry.make_lists());
        if let Some(upstream) = self.upstream_in_use(backend)
            && let Some(next) = lists.with(backend.name(), upstream, kind, |known| known.next)
        {
            tokio::time::sleep_until(next).await;
        }
        let asked = Instant::now();
        let before = backend.meter().cpu_time();
        inner
            .list_queue
            .make_room(backend, || inner.core.catalog().drop_views());
        let (upstream, list) = self.list(backend, kind).await?;
        let shared = inner.core.catalog().offer(backend.name());
        let account = backend.session_catalog_account().clone();
        let content = backend.compute(move || Content::new(list, kind, shared.as_ref(), &account));
        let content = content
            .await
            .unwrap_or_else(|failed| Err(BackendError::Invalid(failed.to_string())))?;
        let taken = backend.meter().cpu_time().saturating_sub(before);
        let known = KnownList {
            content,
            asked,
            next: Instant::now() + taken.saturating_mul(PAUSES).min(LONGEST_PAUSE),
            is_stale: false,
        };
        lists.put(backend.name(), upstream, kind, known);
        let queued = Queued {
            lists: Arc::downgrade(&lists),
            kind,
            asked,
        };
        inner.list_queue.push(backend.name(), queued);
        Ok(asked)
    }

    /// Reads a list in this session's upstream session, which is opened if there is none.
    async fn list(
        &self,
        backend: &Backend,
        kind: ListKind,
    ) -> Result<(UpstreamTag, BackendList), UpstreamError> {
        let declares = self.sessions.inner.core.catalog().declares(backend.name(), kind);
        let mut admitted = backend.admit().await?;
        let listing = async {
            let mut upstream = self.open(backend).await?;
            if declares == Some(false) {
                return Ok((upstream, BackendList::default()));
            }
            let mut list = backend.list_for_client(&upstream, kind).await;
            if matches!(list, Err(BackendError::SessionLost)) {
                upstream = self.replace(backend, &upstream).await?;
                list = backend.list_for_client(&upstream, kind).await;
            }
            match list {
                Ok(list) => Ok((upstream, list)),
                // Many servers answer with an error for lists that they do not have.
                Err(BackendError::JsonRpc { code, .. })
                    if code == i64::from(error_code::METHOD_NOT_FOUND) =>
                {
                    Ok((upstream, BackendList::default()))
                }
                Err(error) => Err(UpstreamError::from(error)),
            }
        };
        let listed = listing.await;
        match &listed {
            Ok(_) => admitted.answered(),
            Err(UpstreamError::Backend(error)) => admitted.failed(error),
            Err(UpstreamError::Gone | UpstreamError::Unavailable(_)) => admitted.undecided(),
        }
        let (upstream, list) = listed?;
        // The upstream session may have been replaced meanwhile.
        let tag = self.upstream_tag(backend, &upstream);
        Ok((tag.ok_or(BackendError::SessionLost)?, list))
    }
}

#[cfg(test)]
mod tests {
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
            content: Content::Own(Arc::default(), reserved),
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
    async fn lists_that_were_asked_for_first_give_way() {
        let (backend, queue) = (backend(), ListQueue::default());
        let sessions: Vec<_> = (0..3).map(|_| Arc::new(SessionLists::default())).collect();
        for lists in &sessions {
            let known = known(&backend, 4);
            let queued = Queued {
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
            "they end with their sessions"
        );
    }

    #[tokio::test]
    async fn queue_holds_what_is_needed_and_little_more() {
        let (backend, queue) = (backend(), ListQueue::default());
        for _ in 0..10_000 {
            let lists = Arc::new(SessionLists::default());
            let queued = Queued {
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
    async fn lists_of_another_upstream_session_are_gone() {
        let (backend, lists) = (backend(), SessionLists::default());
        lists.put(backend.name(), upstream(1), ListKind::Tools, known(&backend, 9));
        assert!(is_known(&lists, &backend, 1) && !is_known(&lists, &backend, 2));
        lists.put(backend.name(), upstream(2), ListKind::Prompts, known(&backend, 9));
        assert!(!is_known(&lists, &backend, 1) && !is_known(&lists, &backend, 2));
    }

    #[test]
    fn list_like_that_of_the_gateway_takes_no_room() {
        let (backend, list) = (backend(), BackendList::default());
        let offer = Arc::new(BackendOffer::default());
        let account = backend.session_catalog_account();
        let content = Content::new(list, ListKind::Tools, Some(&offer), account).unwrap();
        assert!(matches!(content, Content::Shared(_)) && content.is_current(Some(&offer)));
        let newer = Arc::new(BackendOffer::default());
        assert!(!content.is_current(Some(&newer)) && !content.is_current(None));
    }
}
