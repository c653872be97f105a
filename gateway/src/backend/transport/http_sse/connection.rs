//! One HTTP+SSE stream, which is an upstream session: both end together. The stream has no idle timeout; it stays open until the gateway
//! closes it.

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

/// How often the drain checks whether the calls on the stream are complete.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// The most concurrent responses to pings of the server.
const MAX_CONCURRENT_PINGS: usize = 4;
/// How long the server may take to accept the response to its ping.
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// An open HTTP+SSE stream.
#[derive(Debug)]
pub(super) struct SseConnection {
    /// The URL for POSTs. It contains the session's id, so it is secret.
    endpoint: Uri,
    /// The address of the server with the stream, where the host is a name.
    address: Option<IpAddr>,
    /// The cookies by which a load balancer finds the server.
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
            pings: Arc::new(Semaphore::new(MAX_CONCURRENT_PINGS)),
        }
    }

    /// The URL for POSTs.
    pub(super) fn endpoint(&self) -> &Uri {
        &self.endpoint
    }

    /// The address of the server with the stream, where the host is a name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The cookies by which a load balancer finds the server.
    pub(super) fn cookies(&self) -> &Cookies {
        &self.cookies
    }

    /// Registers the request `message` with the id `id`, and returns its events; `None` when the stream has ended.
    pub(super) fn call(&self, id: &RawValue, message: &[u8]) -> Option<mpsc::Receiver<Event>> {
        lock(&self.routes).as_mut().map(|routes| routes.call(id, message))
    }

    /// Returns the messages that belong to no call; `None` when the stream has ended.
    pub(super) fn listen(&self) -> Option<mpsc::Receiver<Event>> {
        lock(&self.routes).as_mut().map(MessageRoutes::listen)
    }

    /// Ends the stream, and with it the session.
    pub(super) fn close(&self) {
        self.stop.cancel();
    }

    /// Reads the stream to its end, dispatches its messages, and answers pings through `backend`.
    pub(super) async fn read(
        self: Arc<Self>,
        id: HeaderValue,
        mut events: ResponseEvents,
        backend: Weak<Inner>,
        drained: impl Future<Output = ()>,
    ) {
        tokio::pin!(drained);
        let mut draining = false;
        let mut drain_check = tokio::time::interval(DRAIN_CHECK_INTERVAL);
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => break,
                () = &mut drained, if !draining => {
                    draining = true;
                    continue;
                }
                _ = drain_check.tick(), if draining => {
                    if self.has_no_calls() {
                        break;
                    }
                    continue;
                }
                event = events.next() => event,
            };
            let Ok(Some(event)) = event else { break };
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.dispatch(event, &backend, &id) => {}
            }
        }
        if let Some(mut routes) = lock(&self.routes).take() {
            routes.end();
        }
        if let Some(backend) = backend.upgrade() {
            backend.transport.forget_sse_stream(&id);
        }
    }

    fn has_no_calls(&self) -> bool {
        lock(&self.routes)
            .as_ref()
            .is_none_or(MessageRoutes::has_no_calls)
    }

    async fn dispatch(&self, event: Event, backend: &Weak<Inner>, id: &HeaderValue) {
        let Some(data) = event.message().cloned() else {
            return;
        };
        let route = lock(&self.routes)
            .as_mut()
            .map_or(MessageRoute::Unroutable, |routes| routes.route(&data));
        // Drop event ids and `retry`: the stream cannot be resumed.
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
            MessageRoute::Ping(ping) => self.answer_ping(backend, id, &ping),
            MessageRoute::Unroutable => tracing::debug!("dropping unroutable backend message"),
        }
    }

    /// Answers a ping. The gateway does it itself, because the client may have no open stream.
    fn answer_ping(&self, backend: &Weak<Inner>, id: &HeaderValue, ping: &RawValue) {
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
                tracing::debug!(backend = %backend.name(), "failed to answer ping");
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
    async fn silent_stream_stays_open_until_closed() {
        let (_sender, events) = mpsc::channel(1);
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
