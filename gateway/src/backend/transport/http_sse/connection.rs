//! One HTTP+SSE stream, which is an upstream session: both end together. The stream has no idle timeout; it stays open until the gateway
//! closes it.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{HeaderValue, Uri};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::backend::own_request_id::SessionOwner;
use crate::backend::transport::routed_stream::{Routed, RoutedStream};
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
    messages: RoutedStream,
    stop: CancellationToken,
    pings: Arc<Semaphore>,
}

impl SseConnection {
    /// `is_shared` says that several clients use it.
    pub(super) fn new(endpoint: Uri, address: Option<IpAddr>, cookies: Cookies, is_shared: bool) -> Self {
        Self {
            endpoint,
            address,
            cookies,
            messages: RoutedStream::new(is_shared),
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

    /// The calls and the listener of the session.
    pub(super) fn messages(&self) -> &RoutedStream {
        &self.messages
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
                    if self.messages.has_no_calls() {
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
        self.messages.end(None);
        if let Some(backend) = backend.upgrade() {
            backend.transport.forget_sse_stream(&id);
        }
    }

    async fn dispatch(&self, event: Event, backend: &Weak<Inner>, id: &HeaderValue) {
        let Some(data) = event.message().cloned() else {
            return;
        };
        match self.messages.deliver(data).await {
            Routed::Delivered => {}
            Routed::Ping(ping) => self.answer_ping(backend, id, &ping),
            Routed::Unroutable => tracing::debug!("dropping unroutable backend message"),
        }
    }

    /// Answers a ping.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silent_stream_stays_open_until_closed() {
        let (_sender, events) = tokio::sync::mpsc::channel(1);
        let endpoint = Uri::from_static("http://a/message?session=1");
        let connection = Arc::new(SseConnection::new(endpoint, None, Cookies::default(), false));
        let (id, drained) = (HeaderValue::from_static("1"), std::future::pending());
        let reading = Arc::clone(&connection).read(
            id,
            ResponseEvents::shared(events, Arc::default()),
            Weak::new(),
            drained,
        );
        tokio::pin!(reading);
        tokio::select! {
            () = &mut reading => panic!("it was closed"),
            () = tokio::time::sleep(Duration::from_secs(24 * 60 * 60)) => {}
        }
        connection.close();
        reading.await;
        assert!(connection.messages().listen().is_none());
    }
}
