//! DELETE: the client terminates its session.

use http::{Response, StatusCode};

use super::Frontend;
use super::post::check_revision;
use crate::frontend::rejection::Rejection;
use crate::frontend::request_context::RequestContext;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::header_names;

impl Frontend {
    pub(super) async fn delete(&self, context: &RequestContext) -> Response<ResponseBody> {
        let Some(session_id) = context.headers.get(header_names::SESSION_ID) else {
            let message = "The header Mcp-Session-Id is missing; it names the session to end";
            return Rejection::InvalidSessionHeader.response(None, message);
        };
        if let Err(rejection) = check_revision(&context.headers, None) {
            return rejection;
        }
        match self
            .sessions
            .terminate(session_id.as_bytes(), &context.principal)
            .await
        {
            Ok(()) => response::text(StatusCode::OK, ""),
            Err(failure) => response::session_error(None, &failure),
        }
    }
}
