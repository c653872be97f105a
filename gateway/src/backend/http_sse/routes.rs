//! Who gets a message that comes on the one stream of an upstream session.
//!
//! In HTTP+SSE everything that a server says comes on one stream, whatever it belongs to. An answer goes to its call, and progress to
//! the call that has its token. What the server asks goes to the call that began last, because a question that nobody's call
//! has led to is rare and many clients listen to nothing else; when no call is under way it goes to the session's own stream. All
//! the rest goes to the session's own stream first.

use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::mcp::correlation;
use crate::mcp::jsonrpc::{EnvelopeFields, Message, same_id};
use crate::mcp::sse::Event;

/// How many events a call may be behind. When it has not taken them the stream waits: both ends are the same client's.
const CALL_BACKLOG: usize = 4;
/// How many events the session's own stream may be behind. More are lost, because whoever calls must not wait for whoever listens.
const LISTENER_BACKLOG: usize = 64;

/// Who is waiting.
#[derive(Debug, Default)]
pub(super) struct MessageRoutes {
    calls: Vec<PendingCall>,
    listener: Option<mpsc::Sender<Event>>,
}

#[derive(Debug)]
struct PendingCall {
    id: Box<RawValue>,
    token: Option<Box<RawValue>>,
    events: mpsc::Sender<Event>,
}

/// Where a message goes.
#[derive(Debug)]
pub(super) enum MessageRoute {
    /// To a call, which is waited for.
    Call(mpsc::Sender<Event>),
    /// To the session's own stream, if it keeps up.
    Listener(mpsc::Sender<Event>),
    /// The server asks whether the connection lives; this is its id.
    Ping(Box<RawValue>),
    /// To nobody.
    Nowhere,
}

impl MessageRoutes {
    /// Waits for the answer to the request `message`, whose id is `id`.
    pub(super) fn call(&mut self, id: &RawValue, message: &[u8]) -> mpsc::Receiver<Event> {
        self.calls.retain(|call| !call.events.is_closed());
        let token = match Message::parse(message) {
            Ok(Message::Request(request)) => correlation::progress_token(request.params).ok().flatten(),
            _ => None,
        };
        let (events, receiver) = mpsc::channel(CALL_BACKLOG);
        self.calls.push(PendingCall {
            id: id.to_owned(),
            token: token.map(ToOwned::to_owned),
            events,
        });
        receiver
    }

    /// Listens to what belongs to no call. Whoever listened before hears the end.
    pub(super) fn listen(&mut self) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(LISTENER_BACKLOG);
        self.listener = Some(events);
        receiver
    }

    /// Whether nobody is waiting for an answer.
    pub(super) fn calls_are_over(&self) -> bool {
        self.calls.iter().all(|call| call.events.is_closed())
    }

    /// Lets go of everybody: they hear the end.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// Where the message `data` goes. A call that gets its answer waits no longer.
    pub(super) fn place(&mut self, data: &[u8]) -> MessageRoute {
        match Message::from_backend(data) {
            Ok(Message::Response(response)) if response.id.get() == "null" => {
                self.only_one().unwrap_or(MessageRoute::Nowhere)
            }
            Ok(Message::Response(response)) => self.waiting_for(response.id).unwrap_or(MessageRoute::Nowhere),
            Ok(Message::Request(request)) if request.method == "ping" => {
                MessageRoute::Ping(request.id.to_owned())
            }
            Ok(Message::Request(_)) => self
                .newest()
                .or_else(|| self.own())
                .unwrap_or(MessageRoute::Nowhere),
            Ok(Message::Notification { method, params }) => {
                let place = match &*method {
                    "notifications/progress" => self.with_token(params).or_else(|| self.own()),
                    "notifications/cancelled" => self.newest().or_else(|| self.own()),
                    _ => self.own().or_else(|| self.newest()),
                };
                place.unwrap_or(MessageRoute::Nowhere)
            }
            // The call is told what is wrong with its answer, and does not wait for another.
            Err(_) => EnvelopeFields::of(data)
                .filter(|sketch| !sketch.has_method)
                .and_then(|sketch| self.waiting_for(sketch.id?))
                .unwrap_or(MessageRoute::Nowhere),
        }
    }

    /// The call that gets the answer with this id, and waits no longer.
    fn waiting_for(&mut self, id: &RawValue) -> Option<MessageRoute> {
        let at = self.calls.iter().position(|call| same_id(id, &call.id))?;
        Some(MessageRoute::Call(self.calls.remove(at).events))
    }

    /// The call that is meant by a server that could not tell the id of the request (JSON-RPC 2.0, 5): the one that waits, if it is alone.
    fn only_one(&mut self) -> Option<MessageRoute> {
        self.calls.retain(|call| !call.events.is_closed());
        let is_alone = self.calls.len() == 1;
        let call = is_alone.then(|| self.calls.pop()).flatten()?;
        Some(MessageRoute::Call(call.events))
    }

    fn with_token(&self, params: Option<&RawValue>) -> Option<MessageRoute> {
        let token = correlation::reported_token(params).ok()?;
        let same = |call: &&PendingCall| call.token.as_ref().is_some_and(|own| own.get() == token.get());
        let call = self.calls.iter().find(same)?;
        Some(MessageRoute::Call(call.events.clone()))
    }

    fn newest(&self) -> Option<MessageRoute> {
        let open = |call: &&PendingCall| !call.events.is_closed();
        let call = self.calls.iter().rev().find(open)?;
        Some(MessageRoute::Call(call.events.clone()))
    }

    fn own(&self) -> Option<MessageRoute> {
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
        if let MessageRoute::Call(to) | MessageRoute::Listener(to) = routes.place(data.as_bytes()) {
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
    async fn answers_and_progress_go_to_their_calls_and_questions_to_the_one_that_began_last() {
        let mut routes = MessageRoutes::default();
        let mut one = call(&mut routes, "1", "\"a\"");
        let mut two = call(&mut routes, "\"1\"", "7");
        let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"a","progress":1}}"#;
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        for data in [progress, ASKS, answer, answer] {
            deliver(&mut routes, data).await;
        }
        assert_eq!(got(&mut one), [progress, answer]);
        assert_eq!(got(&mut two), [ASKS]);
        assert!(!routes.calls_are_over());
        drop(two);
        assert!(routes.calls_are_over());
        assert!(matches!(routes.place(ASKS.as_bytes()), MessageRoute::Nowhere));
    }

    #[tokio::test]
    async fn an_answer_that_is_none_goes_to_the_call_that_it_names() {
        let mut routes = MessageRoutes::default();
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
    async fn an_error_whose_id_is_null_is_the_answer_to_the_only_call() {
        let mut routes = MessageRoutes::default();
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
        assert!(routes.calls_are_over());
    }

    #[tokio::test]
    async fn the_rest_goes_to_the_own_stream_or_to_a_call_where_there_is_none() {
        let mut routes = MessageRoutes::default();
        let mut running = call(&mut routes, "1", "1");
        deliver(&mut routes, LOGS).await;
        let mut own = routes.listen();
        deliver(&mut routes, LOGS).await;
        assert_eq!((got(&mut running).len(), got(&mut own).len()), (1, 1));
        drop(running);
        deliver(&mut routes, ASKS).await;
        assert_eq!(got(&mut own), [ASKS]);
        let _newer = routes.listen();
        assert!(own.recv().await.is_none(), "another listens now");
        let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
        assert!(matches!(routes.place(ping.as_bytes()), MessageRoute::Ping(id) if id.get() == "\"p\""));
    }
}
