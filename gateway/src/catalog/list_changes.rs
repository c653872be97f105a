//! What has changed in the catalogue: a number per kind, so that whoever shows lists to clients can tell them to ask again.
//!
//! A `list_changed` of a backend is not passed on. It makes the gateway look, and what clients are told is that their own list, which is
//! merged, filtered and renamed, is another one now.

use tokio::sync::watch;

use super::{Catalog, CatalogSnapshot};
use crate::config::BackendName;

/// How often each list has changed. Zero is a list that was always empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListVersions {
    /// The tools.
    pub tools: u64,
    /// The resources and their templates.
    pub resources: u64,
    /// The prompts.
    pub prompts: u64,
}

#[derive(Debug, Default)]
pub(super) struct ListChanges {
    pub(super) versions: watch::Sender<ListVersions>,
    /// Tells of everything that changes, also what clients do not see.
    pub(super) any: watch::Sender<()>,
}

impl ListChanges {
    /// Counts what `after`, which is already what clients get, shows otherwise than `before`.
    pub(super) fn observe(&self, before: &CatalogSnapshot, after: &CatalogSnapshot) {
        let same_resources =
            before.resources.looks_like(&after.resources) && before.templates.looks_like(&after.templates);
        let (tools, resources, prompts) = (
            !before.tools.looks_like(&after.tools),
            !same_resources,
            !before.prompts.looks_like(&after.prompts),
        );
        self.versions.send_if_modified(|versions| {
            versions.tools += u64::from(tools);
            versions.resources += u64::from(resources);
            versions.prompts += u64::from(prompts);
            tools || resources || prompts
        });
        self.any.send_replace(());
    }
}

impl Catalog {
    /// How often each list has changed, and a signal whenever one does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<ListVersions> {
        self.shared.changes.versions.subscribe()
    }

    /// Says that what is known of `backend` may be out of date: it is looked at again at once, one look at a time, and once after the
    /// last who says so.
    pub fn refresh(&self, backend: &BackendName) {
        if let Some(running) = self.members().running.get(backend) {
            running.member.stale.notify_one();
        }
    }
}

impl ListVersions {
    /// The notifications that tell a client which lists differ from those of `before`.
    #[must_use]
    pub fn notifications_since(&self, before: &Self) -> Vec<&'static str> {
        let kinds = [
            (self.tools, before.tools, "notifications/tools/list_changed"),
            (
                self.resources,
                before.resources,
                "notifications/resources/list_changed",
            ),
            (self.prompts, before.prompts, "notifications/prompts/list_changed"),
        ];
        kinds
            .into_iter()
            .filter_map(|(now, before, method)| (now != before).then_some(method))
            .collect()
    }
}

/// The notifications that say that a list has changed.
pub const LISTS_CHANGED: [&str; 3] = [
    "notifications/tools/list_changed",
    "notifications/resources/list_changed",
    "notifications/prompts/list_changed",
];

/// Whether a backend's notification says that one of its lists has changed.
#[must_use]
pub fn is_list_changed(method: &str) -> bool {
    LISTS_CHANGED.contains(&method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_notification_and_says_it_only_when_it_changed() {
        let before = ListVersions {
            tools: 3,
            ..ListVersions::default()
        };
        assert!(before.notifications_since(&before).is_empty());
        let now = ListVersions {
            tools: 3,
            resources: 1,
            prompts: 2,
        };
        let told = now.notifications_since(&before);
        assert_eq!(
            told,
            [
                "notifications/resources/list_changed",
                "notifications/prompts/list_changed"
            ]
        );
        assert!(told.iter().all(|method| is_list_changed(method)));
        assert!(!is_list_changed("notifications/resources/updated"));
    }
}
