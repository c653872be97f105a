//! What has changed since it was last looked at: for example the namespaces in which a custom resource has changed, for the status of their groups.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// A set that is filled by the watches and emptied by one reader. A key is in it at most once, so it is bounded by the number of objects.
#[derive(Debug)]
pub struct ChangedKeys<T> {
    keys: Mutex<BTreeSet<T>>,
    added: Notify,
}

/// The namespaces in which a custom resource has changed. The writer of the groups' status empties it.
pub type ChangedNamespaces = ChangedKeys<String>;

impl<T> Default for ChangedKeys<T> {
    fn default() -> Self {
        Self {
            keys: Mutex::default(),
            added: Notify::default(),
        }
    }
}

impl<T: Ord> ChangedKeys<T> {
    /// Adds a key.
    pub fn add(&self, key: T) {
        self.keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key);
        self.added.notify_one();
    }

    /// Waits until there is a key, and removes and returns all.
    pub async fn take(&self) -> BTreeSet<T> {
        loop {
            let keys = std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner));
            if !keys.is_empty() {
                return keys;
            }
            self.added.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    // A key that is added while no task waits is not lost, and one that is added twice is returned once.
    #[tokio::test]
    async fn added_namespaces_are_taken_once() {
        let changed = Arc::new(ChangedNamespaces::default());
        changed.add("a".to_owned());
        changed.add("b".to_owned());
        changed.add("a".to_owned());
        assert_eq!(Vec::from_iter(changed.take().await), ["a", "b"]);
        let (adding, taking) = (changed.clone(), changed.clone());
        let ((), taken) = tokio::join!(async move { adding.add("c".to_owned()) }, async move {
            taking.take().await
        });
        assert_eq!(Vec::from_iter(taken), ["c"]);
    }
}
