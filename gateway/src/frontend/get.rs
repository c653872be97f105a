//! GET: opens the session's own stream, or resumes the response stream of a call.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use http::Response;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Frontend;
use super::keep_alive::keep_alive;
use super::relay::{Relay, RelayScope, RelayedCall};
use crate::budget::delivery::Delivery;
use crate::catalog::ListVersions;
use crate::core::{CallError, Caller as _, Core};
use crate::frontend::access_log::Resumed;
use crate::frontend::gateway_events;
use crate::frontend::header_checks::{accepts, filled};
use crate::frontend::list_changed_throttle::ListChangedThrottle;
use crate::frontend::rejection::Rejection;
use crate::frontend::request_context::RequestContext;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::frontend::rewrite::{MessageSource, RewrittenMessage};
use crate::frontend::upstream_request_id::UpstreamRequestId;
use crate::mcp::{error_code, header_names, jsonrpc};
use crate::runtime::drain::Drain;
use crate::session::{BrokenCall, NoUpstreamSession, ResumePoint, Session, SessionStreamEvent};

impl Frontend {
    pub(super) async fn get(&self, context: &RequestContext) -> Response<ResponseBody> {
        if !accepts(&context.headers, &header_names::EVENT_STREAM) {
            let message = "Accept must list text/event-stream";
            return Rejection::NotAcceptable.response(None, message);
        }
        let session = match self.session(context, None).await {
            Ok(session) => session,
            Err(rejection) => return rejection,
        };
        // Each own stream is a write in the store that every replica is notified of; each resumed call is a
        // stream at a backend.
        if !session.can_open_stream() {
            let message = "The session opens too many streams in a second; try again";
            return Rejection::LimitReached.response(None, message);
        }
        let Some(last) = filled(&context.headers, header_names::LAST_EVENT_ID) else {
            return self.open_session_stream(context, &session, None).await;
        };
        match session.read_event_id(last.as_bytes()) {
            Some(ResumePoint::OwnStream(positions)) => {
                self.open_session_stream(context, &session, Some(positions)).await
            }
            Some(ResumePoint::Call(call)) => {
                self.resume_call_stream(context, &session, &call, last.as_bytes())
                    .await
            }
            None => {
                let message = "The header Last-Event-ID names no event of this session";
                Rejection::NotIssuedHere.response(None, message)
            }
        }
    }

    async fn open_session_stream(
        &self,
        context: &RequestContext,
        session: &Session,
        positions: Option<crate::session::StreamPositions>,
    ) -> Response<ResponseBody> {
        let resumed = positions.is_some();
        let session_stream = match session.listen(positions, &context.passed).await {
            Ok(opened) => opened,
            Err(failure) => return response::session_error(None, &failure),
        };
        let changes = self.core.catalog().changes();
        // A list may have changed while the client was disconnected.
        let reported = if resumed || session_stream.taken_over() {
            ListVersions::default()
        } else {
            *changes.borrow()
        };
        let start = gateway_events::is_empty_data_allowed(session.revision()).then(|| session_stream.start());
        let first = start.flatten().map(|id| gateway_events::priming(&id));
        let delivery = Delivery::default();
        let get = GetStream {
            core: self.core.clone(),
            session: session.clone(),
            drain: self.drain.clone(),
            events: Box::pin(session_stream.events()),
            changes,
            reported,
            throttle: ListChangedThrottle::default(),
            delivery: delivery.clone(),
        };
        let events = stream::iter(first).chain(get.stream());
        response::with_delivery(delivery, response::events(keep_alive(session.clone(), events)))
    }

    /// Resumes a call's stream after the last event that the client has seen. The stream ends with the
    /// response or with an error for the call.
    async fn resume_call_stream(
        &self,
        context: &RequestContext,
        session: &Session,
        call: &BrokenCall,
        event_id: &[u8],
    ) -> Response<ResponseBody> {
        let failed = |reason: &str| {
            let message = format!(
                "The rest of the answer of backend {} is lost: {reason}. The call may have been executed; check before trying again.",
                call.backend
            );
            let error = jsonrpc::error(Some(&call.request), error_code::INTERNAL, &message);
            let events = stream::iter([gateway_events::message(error, None)]);
            response::events(keep_alive(session.clone(), events))
        };
        if call.event.is_none() {
            return failed("the backend does not name its events, so that its stream cannot be resumed");
        }
        match session.upstream_of_call(call, &context.passed).await {
            Ok((backend, upstream)) => {
                // A resumed call counts against the limits of the process, the session and the backend, as
                // the call itself does.
                let Some(permit) = self
                    .admission
                    .try_acquire(context.hot.limits.requests_in_flight, false)
                else {
                    return response::overloaded(None);
                };
                let Ok(running) = session.resume_call(event_id, context.session_request_limit()) else {
                    return response::session_overloaded(&call.request);
                };
                let mut admitted = match backend.admit().await {
                    Ok(admitted) => admitted,
                    Err(error) => {
                        let error = CallError::sent(&backend, error);
                        return Rejection::BackendOverloaded.response(None, &format!("The {error}"));
                    }
                };
                // The outcome of a resumed stream says nothing about the health of the backend.
                admitted.undecided();
                let superseded = running.superseded();
                let call_at_backend = RelayedCall {
                    deadline: backend.deadline_of_any(),
                    backend,
                    upstream,
                    id: call.request.clone(),
                    upstream_id: UpstreamRequestId::unchanged(),
                    subject: None,
                };
                let delivery = Delivery::default();
                let scope = RelayScope {
                    core: self.core.clone(),
                    hot: Arc::clone(&context.hot),
                    caller: session.clone(),
                    session_end: running.session_end(),
                };
                let relay = Relay::new(scope, call_at_backend, delivery.clone());
                let events = relay.resume_after(call.event.clone()).take_until(superseded);
                let events = response::events(keep_alive(session.clone(), events));
                let mut response = response::with_delivery(delivery, events);
                response.extensions_mut().insert(Resumed);
                response::hold_until_sent(response, (permit, running, admitted))
            }
            Err(NoUpstreamSession::Session(failure)) => response::session_error(None, &failure),
            Err(lost) => failed(&lost.to_string()),
        }
    }
}

/// The session's own stream, as one client receives it.
struct GetStream {
    core: Core,
    session: Session,
    drain: Drain,
    events: Pin<Box<dyn Stream<Item = SessionStreamEvent> + Send>>,
    changes: watch::Receiver<ListVersions>,
    /// The list versions that the client has been notified of.
    reported: ListVersions,
    throttle: ListChangedThrottle,
    delivery: Delivery,
}

impl GetStream {
    fn stream(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(Some(self), |get| async move {
            let mut get = get?;
            loop {
                let pause = get.throttle.pause(Instant::now());
                if pause.is_none()
                    && let Some(list_notifications) = get.list_notifications()
                {
                    get.throttle.record(Instant::now());
                    return Some((list_notifications, Some(get)));
                }
                tokio::select! {
                    biased;
                    () = get.drain.begun() => return Some((gateway_events::closing(), None)),
                    event = get.events.next() => {
                        let bytes = get.encode(&event?);
                        if !bytes.is_empty() {
                            return Some((bytes, Some(get)));
                        }
                    }
                    // Changes during the pause are reported after it.
                    () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                    changed = get.changes.changed(), if pause.is_none() => {
                        if changed.is_err() {
                            return None;
                        }
                    }
                }
            }
        })
    }

    /// The notifications of list changes that the client has not had yet.
    fn list_notifications(&mut self) -> Option<Bytes> {
        let now = *self.changes.borrow_and_update();
        let methods = now.notifications_since(&self.reported);
        self.reported = now;
        let events: Vec<_> = methods
            .into_iter()
            .map(|method| gateway_events::message(jsonrpc::notification(method), None))
            .collect();
        (!events.is_empty()).then(|| events.concat().into())
    }

    /// Encodes an upstream event for the client; empty if the client does not get it.
    fn encode(&self, event: &SessionStreamEvent) -> Bytes {
        let id = event.id.as_deref();
        // The stream outlives reloads, so each message sees the configuration of its time.
        let hot = self.core.hot();
        let source = MessageSource {
            core: &self.core,
            hot: &hot,
            caller: &self.session,
            backend: &event.backend,
            upstream: &event.upstream,
        };
        match event
            .event
            .message()
            .map(|data| source.rewrite_message(data, None))
        {
            Some(RewrittenMessage::Other(data) | RewrittenMessage::Response(data)) => self
                .delivery
                .count(event.backend.account(), gateway_events::message(data, id)),
            Some(
                RewrittenMessage::InvalidResponse(_)
                | RewrittenMessage::Unreadable(_)
                | RewrittenMessage::Dropped,
            )
            | None => match id {
                Some(id) if gateway_events::is_empty_data_allowed(self.session.revision()) => {
                    gateway_events::position(id)
                }
                _ => Bytes::new(),
            },
        }
    }
}
