//! The operator's requests, from the audit log of the API server.

use std::collections::BTreeMap;

use vmcp_cluster::{ApiServer, Request};

use crate::harness::OPERATOR;

/// What a request asks a right for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Access {
    /// The API group; empty for the core group.
    pub(crate) group: String,
    /// The resource, with its subresource if there is one.
    pub(crate) resource: String,
    /// The verb of the right. An apply that created its object also needed the right `create`.
    pub(crate) verb: String,
    /// HTTP status of the response.
    pub(crate) code: u64,
}

impl Access {
    pub(crate) fn is_write(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb.as_str())
    }
}

/// The requests of the operator in `namespace`, in the order of the audit log.
pub(crate) fn accesses(server: &ApiServer, namespace: &str) -> Vec<Access> {
    accesses_of(server, OPERATOR, namespace)
}

/// The requests of `user` in `namespace`, in the order of the audit log.
pub(crate) fn accesses_of(server: &ApiServer, user: &str, namespace: &str) -> Vec<Access> {
    let requests = server.requests_of(user).unwrap();
    let in_namespace = requests.iter().filter_map(|request| parse(request, namespace));
    in_namespace.collect()
}

/// The number of writes of each kind after the first `seen` requests in `namespace`, for example `patch deployments`.
pub(crate) fn writes_after(server: &ApiServer, namespace: &str, seen: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for access in &accesses(server, namespace)[seen..] {
        if access.is_write() {
            // An Event that is like an earlier one counts it up.
            let is_event = access.resource == "events";
            let verb = if is_event { "write" } else { &access.verb };
            let write = format!("{verb} {}", access.resource);
            *counts.entry(write).or_default() += 1;
        }
    }
    counts
}

/// A request for objects in `namespace`, or for the namespace itself.
fn parse(request: &Request, namespace: &str) -> Option<Access> {
    let path = request.uri.split('?').next()?;
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let (resource, subresource) = match rest {
        ["namespaces", of] if *of == namespace => ("namespaces", None),
        ["namespaces", of, resource, _, subresource] if *of == namespace => (*resource, Some(subresource)),
        ["namespaces", of, resource, ..] if *of == namespace => (*resource, None),
        _ => return None,
    };
    let subresource = subresource.map(|subresource| format!("/{subresource}"));
    Some(Access {
        group: group.to_owned(),
        resource: format!("{resource}{}", subresource.unwrap_or_default()),
        verb: request.verb.clone(),
        code: request.code,
    })
}
