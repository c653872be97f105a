//! A backend's answer, passed on as it comes.
//!
//! A message that can only be meant as the answer, and is none, ends the call with an error that says what is wrong with it: backends
//! answer once, and some keep the stream open behind the answer.
//!
//! The client's reading pulls: nothing is read from the backend faster than the client takes it, so that no queue grows.
//!
//! A stream that breaks before its answer is resumed at the backend, behind the last event, where the backend names its events. When it
//! cannot be resumed the client gets an error for its id: it is never left waiting. A client that goes away has not cancelled
//! anything: the backend goes on, and whichever process the client comes back to resumes the stream there.
//!
//! At the call's deadline the client gets an error for its id, and the backend is told that the call is cancelled.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::stream;
use http::HeaderValue;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::backend::{self, Backend, BackendError, Deadline, ResponseEvents, UpstreamSession};
use crate::budget::delivery::Delivery;
use crate::core::{CallError, CallSubject, Core};
use crate::frontend::call_error::{explain, tool_failure};
use crate::frontend::gateway_events;
use crate::frontend::rewrite::{RewrittenMessage, Source};
use crate::frontend::upstream_request_id::UpstreamRequestId;
use crate::mcp::{error_code, jsonrpc, sse};
use crate::session::{RunningRequest, Session};
use crate::telemetry::request_id::CurrentRequestId;

/// How often in a row a broken stream is resumed without anything new on it.
const MAX_RESUMES: u32 = 4;
/// The pause before a stream is resumed, until the backend names another.
const PAUSE: Duration = Duration::from_millis(200);

/// The call whose answer a stream is for.
pub(super) struct Awaited {
    /// The backend that runs it.
    pub(super) backend: Backend,
    /// The upstream session in which it was sent.
    pub(super) upstream: UpstreamSession,
    /// Its id, as the client wrote it.
    pub(super) id: Box<RawValue>,
    /// Its id at the backend.
    pub(super) upstream_id: UpstreamRequestId,
    /// What it is a call of; unknown where the client comes back to it.
    pub(super) subject: Option<CallSubject>,
    /// Until when it may last.
    pub(super) deadline: Deadline,
}

/// One call's stream.
pub(super) struct Relay {
    core: Core,
    session: Session,
    running: RunningRequest,
    call: Awaited,
    /// Where the backend's stream is, when it says so.
    position: Option<HeaderValue>,
    events: Option<ResponseEvents>,
    primed: bool,
    resumes: u32,
    pause: Duration,
    /// The first pause, which the backend may name.
    first_pause: Duration,
    /// Why the backend's stream ended the last time.
    broken: BackendError,
    /// Why the last message that nobody could read was none: it may have been the answer.
    unreadable: Option<BackendError>,
    delivery: Delivery,
    /// Whether the client has, or was refused, its answer.
    is_over: bool,
}

enum Step {
    Send(Bytes),
    Last(Bytes),
    Nothing,
}

impl Relay {
    /// The stream of `call`, as a part of what `delivery` delivers.
    pub(super) fn new(core: &Core, session: &Session, call: Awaited, delivery: Delivery) -> Self {
        delivery.extend(call.deadline.at());
        Self {
            core: core.clone(),
            session: session.clone(),
            running: session.go_on(),
            delivery,
            is_over: false,
            call,
            position: None,
            events: None,
            primed: false,
            resumes: 0,
            pause: Duration::ZERO,
            first_pause: PAUSE,
            broken: BackendError::Broken("the stream ended".to_owned()),
            unreadable: None,
        }
    }

    /// The stream from where the backend's is.
    pub(super) fn running(mut self, events: ResponseEvents) -> impl Stream<Item = Bytes> + Send + 'static {
        self.events = Some(events);
        self.stream()
    }

    /// The stream behind `position`, which the client has seen.
    pub(super) fn resumed(
        mut self,
        position: Option<HeaderValue>,
    ) -> impl Stream<Item = Bytes> + Send + 'static {
        self.position = position;
        self.stream()
    }

    fn stream(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(Some(self), |relay| async move {
            let mut relay = relay?;
            loop {
                let deadline = relay.call.deadline;
                let ended = relay.running.session_ended();
                let step = tokio::select! {
                    biased;
                    () = ended => Ok(Step::Last(relay.session_ended())),
                    step = tokio::time::timeout_at(deadline.at(), relay.step()) => step,
                };
                match step.unwrap_or_else(|_| relay.too_late()) {
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
        if !std::mem::replace(&mut self.primed, true) {
            let priming = self.empty_data().then(|| self.event_id()).flatten();
            return priming.map_or(Step::Nothing, |id| Step::Send(gateway_events::priming(&id)));
        }
        let Some(events) = &mut self.events else {
            return self.resume().await;
        };
        match events.next().await {
            Ok(Some(event)) => self.pass(&event),
            Ok(None) => self.broke(BackendError::Broken("the stream ended".to_owned())),
            Err(error) => self.broke(error),
        }
    }

    /// The event with its data as the backend wrote it, but for what is translated, and with an id of ours.
    fn pass(&mut self, event: &sse::Event) -> Step {
        let position = backend::position(event);
        self.first_pause = backend::retry(event).unwrap_or(self.first_pause);
        self.pause = self.first_pause;
        let moved = position.is_some();
        if moved {
            self.position = position;
        }
        self.resumes = 0;
        let Some(data) = event.message() else {
            let id = (moved && self.empty_data()).then(|| self.event_id()).flatten();
            return id.map_or(Step::Nothing, |id| Step::Send(gateway_events::position(&id)));
        };
        let source = Source {
            core: &self.core,
            session: &self.session,
            backend: &self.call.backend,
            upstream: &self.call.upstream,
        };
        let (id, upstream_id) = (&self.call.id, &self.call.upstream_id);
        let translated = source.rewrite_message(data, Some(upstream_id.get(id)));
        if matches!(
            translated,
            RewrittenMessage::Answer(_) | RewrittenMessage::NoAnswer(_)
        ) {
            upstream_id.answered();
        }
        match translated {
            // Without an id: whoever lost it resumes in front of it, and gets it again.
            RewrittenMessage::Answer(data) => {
                match upstream_id.restore(data, id, self.call.backend.account()) {
                    Ok(data) => Step::Last(self.counted(gateway_events::message(data, None))),
                    Err(error) => Step::Last(self.failed(&CallError::sent(&self.call.backend, error))),
                }
            }
            RewrittenMessage::Message(data) => {
                if self.call.deadline.extends() && is_progress(&data) {
                    self.call.deadline.begin_anew();
                    self.delivery.extend(self.call.deadline.at());
                }
                let id = moved.then(|| self.event_id()).flatten();
                Step::Send(self.counted(gateway_events::message(data, id.as_deref())))
            }
            RewrittenMessage::NoAnswer(error) => {
                Step::Last(self.failed(&CallError::sent(&self.call.backend, error)))
            }
            RewrittenMessage::Unreadable(error) => {
                self.unreadable = Some(error);
                Step::Nothing
            }
            RewrittenMessage::Nothing => Step::Nothing,
        }
    }

    /// An event on its way to the client: until it has gone out it counts as what is buffered of the backend's answers.
    fn counted(&self, event: Bytes) -> Bytes {
        self.delivery.count(self.call.backend.account(), event)
    }

    fn broke(&mut self, error: BackendError) -> Step {
        self.events = None;
        // What the protocol does not allow, and what there is no room for, would come again.
        if matches!(error, BackendError::Invalid(_) | BackendError::NoRoom(_)) {
            self.resumes = MAX_RESUMES;
        }
        self.broken = error;
        Step::Nothing
    }

    async fn resume(&mut self) -> Step {
        if self.position.is_none() || self.resumes >= MAX_RESUMES {
            return Step::Last(self.failure());
        }
        self.resumes += 1;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).max(self.first_pause);
        match self.listen().await {
            Ok(events) => self.events = Some(events),
            Err(error) => {
                if matches!(error, BackendError::Status(400 | 404 | 405)) {
                    self.resumes = MAX_RESUMES;
                }
                // Not the error itself: of the call, which was sent, it says nothing.
                self.broken = BackendError::Broken(format!("its stream cannot be resumed: it {error}"));
            }
        }
        Step::Nothing
    }

    async fn listen(&self) -> Result<ResponseEvents, BackendError> {
        let (backend, upstream) = (&self.call.backend, &self.call.upstream);
        backend.listen(upstream, self.position.as_ref()).await
    }

    fn event_id(&self) -> Option<String> {
        let Awaited {
            backend,
            upstream,
            id,
            upstream_id,
            ..
        } = &self.call;
        // An event id names the call by the client's id, which must be the backend's.
        if !upstream_id.is_own() {
            return None;
        }
        self.session
            .event_id_of_call(backend, upstream, id, self.position.as_ref())
    }

    /// The client, or another of its connections, has ended the session.
    fn session_ended(&self) -> Bytes {
        let message = "Session not found; it was ended while this call was running";
        gateway_events::message(
            jsonrpc::error(Some(&self.call.id), error_code::SESSION_NOT_FOUND, message),
            None,
        )
    }

    fn empty_data(&self) -> bool {
        gateway_events::takes_empty_data(self.session.revision())
    }

    fn failure(&self) -> Bytes {
        let error = match &self.unreadable {
            Some(unreadable) if matches!(self.broken, BackendError::Broken(_)) => unreadable,
            _ => &self.broken,
        };
        let error = CallError::sent(&self.call.backend, error.clone());
        tracing::warn!(request_id = %CurrentRequestId, %error, "a stream ended without its answer");
        self.failed(&error)
    }

    /// What the client gets in the place of the answer. Of a tool it is a result, which models see.
    fn failed(&self, error: &CallError) -> Bytes {
        let (id, text) = (&self.call.id, explain(error));
        let failure = match self.call.subject {
            Some(CallSubject::Tool) => tool_failure(id, &text),
            _ => jsonrpc::error(Some(id), error_code::INTERNAL, &text),
        };
        gateway_events::message(failure, None)
    }

    /// Gives the call up, here and at the backend.
    fn too_late(&mut self) -> Step {
        self.events = None;
        let Awaited {
            backend,
            upstream,
            id,
            upstream_id,
            deadline,
            ..
        } = &self.call;
        self.core.cancel(backend, upstream.clone(), upstream_id.get(id));
        let error = CallError::sent(backend, deadline.passed());
        tracing::warn!(request_id = %CurrentRequestId, %error, "a call failed");
        Step::Last(self.failed(&error))
    }
}

impl Drop for Relay {
    /// A client that goes away has cancelled nothing. One that did not read until its call's deadline had passed has no call any more.
    fn drop(&mut self) {
        if !self.is_over && Instant::now() >= self.call.deadline.at() {
            drop(self.too_late());
        }
    }
}

fn is_progress(data: &[u8]) -> bool {
    let message = jsonrpc::Message::from_backend(data);
    matches!(message, Ok(jsonrpc::Message::Notification { method, .. }) if method == "notifications/progress")
}
