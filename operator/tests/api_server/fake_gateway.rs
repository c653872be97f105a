//! A fake gateway: an admin port that reports the status that a test sets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;

/// A fake admin port. Each has its own loopback address, because the port number is fixed.
pub(crate) struct FakeGateway {
    pub(crate) pod: String,
    pub(crate) address: String,
    token: String,
    state: Arc<FakeState>,
}

struct FakeState {
    requests: AtomicU32,
    is_silent: AtomicBool,
    /// The status for each value of the `Authorization` header.
    statuses: Mutex<HashMap<String, Json>>,
}

impl FakeGateway {
    /// Starts a gateway that reports `hash` to requests with `token`.
    pub(crate) async fn start(token: &str, hash: &str) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // The process id separates concurrent test runs.
        let [.., third, fourth] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, third | 1, fourth, number);
        Self::start_at(address.into(), number, token, hash).await
    }

    /// As [`Self::start`], with an address of IPv6. There is only one such loopback address, so only one test may use it.
    pub(crate) async fn start_on_ipv6(token: &str, hash: &str) -> Self {
        Self::start_at(Ipv6Addr::LOCALHOST.into(), 0, token, hash).await
    }

    async fn start_at(address: IpAddr, number: u8, token: &str, hash: &str) -> Self {
        let state = Arc::new(FakeState {
            requests: AtomicU32::new(0),
            is_silent: AtomicBool::new(false),
            statuses: Mutex::default(),
        });
        let listener = TcpListener::bind((address, 9483)).await.unwrap();
        let router = Router::new()
            .route("/status", get(status))
            .with_state(state.clone());
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        let gateway = Self {
            pod: format!("vmcp-x-{number}"),
            address: address.to_string(),
            token: token.to_owned(),
            state,
        };
        gateway.add(token, hash);
        gateway
    }

    /// Also stands for the gateway of another virtual server, which reports `hash` to requests with `token`.
    pub(crate) fn add(&self, token: &str, hash: &str) {
        let status = json!({
            "server": "", "version": "test", "hotConfigHash": hash, "ready": true, "draining": false,
            "sessionStore": {"provider": "memory", "available": true}, "tools": 0, "backends": [], "conflicts": [],
        });
        self.state.statuses.lock().unwrap().insert(bearer(token), status);
    }

    /// Accepts connections from now on, and never answers.
    pub(crate) fn fall_silent(&self) {
        self.state.is_silent.store(true, Ordering::Relaxed);
    }

    /// Number of status requests, with or without a valid token.
    pub(crate) fn request_count(&self) -> u32 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Sets the reported `field` to `value`.
    pub(crate) fn report(&self, field: &str, value: Json) {
        self.report_to(&self.token, field, value);
    }

    /// Sets the `field` that is reported to requests with `token`.
    pub(crate) fn report_to(&self, token: &str, field: &str, value: Json) {
        let mut statuses = self.state.statuses.lock().unwrap();
        statuses.get_mut(&bearer(token)).unwrap()[field] = value;
    }
}

/// The value of the `Authorization` header. It is empty without a token: a bridge needs no header.
fn bearer(token: &str) -> String {
    if token.is_empty() {
        return String::new();
    }
    format!("Bearer {token}")
}

async fn status(State(state): State<Arc<FakeState>>, headers: HeaderMap) -> Response {
    state.requests.fetch_add(1, Ordering::Relaxed);
    if state.is_silent.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    let token = headers.get(header::AUTHORIZATION);
    let token = token.and_then(|value| value.to_str().ok()).unwrap_or_default();
    match state.statuses.lock().unwrap().get(token) {
        Some(status) => axum::Json(status.clone()).into_response(),
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}
