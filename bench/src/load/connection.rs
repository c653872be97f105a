//! A persistent HTTP connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long a response may take. A slower one ends the run.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to one address. It closes when this value is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Ok(Self {
            sender,
            _driver: driver,
        })
    }

    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        self.sender.ready().await?;
        let answer = tokio::time::timeout(RESPONSE_TIMEOUT, self.sender.send_request(request)).await;
        Ok(answer.context("no response in time")??)
    }
}

/// The status of a GET of `path` at `address`. `None` if there is no response.
pub async fn get(address: SocketAddr, path: &str) -> Option<u16> {
    let mut connection = Connection::open(address).await.ok()?;
    let request = Request::get(path).header(http::header::HOST, address.to_string());
    let response = connection.send(request.body(Full::default()).ok()?).await.ok()?;
    Some(response.status().as_u16())
}
