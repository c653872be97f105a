//! Tells whoever wants to know that a merged list changed.

use tokio::sync::watch;

use super::snapshot::Snapshot;

/// The versions of the merged lists, for whoever tells clients of changes. Each number grows when clients would see another list.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The version of the tools.
    pub tools: watch::Receiver<u64>,
    /// The version of the prompts.
    pub prompts: watch::Receiver<u64>,
    /// The version of the resources and the resource templates, for which there is one notification.
    pub resources: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Versions {
    tools: watch::Sender<u64>,
    prompts: watch::Sender<u64>,
    resources: watch::Sender<u64>,
}

impl Versions {
    pub(super) fn watch(&self) -> Changes {
        Changes {
            tools: self.tools.subscribe(),
            prompts: self.prompts.subscribe(),
            resources: self.resources.subscribe(),
        }
    }

    /// Counts what `after`, which is already what clients get, shows otherwise than `before`.
    pub(super) fn count(&self, before: &Snapshot, after: &Snapshot) {
        let changed = |same: bool, version: &watch::Sender<u64>| {
            if !same {
                version.send_modify(|version| *version += 1);
            }
        };
        changed(before.tools.looks_like(&after.tools), &self.tools);
        changed(before.prompts.looks_like(&after.prompts), &self.prompts);
        let same =
            before.resources.looks_like(&after.resources) && before.templates.looks_like(&after.templates);
        changed(same, &self.resources);
    }
}
