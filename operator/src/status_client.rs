//! HTTP client for the `/status` endpoint of gateway pods.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures::future;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde::de::DeserializeOwned;
use vmcp_crds::status::{BridgeStatus, GatewayStatus};

use crate::desired::ADMIN_PORT;

/// Time limit of a status request, and of its connect.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum size of a status response.
const MAX_STATUS_BYTES: usize = 1 << 20;

/// Problem of a pod that does not accept the token.
const OTHER_KEYS: &str = "has not loaded the current session keys yet";

/// A running gateway pod and the status that it reports.
#[derive(Clone, Debug)]
pub struct GatewayPod {
    /// The name of the pod.
    pub name: String,
    /// The uid of the pod.
    pub uid: String,
    /// Whether the pod's `Ready` condition is true, so that Services route to it.
    pub ready: bool,
    /// The reported status, or why it could not be fetched.
    pub status: Result<GatewayStatus, String>,
}

/// A running pod of a server that the bridge serves, and the status that the bridge reports.
#[derive(Clone, Debug)]
pub struct BridgePod {
    /// The name of the pod.
    pub name: String,
    /// The reported status, or why it could not be fetched.
    pub status: Result<BridgeStatus, String>,
}

/// Fetches the status of gateway pods and of bridges.
#[derive(Clone, Debug)]
pub struct StatusClient {
    http: HttpClient<HttpConnector, Empty<Bytes>>,
}

impl Default for StatusClient {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(STATUS_TIMEOUT));
        Self {
            // No pooled connections: until the next poll the address may belong to another pod.
            http: HttpClient::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
        }
    }
}

impl StatusClient {
    /// Fetches the status of all `pods` concurrently, each with the first of the `tokens` that it accepts. Skips pods that are terminating or
    /// not running yet; sorts by name.
    pub async fn fetch_all<P: AsRef<Pod>>(&self, pods: &[P], tokens: &[String]) -> Vec<GatewayPod> {
        let running = pods.iter().filter_map(|pod| running(pod.as_ref()));
        let fetches = running.map(|(pod, address)| async move {
            GatewayPod {
                name: pod.name_any(),
                uid: pod.uid().unwrap_or_default(),
                ready: is_ready(pod),
                status: self.fetch_with_any(address, tokens).await,
            }
        });
        let mut gateways = future::join_all(fetches).await;
        gateways.sort_by(|a, b| a.name.cmp(&b.name));
        gateways
    }

    /// Fetches the status of the bridges in all `pods` concurrently. Skips pods that are terminating or not running yet; sorts by name.
    pub async fn fetch_bridges<P: AsRef<Pod>>(&self, pods: &[P]) -> Vec<BridgePod> {
        let running = pods.iter().filter_map(|pod| running(pod.as_ref()));
        let fetches = running.map(|(pod, address)| async move {
            BridgePod {
                name: pod.name_any(),
                status: self.fetch(address, None).await,
            }
        });
        let mut bridges = future::join_all(fetches).await;
        bridges.sort_by(|a, b| a.name.cmp(&b.name));
        bridges
    }

    async fn fetch_with_any(&self, address: IpAddr, tokens: &[String]) -> Result<GatewayStatus, String> {
        let mut status = Err("has no token for its status".to_owned());
        for token in tokens {
            status = self.fetch(address, Some(token)).await;
            // Only a pod with other session keys may accept another token.
            if !status
                .as_ref()
                .is_err_and(|problem| problem.starts_with(OTHER_KEYS))
            {
                break;
            }
        }
        status
    }

    async fn fetch<T: DeserializeOwned>(&self, address: IpAddr, token: Option<&str>) -> Result<T, String> {
        let socket = SocketAddr::new(address, ADMIN_PORT);
        let mut request = Request::get(format!("http://{socket}/status"));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|_| "does not respond")?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(OTHER_KEYS);
                }
                _ => return Err("does not report its status"),
            }
            let body = Limited::new(response.into_body(), MAX_STATUS_BYTES)
                .collect()
                .await;
            let body = body.map_err(|_| "sent an incomplete status")?;
            serde_json::from_slice(&body.to_bytes())
                .map_err(|_| "sent a status that this version of the operator does not understand")
        };
        let status = tokio::time::timeout(STATUS_TIMEOUT, exchange).await;
        status
            .unwrap_or(Err("does not respond"))
            .map_err(|problem| format!("{problem} at http://{socket}/status"))
    }
}

fn running(pod: &Pod) -> Option<(&Pod, IpAddr)> {
    let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    is_running(pod).then_some((pod, address))
}

/// Whether the pod is running and not terminating.
pub(crate) fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && phase == Some("Running")
}

/// Whether the pod's `Ready` condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}
