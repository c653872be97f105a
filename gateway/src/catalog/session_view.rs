//! What is offered to one session: the shared catalog, with what some backends list to that session alone in the place of what they list
//! to the gateway's own.
//!
//! It is merged as the shared catalog is, so that names, filters, overrides and conflicts are the same in both. Views are kept within a
//! share of the budget, those that were made last, and forgotten with their sessions and with the shared catalog of which they were made: they
//! would keep what backends listed before in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::{Catalog, CatalogSnapshot, CatalogState, merge};
use crate::backend::{BackendList, ListKind};
use crate::budget::{Account, Budget};
use crate::config::{BackendName, ExposurePolicy};

/// Whose view it is. The view is forgotten when this is dropped.
#[derive(Debug, Default)]
pub struct ViewOwner(Arc<Identity>);

/// Tells the owner of a view from others: no two in a process are the same.
#[derive(Debug)]
struct Identity {
    id: ViewId,
    /// Where the view is kept, if it was.
    kept_in: OnceLock<Weak<CatalogState>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ViewId(u64);

impl Default for Identity {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: ViewId(NEXT.fetch_add(1, Ordering::Relaxed)),
            kept_in: OnceLock::new(),
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if let Some(shared) = self.kept_in.get().and_then(Weak::upgrade) {
            shared.views.forget(self.id);
        }
    }
}

/// A list that a backend gives one session.
#[derive(Clone, Debug)]
pub struct OwnList {
    /// The backend.
    pub backend: BackendName,
    /// What is listed.
    pub kind: ListKind,
    /// The list.
    pub list: Arc<BackendList>,
}

impl OwnList {
    fn is(&self, other: &Self) -> bool {
        self.kind == other.kind && self.backend == other.backend && Arc::ptr_eq(&self.list, &other.list)
    }
}

/// The views that are kept.
#[derive(Debug)]
pub(super) struct SessionViews {
    /// Where they are counted.
    account: Account,
    /// Where the pages of their lists are.
    pages: Account,
    kept: Mutex<KeptViews>,
}

#[derive(Debug, Default)]
struct KeptViews {
    views: HashMap<ViewId, SessionView>,
    /// Each view that is kept, the oldest first.
    order: VecDeque<ViewId>,
}

#[derive(Debug)]
struct SessionView {
    /// What it was made of.
    own: Vec<OwnList>,
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

    fn get(&self, id: ViewId, own: &[OwnList], base: &Arc<CatalogSnapshot>) -> Option<Arc<CatalogSnapshot>> {
        let kept = self.lock();
        let view = kept.views.get(&id)?;
        let is_same = std::ptr::eq(view.base.as_ptr(), Arc::as_ptr(base))
            && view.own.len() == own.len()
            && view.own.iter().zip(own).all(|(one, other)| one.is(other));
        is_same.then(|| Arc::clone(&view.snapshot))
    }

    /// Forgets what was made of a shared catalog that is out of date.
    pub(super) fn forget_all(&self) {
        let forgotten = std::mem::take(&mut *self.lock());
        drop(forgotten);
    }

    /// Forgets the view of a session that has ended.
    fn forget(&self, id: ViewId) {
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

    /// Reserves what `snapshot` takes, in the place of older ones where there is no room. Says whether there is room to keep it.
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
    /// What is offered to the session that owns the view, and to which backends list `own`.
    pub async fn view(&self, owner: &ViewOwner, own: Vec<OwnList>) -> Arc<CatalogSnapshot> {
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
            tracing::error!(backend = %backend.name(), %error, "cannot merge what the backends list to a session");
            shared
        })
    }

    /// Forgets all views. They are made anew when they are wanted.
    pub fn forget_views(&self) {
        self.shared.views.forget_all();
    }

    fn make_view(
        &self,
        owner: &Weak<Identity>,
        own: Vec<OwnList>,
        base: &Arc<CatalogSnapshot>,
    ) -> Arc<CatalogSnapshot> {
        let members = self.members();
        let known: Vec<_> = members
            .in_order()
            .map(|running| {
                let (backend, known) = (running.member.backend.clone(), running.member.show());
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
        // The session may have ended meanwhile. If it ends now, the view is forgotten behind this.
        let owner = owner.upgrade();
        if let Some(owner) = owner
            && has_room
            && Arc::ptr_eq(base, &self.snapshot())
        {
            owner.kept_in.get_or_init(|| Arc::downgrade(&self.shared));
            let view = SessionView {
                own,
                base: Arc::downgrade(base),
                snapshot: Arc::clone(&snapshot),
            };
            views.keep(owner.id, view);
        }
        snapshot
    }

    /// Whether `other` loses something of that kind that it has if `backend` has it, too.
    #[must_use]
    pub fn may_lose(&self, other: &BackendName, kind: ListKind, backend: &BackendName) -> bool {
        let members = self.members();
        let place = |name: &BackendName| {
            let configured = members.order.iter().position(|other| other == name);
            (merge::priority(&members.aggregation, name), configured)
        };
        merge::nobody_wins(&members.aggregation, kind) || place(backend) < place(other)
    }

    /// Whether `backend` may have something of that kind that clients call `advertised`, by what the configuration says.
    #[must_use]
    pub fn may_have(&self, backend: &BackendName, kind: ListKind, advertised: &str) -> bool {
        let members = self.members();
        let Some(running) = members.running.get(backend) else {
            return false;
        };
        let terms: &ExposurePolicy = &running.member.terms();
        match crate::catalog::exposure::rules(kind, terms) {
            Some(rules) => {
                let renamed = advertised.strip_prefix(&*terms.prefix);
                renamed.is_some_and(|renamed| rules.may_claim(renamed))
            }
            None => !terms.resources.denies_uri(advertised),
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

    fn own(tools: &[&str]) -> OwnList {
        let json: Vec<_> = tools
            .iter()
            .map(|name| format!(r#"{{"name":"{name}"}}"#))
            .collect();
        OwnList {
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
        member.observe(Ok(offer(&["x"])));
        merge::merge(&[(member.backend.clone(), member.show())], &Arc::default())
    }

    #[tokio::test]
    async fn views_are_kept_within_their_share_and_the_oldest_gives_way() {
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
        views.forget(ids[2]);
        assert!(
            views.get(ids[2], &lists[2], &base).is_none(),
            "its session has ended"
        );
        let order: Vec<_> = views.lock().order.iter().copied().collect();
        assert_eq!(order, [ids[1], ids[3]]);
        views.forget_all();
        assert!(views.get(ids[3], &lists[3], &base).is_none());
        assert_eq!(views.account.reserved(), 0);
    }

    /// Also where the session ends while the view is being made.
    #[tokio::test]
    async fn view_is_forgotten_with_its_owner() {
        let tasks = Tasks::default();
        let catalog = Catalog::new(HttpClient::new(tasks.clone()), tasks, Metrics::new());
        // A server that never answers: the shared catalog does not change meanwhile, which would drop the views.
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
    async fn view_too_large_for_its_share_is_used_and_not_kept() {
        let views = SessionViews::new(&Budget::new(16));
        let mut snapshot = snapshot();
        assert!(!views.reserve(&mut snapshot));
        assert!(views.account.reserved() > 0);
        drop(snapshot);
        assert_eq!(views.account.reserved(), 0);
    }
}
