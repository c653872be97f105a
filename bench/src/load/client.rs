//! An MCP client of the load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;

use super::connection::Connection;
use super::message::initialized;
use super::{Call, Target};
use crate::backend::SESSION_ID;

/// A client with a session and a persistent connection.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    headers: HeaderMap,
    prefix: String,
    last_id: u64,
}

impl Client {
    /// Connects to `target` and opens a session there.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open(target: &Target) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::try_from(target.address.to_string())?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        let mut client = Self {
            connection: Connection::open(target.address).await?,
            headers,
            prefix: target.prefix.to_owned(),
            last_id: 0,
        };
        client.open_another().await?;
        Ok(client)
    }

    /// Abandons the session, and opens another one on the same connection.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open_another(&mut self) -> anyhow::Result<()> {
        self.headers.remove(SESSION_ID);
        self.last_id += 1;
        let response = self.send(Call::Initialize.request(self.last_id, "")).await?;
        let session = response.headers().get(SESSION_ID).cloned();
        let answer = whole(response).await?;
        let Some(session) = session else {
            bail!("initialize returned no session: {}", text(&answer));
        };
        self.headers.insert(SESSION_ID, session);
        let revision = HeaderValue::from_static("2025-11-25");
        self.headers.insert("mcp-protocol-version", revision);
        let response = self.send(initialized()).await?;
        let status = response.status();
        let answer = whole(response).await?;
        if status != http::StatusCode::ACCEPTED {
            bail!("notifications/initialized: {status} {}", text(&answer));
        }
        Ok(())
    }

    /// The id of the current session, for [`Self::resume`].
    ///
    /// # Errors
    /// If there is no session.
    pub fn session(&self) -> anyhow::Result<HeaderValue> {
        self.headers
            .get(SESSION_ID)
            .cloned()
            .context("the client has no session")
    }

    /// Switches to the session `session`.
    pub fn resume(&mut self, session: HeaderValue) {
        self.headers.insert(SESSION_ID, session);
    }

    /// Creates a client of the same session with a connection to another replica.
    ///
    /// # Errors
    /// If it cannot connect.
    pub async fn elsewhere(&self, target: &Target) -> anyhow::Result<Self> {
        let mut headers = self.headers.clone();
        headers.insert(HOST, HeaderValue::try_from(target.address.to_string())?);
        Ok(Self {
            connection: Connection::open(target.address).await?,
            headers,
            prefix: target.prefix.to_owned(),
            last_id: self.last_id + 1_000_000,
        })
    }

    /// Changes the prefix of the tool names.
    pub fn set_prefix(&mut self, prefix: String) {
        self.prefix = prefix;
    }

    /// Makes one call, and returns its latency.
    ///
    /// # Errors
    /// If the response is not the expected one.
    pub async fn call(&mut self, call: Call) -> anyhow::Result<Duration> {
        if call == Call::Initialize {
            self.headers.remove(SESSION_ID);
        }
        self.last_id += 1;
        let request = call.request(self.last_id, &self.prefix);
        let started = Instant::now();
        let response = self.send(request).await?;
        let status = response.status();
        let (answer, latency) = if call == Call::Stream {
            let mut body = response.into_body();
            let first = body.frame().await.context("the stream is empty")??;
            let latency = started.elapsed();
            let mut answer = BytesMut::from(&*first.into_data().unwrap_or_default());
            answer.extend_from_slice(&body.collect().await?.to_bytes());
            (answer.freeze(), latency)
        } else {
            let answer = whole(response).await?;
            (answer, started.elapsed())
        };
        if !status.is_success() || !call.is_answered_by(&answer, self.last_id) {
            bail!("{call:?} got the response {status} {}", text(&answer));
        }
        Ok(latency)
    }

    async fn send(&mut self, message: Bytes) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/mcp");
        *request.headers_mut() = self.headers.clone();
        self.connection.send(request).await
    }
}

async fn whole(response: Response<Incoming>) -> anyhow::Result<Bytes> {
    Ok(response.into_body().collect().await?.to_bytes())
}

/// The beginning of a response, for errors.
fn text(answer: &[u8]) -> String {
    String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned()
}
