//! The admin port of a gateway that is not there: it says what a test tells it to.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;

/// A gateway's admin port on a loopback address of its own, because the port is always the same.
pub(crate) struct FakeGateway {
    pub(crate) pod: String,
    pub(crate) address: String,
    said: Arc<Said>,
}

struct Said {
    asked: AtomicU32,
    token: String,
    status: Mutex<Json>,
}

impl FakeGateway {
    /// A gateway that reports `hash` to whoever has `token`.
    pub(crate) async fn start(token: &str, hash: &str) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Another run of the tests at the same time has another process id.
        let [.., third, fourth] = std::process::id().to_be_bytes();
        let address = format!("127.{}.{}.{number}", third | 1, fourth);
        let said = Arc::new(Said {
            asked: AtomicU32::new(0),
            token: format!("Bearer {token}"),
            status: Mutex::new(json!({
                "server": "", "version": "test", "hotConfigHash": hash, "ready": true, "draining": false,
                "sessionStore": {"provider": "memory", "available": true}, "tools": 0, "backends": [], "conflicts": [],
            })),
        });
        let listener = TcpListener::bind(format!("{address}:9483")).await.unwrap();
        let router = Router::new()
            .route("/status", get(status))
            .with_state(said.clone());
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            pod: format!("vmcp-x-{number}"),
            address,
            said,
        }
    }

    /// How often anybody asked, with a token or without.
    pub(crate) fn asked(&self) -> u32 {
        self.said.asked.load(Ordering::Relaxed)
    }

    /// From now on reports `value` as `field`.
    pub(crate) fn say(&self, field: &str, value: Json) {
        self.said.status.lock().unwrap()[field] = value;
    }
}

async fn status(State(said): State<Arc<Said>>, headers: HeaderMap) -> Response {
    said.asked.fetch_add(1, Ordering::Relaxed);
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    if token != Some(said.token.as_str()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    axum::Json(said.status.lock().unwrap().clone()).into_response()
}
