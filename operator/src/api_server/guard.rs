//! The last check of a request before it is sent, whoever made it: this operator or the library.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use kube::client::{Body, DynBody};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use vmcp_crds::v1alpha1::field_rules::{object_name, shown};

use super::deadline::{DeadlineBody, DeadlinePassed};

/// How long a request may take, its answer included.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How much longer than the API server was asked to a watch is kept open.
const WATCH_MARGIN: Duration = Duration::from_secs(10);
/// How long the API server is asked to keep a watch open when the request does not say.
const WATCH_SECONDS: u64 = 290;

/// What may follow the `?` of a request for one object.
const OBJECT_QUERY: [&str; 3] = ["fieldManager", "force", "resourceVersion"];
/// What may follow the `?` of a request for many.
const LIST_QUERY: [&str; 11] = [
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

/// Adds the check and the deadline to a client.
pub(super) struct GuardLayer;

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner }
    }
}

/// A client whose requests are checked and end in time.
pub(super) struct Guarded<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
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
        let limit = match limit(request.method(), request.uri()) {
            Ok(limit) => limit,
            Err(refused) => return Box::pin(async move { Err(refused.into()) }),
        };
        let deadline = Instant::now() + limit;
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = tokio::time::timeout_at(deadline, answer).await;
            let answer = answer.map_err(|_| DeadlinePassed { limit })??;
            Ok(answer.map(|body| DeadlineBody::new(body, deadline, limit)))
        })
    }
}

/// A request that would not do what its maker meant.
#[derive(Debug, thiserror::Error)]
#[error("this operator does not send such a request: {0}")]
pub(super) struct RefusedRequest(String);

/// How long the request may take, if it is one that names make.
fn limit(method: &Method, uri: &Uri) -> Result<Duration, RefusedRequest> {
    let refused = |what: &str, part: &str| Err(RefusedRequest(format!("{what} {}", shown(part))));
    let mut parts = uri.path().split('/');
    if parts.next() != Some("") {
        return refused("the path is", uri.path());
    }
    let parts: Vec<&str> = parts.collect();
    if let Some(part) = parts.iter().find(|part| object_name(part).is_err()) {
        return refused("a part of the path is", part);
    }
    let (["api", _, rest @ ..] | ["apis", _, _, rest @ ..]) = parts.as_slice() else {
        return refused("the path is", uri.path());
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let allowed: &[&str] = match rest {
        [_] => &LIST_QUERY,
        [_, _] => &OBJECT_QUERY,
        [_, _, "status"] if *method == Method::PATCH => &OBJECT_QUERY,
        _ => return refused("the path is", uri.path()),
    };
    let mut is_watch = false;
    let mut seconds = WATCH_SECONDS;
    for field in uri.query().unwrap_or_default().split('&') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        match name {
            "" if field.is_empty() => {}
            "watch" if allowed.contains(&name) => is_watch = true,
            "timeoutSeconds" if allowed.contains(&name) => seconds = value.parse().unwrap_or(WATCH_SECONDS),
            name if allowed.contains(&name) => {}
            name => return refused("a field of the query is", name),
        }
    }
    if is_watch {
        return Ok(Duration::from_secs(seconds) + WATCH_MARGIN);
    }
    Ok(REQUEST_DEADLINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service made of a function.
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
        limit(&method.parse().unwrap(), &uri).is_ok()
    }

    #[test]
    fn request_that_names_make_is_sent() {
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

    // What a hostile name makes of a path.
    #[test]
    fn request_that_no_name_makes_is_refused() {
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

    /// A server that takes requests and does nothing, or begins to answer and does not go on.
    fn hanging(
        answers: bool,
    ) -> Guarded<impl Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError, Future: Send>>
    {
        let service = ServiceFn(move |_: Request<Body>| async move {
            if !answers {
                std::future::pending::<()>().await;
            }
            let silent = futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, BoxError>>();
            let body: Box<DynBody> = Box::new(http_body_util::StreamBody::new(silent));
            Ok::<_, BoxError>(Response::new(body))
        });
        GuardLayer.layer(service)
    }

    #[tokio::test(start_paused = true)]
    async fn request_without_an_answer_ends_at_its_deadline() {
        let request = || {
            Request::get("/api/v1/namespaces/n/secrets/x")
                .body(Body::empty())
                .unwrap()
        };
        let begun = Instant::now();
        let error = hanging(false).call(request()).await.err().unwrap();
        assert!(error.to_string().contains("within 30 s"), "{error}");
        let answer = hanging(true).call(request()).await.unwrap();
        let error = http_body_util::BodyExt::collect(answer.into_body())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("within 30 s"), "{error}");
        assert_eq!(begun.elapsed(), REQUEST_DEADLINE * 2);
    }

    #[test]
    fn watch_outlasts_what_the_api_server_was_asked_for() {
        let of = |uri: &str| limit(&Method::GET, &uri.parse().unwrap()).unwrap();
        assert_eq!(
            of("/api/v1/pods?watch=true&timeoutSeconds=20"),
            Duration::from_secs(30)
        );
        assert_eq!(of("/api/v1/pods?watch=true"), Duration::from_secs(300));
        assert_eq!(of("/api/v1/pods?limit=1"), REQUEST_DEADLINE);
    }
}
