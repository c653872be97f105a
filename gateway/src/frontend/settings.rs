//! What a client sets for its session: `logging/setLevel`, `resources/subscribe` and `resources/unsubscribe`.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::Frontend;
use super::call::refuse;
use super::post::Asked;
use super::respond::{self, Body};
use crate::backend::Backend;
use crate::core::{CallError, Routed, Subject};
use crate::session::{Session, SettingError};
use crate::telemetry::request_id::Current;
use crate::wire::jsonrpc::{self, Outcome, Request};
use crate::wire::{code, mapped, params};

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

pub(super) async fn set_log_level(session: &Session, request: &Request<'_>) -> Response<Body> {
    let level = match mapped::level(request.params) {
        Ok(level) => level,
        Err(fault) => return respond::params_fault(request.id, &fault),
    };
    if !LEVELS.contains(&&*level) {
        let message = format!("params: found level {level:?}; allowed are {}", LEVELS.join(", "));
        return respond::error(StatusCode::OK, Some(request.id), code::INVALID_PARAMS, &message);
    }
    match session.set_log_level(&level).await {
        Ok(()) => respond::result(request.id, b"{}"),
        Err(error) => not_set(request, &error),
    }
}

impl Frontend {
    pub(super) async fn subscribe(
        &self,
        session: &Session,
        body: &Bytes,
        asked: &Asked<'_>,
    ) -> Response<Body> {
        let request = asked.request;
        if !self.core.hot().aggregation.offers(Subject::Resource.capability()) {
            return respond::method_not_found(request);
        }
        let uri = match uri(request) {
            Ok(uri) => uri,
            Err(refusal) => return refusal,
        };
        let catalog = session.catalog_to_find(Subject::Resource, request.params).await;
        let routed = match self.core.route(&catalog, Subject::Resource, body, request) {
            Ok(routed) => session.reached(routed),
            Err(error) => return refuse(Subject::Resource, request, error),
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
            tracing::warn!(request_id = %Current, %error, "a subscription that was refused stays in the record");
        }
        answered.map_or_else(
            |error| refuse(Subject::Resource, request, error),
            |(answer, _)| answer,
        )
    }

    pub(super) async fn unsubscribe(
        &self,
        session: &Session,
        body: &Bytes,
        asked: &Asked<'_>,
    ) -> Response<Body> {
        let request = asked.request;
        let uri = match uri(request) {
            Ok(uri) => uri,
            Err(refusal) => return refusal,
        };
        // Where it was subscribed, which need not be where it is now.
        let catalog = self.core.catalog();
        let watched = session.watched(&uri).and_then(|name| catalog.backend(&name));
        let routed = match watched {
            Some(backend) => Routed {
                deadline: backend.deadline(None),
                backend,
                message: body.clone(),
            },
            None => {
                let offered = session.catalog_to_find(Subject::Resource, request.params).await;
                match self.core.route(&offered, Subject::Resource, body, request) {
                    Ok(routed) => routed,
                    Err(error) => return refuse(Subject::Resource, request, error),
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
            |error| refuse(Subject::Resource, request, error),
            |(answer, _)| answer,
        )
    }

    /// The backend's answer, and whether it is a result.
    async fn ask(
        &self,
        session: &Session,
        routed: Routed,
        asked: &Asked<'_>,
    ) -> Result<(Response<Body>, bool), CallError> {
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
        Ok((respond::whole_answer(message, account, asked.delivery), done))
    }
}

fn uri(request: &Request<'_>) -> Result<String, Response<Body>> {
    let (_, uri) = params::uri(request.params).map_err(|fault| respond::params_fault(request.id, &fault))?;
    if uri.len() <= MAX_URI_BYTES {
        return Ok(uri.into_owned());
    }
    let message = format!("params: the uri is longer than {MAX_URI_BYTES} bytes");
    Err(respond::error(
        StatusCode::OK,
        Some(request.id),
        code::INVALID_PARAMS,
        &message,
    ))
}

/// In a session that all clients share, nobody could say whose subscription it is.
fn not_subscribed(request: &Request<'_>, backend: &Backend) -> Response<Body> {
    let message = format!(
        "Resources of backend {} cannot be subscribed to: all clients share one session there (sharedSession)",
        backend.name()
    );
    respond::error(StatusCode::OK, Some(request.id), code::METHOD_NOT_FOUND, &message)
}

fn not_set(request: &Request<'_>, error: &SettingError) -> Response<Body> {
    match error {
        SettingError::Session(failure) => respond::session_error(Some(request.id), failure),
        SettingError::TooOften => respond::later(Some(request.id), &error.to_string()),
        SettingError::Full => respond::error(
            StatusCode::OK,
            Some(request.id),
            code::INVALID_PARAMS,
            &error.to_string(),
        ),
    }
}
