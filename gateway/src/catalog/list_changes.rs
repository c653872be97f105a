//! Version counters of the merged lists, from which clients get their `list_changed` notifications.
//!
//! A backend's `list_changed` is not forwarded. It triggers a discovery, and clients are notified only if their merged, filtered and
//! renamed list differs.

use tokio::sync::watch;

use super::{Catalog, CatalogSnapshot};
use crate::config::BackendName;

/// Change counters of the merged lists, since the start of the process. Zero means that the list was always empty.
///
/// ```
/// use vmcp_gateway::catalog::ListVersions;
///
/// let before = ListVersions::default();
/// let now = ListVersions { tools: 1, ..before };
/// assert_eq!(now.notifications_since(&before), ["notifications/tools/list_changed"]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListVersions {
    /// Changes of the tool list.
    pub tools: u64,
    /// Changes of the resource list and of the resource template list.
    pub resources: u64,
    /// Changes of the prompt list.
    pub prompts: u64,
}

#[derive(Debug, Default)]
pub(super) struct ListChanges {
    pub(super) versions: watch::Sender<ListVersions>,
    /// Signals every change, including those that clients do not see.
    pub(super) any: watch::Sender<()>,
}

impl ListChanges {
    /// Counts the lists that differ between `before` and `after`. Call it when clients already get `after`.
    pub(super) fn record(&self, before: &CatalogSnapshot, after: &CatalogSnapshot) {
        let same_resources = before.resources.is_same_for_clients(&after.resources)
            && before.templates.is_same_for_clients(&after.templates);
        let (tools, resources, prompts) = (
            !before.tools.is_same_for_clients(&after.tools),
            !same_resources,
            !before.prompts.is_same_for_clients(&after.prompts),
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
    /// The current version counters, and a signal whenever one changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<ListVersions> {
        self.shared.changes.versions.subscribe()
    }

    /// Requests a discovery of `backend` at once. Requests during a running discovery lead to one more discovery after it.
    pub fn refresh(&self, backend: &BackendName) {
        if let Some(running) = self.members().running.get(backend) {
            running.member.stale.notify_one();
        }
    }
}

impl ListVersions {
    /// The notification methods for the lists that differ from `before`.
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

/// The methods of the notifications that report a changed list.
pub const LISTS_CHANGED: [&str; 3] = [
    "notifications/tools/list_changed",
    "notifications/resources/list_changed",
    "notifications/prompts/list_changed",
];

/// Whether a backend's notification reports a changed list.
#[must_use]
pub fn is_list_changed(method: &str) -> bool {
    LISTS_CHANGED.contains(&method)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each kind has its notification, which is sent only if that list changed.
    #[test]
    fn only_changed_lists_are_notified() {
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
        let methods = now.notifications_since(&before);
        assert_eq!(
            methods,
            [
                "notifications/resources/list_changed",
                "notifications/prompts/list_changed"
            ]
        );
        assert!(methods.iter().all(|method| is_list_changed(method)));
        assert!(!is_list_changed("notifications/resources/updated"));
    }
}
