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
    /// Whether the calls belong to several clients.
    is_shared: bool,
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
    /// Neither a call nor a listener takes it, or only a call in a shared session that has too many unread messages.
    Unroutable,
}

impl RoutedStream {
    /// The stream of a client's own session, or of one that clients share.
    pub(super) fn new(is_shared: bool) -> Self {
        Self {
            routes: Mutex::new(Some(MessageRoutes::new(is_shared))),
            is_shared,
            end_reason: Arc::default(),
        }
    }

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
        drop(lock(&self.routes).take());
    }

    /// Gives the message `data` to the call or listener to which it belongs. Waits while that call has too many unread messages, but not in a
    /// shared session.
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
            MessageRoute::Call(call) if self.is_shared => {
                // The last place is for the response.
                if call.capacity() <= 1 {
                    return Routed::Unroutable;
                }
                drop(call.try_send(event));
            }
            // There is a place for it. A call that has ended needs no message.
            MessageRoute::Response(call) if self.is_shared => drop(call.try_send(event)),
            MessageRoute::Call(call) | MessageRoute::Response(call) => drop(call.send(event).await),
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

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn call(stream: &RoutedStream) -> ResponseEvents {
        let request =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":"a"}}}"#;
        let id = RawValue::from_string("1".to_owned()).unwrap();
        stream.call(&id, request.as_bytes()).unwrap()
    }

    fn progress() -> Bytes {
        let message = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"a","progress":1}}"#;
        Bytes::from_static(message.as_bytes())
    }

    #[tokio::test]
    async fn unread_call_of_shared_session_delays_no_message() {
        let stream = RoutedStream::new(true);
        let mut unread = call(&stream);
        let routed = (0..1000).map(|_| stream.deliver(progress()).now_or_never().unwrap());
        let dropped = routed.filter(|routed| matches!(routed, Routed::Unroutable));
        assert!(dropped.count() > 900);
        let response = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        let routed = stream.deliver(response.clone()).now_or_never().unwrap();
        assert!(matches!(routed, Routed::Delivered), "{routed:?}");
        let mut last = None;
        while let Some(event) = unread.next().await.ok().flatten() {
            last = event.data;
        }
        assert_eq!(last, Some(response));
    }

    #[tokio::test]
    async fn own_session_waits_for_the_reader_of_its_call() {
        let stream = RoutedStream::new(false);
        let mut reader = call(&stream);
        while stream.deliver(progress()).now_or_never().is_some() {}
        let (routed, read) = tokio::join!(stream.deliver(progress()), reader.next());
        assert!(matches!(routed, Routed::Delivered) && read.unwrap().is_some());
    }
}
