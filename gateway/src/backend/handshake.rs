//! `initialize` and `notifications/initialized` with a backend.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::greeting::{Greeting, InitializeResult};
use super::post::told;
use super::transport::Failure;
use super::{Backend, BackendError, UpstreamBody, UpstreamSession, answer};
use crate::backend::Events;
use crate::text;
use crate::wire::revision::{MAX_REVISION_BYTES, Revision};
use crate::wire::{header, jsonrpc};

/// The longest session id that is accepted from a backend: it is stored with the session.
const MAX_SESSION_ID_BYTES: usize = 512;

/// How long a handshake may take, both of its steps together.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(20);

/// How often a session is opened that the backend has lost before the handshake is over: once may be a restart, and again and again are
/// replicas that know nothing of each other.
const HANDSHAKES: u32 = 3;

/// Who says hello: the client, by the gateway's mouth, or the gateway itself.
#[derive(Clone, Debug)]
pub struct Hello<'a> {
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
    pub async fn initialize(&self, hello: &Hello<'_>) -> Result<UpstreamSession, BackendError> {
        let greeting = self.greet(hello, HANDSHAKE_DEADLINE).await;
        greeting.map(|greeting| greeting.session)
    }

    /// Opens a session at the backend, and hears what it says of itself, at most as long as `deadline`. A session that is open when
    /// something goes wrong is closed again: nobody else knows of it.
    ///
    /// # Errors
    /// As [`Self::initialize`].
    pub async fn greet(&self, hello: &Hello<'_>, deadline: Duration) -> Result<Greeting, BackendError> {
        let until = Instant::now() + deadline;
        for _ in 0..HANDSHAKES {
            let mut opened = None;
            let shaken = tokio::time::timeout_at(until, self.greet_somebody(hello, &mut opened)).await;
            let greeting = shaken.unwrap_or(Err(BackendError::Deadline(deadline)));
            if greeting.is_err()
                && let Some(session) = opened
                && let Err(error) = self.close(&session).await
            {
                tracing::debug!(backend = %self.name(), %error, "an upstream session that was not used could not be deleted");
            }
            if !matches!(greeting, Err(BackendError::SessionLost)) {
                return greeting;
            }
        }
        self.forgets_sessions();
        Err(BackendError::Forgetful)
    }

    /// Greets the first server that is there, where the backend's host has several addresses.
    async fn greet_somebody(
        &self,
        hello: &Hello<'_>,
        opened: &mut Option<UpstreamSession>,
    ) -> Result<Greeting, BackendError> {
        let pools = self.inner.pools.load_full();
        let mut reason = String::new();
        for address in pools.candidates().await? {
            match self.shake_hands(hello, address, opened).await {
                Ok(greeting) => return Ok(greeting),
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::NoConnection { refused, reason: why }) => {
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
        hello: &Hello<'_>,
        address: Option<IpAddr>,
        opened: &mut Option<UpstreamSession>,
    ) -> Result<Greeting, Failure> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Params<'a> {
            protocol_version: &'static str,
            capabilities: &'a RawValue,
            client_info: &'a RawValue,
        }
        let params = Params {
            protocol_version: hello.revision.as_str(),
            capabilities: hello.capabilities,
            client_info: hello.client_info,
        };
        let params = serde_json::to_vec(&params).map_err(|error| BackendError::Invalid(error.to_string()))?;
        let id = own_id();
        let message = jsonrpc::request(&id, "initialize", &params);
        if self.has_streams_for_sessions() {
            return self
                .shake_hands_over_sse(hello, message, address, &id, opened)
                .await;
        }
        let request = self.request(Method::POST, None, message)?;
        let response = self.send_to(request, address).await?;
        if response.status() != StatusCode::OK {
            let error = BackendError::of_answer(&response);
            return Err(told(error, response.into_body()).await.into());
        }
        // A copy: the header is a part of the buffer into which the answer was read, and would keep all of it as long as the session.
        let session_id = response.headers().get(header::SESSION_ID);
        let session_id = session_id.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
        if let Some(id) = &session_id
            && (id.len() > MAX_SESSION_ID_BYTES || !id.as_bytes().iter().all(u8::is_ascii_graphic))
        {
            let message =
                format!("its session id is not visible ASCII of at most {MAX_SESSION_ID_BYTES} bytes");
            return Err(BackendError::Invalid(message).into());
        }
        let result = own_result(response, &id).await?;
        let (result, revision) = read_result(&result)?;
        let session = UpstreamSession {
            // Where there is no session there is nothing that is at one address only.
            address: address.filter(|_| session_id.is_some()),
            id: session_id,
            revision,
        };
        *opened = Some(session.clone());
        self.initialized(&session).await?;
        Ok(result.greeting(session))
    }

    /// The same, in a stream that is opened for it.
    async fn shake_hands_over_sse(
        &self,
        hello: &Hello<'_>,
        message: Bytes,
        address: Option<IpAddr>,
        id: &str,
        opened: &mut Option<UpstreamSession>,
    ) -> Result<Greeting, Failure> {
        let session = opened.insert(UpstreamSession {
            id: Some(self.open_stream(address).await?),
            revision: hello.revision,
            address,
        });
        let id = raw_string(id)?;
        let answer = self.call_over_sse(session, message, &id).await?;
        let result = result_of(&answer.whole(&id).await?)?;
        let (result, revision) = read_result(&result)?;
        session.revision = revision;
        self.initialized(session).await?;
        Ok(result.greeting(session.clone()))
    }

    async fn initialized(&self, session: &UpstreamSession) -> Result<(), BackendError> {
        let initialized = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        self.notify(session, initialized).await
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
        let id = own_id();
        let raw_id = raw_string(&id)?;
        let message = jsonrpc::request(&id, method, params);
        let answering = async {
            let answer = self.call(session, message, &raw_id).await?;
            answer.whole(&raw_id).await
        };
        let length = self.contact().timeouts.call;
        let answer = tokio::time::timeout(length, answering).await;
        answer.unwrap_or(Err(BackendError::Deadline(length)))
    }
}

fn read_result(result: &RawValue) -> Result<(InitializeResult<'_>, Revision), BackendError> {
    let result: InitializeResult<'_> = serde_json::from_str(result.get())
        .map_err(|error| BackendError::Invalid(format!("initialize: {error}")))?;
    let revision = Revision::parse(&result.protocol_version).ok_or_else(|| {
        BackendError::Invalid(format!(
            "it speaks only revision {:?}, which is not known",
            text::head(&result.protocol_version, MAX_REVISION_BYTES)
        ))
    })?;
    Ok((result, revision))
}

/// Ids of the gateway's own requests: clients may not use the prefix, so that theirs and ours never meet.
pub(super) fn own_id() -> String {
    format!("{}{:016x}", jsonrpc::RESERVED_ID_PREFIX, crate::random::u64())
}

fn raw_string(text: &str) -> Result<Box<RawValue>, BackendError> {
    RawValue::from_string(format!("\"{text}\"")).map_err(|error| BackendError::Invalid(error.to_string()))
}

async fn own_result(response: Response<UpstreamBody>, id: &str) -> Result<Box<RawValue>, BackendError> {
    let id = raw_string(id)?;
    let content_type = response.headers().get(http::header::CONTENT_TYPE);
    if header::is_media_type(content_type, &header::EVENT_STREAM) {
        return result_of(&answer::find(Events::new(response.into_body()), &id).await?);
    }
    if !header::is_media_type(content_type, &header::JSON) {
        return Err(BackendError::content_type(
            content_type,
            "neither JSON nor a stream of events",
        ));
    }
    let whole = answer::collect(Bytes::new(), response.into_body()).await?;
    result_of(&answer::check(whole, &id)?)
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
        Ok(error) => BackendError::Refused {
            code: error.code,
            message: error.message.chars().take(200).collect(),
        },
        Err(_) => BackendError::Invalid("an error without a code".to_owned()),
    }
}
