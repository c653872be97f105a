//! DELETE: the client ends its session.

use http::{HeaderMap, Response, StatusCode};

use super::Frontend;
use super::post::check_revision;
use super::respond::{self, Body};
use crate::core::Principal;
use crate::wire::{code, header};

impl Frontend {
    pub(super) async fn delete(&self, headers: &HeaderMap, principal: &Principal) -> Response<Body> {
        let Some(session_id) = headers.get(header::SESSION_ID) else {
            let message = "The header Mcp-Session-Id is missing; it names the session to end";
            return respond::error(StatusCode::BAD_REQUEST, None, code::INVALID_REQUEST, message);
        };
        if let Err(refusal) = check_revision(headers, None) {
            return refusal;
        }
        match self.sessions.terminate(session_id.as_bytes(), principal).await {
            Ok(()) => respond::text(StatusCode::OK, ""),
            Err(failure) => respond::session_error(None, &failure),
        }
    }
}
