//! The request id that is sent upstream.
//!
//! It is the client's own id, byte for byte, so that any replica can resume or cancel the request. Some
//! clients send every request with the same id. Two requests with one id in one upstream session are
//! ambiguous: servers answer one of them twice and the other never. If another running request of the session
//! has the same id, the request is therefore sent with an id of the gateway, and the client's id is restored
//! in the response. Such a request cannot be resumed. The same holds for every request in a shared session.

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::backend::{Backend, BackendError};
use crate::budget::Account;
use crate::core::{CallError, RoutedCall};
use crate::mcp::error_code;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::{InvalidMessage, Message};
use crate::mcp::splice::splice;
use crate::session::{Progress, RunningRequest};

/// The request id that is sent upstream, with the progress of the request there.
#[derive(Clone, Debug)]
pub(super) struct UpstreamRequestId {
    /// The gateway's id, if the client's own cannot be used.
    replacement: Option<Box<RawValue>>,
    progress: Option<Progress>,
}

impl UpstreamRequestId {
    /// The client's own id.
    pub(super) fn unchanged() -> Self {
        Self {
            replacement: None,
            progress: None,
        }
    }

    /// The id of a running request.
    pub(super) fn for_running(running: &RunningRequest) -> Self {
        Self {
            replacement: running.upstream_id().map(ToOwned::to_owned),
            progress: running.progress(),
        }
    }

    /// The id for a backend with a shared session, where another client may use the same id. `None` for other
    /// backends.
    pub(super) fn in_shared_session(&self, backend: &Backend) -> Option<Self> {
        let id = backend.id_in_shared_session()?;
        if let Some(progress) = &self.progress {
            progress.set_shared_session_id(backend.name().as_str(), &id);
        }
        Some(Self {
            replacement: Some(id),
            progress: self.progress.clone(),
        })
    }

    /// Records that the request is about to be sent: from now on the backend may run it.
    pub(super) fn record_sent(&self, deadline: Instant) {
        if let Some(progress) = &self.progress {
            progress.sent(deadline);
        }
    }

    /// Records that the backend has finished the request.
    pub(super) fn record_finished(&self) {
        if let Some(progress) = &self.progress {
            progress.answered();
        }
    }

    /// Records that the backend has finished the request, if `error` implies it.
    pub(super) fn record_failure(&self, error: &CallError) {
        let is_finished = match error {
            CallError::Backend { error, sent, .. } => !sent || matches!(error, BackendError::Status { .. }),
            _ => true,
        };
        if is_finished {
            self.record_finished();
        }
    }

    /// Whether the client's own id is sent upstream.
    pub(super) fn is_unchanged(&self) -> bool {
        self.replacement.is_none()
    }

    /// The upstream id of the request that the client calls `id`.
    pub(super) fn get<'a>(&'a self, id: &'a RawValue) -> &'a RawValue {
        self.replacement.as_deref().unwrap_or(id)
    }

    /// Writes the upstream id into a request that is about to be sent.
    pub(super) fn apply(&self, routed: RoutedCall) -> Result<RoutedCall, CallError> {
        let Some(id) = &self.replacement else {
            return Ok(routed);
        };
        let message = match Message::parse(&routed.message) {
            Ok(Message::Request(request)) => splice(&routed.message, request.id.get(), id.get().as_bytes()),
            _ => None,
        };
        let message = message.ok_or_else(|| InvalidMessage {
            code: error_code::INTERNAL,
            message: "the id cannot be found".to_owned(),
        })?;
        Ok(RoutedCall { message, ..routed })
    }

    /// Restores the client's id in a response. A new buffer is charged to `account`.
    pub(super) fn restore(
        &self,
        answer: Bytes,
        id: &RawValue,
        account: &Account,
    ) -> Result<Bytes, BackendError> {
        if self.is_unchanged() {
            return Ok(answer);
        }
        let response =
            jsonrpc::Response::parse(&answer).map_err(|fault| BackendError::Invalid(fault.message))?;
        let restored = splice(&answer, response.id.get(), id.get().as_bytes());
        let restored = restored.map(|restored| account.count(restored));
        restored.ok_or_else(|| BackendError::Invalid("its id cannot be found".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    /// The client's id is restored in a response, and every other byte stays.
    #[test]
    fn response_gets_client_id_and_keeps_other_bytes() {
        let id = UpstreamRequestId {
            replacement: Some(raw("1700000001")),
            ..UpstreamRequestId::unchanged()
        };
        let answer =
            Bytes::from_static(br#"{"result":{"id":1700000001, "n":1.0}, "id": 1700000001,"jsonrpc":"2.0"}"#);
        let restored = id.restore(answer, &raw("\"a\""), &account()).unwrap();
        assert_eq!(
            restored,
            r#"{"result":{"id":1700000001, "n":1.0}, "id": "a","jsonrpc":"2.0"}"#
        );
    }

    fn account() -> Account {
        Account::root(usize::MAX)
    }

    /// A response that is rewritten is charged to the account until it is dropped.
    #[test]
    fn rewritten_response_is_charged() {
        let (id, account) = (
            UpstreamRequestId {
                replacement: Some(raw("1700000001")),
                ..UpstreamRequestId::unchanged()
            },
            account(),
        );
        let text = "x".repeat(5000);
        let answer = format!(r#"{{"jsonrpc":"2.0","id":1700000001,"result":{{"t":"{text}"}}}}"#);
        let restored = id.restore(answer.into(), &raw("1"), &account).unwrap();
        assert_eq!(account.reserved(), restored.len());
        drop(restored);
        assert_eq!(account.reserved(), 0);
    }

    /// With the client's own id, the response is not touched.
    #[test]
    fn unchanged_id_keeps_the_response() {
        let id = UpstreamRequestId::unchanged();
        assert_eq!(id.get(&raw("1")).get(), "1");
        let answer = Bytes::from_static(b"whatever");
        assert_eq!(id.restore(answer.clone(), &raw("1"), &account()).unwrap(), answer);
    }
}
