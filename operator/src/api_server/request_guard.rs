//! Middleware that checks every request to the API server and gives it a deadline.
//!
//! It runs below the client library, so it also covers the requests that the library itself makes.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use kube::client::{Body, DynBody};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use vmcp_crds::v1alpha1::field_rules::{object_name, quoted};

use super::deadline::{DeadlineBody, DeadlineExceeded};
use super::write_fence::WriteFence;

/// Time limit of a request, up to the end of its response.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that a watch may take beyond the `timeoutSeconds` that the API server was asked to keep it open.
const WATCH_MARGIN: Duration = Duration::from_secs(10);
/// Assumed `timeoutSeconds` of a watch whose request does not set it.
const DEFAULT_WATCH_SECONDS: u64 = 290;

/// Query parameters allowed in a request for one object.
const OBJECT_PARAMS: [&str; 3] = ["fieldManager", "force", "resourceVersion"];
/// Query parameters allowed in a request for a list of objects.
const LIST_PARAMS: [&str; 11] = [
    "allowWatchBookmarks",
    "continue",
    "fieldManager",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Wraps a client in a [`RequestGuard`].
pub(super) struct GuardLayer {
    pub(super) fence: WriteFence,
}

impl<S> Layer<S> for GuardLayer {
    type Service = RequestGuard<S>;

    fn layer(&self, inner: S) -> RequestGuard<S> {
        RequestGuard {
            inner,
            fence: self.fence.clone(),
        }
    }
}

/// A client that rejects malformed requests and ends the others at their deadline.
pub(super) struct RequestGuard<S> {
    inner: S,
    fence: WriteFence,
}

impl<S> Service<Request<Body>> for RequestGuard<S>
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<DeadlineBody<Box<DynBody>>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let timeout = match request_timeout(request.method(), request.uri()) {
            Ok(timeout) => timeout,
            Err(rejected) => return Box::pin(async move { Err(rejected.into()) }),
        };
        let fence = is_fenced_write(request.method(), request.uri()).then(|| self.fence.clone());
        let deadline = Instant::now() + timeout;
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = tokio::time::timeout_at(deadline, response);
            let response = match fence {
                None => response.await,
                // The client library sends a request again when the API server asks for that, so the fence can close in between.
                Some(fence) => tokio::select! {
                    biased;
                    () = fence.closed() => return Err(LeaseExpired.into()),
                    response = response => response,
                },
            };
            let response = response.map_err(|_| DeadlineExceeded { timeout })??;
            Ok(response.map(|body| DeadlineBody::new(body, deadline, timeout)))
        })
    }
}

/// A request whose path or query no valid object name produces.
#[derive(Debug, thiserror::Error)]
#[error("request to the API server rejected before sending: {0}")]
pub(super) struct RejectedRequest(String);

/// A write after the leader lease has expired.
#[derive(Debug, thiserror::Error)]
#[error("write to the API server stopped: the leader lease has expired")]
pub(super) struct LeaseExpired;

/// Whether a request needs the leader lease. A Lease itself is written with the resource version that it replaces.
fn is_fenced_write(method: &Method, uri: &Uri) -> bool {
    method != Method::GET && !uri.path().starts_with("/apis/coordination.k8s.io/")
}

/// The time limit of a request, or an error if its path or query is not of the form that valid object names produce.
fn request_timeout(method: &Method, uri: &Uri) -> Result<Duration, RejectedRequest> {
    let reject = |what: &str, part: &str| Err(RejectedRequest(format!("{what} {}", quoted(part))));
    let mut parts = uri.path().split('/');
    if parts.next() != Some("") {
        return reject("invalid path", uri.path());
    }
    let parts: Vec<&str> = parts.collect();
    if let Some(part) = parts.iter().find(|part| object_name(part).is_err()) {
        return reject("invalid path segment", part);
    }
    let (["api", _, rest @ ..] | ["apis", _, _, rest @ ..]) = parts.as_slice() else {
        return reject("invalid path", uri.path());
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let allowed: &[&str] = match rest {
        [_] => &LIST_PARAMS,
        [_, _] => &OBJECT_PARAMS,
        [_, _, "status"] if *method == Method::PATCH => &OBJECT_PARAMS,
        _ => return reject("invalid path", uri.path()),
    };
    let mut is_watch = false;
    let mut seconds = DEFAULT_WATCH_SECONDS;
    for field in uri.query().unwrap_or_default().split('&') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        match name {
            "" if field.is_empty() => {}
            "watch" if allowed.contains(&name) => is_watch = true,
            "timeoutSeconds" if allowed.contains(&name) => {
                seconds = value.parse().unwrap_or(DEFAULT_WATCH_SECONDS);
            }
            name if allowed.contains(&name) => {}
            name => return reject("invalid query parameter", name),
        }
    }
    if is_watch {
        return Ok(Duration::from_secs(seconds) + WATCH_MARGIN);
    }
    Ok(REQUEST_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A [`Service`] that calls a function.
    struct ServiceFn<F>(F);

    impl<F, R, T> Service<R> for ServiceFn<F>
    where
        F: FnMut(R) -> T,
        T: Future<Output = Result<Response<Box<DynBody>>, BoxError>>,
    {
        type Response = Response<Box<DynBody>>;
        type Error = BoxError;
        type Future = T;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: R) -> T {
            (self.0)(request)
        }
    }

    fn is_sent(method: &str, uri: &str) -> bool {
        let Ok(uri) = uri.parse() else { return false };
        request_timeout(&method.parse().unwrap(), &uri).is_ok()
    }

    // Requests whose paths and queries the client library builds from valid names pass.
    #[test]
    fn request_for_valid_names_is_sent() {
        for (method, uri) in [
            ("GET", "/api/v1/namespaces/n/secrets/redis"),
            ("GET", "/api/v1/secrets?&limit=500"),
            ("GET", "/apis/apps/v1/deployments?watch=true&timeoutSeconds=290"),
            ("POST", "/api/v1/namespaces/n/secrets?"),
            (
                "PATCH",
                "/apis/vmcp.dev/v1alpha1/namespaces/n/virtualmcpservers/x/status?&force=true&fieldManager=m",
            ),
            ("DELETE", "/apis/policy/v1/namespaces/n/poddisruptionbudgets/x?"),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/n/leases/x?"),
        ] {
            assert!(is_sent(method, uri), "{method} {uri}");
        }
    }

    // A hostile object name changes the path or the query of the request; such a request is rejected.
    #[test]
    fn request_built_from_hostile_name_is_rejected() {
        for name in [
            "?x=",
            "?watch=1&x=",
            "",
            "a?watch=1",
            "a/b",
            "../configmaps/x",
            "%2e%2e",
            "a%2Fb",
            "a/status",
            "A",
            "a//",
            "a/status?watch=true",
            "a/proxy",
            ".",
        ] {
            for method in ["GET", "PUT", "DELETE"] {
                let uri = format!("/api/v1/namespaces/n/secrets/{name}");
                assert!(!is_sent(method, &uri), "{method} {uri}");
            }
        }
        for uri in [
            "/api/v1/namespaces//secrets/x",
            "/metrics",
            "/",
            "/api/v1/namespaces/a/b/c/d",
            "/api/v1",
        ] {
            assert!(!is_sent("GET", uri), "{uri}");
        }
    }

    /// A server that never responds, or (with `sends_head`) sends the head of a response and never a body.
    fn hanging_server(
        sends_head: bool,
        fence: WriteFence,
    ) -> RequestGuard<
        impl Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError, Future: Send>,
    > {
        let service = ServiceFn(move |_: Request<Body>| async move {
            if !sends_head {
                std::future::pending::<()>().await;
            }
            let silent = futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, BoxError>>();
            let body: Box<DynBody> = Box::new(http_body_util::StreamBody::new(silent));
            Ok::<_, BoxError>(Response::new(body))
        });
        GuardLayer { fence }.layer(service)
    }

    // A request ends at its deadline if the response is missing or incomplete.
    #[tokio::test(start_paused = true)]
    async fn request_without_response_ends_at_deadline() {
        let request = || {
            Request::get("/api/v1/namespaces/n/secrets/x")
                .body(Body::empty())
                .unwrap()
        };
        let begun = Instant::now();
        let open = WriteFence::default;
        let error = hanging_server(false, open()).call(request()).await.err().unwrap();
        assert!(error.to_string().contains("within 30 s"), "{error}");
        let response = hanging_server(true, open()).call(request()).await.unwrap();
        let error = http_body_util::BodyExt::collect(response.into_body())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("within 30 s"), "{error}");
        assert_eq!(begun.elapsed(), REQUEST_TIMEOUT * 2);
    }

    // After the deadline of the fence, only reads and the Lease itself reach the API server.
    #[tokio::test(start_paused = true)]
    async fn write_after_expired_lease_is_not_sent() {
        let fence = WriteFence::default();
        let mut server = hanging_server(true, fence.clone());
        let mut is_sent = async |method: &str, uri: &str| {
            let request = Request::builder()
                .method(method)
                .uri(uri)
                .body(Body::empty())
                .unwrap();
            match server.call(request).await {
                Ok(_) => true,
                Err(error) => {
                    assert!(
                        error.to_string().contains("the leader lease has expired"),
                        "{error}"
                    );
                    false
                }
            }
        };
        let lease = "/apis/coordination.k8s.io/v1/namespaces/n/leases/x";
        let service = "/api/v1/namespaces/n/services/x";
        assert!(is_sent("PATCH", service).await, "there is no deadline");
        fence.allow_until(Instant::now() + Duration::from_secs(15));
        tokio::time::sleep(Duration::from_millis(14_999)).await;
        for method in ["PATCH", "POST", "PUT", "DELETE", "GET"] {
            assert!(is_sent(method, service).await, "{method} before the deadline");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        for method in ["PATCH", "POST", "PUT", "DELETE"] {
            assert!(!is_sent(method, service).await, "{method} after the deadline");
        }
        assert!(is_sent("GET", service).await && is_sent("PUT", lease).await);
        fence.allow_until(Instant::now() + Duration::from_secs(15));
        assert!(is_sent("PATCH", service).await, "the lease was renewed");
    }

    // A watch is kept open a little longer than the API server was asked to keep it open.
    #[test]
    fn watch_timeout_exceeds_requested_seconds() {
        let timeout_of = |uri: &str| request_timeout(&Method::GET, &uri.parse().unwrap()).unwrap();
        assert_eq!(
            timeout_of("/api/v1/pods?watch=true&timeoutSeconds=20"),
            Duration::from_secs(30)
        );
        assert_eq!(timeout_of("/api/v1/pods?watch=true"), Duration::from_secs(300));
        assert_eq!(timeout_of("/api/v1/pods?limit=1"), REQUEST_TIMEOUT);
    }
}
