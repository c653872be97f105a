//! Ownership of URIs by their prefix.
//!
//! A backend *owns* the URIs that share a prefix with a resource that it lists: the scheme and authority or, for URIs without authority,
//! the directory. Templates of other backends do not match these URIs. So a backend cannot take over URIs with a more literal template, or
//! with one that matches everything. If two backends list resources with the same prefix, neither owns it.
//!
//! A server may also have resources under a prefix that it does not list. For example, a tool creates a resource and returns a link that
//! only the session of the call can read. If no template matches such a URI, it goes to the only backend that has anything with the same
//! scheme and authority, otherwise with the same scheme. If several have, guessing could return wrong content, and the URI is unknown.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::Backend;
use crate::config::ExposurePolicy;

/// Maximum depth of directories that are distinguished.
const MAX_DEPTH: usize = 32;

/// The backends that have URIs with a prefix, each once, in the order of the configuration.
type Claims = HashMap<String, Vec<UriOwner>>;

/// Index from URI prefixes to the backends that have such URIs.
#[derive(Debug, Default)]
pub(super) struct UriOwners {
    /// Prefixes of listed resources, by which they are owned.
    listed: Claims,
    /// Schemes, and schemes with authority, of listed resources and of templates.
    all: Claims,
}

/// A backend that has URIs, and the policy that limits which it may serve.
#[derive(Clone, Debug)]
pub(super) struct UriOwner {
    pub(super) backend: Backend,
    pub(super) policy: Arc<ExposurePolicy>,
}

impl UriOwners {
    /// Records that `backend` lists the resource `uri`.
    pub(super) fn note_resource(&mut self, uri: &str, backend: &Backend, policy: &Arc<ExposurePolicy>) {
        let uri = &*normalize(uri);
        if let Some(beginning) = ownership_prefixes(uri).pop() {
            add_claim(&mut self.listed, beginning, backend, policy);
        }
        for beginning in origin(uri).into_iter().chain(scheme(uri)) {
            add_claim(&mut self.all, beginning, backend, policy);
        }
    }

    /// Records a template of `backend` whose text before the first expression is `literal`.
    pub(super) fn note_template(&mut self, literal: &str, backend: &Backend, policy: &Arc<ExposurePolicy>) {
        let literal = &*normalize(literal);
        // The expression begins inside the authority, so the authority is not known.
        let origin = origin(literal).filter(|origin| origin.len() < literal.len());
        for beginning in origin.into_iter().chain(scheme(literal)) {
            add_claim(&mut self.all, beginning, backend, policy);
        }
    }

    /// The backend that owns `uri`, if exactly one does.
    pub(super) fn owner(&self, uri: &str) -> Option<&UriOwner> {
        self.nearest_listed_prefix(uri)
            .and_then(|(_, owners)| sole_owner(owners))
    }

    /// The longest prefix of `uri` that listed resources have, and the backends that list them.
    pub(super) fn nearest_listed_prefix(&self, uri: &str) -> Option<(&str, &[UriOwner])> {
        let uri = &*normalize(uri);
        let mut longest_first = ownership_prefixes(uri).into_iter().rev();
        let (beginning, owners) = longest_first.find_map(|beginning| self.listed.get_key_value(beginning))?;
        Some((beginning, owners))
    }

    /// The only backend with anything of the scheme and authority of `uri`, otherwise of its scheme.
    pub(super) fn sole_user_of_scheme(&self, uri: &str) -> Option<&UriOwner> {
        let uri = &*normalize(uri);
        let mut beginnings = origin(uri).into_iter().chain(scheme(uri));
        sole_owner(beginnings.find_map(|beginning| self.all.get(beginning))?)
    }

    /// Whether a backend other than `backend` has anything of the scheme of `uri`.
    pub(super) fn has_other_users_of_scheme(&self, uri: &str, backend: &Backend) -> bool {
        let owners = scheme(&normalize(uri)).and_then(|scheme| self.all.get(scheme));
        let other = |owner: &UriOwner| owner.backend.name() != backend.name();
        owners.is_some_and(|owners| owners.iter().any(other))
    }

    /// Prefixes of listed resources and their backends, sorted.
    pub(super) fn listed(&self) -> Vec<(&str, &[UriOwner])> {
        sorted(&self.listed)
    }

    /// Schemes that several backends use, sorted.
    pub(super) fn shared_schemes(&self) -> Vec<(&str, &[UriOwner])> {
        let mut shared = sorted(&self.all);
        shared.retain(|(beginning, owners)| owners.len() > 1 && !beginning.contains('/'));
        shared
    }

    /// The nearest directory above the directory `beginning` in which resources are listed, and the backends that list them.
    pub(super) fn enclosing_directory(&self, beginning: &str) -> Option<(&str, &[UriOwner])> {
        let mut around = ownership_prefixes(beginning);
        around.retain(|other| other.len() < beginning.len());
        let mut nearest = around.into_iter().rev();
        let (name, owners) = nearest.find_map(|other| self.listed.get_key_value(other))?;
        Some((name, owners))
    }
}

fn add_claim(claims: &mut Claims, beginning: &str, backend: &Backend, policy: &Arc<ExposurePolicy>) {
    let owner = || UriOwner {
        backend: backend.clone(),
        policy: Arc::clone(policy),
    };
    match claims.get_mut(beginning) {
        None => drop(claims.insert(beginning.to_owned(), vec![owner()])),
        // All URIs of one backend are recorded in sequence, so only the last can be equal.
        Some(owners)
            if owners
                .last()
                .is_some_and(|last| last.backend.name() == backend.name()) => {}
        Some(owners) => owners.push(owner()),
    }
}

fn sole_owner(owners: &[UriOwner]) -> Option<&UriOwner> {
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

/// The prefixes by which `uri` can be owned, longest last: scheme and authority, otherwise each directory.
fn ownership_prefixes(uri: &str) -> Vec<&str> {
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

/// Lowercases scheme and authority, which compare without case (RFC 3986, 6.2.2.1).
pub(super) fn normalize(uri: &str) -> Cow<'_, str> {
    let beginning = origin(uri).or_else(|| scheme(uri)).unwrap_or_default();
    if !beginning.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return uri.into();
    }
    let rest = uri.get(beginning.len()..).unwrap_or_default();
    Cow::Owned(beginning.to_ascii_lowercase() + rest)
}

/// The scheme of a URI, including the colon.
pub(super) fn scheme(uri: &str) -> Option<&str> {
    let end = uri.find(':')?;
    let scheme = uri.get(..end)?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme.then(|| uri.get(..=end)).flatten()
}

/// Scheme and authority of a URI, if it has an authority.
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
        let policy = Arc::default();
        let mut owners = UriOwners::default();
        for (uri, backend) in resources {
            owners.note_resource(uri, backend, &policy);
        }
        for (literal, backend) in templates {
            owners.note_template(literal, backend, &policy);
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

    /// A URI without an owner goes to the only backend with other URIs of its authority, otherwise of its scheme.
    #[tokio::test]
    async fn unowned_uri_goes_to_the_sole_user_of_its_scheme() {
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
            assert_eq!(name(owners.sole_user_of_scheme(uri)), relative, "{uri}");
        }
        assert!(
            owners.has_other_users_of_scheme("demo://x", &a)
                && owners.has_other_users_of_scheme("db://x", &a)
        );
        assert!(
            !owners.has_other_users_of_scheme("db://x", &b) && !owners.has_other_users_of_scheme("x://x", &a)
        );
    }

    #[tokio::test]
    async fn nearest_enclosing_directory_is_found() {
        let (a, b) = (backend("a"), backend("b"));
        let owners = noted(
            &[("file:///x", &a), ("file:///srv/b/y", &b), ("db://main/1", &b)],
            &[],
        );
        let around = |beginning| owners.enclosing_directory(beginning).map(|(name, _)| name);
        assert_eq!(around("file:///srv/b/"), Some("file:///"));
        assert_eq!(around("file:///"), None);
        assert_eq!(around("db://main"), None);
    }
}
