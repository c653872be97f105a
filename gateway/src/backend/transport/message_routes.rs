//! Routes the messages on the single stream of a process-local session.
//!
//! A response goes to its call, and progress to the call with its token. A request of the server goes to the newest call, because such
//! requests usually belong to a call and many clients have no other stream. Without a call it goes to the session's own stream. All other
//! messages go to the session's own stream first.

use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::mcp::correlation;
use crate::mcp::jsonrpc::{EnvelopeFields, Message, same_id};
use crate::mcp::sse::Event;

/// The most unread events of a call in a client's own session. The stream then waits, which affects only the same client.
const CALL_BACKLOG: usize = 4;
/// The most unread events of a call in a shared session, including its response. Other messages are dropped then, because other clients must
/// not wait for the reader of one call.
const SHARED_CALL_BACKLOG: usize = 64;
/// The most unread events of the session's own stream. More are dropped, because calls must not wait for the stream's reader.
const LISTENER_BACKLOG: usize = 64;

/// The pending calls and the listener of one session.
#[derive(Debug)]
pub(super) struct MessageRoutes {
    calls: Vec<PendingCall>,
    call_backlog: usize,
    listener: Option<mpsc::Sender<Event>>,
}

#[derive(Debug)]
struct PendingCall {
    id: Box<RawValue>,
    token: Option<Box<RawValue>>,
    events: mpsc::Sender<Event>,
}

/// The destination of a message.
#[derive(Debug)]
pub(super) enum MessageRoute {
    /// A call that goes on.
    Call(mpsc::Sender<Event>),
    /// A call, which ends with this message.
    Response(mpsc::Sender<Event>),
    /// The session's own stream, if it has capacity.
    Listener(mpsc::Sender<Event>),
    /// A ping of the server, with its id.
    Ping(Box<RawValue>),
    /// No call and no stream takes the message.
    Unroutable,
}

impl MessageRoutes {
    /// The routes of a client's own session, or of one that clients share.
    pub(super) fn new(is_shared: bool) -> Self {
        Self {
            calls: Vec::new(),
            call_backlog: if is_shared {
                SHARED_CALL_BACKLOG
            } else {
                CALL_BACKLOG
            },
            listener: None,
        }
    }

    /// Registers the request `message` with the id `id`, and returns its events.
    pub(super) fn call(&mut self, id: &RawValue, message: &[u8]) -> mpsc::Receiver<Event> {
        self.calls.retain(|call| !call.events.is_closed());
        let token = match Message::parse(message) {
            Ok(Message::Request(request)) => correlation::progress_token(request.params).ok().flatten(),
            _ => None,
        };
        let (events, receiver) = mpsc::channel(self.call_backlog);
        self.calls.push(PendingCall {
            id: id.to_owned(),
            token: token.map(ToOwned::to_owned),
            events,
        });
        receiver
    }

    /// Returns the messages that belong to no call. A previous listener ends.
    pub(super) fn listen(&mut self) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(LISTENER_BACKLOG);
        self.listener = Some(events);
        receiver
    }

    /// Whether no call waits for a response.
    pub(super) fn has_no_calls(&self) -> bool {
        self.calls.iter().all(|call| call.events.is_closed())
    }

    /// Ends the call with this id without a response.
    pub(super) fn end_call(&mut self, id: &RawValue) {
        drop(self.take_call(id));
    }

    /// Whether there is a listener.
    pub(super) fn has_listener(&self) -> bool {
        self.listener().is_some()
    }

    /// Routes the message `data`. A call that gets its response is removed.
    pub(super) fn route(&mut self, data: &[u8]) -> MessageRoute {
        match Message::from_backend(data) {
            Ok(Message::Response(response)) if response.id.get() == "null" => {
                self.take_only_call().unwrap_or(MessageRoute::Unroutable)
            }
            Ok(Message::Response(response)) => {
                self.take_call(response.id).unwrap_or(MessageRoute::Unroutable)
            }
            Ok(Message::Request(request)) if request.method == "ping" => {
                MessageRoute::Ping(request.id.to_owned())
            }
            Ok(Message::Request(_)) => self
                .newest_call()
                .or_else(|| self.own_stream())
                .unwrap_or(MessageRoute::Unroutable),
            Ok(Message::Notification { method, params }) => {
                let route = match &*method {
                    "notifications/progress" => self.call_with_token(params).or_else(|| self.own_stream()),
                    "notifications/cancelled" => self.newest_call().or_else(|| self.own_stream()),
                    _ => self.own_stream().or_else(|| self.newest_call()),
                };
                route.unwrap_or(MessageRoute::Unroutable)
            }
            // A malformed response still ends its call, which reports the error.
            Err(_) => EnvelopeFields::of(data)
                .filter(|fields| !fields.has_method)
                .and_then(|fields| self.take_call(fields.id?))
                .unwrap_or(MessageRoute::Unroutable),
        }
    }

    /// Removes the call with this id.
    fn take_call(&mut self, id: &RawValue) -> Option<MessageRoute> {
        let at = self.calls.iter().position(|call| same_id(id, &call.id))?;
        Some(MessageRoute::Response(self.calls.remove(at).events))
    }

    /// Removes the only pending call: a response with a null id (JSON-RPC 2.0, 5) can only belong to it.
    fn take_only_call(&mut self) -> Option<MessageRoute> {
        self.calls.retain(|call| !call.events.is_closed());
        let is_alone = self.calls.len() == 1;
        let call = is_alone.then(|| self.calls.pop()).flatten()?;
        Some(MessageRoute::Response(call.events))
    }

    fn call_with_token(&self, params: Option<&RawValue>) -> Option<MessageRoute> {
        let token = correlation::reported_token(params).ok()?;
        let same = |call: &&PendingCall| call.token.as_ref().is_some_and(|own| own.get() == token.get());
        let call = self.calls.iter().find(same)?;
        Some(MessageRoute::Call(call.events.clone()))
    }

    fn newest_call(&self) -> Option<MessageRoute> {
        let open = |call: &&PendingCall| !call.events.is_closed();
        let call = self.calls.iter().rev().find(open)?;
        Some(MessageRoute::Call(call.events.clone()))
    }

    fn own_stream(&self) -> Option<MessageRoute> {
        Some(MessageRoute::Listener(self.listener()?.clone()))
    }

    fn listener(&self) -> Option<&mpsc::Sender<Event>> {
        self.listener.as_ref().filter(|listener| !listener.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn call(routes: &mut MessageRoutes, id: &str, token: &str) -> mpsc::Receiver<Event> {
        let message = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"x","_meta":{{"progressToken":{token}}}}}}}"#
        );
        routes.call(&raw(id), message.as_bytes())
    }

    async fn deliver(routes: &mut MessageRoutes, data: &str) {
        let route = routes.route(data.as_bytes());
        if let MessageRoute::Call(to) | MessageRoute::Response(to) | MessageRoute::Listener(to) = route {
            let data = Some(bytes::Bytes::copy_from_slice(data.as_bytes()));
            let event = Event {
                data,
                ..Event::default()
            };
            to.send(event).await.unwrap();
        }
    }

    fn got(receiver: &mut mpsc::Receiver<Event>) -> Vec<String> {
        let events = std::iter::from_fn(|| receiver.try_recv().ok());
        let text = |event: Event| String::from_utf8(event.data.unwrap().to_vec()).unwrap();
        events.map(text).collect()
    }

    const ASKS: &str = r#"{"jsonrpc":"2.0","id":9,"method":"elicitation/create","params":{}}"#;
    const LOGS: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;

    #[tokio::test]
    async fn messages_are_routed_to_their_calls() {
        // Responses and progress go to their calls, requests of the server to the newest call.
        let mut routes = MessageRoutes::new(false);
        let mut one = call(&mut routes, "1", "\"a\"");
        let mut two = call(&mut routes, "\"1\"", "7");
        let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"a","progress":1}}"#;
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        for data in [progress, ASKS, answer, answer] {
            deliver(&mut routes, data).await;
        }
        assert_eq!(got(&mut one), [progress, answer]);
        assert_eq!(got(&mut two), [ASKS]);
        assert!(!routes.has_no_calls());
        drop(two);
        assert!(routes.has_no_calls());
        assert!(matches!(routes.route(ASKS.as_bytes()), MessageRoute::Unroutable));
    }

    #[tokio::test]
    async fn malformed_response_goes_to_the_call_that_it_names() {
        let mut routes = MessageRoutes::new(false);
        let mut one = call(&mut routes, "1", "1");
        let mut two = call(&mut routes, "2", "2");
        let no_version = r#"{"id":2,"result":{}}"#;
        let asks = r#"{"jsonrpc":"2.0","id":1,"method":7}"#;
        for data in [no_version, asks, "[1]", r#"{"id":3,"result":{}}"#] {
            deliver(&mut routes, data).await;
        }
        assert_eq!(
            (got(&mut one).len(), got(&mut two)),
            (0, vec![no_version.to_owned()])
        );
    }

    #[tokio::test]
    async fn error_with_null_id_goes_to_the_only_call() {
        let mut routes = MessageRoutes::new(false);
        let error = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}"#;
        let mut one = call(&mut routes, "1", "1");
        let mut two = call(&mut routes, "2", "2");
        deliver(&mut routes, error).await;
        assert_eq!(
            (got(&mut one).len(), got(&mut two).len()),
            (0, 0),
            "it may be either"
        );
        drop(two);
        deliver(&mut routes, error).await;
        assert_eq!(got(&mut one), [error]);
        assert!(routes.has_no_calls());
    }

    #[tokio::test]
    async fn other_messages_go_to_the_own_stream_or_a_call() {
        // Other messages go to the session's own stream, or to a call where there is no such stream.
        let mut routes = MessageRoutes::new(false);
        let mut running = call(&mut routes, "1", "1");
        deliver(&mut routes, LOGS).await;
        let mut own = routes.listen();
        deliver(&mut routes, LOGS).await;
        assert_eq!((got(&mut running).len(), got(&mut own).len()), (1, 1));
        drop(running);
        deliver(&mut routes, ASKS).await;
        assert_eq!(got(&mut own), [ASKS]);
        let _newer = routes.listen();
        assert!(own.recv().await.is_none(), "another listener replaced it");
        let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
        assert!(matches!(routes.route(ping.as_bytes()), MessageRoute::Ping(id) if id.get() == "\"p\""));
    }
}
