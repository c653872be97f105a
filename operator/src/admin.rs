//! The HTTP server of the admin port: `/livez`, `/readyz`, `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vmcp_crds::config::without_ipv6;

use crate::metrics::Metrics;
use crate::watch_health::WatchHealth;

/// The state that the admin port reports.
#[derive(Clone, Debug, Default)]
pub struct Admin {
    /// The metrics that `/metrics` serves.
    pub metrics: Metrics,
    /// The watches that the API server refuses: without them this process cannot do its work.
    pub watch_health: WatchHealth,
    ready: Arc<AtomicBool>,
}

impl Admin {
    /// Sets the answer of `/readyz`: ready when this process leads, or stands by to lead.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Binds `address`, or `0.0.0.0` instead of `[::]` on a machine without IPv6, and serves until `stop` is cancelled.
    ///
    /// # Errors
    /// When the address cannot be bound, or the server fails.
    pub async fn serve(self, address: SocketAddr, stop: CancellationToken) -> std::io::Result<()> {
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => match without_ipv6(address, &error) {
                Some(ipv4) => TcpListener::bind(ipv4).await?,
                None => return Err(error),
            },
        };
        tracing::info!(address = %listener.local_addr()?, "admin server listening");
        let router = Router::new()
            // Liveness depends on nothing outside the process.
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self);
        axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
    }
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let problem = if admin.ready.load(Ordering::Relaxed) {
        admin.watch_health.refusals()
    } else {
        "the API server has not been reached yet\n".to_owned()
    };
    if problem.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problem)
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], admin.metrics.encode())
}
