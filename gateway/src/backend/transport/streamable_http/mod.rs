//! The streamable HTTP transport, since revision 2025-03-26: each request is a POST, and its response contains the answer as JSON or as an
//! event stream. GET opens a stream for messages of the server, and DELETE ends the session.
//!
//! A session is an id in a header, so any replica can use it.

mod lost_session_detection;

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::value::RawValue;

use crate::backend::http_client::SendError;
use crate::backend::initialize::{Attempt, INITIALIZED};
use crate::backend::response_reader;
use crate::backend::{
    Backend, BackendError, BackendResponse, Cookies, InitializeResult, ResponseEvents, UpstreamBody,
    UpstreamSession,
};
use crate::mcp::header_names;
use crate::mcp::revision::Revision;
use crate::runtime::clock;

use lost_session_detection::{is_unknown_method, read_error_body};

/// How long the deletion of a session may take. Only the drain waits for it.
const DELETE_DEADLINE: Duration = Duration::from_secs(5);

/// The longest accepted session id. The session record contains it.
const MAX_SESSION_ID_BYTES: usize = 2048;

impl Backend {
    pub(super) async fn call_over_http(
        &self,
        session: &UpstreamSession,
        message: Bytes,
        id: &RawValue,
    ) -> Result<BackendResponse, BackendError> {
        let response = self.post(Some(session), message).await?;
        if !has_answer(&response) {
            return Box::pin(self.interpret_error_response(session, response, id)).await;
        }
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        if header_names::is_media_type(content_type, &header_names::EVENT_STREAM) {
            let events = ResponseEvents::new(response.into_body());
            return Ok(BackendResponse::Events(
                Box::new(session.clone()),
                Box::new(events),
            ));
        }
        if header_names::is_json(content_type) {
            return response_reader::json(response.into_body(), id).await;
        }
        Err(BackendError::content_type(
            content_type,
            "neither JSON nor a stream of events",
        ))
    }

    pub(super) async fn notify_over_http(
        &self,
        session: &UpstreamSession,
        message: Bytes,
    ) -> Result<(), BackendError> {
        let response = self.post(Some(session), message).await?;
        let status = response.status();
        if status.is_success() {
            Ok(())
        } else if status == StatusCode::NOT_FOUND && session.id.is_some() {
            let error = BackendError::from_response(&response);
            let is_unknown_method = is_unknown_method(&read_error_body(response.into_body()).await);
            Err(if is_unknown_method {
                error
            } else {
                BackendError::SessionLost
            })
        } else {
            Err(BackendError::from_response(&response))
        }
    }

    pub(super) async fn delete_over_http(&self, session: &UpstreamSession) -> Result<(), BackendError> {
        let make = || self.request(Method::DELETE, Some(session), Bytes::new());
        let closing = async {
            let response = self.send(make()?, session.address).await?;
            self.follow(response, make, session.address).await
        };
        let closing = tokio::time::timeout(DELETE_DEADLINE, closing);
        closing
            .await
            .unwrap_or(Err(BackendError::Deadline(DELETE_DEADLINE)))
            .map(drop)
    }

    pub(super) async fn listen_over_http(
        &self,
        session: &UpstreamSession,
        position: Option<&HeaderValue>,
    ) -> Result<ResponseEvents, BackendError> {
        let make = || {
            let mut request = self.request(Method::GET, Some(session), Bytes::new())?;
            let headers = request.headers_mut();
            headers.remove(http::header::CONTENT_TYPE);
            headers.insert(http::header::ACCEPT, header_names::EVENT_STREAM);
            if let Some(position) = position {
                headers.insert(header_names::LAST_EVENT_ID, position.clone());
            }
            Ok(request)
        };
        let response = self.send_in(session, make).await?;
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        match response.status() {
            StatusCode::OK if header_names::is_media_type(content_type, &header_names::EVENT_STREAM) => {
                Ok(ResponseEvents::new(response.into_body()))
            }
            // Not an event stream, and it will not be one the next time.
            StatusCode::OK => Err(BackendError::status(StatusCode::METHOD_NOT_ALLOWED.as_u16())),
            _ => Err(BackendError::from_response(&response)),
        }
    }

    pub(super) async fn initialize_over_http(
        &self,
        revision: Revision,
        message: Bytes,
        address: Option<IpAddr>,
        id: &RawValue,
        attempt: &mut Attempt,
    ) -> Result<InitializeResult, SendError> {
        let make = || self.request(Method::POST, None, message.clone());
        let response = self.send_to(make()?, address).await?;
        let response = self.follow(response, make, address).await?;
        if !has_answer(&response) {
            let (status, error) = (response.status(), BackendError::from_response(&response));
            let body = read_error_body(response.into_body()).await;
            let error = error
                .with_detail_of(&body, &self.inner.headers.load())
                .for_initialize();
            if status == StatusCode::BAD_REQUEST && error != BackendError::SingleSession {
                attempt.note_refusal(&body);
            }
            return Err(error.into());
        }
        // Copy the header. Otherwise the session would keep the whole read buffer alive.
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
        cookies.store_from_response(response.headers(), &[self.url()], clock::unix_seconds);
        let session = UpstreamSession {
            // Without a session id nothing is pinned to an address.
            address: address.filter(|_| session_id.is_some()),
            id: session_id,
            revision,
            cookies,
        };
        // The session is open from here on, even if the rest of the response fails.
        attempt.note_opened(&session);
        let result = attempt.complete(&read_own_response(response, id).await?, session)?;
        self.confirm_initialized(&result.session).await?;
        Ok(result)
    }

    /// Sends `notifications/initialized`. Some servers do not know it and respond with an error. An error that matters shows again in the
    /// next request.
    async fn confirm_initialized(&self, session: &UpstreamSession) -> Result<(), BackendError> {
        let response = self.post(Some(session), INITIALIZED).await?;
        let (status, error) = (response.status(), BackendError::from_response(&response));
        if status.is_success() {
            return Ok(());
        }
        if status == StatusCode::NOT_FOUND
            && session.id.is_some()
            && !is_unknown_method(&read_error_body(response.into_body()).await)
        {
            return Err(BackendError::SessionLost);
        }
        tracing::debug!(backend = %self.name(), %error, "backend rejected notifications/initialized");
        Ok(())
    }

    async fn post(
        &self,
        session: Option<&UpstreamSession>,
        message: Bytes,
    ) -> Result<Response<UpstreamBody>, BackendError> {
        let make = || self.request(Method::POST, session, message.clone());
        match session {
            Some(session) => self.send_in(session, make).await,
            None => self.follow(self.send(make()?, None).await?, make, None).await,
        }
    }
}

/// Whether `response` contains the response to the request. Some servers send it with 201 or 202.
fn has_answer<B>(response: &Response<B>) -> bool {
    let is_message = || {
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        header_names::is_json(content_type)
            || header_names::is_media_type(content_type, &header_names::EVENT_STREAM)
    };
    response.status() == StatusCode::OK || response.status().is_success() && is_message()
}

/// Accepts visible ASCII, and blanks, which the specification forbids but every SDK accepts.
fn is_of_session_ids(byte: &u8) -> bool {
    byte.is_ascii_graphic() || *byte == b' '
}

async fn read_own_response(response: Response<UpstreamBody>, id: &RawValue) -> Result<Bytes, BackendError> {
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
