//! Whose URIs begin alike.
//!
//! A backend *owns* the URIs that begin as those do which it lists: with the same scheme and authority, or, where a URI has no authority, in
//! the same directory. Templates of other backends take none of them. So a backend can draw nothing to itself by a template that says more
//! about a URI, or that fits any. Where two backends list resources that begin alike, nobody owns them.
//!
//! A server may also have resources that begin like none that it lists: a tool makes one and gives a link to it, and only the session that
//! called the tool can read it. Such a URI, if no template fits, goes to the only backend that has anything of the same scheme and
//! authority, otherwise of the same scheme. Where several have some, guessing could give the wrong content.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::Backend;
use crate::config::ExposurePolicy;

/// How deep directories are told apart.
const MAX_DEPTH: usize = 32;

/// The backends whose URIs begin in some way, each once, in the order in which they were noted.
type Claims = HashMap<String, Vec<UriOwner>>;

/// For each beginning of a URI the backends that have such.
#[derive(Debug, Default)]
pub(super) struct UriOwners {
    /// The beginnings of the resources that are listed.
    listed: Claims,
    /// The schemes, and schemes with authorities, of these and of templates.
    all: Claims,
}

/// A backend that has URIs, and what it may offer of them.
#[derive(Clone, Debug)]
pub(super) struct UriOwner {
    pub(super) backend: Backend,
    pub(super) terms: Arc<ExposurePolicy>,
}

impl UriOwners {
    /// Notes that `backend` lists the resource `uri`.
    pub(super) fn note_resource(&mut self, uri: &str, backend: &Backend, terms: &Arc<ExposurePolicy>) {
        let uri = &*normal(uri);
        if let Some(beginning) = territories(uri).pop() {
            claim(&mut self.listed, beginning, backend, terms);
        }
        for beginning in origin(uri).into_iter().chain(scheme(uri)) {
            claim(&mut self.all, beginning, backend, terms);
        }
    }

    /// Notes that `backend` has a template whose text begins with `literal`, and goes on with an expression.
    pub(super) fn note_template(&mut self, literal: &str, backend: &Backend, terms: &Arc<ExposurePolicy>) {
        let literal = &*normal(literal);
        // An authority in which the expression begins is not known.
        let origin = origin(literal).filter(|origin| origin.len() < literal.len());
        for beginning in origin.into_iter().chain(scheme(literal)) {
            claim(&mut self.all, beginning, backend, terms);
        }
    }

    /// The backend that owns `uri` by what it lists.
    pub(super) fn owner(&self, uri: &str) -> Option<&UriOwner> {
        self.place(uri).and_then(|(_, owners)| only(owners))
    }

    /// The longest beginning of `uri` with which resources are listed, and who lists them.
    pub(super) fn place(&self, uri: &str) -> Option<(&str, &[UriOwner])> {
        let uri = &*normal(uri);
        let mut longest_first = territories(uri).into_iter().rev();
        let (beginning, owners) = longest_first.find_map(|beginning| self.listed.get_key_value(beginning))?;
        Some((beginning, owners))
    }

    /// The only backend that has anything of the scheme and authority of `uri`, or of its scheme.
    pub(super) fn only_relative(&self, uri: &str) -> Option<&UriOwner> {
        let uri = &*normal(uri);
        let mut beginnings = origin(uri).into_iter().chain(scheme(uri));
        only(beginnings.find_map(|beginning| self.all.get(beginning))?)
    }

    /// Whether another backend than `backend` has anything of the scheme of `uri`.
    pub(super) fn others_have(&self, uri: &str, backend: &Backend) -> bool {
        let owners = scheme(&normal(uri)).and_then(|scheme| self.all.get(scheme));
        let other = |owner: &UriOwner| owner.backend.name() != backend.name();
        owners.is_some_and(|owners| owners.iter().any(other))
    }

    /// The beginnings of listed resources, sorted, with those who list some.
    pub(super) fn listed(&self) -> Vec<(&str, &[UriOwner])> {
        sorted(&self.listed)
    }

    /// The schemes of which several backends have something, sorted, with those who do.
    pub(super) fn shared_schemes(&self) -> Vec<(&str, &[UriOwner])> {
        let mut shared = sorted(&self.all);
        shared.retain(|(beginning, owners)| owners.len() > 1 && !beginning.contains('/'));
        shared
    }

    /// Who lists resources in the nearest directory around `beginning`, if that is a directory, with its name.
    pub(super) fn around(&self, beginning: &str) -> Option<(&str, &[UriOwner])> {
        let mut around = territories(beginning);
        around.retain(|other| other.len() < beginning.len());
        let mut nearest = around.into_iter().rev();
        let (name, owners) = nearest.find_map(|other| self.listed.get_key_value(other))?;
        Some((name, owners))
    }
}

fn claim(claims: &mut Claims, beginning: &str, backend: &Backend, terms: &Arc<ExposurePolicy>) {
    let owner = || UriOwner {
        backend: backend.clone(),
        terms: Arc::clone(terms),
    };
    match claims.get_mut(beginning) {
        None => drop(claims.insert(beginning.to_owned(), vec![owner()])),
        // Each backend's are noted together.
        Some(owners)
            if owners
                .last()
                .is_some_and(|last| last.backend.name() == backend.name()) => {}
        Some(owners) => owners.push(owner()),
    }
}

fn only(owners: &[UriOwner]) -> Option<&UriOwner> {
    match owners {
        [owner] => Some(owner),
        _ => None,
    }
}

fn sorted(claims: &Claims) -> Vec<(&str, &[UriOwner])> {
    let mut sorted: Vec<_> = claims
        .iter()
        .map(|(beginning, owners)| (&**beginning, &**owners))
        .collect();
    sorted.sort_unstable_by_key(|(beginning, _)| *beginning);
    sorted
}

/// The beginnings of `uri` by which it can be owned, the longest last: scheme and authority, or else each directory.
fn territories(uri: &str) -> Vec<&str> {
    let Some(scheme) = scheme(uri) else {
        return Vec::new();
    };
    let has_authority = |origin: &&str| origin.len() > scheme.len() + 2;
    if let Some(origin) = origin(uri).filter(has_authority) {
        return vec![origin];
    }
    let path = uri
        .find(['?', '#'])
        .map_or(uri, |end| uri.get(..end).unwrap_or(uri));
    let ends = path.match_indices(['/', ':']).map(|(at, _)| at + 1);
    ends.take(MAX_DEPTH).filter_map(|end| path.get(..end)).collect()
}

/// A URI with its scheme and authority in lower case, in which they are compared (RFC 3986, 6.2.2.1).
pub(super) fn normal(uri: &str) -> Cow<'_, str> {
    let beginning = origin(uri).or_else(|| scheme(uri)).unwrap_or_default();
    if !beginning.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return uri.into();
    }
    let rest = uri.get(beginning.len()..).unwrap_or_default();
    Cow::Owned(beginning.to_ascii_lowercase() + rest)
}

/// The scheme of a URI, with its colon.
pub(super) fn scheme(uri: &str) -> Option<&str> {
    let end = uri.find(':')?;
    let scheme = uri.get(..end)?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme.then(|| uri.get(..=end)).flatten()
}

/// Scheme and authority of a URI, where it has one.
fn origin(uri: &str) -> Option<&str> {
    let scheme = scheme(uri)?.len();
    let rest = uri.get(scheme..)?.strip_prefix("//")?;
    uri.get(..scheme + 2 + rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::test_util::backend;

    fn noted(resources: &[(&str, &Backend)], templates: &[(&str, &Backend)]) -> UriOwners {
        let terms = Arc::default();
        let mut owners = UriOwners::default();
        for (uri, backend) in resources {
            owners.note_resource(uri, backend, &terms);
        }
        for (literal, backend) in templates {
            owners.note_template(literal, backend, &terms);
        }
        owners
    }

    fn name(owner: Option<&UriOwner>) -> Option<&str> {
        owner.map(|owner| owner.backend.name().as_str())
    }

    #[tokio::test]
    async fn listed_resources_own_their_authority_or_directory() {
        let (a, b) = (backend("a"), backend("b"));
        let owners = noted(
            &[
                ("db://main/1", &a),
                ("db://shared/1", &a),
                ("file:///srv/a/x", &a),
                ("file:///both/x", &a),
                ("urn:isbn:1", &a),
                ("mail:1", &a),
                ("DB://Upper/1", &a),
                ("db://other/1", &b),
                ("db://shared/2", &b),
                ("file:///srv/a/b/y?z=/q", &b),
                ("file:///both/y", &b),
                ("nothing", &b),
            ],
            &[("db://main/", &b), ("db://template/", &b)],
        );
        for (uri, owner) in [
            ("db://main/2/3", Some("a")),
            ("db://main?x", Some("a")),
            ("db://main", Some("a")),
            ("DB://MAIN/2", Some("a")),
            ("db://upper/2", Some("a")),
            ("db://main2/2", None),
            ("db://other/2", Some("b")),
            ("db://shared/3", None),
            ("db://template/1", None),
            ("file:///srv/a/y", Some("a")),
            ("file:///srv/a/c/y", Some("a")),
            ("file:///srv/a/b/z", Some("b")),
            ("file:///srv/c", None),
            ("file:///both/z", None),
            ("file:///srv/a/b?q=/srv", Some("a")),
            ("urn:isbn:2", Some("a")),
            ("urn:issn:2", None),
            ("mail:2", Some("a")),
            ("nothing", None),
            ("", None),
            ("://", None),
        ] {
            assert_eq!(name(owners.owner(uri)), owner, "{uri}");
        }
    }

    #[tokio::test]
    async fn uri_without_an_owner_goes_to_the_only_one_with_others_of_its_scheme() {
        let (a, b) = (backend("a"), backend("b"));
        let owners = noted(
            &[
                ("demo://resource/static/1", &a),
                ("file:///a", &a),
                ("demo://other/1", &b),
                ("file:///b", &b),
                ("nothing", &b),
            ],
            &[("demo://resource/", &a), ("db://", &b)],
        );
        for (uri, relative) in [
            ("demo://resource/session/x.gz", Some("a")),
            ("demo://other/2", Some("b")),
            ("demo://third/2", None),
            ("file:///c", None),
            ("db://users/rows", Some("b")),
            ("nothing", None),
            ("", None),
        ] {
            assert_eq!(name(owners.only_relative(uri)), relative, "{uri}");
        }
        assert!(owners.others_have("demo://x", &a) && owners.others_have("db://x", &a));
        assert!(!owners.others_have("db://x", &b) && !owners.others_have("x://x", &a));
    }

    #[tokio::test]
    async fn directory_within_another_is_known() {
        let (a, b) = (backend("a"), backend("b"));
        let owners = noted(
            &[("file:///x", &a), ("file:///srv/b/y", &b), ("db://main/1", &b)],
            &[],
        );
        let around = |beginning| owners.around(beginning).map(|(name, _)| name);
        assert_eq!(around("file:///srv/b/"), Some("file:///"));
        assert_eq!(around("file:///"), None);
        assert_eq!(around("db://main"), None);
    }
}
