//! Relays a backend's event stream to the client, from the request to its response.
//!
//! A malformed message that can only be the response ends the call with an error: backends respond once, and
//! some keep the stream open after the response.
//!
//! The client's reading drives the relay (backpressure): nothing is read from the backend faster than the
//! client takes it, so that no queue grows.
//!
//! A stream that breaks before its response is resumed at the backend after its last event, if the backend
//! gives events ids. If it cannot be resumed, the client gets an error for its request id instead of waiting
//! forever. A client that disconnects has not cancelled anything: the backend continues, and any replica that
//! the client reconnects to resumes the stream.
//!
//! At the call's deadline the client gets an error for its request id, and the call is cancelled at the
//! backend.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::stream;
use http::HeaderValue;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::backend::{self, Backend, BackendError, Deadline, ResponseEvents, UpstreamSession};
use crate::budget::delivery::Delivery;
use crate::config::HotSettings;
use crate::core::{CallError, CallSubject, Caller, Core};
use crate::frontend::call_error::{explain, tool_error_message};
use crate::frontend::gateway_events;
use crate::frontend::rewrite::{MessageSource, RewrittenMessage};
use crate::frontend::upstream_request_id::UpstreamRequestId;
use crate::mcp::{error_code, jsonrpc, sse};
use crate::session::SessionEnd;
use crate::telemetry::request_id::CurrentRequestId;

/// How often in a row a broken stream is resumed without a new event on it.
const MAX_RESUMES: u32 = 4;
/// Pause before a stream is resumed, until the backend sends `retry`.
const RESUME_PAUSE: Duration = Duration::from_millis(200);

/// A call that waits for its response.
pub(super) struct RelayedCall {
    /// The backend that runs the call.
    pub(super) backend: Backend,
    /// The upstream session in which the call was sent.
    pub(super) upstream: UpstreamSession,
    /// The client's request id.
    pub(super) id: Box<RawValue>,
    /// The request id that the backend knows.
    pub(super) upstream_id: UpstreamRequestId,
    /// What is called; unknown for a resumed call.
    pub(super) subject: Option<CallSubject>,
    /// The deadline of the call.
    pub(super) deadline: Deadline,
}

/// What a relay needs besides the call.
pub(super) struct RelayScope<C> {
    pub(super) core: Core,
    /// The hot configuration that the call began with.
    pub(super) hot: Arc<HotSettings>,
    /// The caller, whose ids and lists the messages are rewritten to.
    pub(super) caller: C,
    /// Ends the call with the session.
    pub(super) session_end: SessionEnd,
}

/// The stream of one call.
pub(super) struct Relay<C: Caller> {
    scope: RelayScope<C>,
    call: RelayedCall,
    /// The last event id of the backend's stream, if it sends ids.
    position: Option<HeaderValue>,
    events: Option<ResponseEvents>,
    is_primed: bool,
    resumes: u32,
    pause: Duration,
    /// The first pause before a resumption; the backend may set it with `retry`.
    first_pause: Duration,
    /// Why the backend's stream last ended.
    last_error: BackendError,
    /// Why the last unreadable message could not be parsed. It may have been the response.
    unreadable: Option<BackendError>,
    delivery: Delivery,
    /// Whether the client has had its response or an error.
    is_over: bool,
}

enum Step {
    Send(Bytes),
    Last(Bytes),
    Nothing,
}

impl<C: Caller> Relay<C> {
    /// The relay of `call`; its stream is a part of `delivery`.
    pub(super) fn new(scope: RelayScope<C>, call: RelayedCall, delivery: Delivery) -> Self {
        delivery.extend(call.deadline.at());
        Self {
            scope,
            delivery,
            is_over: false,
            call,
            position: None,
            events: None,
            is_primed: false,
            resumes: 0,
            pause: Duration::ZERO,
            first_pause: RESUME_PAUSE,
            last_error: BackendError::Broken("the stream ended".to_owned()),
            unreadable: None,
        }
    }

    /// Relays the open stream `events`.
    pub(super) fn relay_open(mut self, events: ResponseEvents) -> impl Stream<Item = Bytes> + Send + 'static {
        self.events = Some(events);
        self.stream()
    }

    /// Resumes the stream after `position`, which the client has seen.
    pub(super) fn resume_after(
        mut self,
        position: Option<HeaderValue>,
    ) -> impl Stream<Item = Bytes> + Send + 'static {
        self.position = position;
        self.stream()
    }

    fn stream(self) -> impl Stream<Item = Bytes> + Send + 'static {
        // Boxed: each step moves the state.
        stream::unfold(Some(Box::new(self)), |relay| async move {
            let mut relay = relay?;
            loop {
                let deadline = relay.call.deadline;
                let session_end = relay.scope.session_end.clone();
                let step = tokio::select! {
                    biased;
                    () = session_end.reached() => Ok(Step::Last(relay.session_ended_event())),
                    step = tokio::time::timeout_at(deadline.at(), relay.step()) => step,
                };
                match step.unwrap_or_else(|_| relay.give_up()) {
                    Step::Send(bytes) => return Some((bytes, Some(relay))),
                    Step::Last(bytes) => {
                        relay.is_over = true;
                        return Some((bytes, None));
                    }
                    Step::Nothing => {}
                }
            }
        })
    }

    async fn step(&mut self) -> Step {
        if !std::mem::replace(&mut self.is_primed, true) {
            let priming = self.allows_empty_data().then(|| self.event_id()).flatten();
            return priming.map_or(Step::Nothing, |id| Step::Send(gateway_events::priming(&id)));
        }
        let Some(events) = &mut self.events else {
            return self.resume().await;
        };
        match events.next().await {
            Ok(Some(event)) => self.relay_event(&event),
            Ok(None) => self.on_break(BackendError::Broken("the stream ended".to_owned())),
            Err(error) => self.on_break(error),
        }
    }

    /// Encodes one backend event for the client: rewritten data, and an event id of the gateway.
    fn relay_event(&mut self, event: &sse::Event) -> Step {
        let position = backend::position(event);
        self.first_pause = backend::retry(event).unwrap_or(self.first_pause);
        self.pause = self.first_pause;
        let has_moved = position.is_some();
        if has_moved {
            self.position = position;
        }
        self.resumes = 0;
        let Some(data) = event.message() else {
            let id = (has_moved && self.allows_empty_data())
                .then(|| self.event_id())
                .flatten();
            return id.map_or(Step::Nothing, |id| Step::Send(gateway_events::position(&id)));
        };
        let source = MessageSource {
            core: &self.scope.core,
            hot: &self.scope.hot,
            caller: &self.scope.caller,
            backend: &self.call.backend,
            upstream: &self.call.upstream,
        };
        let (id, upstream_id) = (&self.call.id, &self.call.upstream_id);
        let rewritten = source.rewrite_message(data, Some(upstream_id.get(id)));
        if matches!(
            rewritten,
            RewrittenMessage::Response(_) | RewrittenMessage::InvalidResponse(_)
        ) {
            upstream_id.record_finished();
        }
        match rewritten {
            // Without an id: a client that loses this event resumes before it, and gets it again.
            RewrittenMessage::Response(data) => {
                match upstream_id.restore(data, id, self.call.backend.account()) {
                    Ok(data) => Step::Last(self.charge(gateway_events::message(data, None))),
                    Err(error) => Step::Last(self.error_event(&CallError::sent(&self.call.backend, error))),
                }
            }
            RewrittenMessage::Other(data) => {
                if self.call.deadline.extends() && is_progress(&data) {
                    self.call.deadline.restart();
                    self.delivery.extend(self.call.deadline.at());
                }
                let id = has_moved.then(|| self.event_id()).flatten();
                Step::Send(self.charge(gateway_events::message(data, id.as_deref())))
            }
            RewrittenMessage::InvalidResponse(error) => {
                Step::Last(self.error_event(&CallError::sent(&self.call.backend, error)))
            }
            RewrittenMessage::Unreadable(error) => {
                self.unreadable = Some(error);
                Step::Nothing
            }
            RewrittenMessage::Dropped => Step::Nothing,
        }
    }

    /// Charges an event to the backend's account until it has been sent.
    fn charge(&self, event: Bytes) -> Bytes {
        self.delivery.count(self.call.backend.account(), event)
    }

    fn on_break(&mut self, error: BackendError) -> Step {
        self.events = None;
        // A retry would fail in the same way after a protocol violation, or for a message that exceeds the
        // budget.
        if matches!(error, BackendError::Invalid(_) | BackendError::NoRoom(_)) {
            self.resumes = MAX_RESUMES;
        }
        self.last_error = error;
        Step::Nothing
    }

    async fn resume(&mut self) -> Step {
        if self.position.is_none() || self.resumes >= MAX_RESUMES {
            return Step::Last(self.final_error());
        }
        self.resumes += 1;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).max(self.first_pause);
        match self.reopen_stream().await {
            Ok(events) => self.events = Some(events),
            Err(error) => {
                if matches!(
                    error,
                    BackendError::Status {
                        code: 400 | 404 | 405,
                        ..
                    }
                ) {
                    self.resumes = MAX_RESUMES;
                }
                // The error of the resumption says nothing about the call, which was sent.
                self.last_error = BackendError::Broken(format!("its stream cannot be resumed: it {error}"));
            }
        }
        Step::Nothing
    }

    async fn reopen_stream(&self) -> Result<ResponseEvents, BackendError> {
        let (backend, upstream) = (&self.call.backend, &self.call.upstream);
        backend.listen(upstream, self.position.as_ref()).await
    }

    fn event_id(&self) -> Option<String> {
        let RelayedCall {
            backend,
            upstream,
            id,
            upstream_id,
            ..
        } = &self.call;
        // An event id contains the client's request id, which must be the one that the backend knows.
        if !upstream_id.is_unchanged() {
            return None;
        }
        self.scope
            .caller
            .event_id_of_call(backend, upstream, id, self.position.as_ref())
    }

    /// The error for a call whose session was terminated.
    fn session_ended_event(&self) -> Bytes {
        let message = "Session not found; it was ended while this call was running";
        gateway_events::message(
            jsonrpc::error(Some(&self.call.id), error_code::SESSION_NOT_FOUND, message),
            None,
        )
    }

    fn allows_empty_data(&self) -> bool {
        gateway_events::is_empty_data_allowed(self.scope.caller.revision())
    }

    fn final_error(&self) -> Bytes {
        let error = match &self.unreadable {
            Some(unreadable) if matches!(self.last_error, BackendError::Broken(_)) => unreadable,
            _ => &self.last_error,
        };
        let error = CallError::sent(&self.call.backend, error.clone());
        tracing::warn!(request_id = %CurrentRequestId, %error, "response stream ended without a response");
        self.error_event(&error)
    }

    /// The error that replaces the response. For a tool it is a result with `isError`, which models see.
    fn error_event(&self, error: &CallError) -> Bytes {
        let (id, text) = (&self.call.id, explain(error));
        let failure = match self.call.subject {
            Some(CallSubject::Tool) => tool_error_message(id, &text),
            _ => jsonrpc::error(Some(id), error_code::INTERNAL, &text),
        };
        gateway_events::message(failure, None)
    }

    /// Gives up the call and cancels it at the backend.
    fn give_up(&mut self) -> Step {
        self.events = None;
        let RelayedCall {
            backend,
            upstream,
            id,
            upstream_id,
            deadline,
            ..
        } = &self.call;
        let core = &self.scope.core;
        core.cancel(backend, upstream.clone(), upstream_id.get(id));
        let error = CallError::sent(backend, deadline.passed());
        tracing::warn!(request_id = %CurrentRequestId, %error, "call deadline exceeded");
        Step::Last(self.error_event(&error))
    }
}

impl<C: Caller> Drop for Relay<C> {
    /// A client that disconnects has cancelled nothing. A client that did not read until the call's deadline
    /// has no call any more.
    fn drop(&mut self) {
        if !self.is_over && Instant::now() >= self.call.deadline.at() {
            drop(self.give_up());
        }
    }
}

fn is_progress(data: &[u8]) -> bool {
    let message = jsonrpc::Message::from_backend(data);
    matches!(message, Ok(jsonrpc::Message::Notification { method, .. }) if method == "notifications/progress")
}
