//! A load balancer that chooses the next replica for every request: the worst case of a Service without affinity.
//!
//! It never retries and never removes a replica by itself. The client gets 502 if a replica does not respond.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

type Body = BoxBody<Bytes, hyper::Error>;

/// A running balancer. Its tasks end with the runtime.
#[derive(Clone, Debug)]
pub struct Balancer {
    /// Where clients connect.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    replicas: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
    served: Mutex<Vec<Served>>,
    client: Client<HttpConnector, Incoming>,
}

/// One forwarded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The replica that got it.
    pub replica: SocketAddr,
    /// The HTTP method.
    pub method: String,
    /// The status of the answer; 502 when there was none.
    pub status: u16,
    /// The session that the request named.
    pub session: Option<String>,
}

impl Balancer {
    /// Starts a balancer in front of `replicas`.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(replicas: &[SocketAddr]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let shared = Shared {
            replicas: Mutex::new(replicas.to_vec()),
            turn: AtomicUsize::new(0),
            served: Mutex::default(),
            // A kept connection would turn a replaced replica into a retried request.
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
        };
        let balancer = Self {
            address: listener.local_addr()?,
            shared: Arc::new(shared),
        };
        let serving = balancer.clone();
        let tasks = TaskTracker::new();
        tasks.clone().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let balancer = serving.clone();
                tasks.spawn(async move {
                    let service = service_fn(move |request| balancer.clone().pass(request));
                    drop(stream.set_nodelay(true));
                    let connection = hyper::server::conn::http1::Builder::new();
                    // A client may disconnect.
                    drop(connection.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Ok(balancer)
    }

    /// The URL of the MCP endpoint behind it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Replaces the replicas.
    pub fn set_replicas(&self, replicas: &[SocketAddr]) {
        *self
            .shared
            .replicas
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = replicas.to_vec();
    }

    /// Every request so far.
    #[must_use]
    pub fn served(&self) -> Vec<Served> {
        self.shared
            .served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn pass(self, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let replica = {
            let replicas = self
                .shared
                .replicas
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
            replicas[turn % replicas.len()]
        };
        let session = request
            .headers()
            .get("mcp-session-id")
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let method = request.method().to_string();
        let target = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let response = match format!("http://{replica}{target}").parse::<Uri>() {
            Ok(uri) => {
                *request.uri_mut() = uri;
                self.shared.client.request(request).await.ok()
            }
            Err(_) => None,
        };
        let response = response.map_or_else(bad_gateway, |response| response.map(Incoming::boxed));
        let status = response.status().as_u16();
        let served = Served {
            replica,
            method,
            status,
            session,
        };
        self.shared
            .served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(served);
        Ok(response)
    }
}

fn bad_gateway() -> Response<Body> {
    let body = Empty::new().map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
