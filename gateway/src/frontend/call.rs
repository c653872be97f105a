//! `tools/call`, `prompts/get`, `resources/read`, `completion/complete`: what came of them, as the client sees it.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::Frontend;
use super::relay;
use super::respond::{self, Body};
use super::tools::{explain, tool_error};
use crate::backend::Answer;
use crate::core::{CallError, Subject};
use crate::session::store::Unavailable;
use crate::session::{Session, SessionError};
use crate::wire::code;
use crate::wire::jsonrpc::{self, Request};

/// The answer where nobody has a completion to offer.
const NO_COMPLETION: &[u8] = br#"{"completion":{"values":[],"total":0,"hasMore":false}}"#;

impl Frontend {
    pub(super) async fn call(
        &self,
        subject: Subject,
        session: &Session,
        body: &Bytes,
        request: &Request<'_>,
    ) -> Response<Body> {
        if !self.core.hot().aggregation.offers(subject.capability()) {
            return respond::method_not_found(request);
        }
        match self.core.call(session, subject, body, request).await {
            Ok((_, Answer::Whole(message))) => respond::json(StatusCode::OK, message),
            Ok((_, Answer::Streaming(first, rest))) => respond::streaming_json(relay::bytes(first, rest)),
            Ok((backend, Answer::Events(events))) => respond::events(relay::events(
                backend.name().clone(),
                events,
                request.id.to_owned(),
            )),
            Err(error) => refuse(subject, request, error),
        }
    }
}

fn refuse(subject: Subject, request: &Request<'_>, error: CallError) -> Response<Body> {
    let respond_with =
        |code: i32, message: &str| respond::error(StatusCode::OK, Some(request.id), code, message);
    match error {
        CallError::Params(fault) => respond::params_fault(request.id, &fault),
        CallError::Unknown {
            subject: Subject::Resource,
            name,
        } => {
            let message = format!("Resource not found: {name}");
            let data = serde_json::json!({"uri": name});
            let code = code::RESOURCE_NOT_FOUND;
            let message = jsonrpc::error_with_data(Some(request.id), code, &message, Some(&data));
            respond::json(StatusCode::OK, message)
        }
        error @ CallError::Unknown { .. } => respond_with(code::INVALID_PARAMS, &error.to_string()),
        error @ CallError::NotYet(_) => respond_with(code::INTERNAL, &error.to_string()),
        CallError::NoCompletion(_) => respond::result(request.id, NO_COMPLETION),
        CallError::Backend { backend, error } => {
            tracing::warn!(%backend, %error, "a call failed");
            let text = explain(backend.as_str(), &error);
            match subject {
                Subject::Tool => tool_error(request, &text),
                Subject::Prompt | Subject::Resource | Subject::Completion => {
                    respond_with(code::INTERNAL, &text)
                }
            }
        }
        CallError::Gone => respond::session_error(Some(request.id), &SessionError::NotFound),
        CallError::Unavailable(reason) => {
            respond::store_unavailable(Some(request.id), &Unavailable::new(reason))
        }
    }
}
