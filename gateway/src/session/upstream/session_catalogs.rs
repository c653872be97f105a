//! Catalogs of single sessions, made from the lists that backends with `catalog: perSession` give to each.
//!
//! Such a backend is asked in the client's own upstream session: for each list request of the client, because a
//! server may change a list without a notification, and for a name that no known list contains. In between, the list
//! is cached with the session in this process only. Another process asks the backend itself, in the same upstream
//! session, which the record names. So tools that a server adds to a session outlive any one process.
//!
//! A call is routed by the known lists, unless a backend whose list is not fresh would get the call if it listed the
//! name. If another backend has the name already, its calls wait for that list once. If the list fails or is late, it is
//! requested again in the background ([`crate::session::cache::list_attempts`]).

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::UpstreamSessions;
use crate::backend::{Backend, BackendError, BackendList, ClientHeaders, ListKind};
use crate::catalog::{CatalogSnapshot, SessionList};
use crate::core::{CallSubject, Contest, Core, LocatedCall, UpstreamError, locate};
use crate::mcp::error_code;
use crate::runtime::single_flight::SingleFlight;
use crate::runtime::tasks::Tasks;
use crate::session::background_limit::BackgroundLimit;
use crate::session::cache::session_lists::{KnownList, ListContent, ListQueue, QueuedList};
use crate::session::client_session::ClientSession;
use crate::session::id::upstream_tag::UpstreamTag;
use crate::session::record::RecordKey;

/// Maximum time that a request waits for backends' lists. Afterwards the known lists decide.
const LIST_DEADLINE: Duration = Duration::from_secs(5);
/// The pause before a list is read again in the same session is this many times the processor time that it took.
const PAUSES: u32 = 19;
/// Maximum length of that pause, because a client waits for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Key of the single flight: session, backend and kind of list.
type ListTarget = (RecordKey, String, String, ListKind);
/// When the request to the backend began.
type ListRequest = Result<Instant, UpstreamError>;

/// Asks backends for the lists of single sessions, and makes the catalog of each session. A cheap-clone handle.
#[derive(Clone, Debug)]
pub(in crate::session) struct SessionCatalogs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upstreams: UpstreamSessions,
    core: Core,
    background: BackgroundLimit,
    tasks: Tasks,
    /// Single flight of requests for a list.
    requests: SingleFlight<ListTarget, ListRequest>,
    queue: ListQueue,
}

impl SessionCatalogs {
    pub(in crate::session) fn new(
        upstreams: UpstreamSessions,
        core: Core,
        background: BackgroundLimit,
        tasks: Tasks,
    ) -> Self {
        let inner = Inner {
            upstreams,
            core,
            background,
            tasks,
            requests: SingleFlight::default(),
            queue: ListQueue::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Implements [`crate::core::ClientView::catalog_to_list`].
    pub(in crate::session) async fn catalog_to_list(
        &self,
        client: &ClientSession,
        kind: ListKind,
        goes_on: bool,
        headers: &ClientHeaders,
    ) -> Arc<CatalogSnapshot> {
        let catalog = self.inner.core.catalog();
        let backends = catalog.listed_per_session();
        if backends.is_empty() {
            return catalog.snapshot();
        }
        Box::pin(async {
            let wanted = backends
                .iter()
                .filter(|backend| !goes_on || !self.is_fresh(client, backend, kind));
            self.ask_for_lists(client, wanted.map(|backend| (backend, kind)), headers)
                .await;
            self.view(client).await
        })
        .await
    }

    /// Implements [`crate::core::ClientView::catalog_to_find`].
    pub(in crate::session) async fn catalog_to_find(
        &self,
        client: &ClientSession,
        subject: CallSubject,
        params: Option<&RawValue>,
        headers: &ClientHeaders,
    ) -> Arc<CatalogSnapshot> {
        let catalog = self.inner.core.catalog();
        let backends = catalog.listed_per_session();
        if backends.is_empty() {
            return catalog.snapshot();
        }
        Box::pin(async {
            let view = self.view(client).await;
            let Some(located) = locate(&view, subject, params) else {
                return view;
            };
            let wanted: Vec<_> = backends
                .iter()
                .flat_map(|backend| located.kinds.iter().map(move |kind| (backend, *kind)))
                .filter(|(backend, kind)| self.may_decide(client, backend, *kind, &located))
                .collect();
            if wanted.is_empty() {
                return view;
            }
            if located.backend.is_some() {
                self.ask_beside_another(client, wanted, headers).await;
            } else {
                self.ask_for_lists(client, wanted.into_iter(), headers).await;
            }
            self.view(client).await
        })
        .await
    }

    /// Whether the list `kind` of `backend` may decide which backend gets the request, and is not fresh.
    fn may_decide(
        &self,
        client: &ClientSession,
        backend: &Backend,
        kind: ListKind,
        located: &LocatedCall<'_>,
    ) -> bool {
        let catalog = self.inner.core.catalog();
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
        // Without an upstream session the backend has listed nothing to this session.
        let is_known =
            || self.is_fresh(client, backend, kind) || self.upstream_in_use(client, backend).is_none();
        found.name() != backend.name() && may_win && !is_known()
    }

    /// Requests lists for a call whose item another backend has already. Waits for the lists that have not failed, no
    /// longer than the first request that waits for them. The others are requested in the background.
    async fn ask_beside_another(
        &self,
        client: &ClientSession,
        wanted: Vec<(&Backend, ListKind)>,
        headers: &ClientHeaders,
    ) {
        let lists = client.entry.make_lists();
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
            let (catalogs, client, headers) = (self.clone(), client.clone(), headers.clone());
            // If too many tasks are running, the next call tries again.
            self.inner.background.spawn(async move {
                let again = again.iter().map(|(backend, kind)| (backend, *kind));
                catalogs.ask_for_lists(&client, again, &headers).await;
            });
        }
        self.ask_for_lists_since(client, awaited.into_iter(), headers)
            .await;
    }

    /// Implements [`crate::core::ClientView::list_has_changed`].
    pub(in crate::session) fn list_has_changed(
        &self,
        client: &ClientSession,
        backend: &Backend,
        kinds: &[ListKind],
    ) -> bool {
        if !backend.lists_per_session() {
            return false;
        }
        if let (Some(lists), Some(upstream)) = (client.entry.lists(), self.upstream_in_use(client, backend)) {
            for kind in kinds {
                lists.with(backend.name(), upstream, *kind, |known| known.is_stale = true);
            }
        }
        true
    }

    /// Whether a known list of `backend` in this session contains the resource `uri`.
    pub(in crate::session) fn is_listed(&self, client: &ClientSession, backend: &Backend, uri: &str) -> bool {
        let is_listed = || {
            let lists = client.entry.lists()?;
            let upstream = self.upstream_in_use(client, backend)?;
            lists.with(
                backend.name(),
                upstream,
                ListKind::Resources,
                |known| match &known.content {
                    ListContent::Own(list, _) => list.items.iter().any(|item| item.key == uri),
                    ListContent::Shared(_) => false,
                },
            )
        };
        let catalog = self.inner.core.catalog();
        // Items that a filter hides are not reported.
        let passes = || catalog.can_offer(backend.name(), ListKind::Resources, uri);
        backend.lists_per_session() && is_listed().unwrap_or(false) && passes()
    }

    /// The catalog of this session, from the known lists.
    async fn view(&self, client: &ClientSession) -> Arc<CatalogSnapshot> {
        let catalog = self.inner.core.catalog();
        let Some(lists) = client.entry.lists() else {
            return catalog.snapshot();
        };
        let mut own = Vec::new();
        for backend in catalog.listed_per_session().iter() {
            let Some(upstream) = self.upstream_in_use(client, backend) else {
                continue;
            };
            for kind in ListKind::ALL {
                let list = lists.with(backend.name(), upstream, kind, |known| match &known.content {
                    ListContent::Own(list, _) => Some(Arc::clone(list)),
                    ListContent::Shared(_) => None,
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

    fn is_fresh(&self, client: &ClientSession, backend: &Backend, kind: ListKind) -> bool {
        let shared = self.inner.core.catalog().offer(backend.name());
        let is_fresh = || {
            let lists = client.entry.lists()?;
            lists.with(
                backend.name(),
                self.upstream_in_use(client, backend)?,
                kind,
                |known| !known.is_stale && known.content.is_current(shared.as_ref()),
            )
        };
        is_fresh().unwrap_or(false)
    }

    /// The upstream session that a call to `backend` would use, if there is one.
    fn upstream_in_use(&self, client: &ClientSession, backend: &Backend) -> Option<UpstreamTag> {
        let upstreams = &self.inner.upstreams;
        let upstream = upstreams.upstream_now(client, backend)?;
        upstreams.tag(client, backend, &upstream)
    }

    /// Requests the `wanted` lists, and waits at most [`LIST_DEADLINE`]. A list that is late is used by later requests.
    async fn ask_for_lists<'a>(
        &self,
        client: &ClientSession,
        wanted: impl Iterator<Item = (&'a Backend, ListKind)>,
        headers: &ClientHeaders,
    ) {
        let now = Instant::now();
        let wanted = wanted.map(|(backend, kind)| (backend, kind, now));
        self.ask_for_lists_since(client, wanted, headers).await;
    }

    /// As [`Self::ask_for_lists`], if another request may have begun to wait earlier.
    async fn ask_for_lists_since<'a>(
        &self,
        client: &ClientSession,
        wanted: impl Iterator<Item = (&'a Backend, ListKind, Instant)>,
        headers: &ClientHeaders,
    ) {
        let arrived = Instant::now();
        let asking = wanted.map(|(backend, kind, since)| async move {
            let backend = &backend.clone().on_behalf_of(headers);
            let asking = self.ask_for_list(client, backend, kind, arrived);
            match tokio::time::timeout_at(since + LIST_DEADLINE, asking).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(backend = %backend.name(), method = kind.method(), %error, "no list for a session");
                }
                Err(_) => {
                    client.entry.make_lists().attempts.record_timeout(backend.name(), kind);
                    tracing::debug!(backend = %backend.name(), method = kind.method(), "no list for a session in time");
                }
            }
        });
        join_all(asking).await;
    }

    /// Requests the list of `backend`, or joins a request that has begun since `arrived`.
    async fn ask_for_list(
        &self,
        client: &ClientSession,
        backend: &Backend,
        kind: ListKind,
        arrived: Instant,
    ) -> Result<(), UpstreamError> {
        let name = backend.name().to_string();
        let target = (client.key, name, backend.origin().to_owned(), kind);
        loop {
            let (catalogs, client, backend) = (self.clone(), client.clone(), backend.clone());
            let attempt = move |place| {
                let tasks = catalogs.inner.tasks.clone();
                let asking = tasks.spawn(async move {
                    let lists = client.entry.make_lists();
                    lists.attempts.begin(backend.name(), kind);
                    let asked = catalogs.ask_now(&client, &backend, kind).await;
                    lists.attempts.end(backend.name(), kind, asked.is_ok());
                    drop(place);
                    asked
                });
                let ended = |ended: Result<_, tokio::task::JoinError>| {
                    ended.unwrap_or_else(|error| Err(BackendError::Broken(error.to_string()).into()))
                };
                asking.map(ended).boxed()
            };
            let asked = self.inner.requests.join(target.clone(), attempt).await?;
            // A list requested earlier may be older than the change that the client knows of.
            if asked >= arrived {
                return Ok(());
            }
        }
    }

    async fn ask_now(&self, client: &ClientSession, backend: &Backend, kind: ListKind) -> ListRequest {
        let (inner, lists) = (&*self.inner, client.entry.make_lists());
        if let Some(upstream) = self.upstream_in_use(client, backend)
            && let Some(next) = lists.with(backend.name(), upstream, kind, |known| known.next)
        {
            tokio::time::sleep_until(next).await;
        }
        let asked = Instant::now();
        let before = backend.meter().cpu_time();
        inner
            .queue
            .make_room(backend, || inner.core.catalog().drop_views());
        let (upstream, list) = self.list(client, backend, kind).await?;
        let shared = inner.core.catalog().offer(backend.name());
        let account = backend.session_catalog_account().clone();
        let content = backend.compute(move || ListContent::new(list, kind, shared.as_ref(), &account));
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
        let queued = QueuedList {
            lists: Arc::downgrade(&lists),
            kind,
            asked,
        };
        inner.queue.push(backend.name(), queued);
        Ok(asked)
    }

    /// Reads a list in the upstream session of `client`. Opens the session first if necessary.
    async fn list(
        &self,
        client: &ClientSession,
        backend: &Backend,
        kind: ListKind,
    ) -> Result<(UpstreamTag, BackendList), UpstreamError> {
        let upstreams = &self.inner.upstreams;
        let declares = self.inner.core.catalog().declares(backend.name(), kind);
        let mut admitted = backend.admit().await?;
        let listing = async {
            let mut upstream = upstreams.open(client, backend).await?;
            if declares == Some(false) {
                return Ok((upstream, BackendList::default()));
            }
            let mut list = backend.list_for_client(&upstream, kind).await;
            if matches!(list, Err(BackendError::SessionLost)) {
                upstream = upstreams.replace(client, backend, &upstream).await?;
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
        let tag = upstreams.tag(client, backend, &upstream);
        Ok((tag.ok_or(BackendError::SessionLost)?, list))
    }
}
