//! The baseline of the bench: a bare reverse proxy with the HTTP library and the connection pool of the gateway.

use std::time::Duration;

use anyhow::Context as _;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Either, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::serve::serve;

/// How long an idle connection to the backend is kept, as in the gateway.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Forwards every request at `listener` to `backend`, until the process ends.
///
/// # Errors
/// If no connection can be accepted.
pub async fn run(listener: TcpListener, backend: Authority) -> anyhow::Result<()> {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build(http);
    let tasks = TaskTracker::new();
    let forward = move |request: Request<Incoming>| {
        let (client, backend) = (client.clone(), backend.clone());
        async move {
            match pass_on(&client, backend, request).await {
                Ok(response) => response.map(Either::Left),
                Err(_) => {
                    let mut response =
                        Response::new(Either::Right(Empty::new().map_err(|never| match never {})));
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                    response
                }
            }
        }
    };
    serve(listener, &tasks, forward).await
}

async fn pass_on(
    client: &Client<HttpConnector, Incoming>,
    backend: Authority,
    mut request: Request<Incoming>,
) -> anyhow::Result<Response<Incoming>> {
    let path = request.uri().path_and_query().cloned();
    let mut target = Uri::default().into_parts();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(backend);
    target.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(target)?;
    client
        .request(request)
        .await
        .context("the backend did not answer")
}
