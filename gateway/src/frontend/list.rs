//! The lists. They are answered from memory, and wait for no backend but one that lists to single sessions.

use http::{Response, StatusCode};
use vmcp_crds::config::Capability;

use super::Frontend;
use super::respond::{self, Body};
use crate::backend::Kind;
use crate::core::catalog::NoPage;
use crate::session::Session;
use crate::wire::code;
use crate::wire::jsonrpc::Request;
use crate::wire::params;

impl Frontend {
    pub(super) async fn list(&self, kind: Kind, session: &Session, request: &Request<'_>) -> Response<Body> {
        let capability = match kind {
            Kind::Tools => Capability::Tools,
            Kind::Prompts => Capability::Prompts,
            Kind::Resources | Kind::Templates => Capability::Resources,
        };
        if !self.core.hot().aggregation.offers(capability) {
            return respond::method_not_found(request);
        }
        let cursor = match params::cursor(request.params) {
            Ok(cursor) => cursor,
            Err(fault) => return respond::params_fault(request.id, &fault),
        };
        let goes_on = cursor.as_ref().is_some_and(|cursor| !cursor.is_empty());
        let snapshot = session.catalog_to_list(kind, goes_on).await;
        match snapshot.listing(kind).page(cursor.as_deref()) {
            Ok(page) => respond::page(request.id, &page),
            Err(NoPage::Cursor(bad)) => respond::error(
                StatusCode::OK,
                Some(request.id),
                code::INVALID_PARAMS,
                &format!("{}: {bad}", kind.method()),
            ),
            Err(NoPage::NoRoom) => respond::no_room_for(request.id),
        }
    }
}
