//! A minimal HTTP/1.1 server on hyper.

use std::convert::Infallible;
use std::future::Future;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

/// Answers every request at `listener` with `answer`, until the process ends.
///
/// # Errors
/// If no connection can be accepted.
pub(crate) async fn serve<A, F, B>(
    listener: TcpListener,
    tasks: &TaskTracker,
    answer: A,
) -> anyhow::Result<()>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        tasks.spawn(async move {
            let service = service_fn(move |request| {
                let answering = answer(request);
                async move { Ok::<_, Infallible>(answering.await) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // An error means that the client has closed the connection, which the load reports.
            drop(connection.await);
        });
    }
}
