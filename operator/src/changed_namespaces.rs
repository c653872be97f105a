//! The namespaces in which a custom resource has changed, for the status of their groups.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// A set of namespaces that is filled by the watches and emptied by the writer of the groups' status. A namespace is in it at most once,
/// so it is bounded by the number of namespaces.
#[derive(Debug, Default)]
pub struct ChangedNamespaces {
    names: Mutex<BTreeSet<String>>,
    added: Notify,
}

impl ChangedNamespaces {
    /// Adds a namespace.
    pub fn add(&self, namespace: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.contains(namespace) {
            names.insert(namespace.to_owned());
        }
        drop(names);
        self.added.notify_one();
    }

    /// Waits until there is a namespace, and removes and returns all.
    pub async fn take(&self) -> BTreeSet<String> {
        loop {
            let names = std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner));
            if !names.is_empty() {
                return names;
            }
            self.added.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    // A namespace that is added while no task waits is not lost, and one that is added twice is returned once.
    #[tokio::test]
    async fn added_namespaces_are_taken_once() {
        let changed = Arc::new(ChangedNamespaces::default());
        changed.add("a");
        changed.add("b");
        changed.add("a");
        assert_eq!(Vec::from_iter(changed.take().await), ["a", "b"]);
        let (adding, taking) = (changed.clone(), changed.clone());
        let ((), taken) = tokio::join!(async move { adding.add("c") }, async move { taking.take().await });
        assert_eq!(Vec::from_iter(taken), ["c"]);
    }
}
