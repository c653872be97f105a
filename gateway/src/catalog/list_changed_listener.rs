//! Listens for `list_changed` of a backend in the catalog's own upstream session, also while no client is connected.

use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::backend::{Backend, BackendError, ListenStream, NoStream, UpstreamSession};
use crate::catalog::list_changes::is_list_changed;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::Message;
use crate::mcp::{error_code, sse};

/// The GET stream of the catalog's own upstream session with one backend.
#[derive(Debug, Default)]
pub(super) struct ListChangedListener {
    session: Option<UpstreamSession>,
    /// `None` if the backend offers no stream.
    listener: Option<ListenStream>,
    opened: u64,
    /// When a reopened stream last caused a discovery.
    last_reopen_discovery: Option<Instant>,
}

/// Minimum time between two discoveries caused by a reopened stream, so that a backend with short-lived streams does not keep the gateway
/// busy. The discovery is delayed, never skipped.
const MIN_REOPEN_INTERVAL: Duration = Duration::from_secs(10);
/// Time limit for sending the response to a request of the backend.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

impl ListChangedListener {
    /// Resolves when the backend reports a changed list, or may have reported one while its stream was broken. Never resolves if the
    /// backend offers no stream; such a backend is only refreshed periodically. Cancel safe.
    pub(super) async fn changed(&mut self, backend: &Backend, session: Option<&UpstreamSession>) {
        if self.session.as_ref() != session {
            *self = Self {
                session: session.cloned(),
                listener: session.map(|session| ListenStream::new(backend.clone(), session.clone(), None)),
                opened: 1,
                last_reopen_discovery: self.last_reopen_discovery,
            };
        }
        let (Some(listener), Some(session)) = (&mut self.listener, session) else {
            return std::future::pending().await;
        };
        loop {
            let due = (listener.opened() > self.opened).then(|| {
                let now = Instant::now();
                self.last_reopen_discovery.map_or(now, |last_reopen_discovery| {
                    now.max(last_reopen_discovery + MIN_REOPEN_INTERVAL)
                })
            });
            let step = tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.opened = listener.opened();
                    self.last_reopen_discovery = Some(Instant::now());
                    return;
                }
                step = listener.step() => step,
            };
            match step {
                Ok(Some(event)) if is_change(backend, session, &event).await => return,
                Ok(_) => {}
                Err(reason) => {
                    // The stream worked before, so the session may be lost: the next discovery finds out, and opens another one.
                    let lost = reason == NoStream::SessionInDoubt && listener.opened() > 0;
                    self.listener = None;
                    if lost {
                        return;
                    }
                    return std::future::pending().await;
                }
            }
        }
    }
}

async fn is_change(backend: &Backend, session: &UpstreamSession, event: &sse::Event) -> bool {
    match event.message().map(|data| Message::from_backend(data)) {
        Some(Ok(Message::Notification { method, .. })) => is_list_changed(&method),
        Some(Ok(Message::Request(request))) => {
            let response = response_to(&request.method, request.id);
            let answering = tokio::time::timeout(ANSWER_DEADLINE, backend.notify(session, response));
            let answered = answering.await;
            if let Err(error) = answered.unwrap_or(Err(BackendError::Deadline(ANSWER_DEADLINE))) {
                tracing::debug!(backend = %backend.name(), %error, "failed to answer backend request");
            }
            false
        }
        Some(Ok(Message::Response(_)) | Err(_)) | None => false,
    }
}

/// Response to a request in the gateway's own session. No client is attached to that session, so only `ping` succeeds; the capabilities are
/// declared on behalf of clients.
fn response_to(method: &str, id: &RawValue) -> Bytes {
    if method == "ping" {
        return jsonrpc::result(id, b"{}");
    }
    jsonrpc::error(
        Some(id),
        error_code::METHOD_NOT_FOUND,
        "The gateway's own session answers nothing but ping",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ping_is_answered() {
        let id = RawValue::from_string("1".to_owned()).unwrap();
        assert!(
            response_to("ping", &id)
                .windows(8)
                .any(|bytes| bytes == b"\"result\"")
        );
        assert!(
            response_to("roots/list", &id)
                .windows(6)
                .any(|bytes| bytes == b"-32601")
        );
    }
}
