//! Snapshots for single sessions: the shared catalog, in which the lists that a backend sent to one session replace those that it sent to
//! the gateway.
//!
//! A view is merged by the same code as the shared catalog, so names, filters, overrides and conflicts are the same in both. Views are
//! cached within a share of the budget, and the oldest are evicted first. A view is dropped with its session, and when the shared catalog
//! changes, because it would keep outdated lists in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::{Catalog, CatalogSnapshot, CatalogState, merge};
use crate::backend::{BackendList, ListKind};
use crate::budget::{Account, Budget};
use crate::config::{BackendName, ExposurePolicy};

/// Identity of the session to which a view belongs. Dropping it drops the view.
#[derive(Debug, Default)]
pub struct ViewOwner(Arc<Identity>);

/// Process-wide unique id of a view's owner.
#[derive(Debug)]
struct Identity {
    id: ViewId,
    /// The catalog that caches the view, if it was cached.
    cached_in: OnceLock<Weak<CatalogState>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ViewId(u64);

impl Default for Identity {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: ViewId(NEXT.fetch_add(1, Ordering::Relaxed)),
            cached_in: OnceLock::new(),
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if let Some(shared) = self.cached_in.get().and_then(Weak::upgrade) {
            shared.views.remove(self.id);
        }
    }
}

/// A list that a backend sent to one session.
#[derive(Clone, Debug)]
pub struct SessionList {
    /// The backend that sent it.
    pub backend: BackendName,
    /// Which list it is.
    pub kind: ListKind,
    /// Its items, before the exposure policy is applied.
    pub list: Arc<BackendList>,
}

impl SessionList {
    fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.backend == other.backend && Arc::ptr_eq(&self.list, &other.list)
    }
}

/// Cache of the views of all sessions.
#[derive(Debug)]
pub(super) struct SessionViews {
    /// Budget account of the cached views.
    account: Account,
    /// Budget account of the pages of the views' lists.
    pages: Account,
    kept: Mutex<KeptViews>,
}

#[derive(Debug, Default)]
struct KeptViews {
    views: HashMap<ViewId, SessionView>,
    /// Owners of the cached views, oldest first.
    order: VecDeque<ViewId>,
}

#[derive(Debug)]
struct SessionView {
    /// The lists from which it was made.
    own: Vec<SessionList>,
    base: Weak<CatalogSnapshot>,
    snapshot: Arc<CatalogSnapshot>,
}

impl SessionViews {
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            account: budget.session_catalog(),
            pages: budget.backend(),
            kept: Mutex::default(),
        }
    }

    fn get(
        &self,
        id: ViewId,
        own: &[SessionList],
        base: &Arc<CatalogSnapshot>,
    ) -> Option<Arc<CatalogSnapshot>> {
        let kept = self.lock();
        let view = kept.views.get(&id)?;
        let is_same = std::ptr::eq(view.base.as_ptr(), Arc::as_ptr(base))
            && view.own.len() == own.len()
            && view.own.iter().zip(own).all(|(one, other)| one.is_same(other));
        is_same.then(|| Arc::clone(&view.snapshot))
    }

    /// Drops all views and releases their memory.
    pub(super) fn clear(&self) {
        let forgotten = std::mem::take(&mut *self.lock());
        drop(forgotten);
    }

    /// Drops the view of a session that has ended.
    fn remove(&self, id: ViewId) {
        let forgotten = {
            let mut kept = self.lock();
            let forgotten = kept.views.remove(&id);
            if forgotten.is_some() {
                kept.order.retain(|other| *other != id);
            }
            forgotten
        };
        drop(forgotten);
    }

    /// Reserves the memory of `snapshot`, and evicts the oldest views if there is no room. Returns whether the snapshot may be cached.
    fn reserve(&self, snapshot: &mut CatalogSnapshot) -> bool {
        let weight = snapshot.weight();
        loop {
            let reserved = self.account.reserve(weight);
            if reserved.is_some() {
                snapshot.reserved = reserved;
                return true;
            }
            let oldest = {
                let mut kept = self.lock();
                let oldest = kept.order.pop_front();
                oldest.and_then(|oldest| kept.views.remove(&oldest))
            };
            if oldest.is_none() {
                snapshot.reserved = Some(self.account.overdraw(weight));
                return false;
            }
        }
    }

    fn keep(&self, id: ViewId, view: SessionView) {
        let mut kept = self.lock();
        if kept.views.insert(id, view).is_some() {
            kept.order.retain(|other| *other != id);
        }
        kept.order.push_back(id);
    }

    fn lock(&self) -> MutexGuard<'_, KeptViews> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog {
    /// The snapshot for the session of `owner`, to which backends sent the lists `own`.
    pub async fn view(&self, owner: &ViewOwner, own: Vec<SessionList>) -> Arc<CatalogSnapshot> {
        let shared = self.snapshot();
        let Some(backend) = own.first().and_then(|own| self.backend(own.backend.as_str())) else {
            return shared;
        };
        if let Some(kept) = self.shared.views.get(owner.0.id, &own, &shared) {
            return kept;
        }
        let (catalog, base) = (self.clone(), Arc::clone(&shared));
        let owner = Arc::downgrade(&owner.0);
        let making = backend.compute(move || catalog.make_view(&owner, own, &base));
        making.await.unwrap_or_else(|error| {
            tracing::error!(backend = %backend.name(), %error, "failed to merge session catalog");
            shared
        })
    }

    /// Drops all views. They are made again on demand.
    pub fn drop_views(&self) {
        self.shared.views.clear();
    }

    fn make_view(
        &self,
        owner: &Weak<Identity>,
        own: Vec<SessionList>,
        base: &Arc<CatalogSnapshot>,
    ) -> Arc<CatalogSnapshot> {
        let members = self.members();
        let known: Vec<_> = members
            .in_order()
            .map(|running| {
                let (backend, known) = (running.member.backend.clone(), running.member.advertise());
                let lists = || own.iter().filter(|own| own.backend == *backend.name());
                if lists().next().is_none() {
                    return (backend, known);
                }
                let lists = lists().map(|own| (own.kind, &*own.list));
                let known = known.with_lists(backend.name(), lists);
                (backend, Arc::new(known))
            })
            .collect();
        let mut snapshot = merge::merge(&known, &members.aggregation);
        let views = &self.shared.views;
        snapshot.count_pages(&views.pages);
        let has_room = views.reserve(&mut snapshot);
        let snapshot = Arc::new(snapshot);
        // The session may have ended in the meantime. If it ends after this line, the view is dropped when `owner` is.
        let owner = owner.upgrade();
        if let Some(owner) = owner
            && has_room
            && Arc::ptr_eq(base, &self.snapshot())
        {
            owner.cached_in.get_or_init(|| Arc::downgrade(&self.shared));
            let view = SessionView {
                own,
                base: Arc::downgrade(base),
                snapshot: Arc::clone(&snapshot),
            };
            views.keep(owner.id, view);
        }
        snapshot
    }

    /// Whether `other` loses an item of that kind if `backend` offers one of the same name.
    #[must_use]
    pub fn can_lose_to(&self, other: &BackendName, kind: ListKind, backend: &BackendName) -> bool {
        let members = self.members();
        let place = |name: &BackendName| {
            let configured = members.order.iter().position(|other| other == name);
            (merge::priority(&members.aggregation, name), configured)
        };
        merge::is_conflict_dropped(&members.aggregation, kind) || place(backend) < place(other)
    }

    /// Whether the configuration allows `backend` to offer an item of that kind under the name `advertised`.
    #[must_use]
    pub fn can_offer(&self, backend: &BackendName, kind: ListKind, advertised: &str) -> bool {
        let members = self.members();
        let Some(running) = members.running.get(backend) else {
            return false;
        };
        let policy: &ExposurePolicy = &running.member.policy();
        match crate::catalog::exposure::rules(kind, policy) {
            Some(rules) => {
                let renamed = advertised.strip_prefix(&*policy.prefix);
                renamed.is_some_and(|renamed| rules.may_claim(renamed))
            }
            None => !policy.resources.denies_uri(advertised),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::HttpClient;
    use crate::catalog::backend_state::CatalogBackend;
    use crate::catalog::test_util::{backend, list, offer};
    use crate::config;
    use crate::runtime::tasks::Tasks;
    use crate::telemetry::Metrics;

    fn own(tools: &[&str]) -> SessionList {
        let json: Vec<_> = tools
            .iter()
            .map(|name| format!(r#"{{"name":"{name}"}}"#))
            .collect();
        SessionList {
            backend: BackendName::for_test("a"),
            kind: ListKind::Tools,
            list: Arc::new(list(
                ListKind::Tools,
                &json.iter().map(String::as_str).collect::<Vec<_>>(),
            )),
        }
    }

    fn snapshot() -> CatalogSnapshot {
        let member = CatalogBackend::new(backend("a"), Arc::default(), config::HealthSettings::default());
        member.record_discovery(Ok(offer(&["x"])));
        merge::merge(&[(member.backend.clone(), member.advertise())], &Arc::default())
    }

    #[tokio::test]
    async fn oldest_view_is_evicted_at_the_limit() {
        let budget = Budget::new(8 * snapshot().weight() * 3);
        let views = SessionViews::new(&budget);
        let base = Arc::new(snapshot());
        let keep = |id| {
            let mut snapshot = snapshot();
            assert!(views.reserve(&mut snapshot));
            let own = vec![own(&["y"])];
            let view = SessionView {
                own: own.clone(),
                base: Arc::downgrade(&base),
                snapshot: Arc::new(snapshot),
            };
            views.keep(id, view);
            own
        };
        let ids: Vec<_> = (0..4).map(|_| Identity::default().id).collect();
        let lists: Vec<_> = ids.iter().map(|id| keep(*id)).collect();
        assert!(
            views.get(ids[0], &lists[0], &base).is_none(),
            "there is room for three"
        );
        for place in 1..4 {
            assert!(views.get(ids[place], &lists[place], &base).is_some(), "{place}");
        }
        assert!(
            views.get(ids[1], &lists[2], &base).is_none(),
            "it was made of other lists"
        );
        let newer = Arc::new(snapshot());
        assert!(
            views.get(ids[3], &lists[3], &newer).is_none(),
            "of another shared catalog"
        );
        views.remove(ids[2]);
        assert!(
            views.get(ids[2], &lists[2], &base).is_none(),
            "its session has ended"
        );
        let order: Vec<_> = views.lock().order.iter().copied().collect();
        assert_eq!(order, [ids[1], ids[3]]);
        views.clear();
        assert!(views.get(ids[3], &lists[3], &base).is_none());
        assert_eq!(views.account.reserved(), 0);
    }

    /// Also if the session ends while the view is being made.
    #[tokio::test]
    async fn view_is_dropped_with_its_owner() {
        let tasks = Tasks::default();
        let catalog = Catalog::new(HttpClient::new(tasks.clone()), tasks, Metrics::new());
        // The server never answers. So the shared catalog does not change, which would drop the views.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/mcp", silent.local_addr().unwrap());
        let configured = config::BackendSettings::for_test("a", url.parse().unwrap());
        catalog.apply(&[configured], &Arc::default(), None);
        let views = &catalog.shared.views;
        let (one, other) = (ViewOwner::default(), ViewOwner::default());
        for owner in [&one, &other] {
            let view = catalog.view(owner, vec![own(&["y"])]).await;
            assert_eq!(view.tools.len(), 1);
        }
        assert_eq!(views.lock().views.len(), 2);
        drop(one);
        assert_eq!(views.lock().views.keys().collect::<Vec<_>>(), [&other.0.id]);
        let ended = Arc::downgrade(&other.0);
        drop(other);
        let view = catalog.make_view(&ended, vec![own(&["y"])], &catalog.snapshot());
        assert_eq!((view.tools.len(), views.lock().views.len()), (1, 0));
        drop(view);
        assert_eq!(views.account.reserved(), 0);
    }

    #[tokio::test]
    async fn too_large_view_is_used_but_not_cached() {
        let views = SessionViews::new(&Budget::new(16));
        let mut snapshot = snapshot();
        assert!(!views.reserve(&mut snapshot));
        assert!(views.account.reserved() > 0);
        drop(snapshot);
        assert_eq!(views.account.reserved(), 0);
    }
}
