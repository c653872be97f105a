//! Upstream bindings of a session, by backend name.
//!
//! Many sessions have few bindings each. A sorted slice takes a fifth of the memory of a `BTreeMap`, whose first node
//! has room for eleven values. Clones share the slice; a change copies it.

use std::ops::Index;
use std::sync::Arc;

use crate::session::record::Binding;

/// The name of a backend, and the binding to it.
type Named = (Box<str>, Binding);

/// Upstream bindings of a session. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    /// Sorted by backend name. `None` while there are no bindings.
    sorted: Option<Arc<[Named]>>,
}

impl Bindings {
    /// The binding of `backend`.
    #[must_use]
    pub fn get(&self, backend: &str) -> Option<&Binding> {
        let sorted = self.as_slice();
        let place = place(sorted, backend).ok()?;
        sorted.get(place).map(|(_, binding)| binding)
    }

    /// Inserts or replaces the binding of `backend`.
    pub fn insert(&mut self, backend: &str, binding: Binding) {
        let mut sorted = self.as_slice().to_vec();
        match place(&sorted, backend) {
            Ok(place) => sorted[place].1 = binding,
            Err(place) => sorted.insert(place, (backend.into(), binding)),
        }
        self.sorted = Some(sorted.into());
    }

    /// All bindings, sorted by backend name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Binding)> {
        let entries = self.as_slice().iter();
        entries.map(|(backend, binding)| (&**backend, binding))
    }

    /// Number of backends that the session is bound to.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are no bindings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_none()
    }

    fn as_slice(&self) -> &[Named] {
        self.sorted.as_deref().unwrap_or_default()
    }
}

fn place(sorted: &[Named], backend: &str) -> Result<usize, usize> {
    sorted.binary_search_by(|(name, _)| (**name).cmp(backend))
}

impl Index<&str> for Bindings {
    type Output = Binding;

    fn index(&self, backend: &str) -> &Binding {
        let sorted = self.as_slice();
        &sorted[place(sorted, backend).unwrap_or(sorted.len())].1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::backend::UpstreamSession;
    use crate::mcp::revision::Revision;

    fn binding(generation: u64) -> Binding {
        Binding {
            origin: "origin".into(),
            session: UpstreamSession {
                id: None,
                revision: Revision::V2025_11_25,
                address: None,
                cookies: crate::backend::Cookies::default(),
            },
            generation,
        }
    }

    proptest! {
        #[test]
        fn bindings_behave_like_a_map_and_clones_are_independent(names in proptest::collection::vec("[a-c]{1,2}", 0..12)) {
            let (mut bindings, mut map) = (Bindings::default(), BTreeMap::new());
            for (generation, name) in (1..).zip(&names) {
                let before = bindings.clone();
                bindings.insert(name, binding(generation));
                prop_assert_eq!(before.get(name), map.get(&**name));
                map.insert(&**name, binding(generation));
                prop_assert_eq!(&bindings[&**name], &binding(generation));
            }
            prop_assert!(bindings.iter().eq(map.iter().map(|(name, binding)| (*name, binding))));
            prop_assert_eq!((bindings.len(), bindings.is_empty()), (map.len(), map.is_empty()));
            prop_assert_eq!(bindings.get("d"), None);
        }
    }
}
