//! Whose URIs begin alike.
//!
//! A server may have resources that it does not list: a tool makes one and gives a link to it, and only the session that called the
//! tool can read it. Such a URI belongs to the only backend that has others of the same scheme and authority, otherwise to the only
//! one that has others of the same scheme. Where two backends have some, nobody can say whose it is, and guessing could give the
//! wrong content.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::Backend;
use crate::config::Terms;

/// For each beginning of a URI the backend whose it is; `None` where there are several.
#[derive(Debug, Default)]
pub(super) struct Origins(HashMap<String, Option<(Backend, Arc<Terms>)>>);

impl Origins {
    /// Notes that `backend` has `uri`, which may be a URI template.
    pub(super) fn note(&mut self, uri: &str, backend: &Backend, terms: &Arc<Terms>) {
        let literal = uri.split_once('{').map_or(uri, |(literal, _)| literal);
        // The authority of a template whose expression begins within it is not known.
        let origin = origin(literal).filter(|origin| literal == uri || origin.len() < literal.len());
        for beginning in origin.into_iter().chain(scheme(literal)) {
            match self.0.get_mut(beginning) {
                None => {
                    let owner = (backend.clone(), Arc::clone(terms));
                    self.0.insert(beginning.to_owned(), Some(owner));
                }
                Some(owner) => {
                    owner.take_if(|(other, _)| other.name() != backend.name());
                }
            }
        }
    }

    /// The only backend that has URIs which begin like `uri`, if it may offer this one.
    pub(super) fn owner(&self, uri: &str) -> Option<&Backend> {
        let mut beginnings = origin(uri).into_iter().chain(scheme(uri));
        let owner = beginnings.find_map(|beginning| self.0.get(beginning))?;
        let (backend, terms) = owner.as_ref()?;
        terms.resources.passes_uri(uri).then_some(backend)
    }
}

/// The scheme of a URI, with its colon.
fn scheme(uri: &str) -> Option<&str> {
    let end = uri.find(':')? + 1;
    (end > 1).then(|| &uri[..end])
}

/// Scheme and authority of a URI, where it has one.
fn origin(uri: &str) -> Option<&str> {
    let scheme = scheme(uri)?.len();
    let rest = uri[scheme..].strip_prefix("//")?;
    let end = scheme + 2 + rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(&uri[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Filter, Pattern};
    use crate::core::catalog::scene::backend;

    #[tokio::test]
    async fn a_uri_belongs_to_the_only_backend_that_has_others_like_it() {
        let terms = Arc::<Terms>::default();
        let allowing = Arc::new(Terms {
            resources: Filter {
                allow: vec![Pattern::new("mail:*")],
                deny: Vec::new(),
            },
            ..Terms::default()
        });
        let (a, b) = (backend("a"), backend("b"));
        let mut origins = Origins::default();
        for (uri, backend, terms) in [
            ("demo://resource/static/1", &a, &terms),
            ("demo://resource/{id}", &a, &terms),
            ("demo://other/1", &b, &terms),
            ("file:///a", &a, &terms),
            ("file:///b", &b, &terms),
            ("db://{table}/rows", &b, &terms),
            ("mail:1", &b, &allowing),
            ("nothing", &b, &terms),
        ] {
            origins.note(uri, backend, terms);
        }
        for (uri, owner) in [
            ("demo://resource/session/x.gz", Some("a")),
            ("demo://resource?x", Some("a")),
            ("demo://other/2", Some("b")),
            ("demo://third/2", None),
            ("file:///c", None),
            ("db://users/rows", Some("b")),
            ("mail:2", Some("b")),
            ("nothing", None),
            ("", None),
        ] {
            let found = origins.owner(uri).map(|backend| backend.name().as_str());
            assert_eq!(found, owner, "{uri}");
        }
    }
}
