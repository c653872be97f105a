//! What a client sets for its session: `logging/setLevel`, `resources/subscribe` and `resources/unsubscribe`.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::Frontend;
use super::call::refuse;
use super::post::RequestOutcome;
use crate::backend::Backend;
use crate::core::{CallError, CallSubject, RoutedCall};
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::{Outcome, Request};
use crate::mcp::{correlation, error_code, params};
use crate::session::{Session, SettingError};
use crate::telemetry::request_id::CurrentRequestId;

/// The levels there are, from the least to the most severe (specification, server/utilities/logging).
const LEVELS: [&str; 8] = [
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
];

/// The longest URI that is stored with a session.
const MAX_URI_BYTES: usize = 2048;

pub(super) async fn set_log_level(session: &Session, request: &Request<'_>) -> Response<ResponseBody> {
    let level = match correlation::level(request.params) {
        Ok(level) => level,
        Err(fault) => return response::params_fault(request.id, &fault),
    };
    if !LEVELS.contains(&&*level) {
        let message = format!("params: found level {level:?}; allowed are {}", LEVELS.join(", "));
        return response::error(
            StatusCode::OK,
            Some(request.id),
            error_code::INVALID_PARAMS,
            &message,
        );
    }
    match session.set_log_level(&level).await {
        Ok(()) => response::result(request.id, b"{}"),
        Err(error) => not_set(request, &error),
    }
}

impl Frontend {
    pub(super) async fn subscribe(
        &self,
        session: &Session,
        body: &Bytes,
        asked: &RequestOutcome<'_>,
    ) -> Response<ResponseBody> {
        let request = asked.request;
        if !self
            .core
            .hot()
            .aggregation
            .offers(CallSubject::Resource.capability())
        {
            return response::method_not_found(request);
        }
        let uri = match uri(request) {
            Ok(uri) => uri,
            Err(refusal) => return refusal,
        };
        let catalog = session
            .catalog_to_find(CallSubject::Resource, request.params)
            .await;
        let routed = match self.core.route(&catalog, CallSubject::Resource, body, request) {
            Ok(routed) => session.reached(routed),
            Err(error) => return refuse(CallSubject::Resource, request, error),
        };
        if routed.backend.shares_session() {
            return not_subscribed(request, &routed.backend);
        }
        if let Err(error) = session.watch(&routed.backend, &uri).await {
            return not_set(request, &error);
        }
        let answered = self.ask(session, routed, asked).await;
        if !matches!(answered, Ok((_, true)))
            && let Err(error) = session.unwatch(&uri).await
        {
            tracing::warn!(request_id = %CurrentRequestId, %error, "a subscription that was refused stays in the record");
        }
        answered.map_or_else(
            |error| refuse(CallSubject::Resource, request, error),
            |(answer, _)| answer,
        )
    }

    pub(super) async fn unsubscribe(
        &self,
        session: &Session,
        body: &Bytes,
        asked: &RequestOutcome<'_>,
    ) -> Response<ResponseBody> {
        let request = asked.request;
        let uri = match uri(request) {
            Ok(uri) => uri,
            Err(refusal) => return refusal,
        };
        // Where it was subscribed, which need not be where it is now.
        let catalog = self.core.catalog();
        let watched = session.watched(&uri).and_then(|name| catalog.backend(&name));
        let routed = match watched {
            Some(backend) => RoutedCall {
                deadline: backend.deadline(None),
                backend,
                message: body.clone(),
            },
            None => {
                let offered = session
                    .catalog_to_find(CallSubject::Resource, request.params)
                    .await;
                match self.core.route(&offered, CallSubject::Resource, body, request) {
                    Ok(routed) => routed,
                    Err(error) => return refuse(CallSubject::Resource, request, error),
                }
            }
        };
        if routed.backend.shares_session() {
            return not_subscribed(request, &routed.backend);
        }
        if let Err(error) = session.unwatch(&uri).await {
            return not_set(request, &error);
        }
        let answered = self.ask(session, session.reached(routed), asked).await;
        answered.map_or_else(
            |error| refuse(CallSubject::Resource, request, error),
            |(answer, _)| answer,
        )
    }

    /// The backend's answer, and whether it is a result.
    async fn ask(
        &self,
        session: &Session,
        routed: RoutedCall,
        asked: &RequestOutcome<'_>,
    ) -> Result<(Response<ResponseBody>, bool), CallError> {
        let routed = asked.upstream_id.apply(routed)?;
        let id = asked.upstream_id.get(asked.request.id);
        asked.upstream_id.sent(routed.deadline.at());
        let reply = self.core.send(session, &routed, id).await;
        let reply = reply.inspect_err(|error| asked.upstream_id.failed(error))?;
        let message = self.whole(reply.answer, &routed, asked).await;
        drop(reply.admitted);
        let message = message?;
        let parsed = jsonrpc::Response::parse(&message);
        let done = parsed.is_ok_and(|response| matches!(response.outcome, Outcome::Result(_)));
        let account = routed.backend.account();
        Ok((response::whole_answer(message, account, asked.delivery), done))
    }
}

fn uri(request: &Request<'_>) -> Result<String, Response<ResponseBody>> {
    let (_, uri) = params::uri(request.params).map_err(|fault| response::params_fault(request.id, &fault))?;
    if uri.len() <= MAX_URI_BYTES {
        return Ok(uri.into_owned());
    }
    let message = format!("params: the uri is longer than {MAX_URI_BYTES} bytes");
    Err(response::error(
        StatusCode::OK,
        Some(request.id),
        error_code::INVALID_PARAMS,
        &message,
    ))
}

/// In a session that all clients share, nobody could say whose subscription it is.
fn not_subscribed(request: &Request<'_>, backend: &Backend) -> Response<ResponseBody> {
    let message = format!(
        "Resources of backend {} cannot be subscribed to: all clients share one session there (sharedSession)",
        backend.name()
    );
    response::error(
        StatusCode::OK,
        Some(request.id),
        error_code::METHOD_NOT_FOUND,
        &message,
    )
}

fn not_set(request: &Request<'_>, error: &SettingError) -> Response<ResponseBody> {
    match error {
        SettingError::Session(failure) => response::session_error(Some(request.id), failure),
        SettingError::TooOften => response::later(Some(request.id), &error.to_string()),
        SettingError::Full => response::error(
            StatusCode::OK,
            Some(request.id),
            error_code::INVALID_PARAMS,
            &error.to_string(),
        ),
    }
}
