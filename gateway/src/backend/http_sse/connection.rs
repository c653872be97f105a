//! One stream of a server that speaks HTTP+SSE: an upstream session that lives as long as it. However long nothing is said on it, it is
//! open until whoever opened it closes it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderValue, Uri};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::routes::{MessageRoute, MessageRoutes};
use crate::backend::own_request_id::SessionOwner;
use crate::backend::{Backend, Cookies, Inner, ResponseEvents};
use crate::mcp::jsonrpc;
use crate::mcp::sse::Event;

/// How often it is looked, while the process ends, whether the calls on it are over.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How many pings of the server may wait for their answers.
const MAX_PINGS: usize = 4;
/// How long the server may take to accept the answer to its ping.
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// An open stream.
#[derive(Debug)]
pub(in crate::backend) struct SseConnection {
    /// Where messages are posted. It names the session, so that it is nobody else's business.
    endpoint: Uri,
    /// The address at which the stream is, where the host is a name.
    address: Option<IpAddr>,
    /// What a balancer in front of the server finds it by.
    cookies: Cookies,
    /// `None` once the stream has ended.
    routes: Mutex<Option<MessageRoutes>>,
    stop: CancellationToken,
    pings: Arc<Semaphore>,
}

impl SseConnection {
    pub(super) fn new(endpoint: Uri, address: Option<IpAddr>, cookies: Cookies) -> Self {
        Self {
            endpoint,
            address,
            cookies,
            routes: Mutex::new(Some(MessageRoutes::default())),
            stop: CancellationToken::new(),
            pings: Arc::new(Semaphore::new(MAX_PINGS)),
        }
    }

    /// Where messages are posted.
    pub(super) fn endpoint(&self) -> &Uri {
        &self.endpoint
    }

    /// The address at which the server is that has the stream, where the host is a name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// What a balancer in front of the server finds it by.
    pub(super) fn cookies(&self) -> &Cookies {
        &self.cookies
    }

    /// Waits for the answer to the request `message`, whose id is `id`; `None` when the stream has ended.
    pub(super) fn call(&self, id: &RawValue, message: &[u8]) -> Option<mpsc::Receiver<Event>> {
        lock(&self.routes).as_mut().map(|routes| routes.call(id, message))
    }

    /// Listens to what belongs to no call; `None` when the stream has ended.
    pub(super) fn listen(&self) -> Option<mpsc::Receiver<Event>> {
        lock(&self.routes).as_mut().map(MessageRoutes::listen)
    }

    /// Ends the stream.
    pub(super) fn close(&self) {
        self.stop.cancel();
    }

    /// Reads the stream to its end. `backend` is where answers to pings go.
    pub(super) async fn read(
        self: Arc<Self>,
        id: HeaderValue,
        mut events: ResponseEvents,
        backend: Weak<Inner>,
        drained: impl Future<Output = ()>,
    ) {
        tokio::pin!(drained);
        let mut draining = false;
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => break,
                () = &mut drained, if !draining => {
                    draining = true;
                    continue;
                }
                _ = look.tick(), if draining => {
                    if self.calls_are_over() {
                        break;
                    }
                    continue;
                }
                event = events.next() => event,
            };
            let Ok(Some(event)) = event else { break };
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.pass(event, &backend, &id) => {}
            }
        }
        if let Some(mut routes) = lock(&self.routes).take() {
            routes.end();
        }
        if let Some(backend) = backend.upgrade() {
            backend.sse.forget(&id);
        }
    }

    fn calls_are_over(&self) -> bool {
        lock(&self.routes)
            .as_ref()
            .is_none_or(MessageRoutes::calls_are_over)
    }

    async fn pass(&self, event: Event, backend: &Weak<Inner>, id: &HeaderValue) {
        let Some(data) = event.message().cloned() else {
            return;
        };
        let place = lock(&self.routes)
            .as_mut()
            .map_or(MessageRoute::Nowhere, |routes| routes.place(&data));
        // Nothing of its framing: the stream cannot be resumed, so that its positions are none.
        let event = Event {
            data: Some(data),
            ..Event::default()
        };
        match place {
            // Whoever has gone away meanwhile wants nothing any more.
            MessageRoute::Call(call) => drop(call.send(event).await),
            MessageRoute::Listener(listener) => {
                if listener.try_send(event).is_err() {
                    tracing::warn!("a client does not read its stream; a message of its backend is lost");
                }
            }
            MessageRoute::Ping(ping) => self.pong(backend, id, &ping),
            MessageRoute::Nowhere => tracing::debug!("a message of a backend is for nobody"),
        }
    }

    /// Says that the connection lives. That is the gateway's to say: the client may be listening nowhere.
    fn pong(&self, backend: &Weak<Inner>, id: &HeaderValue, ping: &RawValue) {
        let Ok(permit) = Arc::clone(&self.pings).try_acquire_owned() else {
            return;
        };
        let Some(inner) = backend.upgrade() else { return };
        let backend = Backend {
            inner,
            passed: None,
            session_owner: SessionOwner::default(),
        };
        let (id, answer) = (id.clone(), jsonrpc::result(ping, b"{}"));
        backend.tasks().clone().spawn(async move {
            let posting = tokio::time::timeout(PING_DEADLINE, backend.post_over_sse(&id, answer));
            if !matches!(posting.await, Ok(Ok(()))) {
                tracing::debug!(backend = %backend.name(), "a ping could not be answered");
            }
            drop(permit);
        });
    }
}

impl Drop for SseConnection {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_on_which_nothing_is_said_is_open_until_it_is_closed() {
        let (_said, events) = mpsc::channel(1);
        let endpoint = Uri::from_static("http://a/message?session=1");
        let connection = Arc::new(SseConnection::new(endpoint, None, Cookies::default()));
        let (id, drained) = (HeaderValue::from_static("1"), std::future::pending());
        let reading = Arc::clone(&connection).read(id, ResponseEvents::shared(events), Weak::new(), drained);
        tokio::pin!(reading);
        tokio::select! {
            () = &mut reading => panic!("it was closed"),
            () = tokio::time::sleep(Duration::from_secs(24 * 60 * 60)) => {}
        }
        connection.close();
        reading.await;
        assert!(connection.listen().is_none());
    }
}
