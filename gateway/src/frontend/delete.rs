//! DELETE: the client terminates its session.

use http::{HeaderMap, Response, StatusCode};

use super::Frontend;
use super::post::check_revision;
use crate::core::Principal;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::{error_code, header_names};

impl Frontend {
    pub(super) async fn delete(&self, headers: &HeaderMap, principal: &Principal) -> Response<ResponseBody> {
        let Some(session_id) = headers.get(header_names::SESSION_ID) else {
            let message = "The header Mcp-Session-Id is missing; it names the session to end";
            return response::error(
                StatusCode::BAD_REQUEST,
                None,
                error_code::INVALID_REQUEST,
                message,
            );
        };
        if let Err(rejection) = check_revision(headers, None) {
            return rejection;
        }
        match self.sessions.terminate(session_id.as_bytes(), principal).await {
            Ok(()) => response::text(StatusCode::OK, ""),
            Err(failure) => response::session_error(None, &failure),
        }
    }
}
