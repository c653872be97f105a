//! The edits of the built-in lists: added and removed names.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rmcp::ErrorData;

/// The edits of one kind of list, made at run time through the admin port.
#[derive(Debug, Default)]
pub(crate) struct Edits(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
}

impl Edits {
    /// Adds `name`: a new one, or a built-in one that was removed.
    pub(crate) fn add(&self, name: &str) {
        let mut names = self.names();
        names.removed.remove(name);
        names.added.insert(name.to_owned());
    }

    /// Removes `name`.
    pub(crate) fn remove(&self, name: &str) {
        let mut names = self.names();
        names.added.remove(name);
        names.removed.insert(name.to_owned());
    }

    /// Whether `name` is in the list.
    pub(crate) fn offers(&self, name: &str, is_built_in: impl FnOnce() -> bool) -> bool {
        let names = self.names();
        names.added.contains(name) || (!names.removed.contains(name) && is_built_in())
    }

    /// `built_in` after the edits; `name_of` says what an item is called, and `make` makes an added one.
    pub(crate) fn apply<T: Clone>(
        &self,
        built_in: &[T],
        name_of: impl Fn(&T) -> &str,
        make: impl Fn(&str) -> T,
    ) -> Vec<T> {
        let names = self.names();
        let kept = built_in
            .iter()
            .filter(|item| !names.removed.contains(name_of(item)))
            .cloned();
        let new = |name: &&String| !built_in.iter().any(|item| name_of(item) == name.as_str());
        kept.chain(names.added.iter().filter(new).map(|name| make(name)))
            .collect()
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The edits of every list.
#[derive(Debug, Default)]
pub(crate) struct ListEdits {
    pub(crate) tools: Edits,
    pub(crate) prompts: Edits,
    pub(crate) resources: Edits,
}

/// The page that `cursor` names, and the cursor of the next one. A `size` of 0 gives everything at once.
pub(crate) fn page<T>(
    items: Vec<T>,
    size: usize,
    cursor: Option<&str>,
) -> Result<(Vec<T>, Option<String>), ErrorData> {
    let start: usize = match cursor {
        None => 0,
        Some(cursor) => cursor
            .parse()
            .map_err(|_| ErrorData::invalid_params(format!("Unknown cursor: {cursor}"), None))?,
    };
    if size == 0 {
        return Ok((items, None));
    }
    let end = start.saturating_add(size);
    let next = (end < items.len()).then(|| end.to_string());
    Ok((items.into_iter().skip(start).take(size).collect(), next))
}
