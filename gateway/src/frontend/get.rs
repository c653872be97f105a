//! GET: the session's own stream, or the rest of a call's stream that broke.

use std::pin::Pin;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use http::{HeaderMap, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Frontend;
use super::keep_alive::keep_alive;
use super::relay::{Awaited, Relay};
use crate::budget::delivery::Delivery;
use crate::catalog::ListVersions;
use crate::core::{CallError, Core, Principal};
use crate::frontend::access_log::Resumed;
use crate::frontend::gateway_events;
use crate::frontend::header_checks::accepts;
use crate::frontend::list_changed_throttle::ListChangedThrottle;
use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::frontend::rewrite::{RewrittenMessage, Source};
use crate::frontend::upstream_request_id::UpstreamRequestId;
use crate::mcp::{error_code, header_names, jsonrpc};
use crate::runtime::drain::Drain;
use crate::session::{BrokenCall, NoUpstreamSession, ResumePoint, Session, SessionStreamEvent};

impl Frontend {
    pub(super) async fn get(&self, headers: &HeaderMap, principal: &Principal) -> Response<ResponseBody> {
        if !accepts(headers, &header_names::EVENT_STREAM) {
            let message = "Accept must list text/event-stream";
            return response::error(
                StatusCode::NOT_ACCEPTABLE,
                None,
                error_code::INVALID_REQUEST,
                message,
            );
        }
        let session = match self.session(headers, None, principal).await {
            Ok(session) => session,
            Err(refusal) => return refusal,
        };
        // Each is a write in the store that every process hears of, or a stream of a backend.
        if !session.may_open_stream() {
            let message = "The session opens too many streams in a second; try again";
            return response::later(None, message);
        }
        let Some(last) = headers.get(header_names::LAST_EVENT_ID) else {
            return self.own_stream(&session, None).await;
        };
        match session.resume(last.as_bytes()) {
            Some(ResumePoint::OwnStream(positions)) => self.own_stream(&session, Some(positions)).await,
            Some(ResumePoint::Call(call)) => self.rest_of_call(&session, &call, last.as_bytes()).await,
            None => {
                let message = "The header Last-Event-ID names no event of this session";
                response::error(
                    StatusCode::BAD_REQUEST,
                    None,
                    error_code::INVALID_REQUEST,
                    message,
                )
            }
        }
    }

    async fn own_stream(
        &self,
        session: &Session,
        positions: Option<crate::session::StreamPositions>,
    ) -> Response<ResponseBody> {
        let resumed = positions.is_some();
        let listening = match session.listen(positions).await {
            Ok(listening) => listening,
            Err(failure) => return response::session_error(None, &failure),
        };
        let changes = self.core.catalog().changes();
        // Whoever comes back may have missed a change of a list in between.
        let told = if resumed || listening.taken_over() {
            ListVersions::default()
        } else {
            *changes.borrow()
        };
        let start = gateway_events::takes_empty_data(session.revision()).then(|| listening.start());
        let first = start.flatten().map(|id| gateway_events::priming(&id));
        let delivery = Delivery::default();
        let own = OwnStream {
            core: self.core.clone(),
            session: session.clone(),
            drain: self.drain.clone(),
            heard: Box::pin(listening.events()),
            changes,
            told,
            pace: ListChangedThrottle::default(),
            delivery: delivery.clone(),
        };
        let events = stream::iter(first).chain(own.stream());
        response::delivered(delivery, response::events(keep_alive(session.clone(), events)))
    }

    /// The call's stream behind the last event that the client has seen. It ends with the answer, or with an error for the call.
    async fn rest_of_call(
        &self,
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
        match session.upstream_of_call(call).await {
            Ok((backend, upstream)) => {
                // It runs as the call itself does: within the limits of the process, the session and the backend.
                let Some(place) = self.places.take(self.core.hot().limits.requests_in_flight, false) else {
                    return response::overloaded(None);
                };
                let Ok(running) = session.resume_call(event_id) else {
                    return response::busy(&call.request);
                };
                let mut admitted = match backend.admit().await {
                    Ok(admitted) => admitted,
                    Err(error) => {
                        let error = CallError::sent(&backend, error);
                        return response::later(None, &format!("The {error}"));
                    }
                };
                // Whether the backend is well is not for the rest of an answer to say.
                admitted.undecided();
                let superseded = running.superseded();
                let call_at_backend = Awaited {
                    deadline: backend.deadline_of_any(),
                    backend,
                    upstream,
                    id: call.request.clone(),
                    upstream_id: UpstreamRequestId::own(),
                    subject: None,
                };
                let delivery = Delivery::default();
                let relay = Relay::new(&self.core, session, call_at_backend, delivery.clone());
                let events = relay.resumed(call.event.clone()).take_until(superseded);
                let events = response::events(keep_alive(session.clone(), events));
                let mut response = response::delivered(delivery, events);
                response.extensions_mut().insert(Resumed);
                response::until_its_end(response, (place, running, admitted))
            }
            Err(NoUpstreamSession::Session(failure)) => response::session_error(None, &failure),
            Err(lost) => failed(&lost.to_string()),
        }
    }
}

/// The session's own stream, as this client hears it.
struct OwnStream {
    core: Core,
    session: Session,
    drain: Drain,
    heard: Pin<Box<dyn Stream<Item = SessionStreamEvent> + Send>>,
    changes: watch::Receiver<ListVersions>,
    /// The versions of the lists of which the client was told.
    told: ListVersions,
    pace: ListChangedThrottle,
    delivery: Delivery,
}

impl OwnStream {
    fn stream(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(Some(self), |own| async move {
            let mut own = own?;
            loop {
                let pause = own.pace.pause(Instant::now());
                if pause.is_none()
                    && let Some(news) = own.news()
                {
                    own.pace.told(Instant::now());
                    return Some((news, Some(own)));
                }
                tokio::select! {
                    biased;
                    () = own.drain.begun() => return Some((gateway_events::farewell(), None)),
                    heard = own.heard.next() => {
                        let bytes = own.pass(&heard?);
                        if !bytes.is_empty() {
                            return Some((bytes, Some(own)));
                        }
                    }
                    // What changes during the pause is told after it.
                    () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                    changed = own.changes.changed(), if pause.is_none() => {
                        if changed.is_err() {
                            return None;
                        }
                    }
                }
            }
        })
    }

    /// What the client has not been told of the lists.
    fn news(&mut self) -> Option<Bytes> {
        let now = *self.changes.borrow_and_update();
        let methods = now.notifications_since(&self.told);
        self.told = now;
        let events: Vec<_> = methods
            .into_iter()
            .map(|method| gateway_events::message(jsonrpc::notification(method), None))
            .collect();
        (!events.is_empty()).then(|| events.concat().into())
    }

    /// The event as the client gets it; empty when it gets nothing.
    fn pass(&self, heard: &SessionStreamEvent) -> Bytes {
        let id = heard.id.as_deref();
        let source = Source {
            core: &self.core,
            session: &self.session,
            backend: &heard.backend,
            upstream: &heard.upstream,
        };
        match heard
            .event
            .message()
            .map(|data| source.rewrite_message(data, None))
        {
            Some(RewrittenMessage::Message(data) | RewrittenMessage::Answer(data)) => self
                .delivery
                .count(heard.backend.account(), gateway_events::message(data, id)),
            Some(
                RewrittenMessage::NoAnswer(_) | RewrittenMessage::Unreadable(_) | RewrittenMessage::Nothing,
            )
            | None => match id {
                Some(id) if gateway_events::takes_empty_data(self.session.revision()) => {
                    gateway_events::position(id)
                }
                _ => Bytes::new(),
            },
        }
    }
}
