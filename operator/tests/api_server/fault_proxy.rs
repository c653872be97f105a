//! A proxy between an operator and the API server that answers some requests itself.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use kube::Client;
use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::Harness;

/// Decides which requests the proxy answers itself.
pub(crate) type Fault = Box<dyn FnMut(&Method, &Uri) -> Option<Response> + Send>;

/// A proxy in front of the API server.
pub(crate) struct FaultProxy {
    state: Arc<ProxyState>,
    /// Kept until the test ends, because the operator's kubeconfig is in it.
    _dir: tempfile::TempDir,
}

struct ProxyState {
    upstream: Client,
    fault: Mutex<Option<Fault>>,
    injected: Mutex<Vec<(Instant, String)>>,
    passed: Mutex<Vec<(Instant, String)>>,
}

impl FaultProxy {
    /// Starts a proxy. Operators that `harness` starts from now on connect to it.
    pub(crate) async fn start(harness: &mut Harness) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(ProxyState {
            upstream: harness.client.clone(),
            fault: Mutex::default(),
            injected: Mutex::default(),
            passed: Mutex::default(),
        });
        let router = Router::new().fallback(forward).with_state(state.clone());
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        let dir = tempfile::tempdir().unwrap();
        harness.kubeconfig = write_kubeconfig(&dir, &url);
        Self { state, _dir: dir }
    }

    /// From now on, requests for which `fault` returns a response get it. Requests of the same kind that reached the API server before are
    /// forgotten.
    pub(crate) fn inject(&self, fault: impl FnMut(&Method, &Uri) -> Option<Response> + Send + 'static) {
        self.state.injected.lock().unwrap().clear();
        self.state.passed.lock().unwrap().clear();
        *self.state.fault.lock().unwrap() = Some(Box::new(fault));
    }

    /// The requests that got a response of the fault since it was injected: when, with method and path.
    pub(crate) fn injected(&self) -> Vec<(Instant, String)> {
        self.state.injected.lock().unwrap().clone()
    }

    /// The requests that reached the API server since the fault was injected: when, with method and path.
    pub(crate) fn passed(&self) -> Vec<(Instant, String)> {
        self.state.passed.lock().unwrap().clone()
    }
}

fn write_kubeconfig(dir: &tempfile::TempDir, url: &str) -> PathBuf {
    let kubeconfig = dir.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    kubeconfig
}

async fn forward(State(state): State<Arc<ProxyState>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let what = format!("{} {}", parts.method, parts.uri.path());
    let fault = state
        .fault
        .lock()
        .unwrap()
        .as_mut()
        .and_then(|fault| fault(&parts.method, &parts.uri));
    if let Some(response) = fault {
        state.injected.lock().unwrap().push((Instant::now(), what));
        return response;
    }
    state.passed.lock().unwrap().push((Instant::now(), what));
    parts.headers.remove(header::HOST);
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let request = Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
    match state.upstream.send(request).await {
        Ok(response) => response.map(Body::new),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// A response of Kubernetes with this code and reason.
pub(crate) fn status_response(code: StatusCode, reason: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16(),
        "message": format!("injected {reason}"),
    });
    (code, axum::Json(status)).into_response()
}
