//! The id under which a request goes upstream.
//!
//! It is the client's own, byte for byte, so that any replica can resume or cancel the request. Some clients send every request with the same
//! id. Two requests with one id in one upstream session cannot be told apart: servers answer one of them twice and the other never. So a
//! request whose id another running request of its session has goes upstream under an id of the gateway's, and its answer gets the
//! client's id again. The client cannot resume its stream. The same holds for every request in a session that all clients share.

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

/// The id under which a request goes upstream, and until when it is taken there.
#[derive(Clone, Debug)]
pub(super) struct UpstreamRequestId {
    /// Where it is not the client's own.
    other: Option<Box<RawValue>>,
    progress: Option<Progress>,
}

impl UpstreamRequestId {
    /// The client's own.
    pub(super) fn own() -> Self {
        Self {
            other: None,
            progress: None,
        }
    }

    /// That of a running request.
    pub(super) fn of(running: &RunningRequest) -> Self {
        Self {
            other: running.upstream_id().map(ToOwned::to_owned),
            progress: running.progress(),
        }
    }

    /// The id at `backend`, where all clients share a session in which another one may have the client's own.
    pub(super) fn in_shared_session(&self, backend: &Backend) -> Option<Self> {
        let id = backend.id_in_shared_session()?;
        if let Some(progress) = &self.progress {
            progress.goes_as(backend.name().as_str(), &id);
        }
        Some(Self {
            other: Some(id),
            progress: self.progress.clone(),
        })
    }

    /// Says that the request is about to be sent: from here on a backend may be running it, whoever still waits for it.
    pub(super) fn sent(&self, deadline: Instant) {
        if let Some(progress) = &self.progress {
            progress.sent(deadline);
        }
    }

    /// Says that the backend is done with the request.
    pub(super) fn answered(&self) {
        if let Some(progress) = &self.progress {
            progress.answered();
        }
    }

    /// The same, if that is what `error` says.
    pub(super) fn failed(&self, error: &CallError) {
        use BackendError::Status;
        let is_over = match error {
            CallError::Backend { error, sent, .. } => !sent || matches!(error, Status(_)),
            _ => true,
        };
        if is_over {
            self.answered();
        }
    }

    /// Whether it is the client's own.
    pub(super) fn is_own(&self) -> bool {
        self.other.is_none()
    }

    /// The id upstream of the request that the client calls `id`.
    pub(super) fn get<'a>(&'a self, id: &'a RawValue) -> &'a RawValue {
        self.other.as_deref().unwrap_or(id)
    }

    /// Writes it into a request that is about to be sent.
    pub(super) fn apply(&self, routed: RoutedCall) -> Result<RoutedCall, CallError> {
        let Some(id) = &self.other else {
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

    /// Gives an answer the id that the client waits for. What is made anew for it is counted in `account`.
    pub(super) fn restore(
        &self,
        answer: Bytes,
        id: &RawValue,
        account: &Account,
    ) -> Result<Bytes, BackendError> {
        if self.is_own() {
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

    #[test]
    fn answer_gets_the_clients_id_and_keeps_every_other_byte() {
        let id = UpstreamRequestId {
            other: Some(raw("1700000001")),
            ..UpstreamRequestId::own()
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

    #[test]
    fn answer_that_is_made_anew_is_counted() {
        let (id, account) = (
            UpstreamRequestId {
                other: Some(raw("1700000001")),
                ..UpstreamRequestId::own()
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

    #[test]
    fn own_id_changes_nothing() {
        let id = UpstreamRequestId::own();
        assert_eq!(id.get(&raw("1")).get(), "1");
        let answer = Bytes::from_static(b"whatever");
        assert_eq!(id.restore(answer.clone(), &raw("1"), &account()).unwrap(), answer);
    }
}
