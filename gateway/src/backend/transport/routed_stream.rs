//! The one stream on which all messages of a process-local session arrive, shared by its calls and its listener.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::message_routes::{MessageRoute, MessageRoutes};
use crate::backend::ResponseEvents;
use crate::mcp::sse::Event;

/// The receivers of the messages of one session.
#[derive(Debug)]
pub(super) struct RoutedStream {
    /// `None` once the stream has ended.
    routes: Mutex<Option<MessageRoutes>>,
    /// Why the stream has ended, for the calls that did not get their response.
    end_reason: Arc<OnceLock<String>>,
}

/// What became of a message.
#[derive(Debug)]
pub(super) enum Routed {
    /// A call or the listener has it, or does not want it any more.
    Delivered,
    /// It is a ping of the server, with this id. The gateway answers it, because the client may have no open stream.
    Ping(Box<RawValue>),
    /// Neither a call nor a listener takes it.
    Unroutable,
}

impl Default for RoutedStream {
    fn default() -> Self {
        Self {
            routes: Mutex::new(Some(MessageRoutes::default())),
            end_reason: Arc::default(),
        }
    }
}

impl RoutedStream {
    /// Registers the request `message` with the id `id`, and returns its events; `None` when the stream has ended.
    pub(super) fn call(&self, id: &RawValue, message: &[u8]) -> Option<ResponseEvents> {
        let events = lock(&self.routes).as_mut()?.call(id, message);
        Some(ResponseEvents::shared(events, Arc::clone(&self.end_reason)))
    }

    /// Returns the messages that belong to no call; `None` when the stream has ended.
    pub(super) fn listen(&self) -> Option<ResponseEvents> {
        let events = lock(&self.routes).as_mut()?.listen();
        Some(ResponseEvents::shared(events, Arc::clone(&self.end_reason)))
    }

    /// Whether no call waits for a response.
    pub(super) fn has_no_calls(&self) -> bool {
        lock(&self.routes)
            .as_ref()
            .is_none_or(MessageRoutes::has_no_calls)
    }

    /// Whether a listener takes the messages that belong to no call.
    pub(super) fn has_listener(&self) -> bool {
        lock(&self.routes)
            .as_ref()
            .is_some_and(MessageRoutes::has_listener)
    }

    /// Ends the call with this id without a response.
    pub(super) fn end_call(&self, id: &RawValue) {
        if let Some(routes) = lock(&self.routes).as_mut() {
            routes.end_call(id);
        }
    }

    /// Ends the stream: calls that have no response get an error, with `reason` if there is one.
    pub(super) fn end(&self, reason: Option<String>) {
        if let Some(reason) = reason {
            // The first reason stays.
            drop(self.end_reason.set(reason));
        }
        if let Some(mut routes) = lock(&self.routes).take() {
            routes.end();
        }
    }

    /// Gives the message `data` to the call or listener to which it belongs. Waits while that call has too many unread messages.
    pub(super) async fn deliver(&self, data: Bytes) -> Routed {
        let route = lock(&self.routes)
            .as_mut()
            .map_or(MessageRoute::Unroutable, |routes| routes.route(&data));
        // Without event id and `retry`: the stream cannot be resumed.
        let event = Event {
            data: Some(data),
            ..Event::default()
        };
        match route {
            // A call that has ended needs no message.
            MessageRoute::Call(call) => drop(call.send(event).await),
            MessageRoute::Listener(listener) => {
                if listener.try_send(event).is_err() {
                    tracing::warn!("client does not read its stream; dropping backend message");
                }
            }
            MessageRoute::Ping(ping) => return Routed::Ping(ping),
            MessageRoute::Unroutable => return Routed::Unroutable,
        }
        Routed::Delivered
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
