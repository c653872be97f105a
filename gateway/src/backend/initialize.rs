//! The handshake with a backend: `initialize`, revision negotiation and `notifications/initialized`.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::backend_era::named_revisions;
use super::request_headers::RequestHeaders;
use super::{Backend, BackendError, UpstreamSession};
use crate::backend::http_client::SendError;
use crate::backend::initialize_result::{InitializeResult, RawInitializeResult};
use crate::mcp::revision::{MAX_REVISION_BYTES, Revision};
use crate::mcp::{error_code, jsonrpc};
use crate::runtime::truncate;

/// How long both steps of a handshake may take together.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(20);

/// How long a program may take to start and to answer. `npx` and `uvx` download a program at its first start.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// The most handshakes for one session. A session lost during the handshake may mean a restart; repeated losses mean replicas without
/// session affinity.
const MAX_HANDSHAKES: u32 = 3;

/// The notification that ends the handshake.
pub(super) const INITIALIZED: Bytes =
    Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);

/// The parameters of `initialize`, with the identity of the client or of the gateway itself.
#[derive(Clone, Debug)]
pub struct InitializeParams<'a> {
    /// The revision to request first.
    pub revision: Revision,
    /// The client's capabilities, unchanged.
    pub capabilities: &'a RawValue,
    /// The client's name and version, unchanged.
    pub client_info: &'a RawValue,
}

impl Backend {
    /// Opens a session at the backend.
    ///
    /// # Errors
    /// When the backend is unreachable, refuses, takes too long, or supports no common revision.
    pub async fn initialize(&self, params: &InitializeParams<'_>) -> Result<UpstreamSession, BackendError> {
        let result = self.initialize_session(params, HANDSHAKE_DEADLINE).await;
        result.map(|result| result.session)
    }

    /// Opens a session at the backend within `deadline`, and returns the result. After an error, or when this future is dropped, it closes
    /// a session that is already open, because no record of it exists.
    ///
    /// # Errors
    /// As [`Self::initialize`].
    pub async fn initialize_session(
        &self,
        params: &InitializeParams<'_>,
        deadline: Duration,
    ) -> Result<InitializeResult, BackendError> {
        let deadline = if self.inner.transport.connects() {
            deadline
        } else {
            deadline.max(START_DEADLINE)
        };
        let until = Instant::now() + deadline;
        for _ in 0..MAX_HANDSHAKES {
            let mut attempt = Attempt::at(self);
            let outcome = tokio::time::timeout_at(until, self.negotiate(params, &mut attempt)).await;
            let outcome = outcome.unwrap_or(Err(BackendError::Deadline(deadline)));
            match &outcome {
                Ok(_) => attempt.opened = None,
                // Do not wait for the deletion at a silent server.
                Err(BackendError::Deadline(_)) => drop(attempt),
                Err(_) => attempt.close().await,
            }
            if !matches!(outcome, Err(BackendError::SessionLost)) {
                let outcome = outcome.map_err(|error| self.hide_values(error).for_initialize());
                let is_single = matches!(outcome, Err(BackendError::SingleSession));
                self.inner.has_single_session.store(is_single, Ordering::Relaxed);
                return outcome;
            }
        }
        self.note_repeated_session_loss();
        Err(BackendError::SessionAffinityRequired)
    }

    /// Sends `initialize` with the requested revision. If the server refuses it, tries the newest revision that the server names, then each
    /// older one: some servers refuse a revision instead of answering with their own.
    async fn negotiate(
        &self,
        params: &InitializeParams<'_>,
        attempt: &mut Attempt,
    ) -> Result<InitializeResult, BackendError> {
        let mut refusal = match self.initialize_at_first_reachable(params, attempt).await {
            Err(error) if attempt.refused.is_some() => error,
            outcome => return outcome,
        };
        let mut refused = params.revision;
        let mut supported = attempt.refused.take().unwrap_or_default();
        supported.retain(|revision| *revision != refused);
        let mut named = supported.into_iter().max();
        while let Some(revision) = named.take().or_else(|| refused.next_older()) {
            attempt.close().await;
            let params = InitializeParams {
                revision,
                ..params.clone()
            };
            match self.initialize_at_first_reachable(&params, attempt).await {
                Err(error) if attempt.refused.take().is_some() => {
                    tracing::debug!(backend = %self.name(), %revision, %error, "backend refused protocol revision");
                    // Keep the first refusal if it has a detail: it may name the cause.
                    if matches!(refusal, BackendError::Status { detail: None, .. }) {
                        refusal = error;
                    }
                    refused = refused.min(revision);
                }
                outcome => return outcome,
            }
        }
        Err(refusal)
    }

    /// Sends `initialize` to the first reachable address of the backend's host.
    async fn initialize_at_first_reachable(
        &self,
        params: &InitializeParams<'_>,
        attempt: &mut Attempt,
    ) -> Result<InitializeResult, BackendError> {
        if !self.inner.transport.connects() {
            return Ok(self.initialize_at(params, None, attempt).await?);
        }
        let pools = self.inner.pools.load_full();
        let mut reason = String::new();
        for address in pools.candidates().await? {
            match self.initialize_at(params, address, attempt).await {
                Ok(result) => return Ok(result),
                Err(SendError::Other(error)) => return Err(error),
                Err(SendError::NoConnection { refused, reason: why }) => {
                    if let Some(address) = address {
                        pools.note_connect_failure(address, refused).await;
                    }
                    reason = why;
                }
            }
        }
        Err(BackendError::Unreachable(reason))
    }

    async fn initialize_at(
        &self,
        params: &InitializeParams<'_>,
        address: Option<IpAddr>,
        attempt: &mut Attempt,
    ) -> Result<InitializeResult, SendError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct RequestParams<'a> {
            protocol_version: &'static str,
            capabilities: &'a RawValue,
            client_info: &'a RawValue,
        }
        let body = RequestParams {
            protocol_version: params.revision.as_str(),
            capabilities: params.capabilities,
            client_info: params.client_info,
        };
        let body = serde_json::to_vec(&body).map_err(|error| BackendError::Invalid(error.to_string()))?;
        let id = self.next_id()?;
        let message = jsonrpc::request(&id, "initialize", &body);
        self.send_initialize(params.revision, message, address, &id, attempt)
            .await
    }

    /// Sends a request of the gateway itself and returns its result.
    ///
    /// # Errors
    /// When there is no result.
    pub(super) async fn ask(
        &self,
        session: &UpstreamSession,
        method: &str,
        params: &[u8],
    ) -> Result<Box<RawValue>, BackendError> {
        let answer = self.ask_for_answer(session, method, params).await?;
        result_of(&answer, &self.inner.headers.load())
    }

    /// As [`Self::ask`], but returns the whole response message.
    ///
    /// # Errors
    /// When there is no response.
    pub(super) async fn ask_for_answer(
        &self,
        session: &UpstreamSession,
        method: &str,
        params: &[u8],
    ) -> Result<Bytes, BackendError> {
        let id = self.next_id()?;
        let message = jsonrpc::request(&id, method, params);
        let answering = async {
            let answer = self.call(session, message, &id).await?;
            answer.whole(&id).await
        };
        let length = self.contact().timeouts.call;
        let answer = tokio::time::timeout(length, answering).await;
        let answer = answer.unwrap_or(Err(BackendError::Deadline(length)));
        answer.map_err(|error| self.hide_values(error))
    }
}

fn read_result(result: &RawValue) -> Result<(RawInitializeResult<'_>, Revision), BackendError> {
    let result: RawInitializeResult<'_> = serde_json::from_str(result.get())
        .map_err(|error| BackendError::Invalid(format!("initialize: {error}")))?;
    let revision = Revision::of_peer(&result.protocol_version).ok_or_else(|| {
        BackendError::Invalid(format!(
            "it speaks only revision {:?}, which is not known",
            truncate::head(&result.protocol_version, MAX_REVISION_BYTES)
        ))
    })?;
    Ok((result, revision))
}

/// One attempt to open a session. Dropping it deletes a session that is already open.
#[derive(Debug)]
pub(super) struct Attempt {
    backend: Backend,
    /// The session that the attempt has opened.
    opened: Option<UpstreamSession>,
    /// Set when the server refused `initialize`, possibly because of the revision. Contains the revisions that it names.
    refused: Option<Vec<Revision>>,
}

impl Attempt {
    fn at(backend: &Backend) -> Self {
        Self {
            backend: backend.clone(),
            opened: None,
            refused: None,
        }
    }

    /// Deletes the opened session in the background, and waits for the deletion.
    async fn close(&mut self) {
        if let Some(closing) = self.spawn_delete()
            && let Err(error) = closing.await
        {
            tracing::debug!(%error, "failed to delete unused upstream session");
        }
    }

    fn spawn_delete(&mut self) -> Option<JoinHandle<()>> {
        let session = self.opened.take()?;
        // Without a runtime the process is ending, and no task can delete it.
        tokio::runtime::Handle::try_current().ok()?;
        let backend = self.backend.clone();
        Some(self.backend.tasks().spawn(async move {
            if let Err(error) = backend.close(&session).await {
                tracing::debug!(backend = %backend.name(), %error, "failed to delete unused upstream session");
            }
        }))
    }

    /// Records the session that the server has opened, so that it is deleted if the attempt fails.
    pub(super) fn note_opened(&mut self, session: &UpstreamSession) {
        self.opened = Some(session.clone());
    }

    /// Records that the server refused `initialize` with the error message `body`, possibly because of the revision.
    pub(super) fn note_refusal(&mut self, body: &[u8]) {
        self.backend.inner.era.note_refusal(body);
        self.refused = Some(supported_revisions(body));
    }

    /// Reads the response `message` to `initialize`. The returned session has the revision that the server chose.
    pub(super) fn complete(
        &mut self,
        message: &[u8],
        mut session: UpstreamSession,
    ) -> Result<InitializeResult, BackendError> {
        let result = self.result_of(message)?;
        let (result, revision) = read_result(&result)?;
        self.backend.inner.era.note_accepted(revision);
        session.revision = revision;
        self.note_opened(&session);
        Ok(result.parse_initialize_result(session))
    }

    /// Reads the result of `initialize`, and records a refusal of the revision.
    fn result_of(&mut self, message: &[u8]) -> Result<Box<RawValue>, BackendError> {
        let result = result_of(message, &self.backend.inner.headers.load());
        if let Err(BackendError::JsonRpc { code, .. }) = &result {
            self.backend.inner.era.note_refusal(message);
            let supported = supported_revisions(message);
            let is_about_it = [
                error_code::INVALID_PARAMS,
                error_code::UNSUPPORTED_PROTOCOL_VERSION,
            ]
            .map(i64::from);
            if !supported.is_empty() || is_about_it.contains(code) {
                self.refused = Some(supported);
            }
        }
        result
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        drop(self.spawn_delete());
    }
}

/// Returns the known revisions in `error.data.supported` of a message (specification, basic/lifecycle).
fn supported_revisions(message: &[u8]) -> Vec<Revision> {
    named_revisions(message)
        .iter()
        .filter_map(|revision| Revision::parse(revision))
        .collect()
}

/// Returns the result in `message`, the response to a request with the headers `sent`.
pub(super) fn result_of(message: &[u8], sent: &RequestHeaders) -> Result<Box<RawValue>, BackendError> {
    let response = jsonrpc::Response::parse(message).map_err(|fault| BackendError::Invalid(fault.message))?;
    match response.outcome {
        jsonrpc::Outcome::Result(result) => Ok(result.to_owned()),
        jsonrpc::Outcome::Error(error) => Err(refused(error, sent)),
    }
}

/// Converts a JSON-RPC error, with a shortened message in which the values of `sent` are hidden.
fn refused(error: &RawValue, sent: &RequestHeaders) -> BackendError {
    #[derive(Deserialize)]
    struct ErrorObject {
        code: i64,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_str::<ErrorObject>(error.get()) {
        Ok(error) => BackendError::JsonRpc {
            code: error.code,
            message: sent.hide_values(&error.message).chars().take(200).collect(),
        },
        Err(_) => BackendError::Invalid("an error without a code".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::backend::HttpClient;
    use crate::runtime::tasks::Tasks;

    const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"a","version":"1"}}}"#;

    /// Responds to `initialize` with a session and `body`, of which the last `missing` bytes never arrive. Never responds to notifications,
    /// and sends the ids of deleted sessions to `deleted`.
    async fn serve(connection: TcpStream, body: &'static str, missing: usize, deleted: mpsc::Sender<String>) {
        let mut connection = BufReader::new(connection);
        loop {
            let (mut head, mut line) = (String::new(), String::new());
            while line != "\r\n" {
                line.clear();
                if connection.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                head.push_str(&line.to_lowercase());
            }
            let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
            let announced = header("content-length: ").map_or(0, |length| length.parse().unwrap());
            let mut message = vec![0; announced];
            connection.read_exact(&mut message).await.unwrap();
            let message = String::from_utf8(message).unwrap();
            let answer = if head.starts_with("delete ") {
                let session = header("mcp-session-id: ").unwrap_or_default();
                deleted.send(session.to_owned()).await.unwrap();
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned()
            } else if message.contains("\"initialize\"") {
                let asked: serde_json::Value = serde_json::from_str(&message).unwrap();
                let body = body.replace("\"id\":1", &format!("\"id\":{}", asked["id"]));
                let length = body.len() + missing;
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: s1\r\n\
                     content-length: {length}\r\n\r\n{body}"
                )
            } else {
                std::future::pending().await
            };
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    /// A backend that responds to `initialize` with `body`, and the sessions that are deleted there.
    async fn silent_backend(body: &'static str, missing: usize) -> (Backend, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let configured = crate::config::BackendSettings::for_test("a", url.parse().unwrap());
        let (deleted, deletions) = mpsc::channel(8);
        let tasks = Tasks::default();
        tasks.clone().spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tasks.spawn(serve(connection, body, missing, deleted.clone()));
            }
        });
        (
            Backend::new(&configured, HttpClient::new(Tasks::default())),
            deletions,
        )
    }

    async fn next(deletions: &mut mpsc::Receiver<String>) -> Option<String> {
        let next = tokio::time::timeout(Duration::from_secs(10), deletions.recv());
        next.await.ok().flatten()
    }

    /// The server opens a session, then stops responding, before or after the end of its response.
    #[tokio::test]
    async fn session_of_an_aborted_handshake_is_deleted() {
        let empty = RawValue::from_string("{}".to_owned()).unwrap();
        let params = InitializeParams {
            revision: Revision::LATEST,
            capabilities: &empty,
            client_info: &empty,
        };
        let deadline = Duration::from_millis(300);
        for missing in [0, 1] {
            let (backend, mut deletions) = silent_backend(RESULT, missing).await;
            let result = backend.initialize_session(&params, deadline).await;
            assert_eq!(result.err(), Some(BackendError::Deadline(deadline)));
            assert_eq!(next(&mut deletions).await.as_deref(), Some("s1"), "{missing}");
            // The future is dropped.
            let result = backend.initialize_session(&params, Duration::from_secs(60));
            assert!(tokio::time::timeout(deadline, result).await.is_err());
            assert_eq!(next(&mut deletions).await.as_deref(), Some("s1"), "{missing}");
        }
        // A server that responds with an error.
        let refusal = r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}"#;
        let (backend, mut deletions) = silent_backend(refusal, 0).await;
        assert!(
            backend
                .initialize_session(&params, Duration::from_secs(60))
                .await
                .is_err()
        );
        assert_eq!(next(&mut deletions).await.as_deref(), Some("s1"));
    }
}
