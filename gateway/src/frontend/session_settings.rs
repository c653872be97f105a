//! Session settings: `logging/setLevel`, `resources/subscribe` and `resources/unsubscribe`.

use bytes::Bytes;
use http::Response;

use super::Frontend;
use super::call_error::error_response;
use super::post::SessionRequest;
use crate::backend::Backend;
use crate::core::{CallError, CallSubject, Caller as _, ClientView as _, RoutedCall, UpstreamOpener};
use crate::frontend::rejection::Rejection;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::{Outcome, Request};
use crate::mcp::{correlation, params};
use crate::session::{Session, SettingError};
use crate::telemetry::request_id::CurrentRequestId;

/// The log levels, from the least to the most severe (specification, server/utilities/logging).
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

/// Longest URI that is stored with a session.
const MAX_URI_BYTES: usize = 2048;

pub(super) async fn set_log_level(
    session: &Session,
    incoming: &SessionRequest<'_>,
) -> Response<ResponseBody> {
    let request = incoming.request;
    let level = match correlation::level(request.params) {
        Ok(level) => level,
        Err(fault) => return response::invalid_params(request.id, &fault),
    };
    if !LEVELS.contains(&&*level) {
        let message = format!("params: found level {level:?}; allowed are {}", LEVELS.join(", "));
        return Rejection::InvalidParams.response(Some(request.id), &message);
    }
    match session.set_log_level(&level, &incoming.context.passed).await {
        Ok(()) => response::result(request.id, b"{}"),
        Err(error) => setting_failed(request, &error),
    }
}

impl Frontend {
    pub(super) async fn subscribe(
        &self,
        session: &Session,
        body: &Bytes,
        incoming: &SessionRequest<'_>,
    ) -> Response<ResponseBody> {
        let (context, request) = (incoming.context, incoming.request);
        let capability = CallSubject::Resource.capability();
        if !context.hot.aggregation.offers(capability) {
            return response::method_not_found(request);
        }
        let uri = match uri(request) {
            Ok(uri) => uri,
            Err(rejection) => return rejection,
        };
        let catalog = session
            .catalog_to_find(CallSubject::Resource, request.params, &context.passed)
            .await;
        let routed = match self.core.route(&catalog, CallSubject::Resource, body, request) {
            Ok(routed) => session.prepare_call(routed, &context.passed),
            Err(error) => return error_response(CallSubject::Resource, request, error),
        };
        if routed.backend.shares_session() {
            return subscription_unsupported(request, &routed.backend);
        }
        if let Err(error) = session.subscribe(&routed.backend, &uri).await {
            return setting_failed(request, &error);
        }
        let answered = self.call_backend(session, routed, incoming).await;
        if !matches!(answered, Ok((_, true)))
            && let Err(error) = session.unsubscribe(&uri).await
        {
            tracing::warn!(request_id = %CurrentRequestId, %error, "failed to remove a rejected subscription from the session");
        }
        answered.map_or_else(
            |error| error_response(CallSubject::Resource, request, error),
            |(answer, _)| answer,
        )
    }

    pub(super) async fn unsubscribe(
        &self,
        session: &Session,
        body: &Bytes,
        incoming: &SessionRequest<'_>,
    ) -> Response<ResponseBody> {
        let (context, request) = (incoming.context, incoming.request);
        let uri = match uri(request) {
            Ok(uri) => uri,
            Err(rejection) => return rejection,
        };
        // Unsubscribes at the backend that holds the subscription, even if the resource has moved since.
        let catalog = self.core.catalog();
        let watched = session
            .subscribed_backend(&uri)
            .and_then(|name| catalog.backend(&name));
        let routed = match watched {
            Some(backend) => RoutedCall {
                deadline: backend.deadline(None),
                backend,
                message: body.clone(),
            },
            None => {
                let offered = session
                    .catalog_to_find(CallSubject::Resource, request.params, &context.passed)
                    .await;
                match self.core.route(&offered, CallSubject::Resource, body, request) {
                    Ok(routed) => routed,
                    Err(error) => return error_response(CallSubject::Resource, request, error),
                }
            }
        };
        if routed.backend.shares_session() {
            return subscription_unsupported(request, &routed.backend);
        }
        if let Err(error) = session.unsubscribe(&uri).await {
            return setting_failed(request, &error);
        }
        let routed = session.prepare_call(routed, &context.passed);
        let answered = self.call_backend(session, routed, incoming).await;
        answered.map_or_else(
            |error| error_response(CallSubject::Resource, request, error),
            |(answer, _)| answer,
        )
    }

    /// Sends the request to the backend. Returns the response, and whether it is a result.
    async fn call_backend(
        &self,
        upstreams: &impl UpstreamOpener,
        routed: RoutedCall,
        incoming: &SessionRequest<'_>,
    ) -> Result<(Response<ResponseBody>, bool), CallError> {
        let routed = incoming.upstream_id.apply(routed)?;
        let id = incoming.upstream_id.get(incoming.request.id);
        incoming.upstream_id.record_sent(routed.deadline.at());
        let reply = self.core.send(upstreams, &routed, id).await;
        let reply = reply.inspect_err(|error| incoming.upstream_id.record_failure(error))?;
        let message = self.read_whole(reply.answer, &routed, incoming).await;
        drop(reply.admitted);
        let message = message?;
        let parsed = jsonrpc::Response::parse(&message);
        let done = parsed.is_ok_and(|response| matches!(response.outcome, Outcome::Result(_)));
        let account = routed.backend.account();
        Ok((
            response::complete_message(message, account, incoming.delivery),
            done,
        ))
    }
}

fn uri(request: &Request<'_>) -> Result<String, Response<ResponseBody>> {
    let (_, uri) =
        params::uri(request.params).map_err(|fault| response::invalid_params(request.id, &fault))?;
    if uri.len() <= MAX_URI_BYTES {
        return Ok(uri.into_owned());
    }
    let message = format!("params: the uri is longer than {MAX_URI_BYTES} bytes");
    Err(Rejection::InvalidParams.response(Some(request.id), &message))
}

/// Subscriptions need a session of their own: in a shared session, updates could not be assigned to clients.
fn subscription_unsupported(request: &Request<'_>, backend: &Backend) -> Response<ResponseBody> {
    let message = format!(
        "Resources of backend {} cannot be subscribed to: all clients share one session there (sharedSession)",
        backend.name()
    );
    Rejection::MethodNotFound.response(Some(request.id), &message)
}

fn setting_failed(request: &Request<'_>, error: &SettingError) -> Response<ResponseBody> {
    match error {
        SettingError::Session(failure) => response::session_error(Some(request.id), failure),
        SettingError::TooOften => Rejection::LimitReached.response(Some(request.id), &error.to_string()),
        SettingError::Full => Rejection::InvalidParams.response(Some(request.id), &error.to_string()),
    }
}
