//! Hearing from a backend that its lists have changed, with the catalogue's own upstream session, also when no client listens.

use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::backend::{Backend, BackendError, ListenStream, NoStream, UpstreamSession};
use crate::catalog::list_changes::is_list_changed;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::Message;
use crate::mcp::{error_code, sse};

/// What is heard in the catalogue's own upstream session.
#[derive(Debug, Default)]
pub(super) struct ListChangedListener {
    session: Option<UpstreamSession>,
    /// Absent where the backend offers no stream.
    listener: Option<ListenStream>,
    opened: u64,
    /// When a broken stream was the last reason to look.
    looked: Option<Instant>,
}

/// How often a stream that was opened again is a reason to look: a backend whose streams are short does not keep the gateway busy.
/// The look is not left out, but waits until then.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a backend may take for the answer to a request of its own.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

impl ListChangedListener {
    /// Ends when the backend says that a list has changed, or may have said it while its stream was broken. A backend that offers
    /// no stream says nothing, and is looked at from time to time only. May be dropped while it waits, and asked again.
    pub(super) async fn changed(&mut self, backend: &Backend, session: Option<&UpstreamSession>) {
        if self.session.as_ref() != session {
            *self = Self {
                session: session.cloned(),
                listener: session.map(|session| ListenStream::new(backend.clone(), session.clone(), None)),
                opened: 1,
                looked: self.looked,
            };
        }
        let (Some(listener), Some(session)) = (&mut self.listener, session) else {
            return std::future::pending().await;
        };
        loop {
            let owed = (listener.opened() > self.opened).then(|| {
                let now = Instant::now();
                self.looked.map_or(now, |looked| now.max(looked + LOOK_EVERY))
            });
            let step = tokio::select! {
                biased;
                () = tokio::time::sleep_until(owed.unwrap_or_else(Instant::now)), if owed.is_some() => {
                    self.opened = listener.opened();
                    self.looked = Some(Instant::now());
                    return;
                }
                step = listener.step() => step,
            };
            match step {
                Ok(Some(event)) if is_change(backend, session, &event).await => return,
                Ok(_) => {}
                Err(silent) => {
                    // A stream that was there, and a session in doubt: the next look finds out, and opens another session.
                    let lost = silent == NoStream::SessionInDoubt && listener.opened() > 0;
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
            let answer = answer(&request.method, request.id);
            let answering = tokio::time::timeout(ANSWER_DEADLINE, backend.notify(session, answer));
            let answered = answering.await;
            if let Err(error) = answered.unwrap_or(Err(BackendError::Deadline(ANSWER_DEADLINE))) {
                tracing::debug!(backend = %backend.name(), %error, "a request of the backend was not answered");
            }
            false
        }
        Some(Ok(Message::Response(_)) | Err(_)) | None => false,
    }
}

/// Nobody is behind the gateway's own session: a ping is all that is answered in it. What it declares, it declares for clients.
fn answer(method: &str, id: &RawValue) -> Bytes {
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
    fn a_ping_is_answered_and_nothing_else_is() {
        let id = RawValue::from_string("1".to_owned()).unwrap();
        assert!(answer("ping", &id).windows(8).any(|bytes| bytes == b"\"result\""));
        assert!(
            answer("roots/list", &id)
                .windows(6)
                .any(|bytes| bytes == b"-32601")
        );
    }
}
