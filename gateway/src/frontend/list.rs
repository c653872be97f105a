//! The lists. They are answered from memory, and wait for no backend.

use http::{Response, StatusCode};
use vmcp_crds::config::Capability;

use super::Frontend;
use super::respond::{self, Body};
use crate::backend::Kind;
use crate::wire::code;
use crate::wire::jsonrpc::Request;
use crate::wire::params;

impl Frontend {
    pub(super) fn list(&self, kind: Kind, request: &Request<'_>) -> Response<Body> {
        let snapshot = self.core.catalog().snapshot();
        let capability = match kind {
            Kind::Tools => Capability::Tools,
            Kind::Prompts => Capability::Prompts,
            Kind::Resources | Kind::Templates => Capability::Resources,
        };
        if !snapshot.aggregation.offers(capability) {
            return respond::method_not_found(request);
        }
        let cursor = match params::cursor(request.params) {
            Ok(cursor) => cursor,
            Err(fault) => return respond::params_fault(request.id, &fault),
        };
        match snapshot.listing(kind).page(cursor.as_deref()) {
            Ok(page) => respond::page(request.id, &page),
            Err(bad) => respond::error(
                StatusCode::OK,
                Some(request.id),
                code::INVALID_PARAMS,
                &format!("{}: {bad}", kind.method()),
            ),
        }
    }
}
