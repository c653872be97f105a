//! `initialize` and `notifications/initialized` with a backend.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::post::{has_answer, head_soon, is_unknown_method};
use super::{Backend, BackendError, Cookies, UpstreamBody, UpstreamSession};
use crate::backend::ResponseEvents;
use crate::backend::http_client::SendError;
use crate::backend::initialize_result::{InitializeResult, RawInitializeResult};
use crate::backend::response_reader;
use crate::mcp::revision::{MAX_REVISION_BYTES, Revision};
use crate::mcp::{error_code, header_names, jsonrpc};
use crate::runtime::clock;
use crate::runtime::truncate;

/// The longest session id that is accepted from a backend: it is stored with the session.
const MAX_SESSION_ID_BYTES: usize = 2048;

/// How long a handshake may take, both of its steps together.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(20);

/// How often a session is opened that the backend has lost before the handshake is over: once may be a restart, and again and again are
/// replicas that know nothing of each other.
const HANDSHAKES: u32 = 3;

/// Who says hello: the client, by the gateway's mouth, or the gateway itself.
#[derive(Clone, Debug)]
pub struct InitializeParams<'a> {
    /// The revision to ask for.
    pub revision: Revision,
    /// The client's capabilities, as it wrote them.
    pub capabilities: &'a RawValue,
    /// The client's name and version, as it wrote them.
    pub client_info: &'a RawValue,
}

impl Backend {
    /// Opens a session at the backend.
    ///
    /// # Errors
    /// When the backend cannot be reached, refuses, takes too long, or speaks no revision that we speak.
    pub async fn initialize(&self, hello: &InitializeParams<'_>) -> Result<UpstreamSession, BackendError> {
        let greeting = self.initialize_session(hello, HANDSHAKE_DEADLINE).await;
        greeting.map(|greeting| greeting.session)
    }

    /// Opens a session at the backend, and hears what it says of itself, at most as long as `deadline`. A session that is open when
    /// something goes wrong, or when nobody waits for this any more, is closed again: nobody else knows of it.
    ///
    /// # Errors
    /// As [`Self::initialize`].
    pub async fn initialize_session(
        &self,
        hello: &InitializeParams<'_>,
        deadline: Duration,
    ) -> Result<InitializeResult, BackendError> {
        let until = Instant::now() + deadline;
        for _ in 0..HANDSHAKES {
            let mut attempt = Attempt::at(self);
            let shaken = tokio::time::timeout_at(until, self.negotiate(hello, &mut attempt)).await;
            let greeting = shaken.unwrap_or(Err(BackendError::Deadline(deadline)));
            match &greeting {
                Ok(_) => attempt.opened = None,
                // Nobody waits any longer for a server that is silent.
                Err(BackendError::Deadline(_)) => drop(attempt),
                Err(_) => attempt.close().await,
            }
            if !matches!(greeting, Err(BackendError::SessionLost)) {
                let greeting = greeting.map_err(BackendError::of_initialize);
                let is_single = matches!(greeting, Err(BackendError::SingleSession));
                self.inner.has_single_session.store(is_single, Ordering::Relaxed);
                return greeting;
            }
        }
        self.forgets_sessions();
        Err(BackendError::SessionAffinityRequired)
    }

    /// Greets in the revision that is asked for. Where the server refuses that, in the newest of those that it says it supports, and then
    /// in one older revision after the other: some servers refuse what they should answer with a revision of their own.
    async fn negotiate(
        &self,
        hello: &InitializeParams<'_>,
        attempt: &mut Attempt,
    ) -> Result<InitializeResult, BackendError> {
        let mut refusal = match self.greet_somebody(hello, attempt).await {
            Err(error) if attempt.refused.is_some() => error,
            outcome => return outcome,
        };
        let mut refused = hello.revision;
        let mut supported = attempt.refused.take().unwrap_or_default();
        supported.retain(|revision| *revision != refused);
        let mut named = supported.into_iter().max();
        while let Some(revision) = named.take().or_else(|| refused.next_older()) {
            attempt.close().await;
            let hello = InitializeParams {
                revision,
                ..hello.clone()
            };
            match self.greet_somebody(&hello, attempt).await {
                Err(error) if attempt.refused.take().is_some() => {
                    tracing::debug!(backend = %self.name(), %revision, %error, "the backend refuses a revision");
                    // The first refusal may say what is wanted, and is kept unless it was about another thing.
                    if matches!(refusal, BackendError::Status(_)) {
                        refusal = error;
                    }
                    refused = refused.min(revision);
                }
                outcome => return outcome,
            }
        }
        Err(refusal)
    }

    /// Greets the first server that is there, where the backend's host has several addresses.
    async fn greet_somebody(
        &self,
        hello: &InitializeParams<'_>,
        attempt: &mut Attempt,
    ) -> Result<InitializeResult, BackendError> {
        let pools = self.inner.pools.load_full();
        let mut reason = String::new();
        for address in pools.candidates().await? {
            match self.shake_hands(hello, address, attempt).await {
                Ok(greeting) => return Ok(greeting),
                Err(SendError::Other(error)) => return Err(error),
                Err(SendError::NoConnection { refused, reason: why }) => {
                    if let Some(address) = address {
                        pools.is_left(address, refused).await;
                    }
                    reason = why;
                }
            }
        }
        Err(BackendError::Unreachable(reason))
    }

    async fn shake_hands(
        &self,
        hello: &InitializeParams<'_>,
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
        let params = RequestParams {
            protocol_version: hello.revision.as_str(),
            capabilities: hello.capabilities,
            client_info: hello.client_info,
        };
        let params = serde_json::to_vec(&params).map_err(|error| BackendError::Invalid(error.to_string()))?;
        let id = self.next_id()?;
        let message = jsonrpc::request(&id, "initialize", &params);
        if self.has_streams_for_sessions() {
            return self
                .shake_hands_over_sse(hello, message, address, &id, attempt)
                .await;
        }
        let make = || self.request(Method::POST, None, message.clone());
        let response = self.send_to(make()?, address).await?;
        let response = self.follow(response, make, address).await?;
        if !has_answer(&response) {
            let (status, error) = (response.status(), BackendError::of_answer(&response));
            let body = head_soon(response.into_body()).await;
            let error = error.told(&body).of_initialize();
            if status == StatusCode::BAD_REQUEST && error != BackendError::SingleSession {
                attempt.refused = Some(supported_revisions(&body));
            }
            return Err(error.into());
        }
        // A copy: the header is a part of the buffer into which the answer was read, and would keep all of it as long as the session.
        let session_id = response.headers().get(header_names::SESSION_ID);
        let session_id = session_id.filter(|id| !id.is_empty());
        let session_id = session_id.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
        if let Some(id) = &session_id
            && (id.len() > MAX_SESSION_ID_BYTES || !id.as_bytes().iter().all(is_of_session_ids))
        {
            let message =
                format!("its session id is not visible ASCII of at most {MAX_SESSION_ID_BYTES} bytes");
            return Err(BackendError::Invalid(message).into());
        }
        let cookies = Cookies::default();
        cookies.take(response.headers(), &[self.url()], clock::unix_seconds);
        let mut session = UpstreamSession {
            // Where there is no session there is nothing that is at one address only.
            address: address.filter(|_| session_id.is_some()),
            id: session_id,
            revision: hello.revision,
            cookies,
        };
        // It is open as soon as it has an id, whatever becomes of the rest of the answer.
        attempt.opened = Some(session.clone());
        let result = attempt.result_of(&own_answer(response, &id).await?)?;
        let (result, revision) = read_result(&result)?;
        session.revision = revision;
        attempt.opened = Some(session.clone());
        self.initialized(&session).await?;
        Ok(result.parse_initialize_result(session))
    }

    /// The same, in a stream that is opened for it.
    async fn shake_hands_over_sse(
        &self,
        hello: &InitializeParams<'_>,
        message: Bytes,
        address: Option<IpAddr>,
        id: &RawValue,
        attempt: &mut Attempt,
    ) -> Result<InitializeResult, SendError> {
        let session = attempt.opened.insert(UpstreamSession {
            id: Some(self.open_stream(address).await?),
            revision: hello.revision,
            address,
            cookies: Cookies::default(),
        });
        let answer = self.call_over_sse(session, message, id).await?;
        let mut session = session.clone();
        let result = attempt.result_of(&answer.whole(id).await?)?;
        let (result, revision) = read_result(&result)?;
        session.revision = revision;
        attempt.opened = Some(session.clone());
        self.initialized(&session).await?;
        Ok(result.parse_initialize_result(session))
    }

    /// Tells the server that the session is in use. Some have no word for that, and answer with any error; if it means something, the next
    /// request meets it, too.
    async fn initialized(&self, session: &UpstreamSession) -> Result<(), BackendError> {
        let initialized = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        if self.has_streams_for_sessions() {
            return self.notify(session, initialized).await;
        }
        let response = self.post(Some(session), initialized).await?;
        let (status, error) = (response.status(), BackendError::of_answer(&response));
        if status.is_success() {
            return Ok(());
        }
        if status == StatusCode::NOT_FOUND
            && session.id.is_some()
            && !is_unknown_method(&head_soon(response.into_body()).await)
        {
            return Err(BackendError::SessionLost);
        }
        tracing::debug!(backend = %self.name(), %error, "the backend does not take notifications/initialized");
        Ok(())
    }

    /// Sends a request of the gateway's own and gives its result.
    ///
    /// # Errors
    /// When there is no result.
    pub(super) async fn ask(
        &self,
        session: &UpstreamSession,
        method: &str,
        params: &[u8],
    ) -> Result<Box<RawValue>, BackendError> {
        result_of(&self.ask_for_answer(session, method, params).await?)
    }

    /// The same, with the answer as it came.
    ///
    /// # Errors
    /// When there is no answer.
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
        answer.unwrap_or(Err(BackendError::Deadline(length)))
    }
}

/// Visible ASCII, and blanks, which the specification does not allow and every SDK lives with.
fn is_of_session_ids(byte: &u8) -> bool {
    byte.is_ascii_graphic() || *byte == b' '
}

fn read_result(result: &RawValue) -> Result<(RawInitializeResult<'_>, Revision), BackendError> {
    let result: RawInitializeResult<'_> = serde_json::from_str(result.get())
        .map_err(|error| BackendError::Invalid(format!("initialize: {error}")))?;
    let revision = Revision::of_backend(&result.protocol_version).ok_or_else(|| {
        BackendError::Invalid(format!(
            "it speaks only revision {:?}, which is not known",
            truncate::head(&result.protocol_version, MAX_REVISION_BYTES)
        ))
    })?;
    Ok((result, revision))
}

/// What has come of an attempt so far. A session that is open when it is dropped is closed.
#[derive(Debug)]
struct Attempt {
    backend: Backend,
    /// The session that is open.
    opened: Option<UpstreamSession>,
    /// The server has refused `initialize` in a way that may be about the revision. These it says it supports.
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

    /// Closes the session that is open, and waits for it. It is closed whether or not this is waited for.
    async fn close(&mut self) {
        if let Some(closing) = self.begin_to_close()
            && let Err(error) = closing.await
        {
            tracing::debug!(%error, "an upstream session that was not used may not have been deleted");
        }
    }

    fn begin_to_close(&mut self) -> Option<JoinHandle<()>> {
        let session = self.opened.take()?;
        // Without a runtime there is nobody who could do it: the process is ending.
        tokio::runtime::Handle::try_current().ok()?;
        let backend = self.backend.clone();
        Some(self.backend.tasks().spawn(async move {
            if let Err(error) = backend.close(&session).await {
                tracing::debug!(backend = %backend.name(), %error, "an upstream session that was not used could not be deleted");
            }
        }))
    }

    /// The result of `initialize` in its answer.
    fn result_of(&mut self, message: &[u8]) -> Result<Box<RawValue>, BackendError> {
        let result = result_of(message);
        if let Err(BackendError::JsonRpc { code, .. }) = &result {
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
        drop(self.begin_to_close());
    }
}

/// The revisions in `error.data.supported` of a message (specification, basic/lifecycle), as far as they are known.
fn supported_revisions(message: &[u8]) -> Vec<Revision> {
    #[derive(Deserialize)]
    struct Message {
        error: ErrorObject,
    }
    #[derive(Deserialize)]
    struct ErrorObject {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        supported: Vec<String>,
    }
    let message = serde_json::from_slice::<Message>(message);
    let supported = message.map(|message| message.error.data.supported);
    let known = supported.unwrap_or_default();
    known
        .iter()
        .filter_map(|revision| Revision::parse(revision))
        .collect()
}

async fn own_answer(response: Response<UpstreamBody>, id: &RawValue) -> Result<Bytes, BackendError> {
    let content_type = response.headers().get(http::header::CONTENT_TYPE);
    if header_names::is_media_type(content_type, &header_names::EVENT_STREAM) {
        return response_reader::find(ResponseEvents::new(response.into_body()), id).await;
    }
    if !header_names::is_json(content_type) {
        return Err(BackendError::content_type(
            content_type,
            "neither JSON nor a stream of events",
        ));
    }
    let whole = response_reader::collect(Bytes::new(), response.into_body()).await?;
    response_reader::check(whole, id)
}

/// The result that `message` holds.
pub(super) fn result_of(message: &[u8]) -> Result<Box<RawValue>, BackendError> {
    let response = jsonrpc::Response::parse(message).map_err(|fault| BackendError::Invalid(fault.message))?;
    match response.outcome {
        jsonrpc::Outcome::Result(result) => Ok(result.to_owned()),
        jsonrpc::Outcome::Error(error) => Err(refused(error)),
    }
}

/// A JSON-RPC error, its message cut short: it is shown to people.
fn refused(error: &RawValue) -> BackendError {
    #[derive(Deserialize)]
    struct ErrorObject {
        code: i64,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_str::<ErrorObject>(error.get()) {
        Ok(error) => BackendError::JsonRpc {
            code: error.code,
            message: error.message.chars().take(200).collect(),
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

    /// Answers `initialize` with a session and `body`, behind which so many bytes are `missing`, says nothing to notifications, and tells
    /// which sessions are deleted.
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

    /// A backend that answers `initialize` so, and the sessions that are deleted there.
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

    /// A server that opens a session and is silent then, before or behind the end of its answer.
    #[tokio::test]
    async fn session_of_a_handshake_that_is_given_up_is_deleted() {
        let empty = RawValue::from_string("{}".to_owned()).unwrap();
        let hello = InitializeParams {
            revision: Revision::LATEST,
            capabilities: &empty,
            client_info: &empty,
        };
        let deadline = Duration::from_millis(300);
        for missing in [0, 1] {
            let (backend, mut deletions) = silent_backend(RESULT, missing).await;
            let greeting = backend.initialize_session(&hello, deadline).await;
            assert_eq!(greeting.err(), Some(BackendError::Deadline(deadline)));
            assert_eq!(next(&mut deletions).await.as_deref(), Some("s1"), "{missing}");
            // Nobody waits for it any more.
            let greeting = backend.initialize_session(&hello, Duration::from_secs(60));
            assert!(tokio::time::timeout(deadline, greeting).await.is_err());
            assert_eq!(next(&mut deletions).await.as_deref(), Some("s1"), "{missing}");
        }
        // One that answers with no result.
        let refusal = r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}"#;
        let (backend, mut deletions) = silent_backend(refusal, 0).await;
        assert!(
            backend
                .initialize_session(&hello, Duration::from_secs(60))
                .await
                .is_err()
        );
        assert_eq!(next(&mut deletions).await.as_deref(), Some("s1"));
    }
}
