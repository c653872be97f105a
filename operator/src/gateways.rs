//! What the gateway pods say of themselves.

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
use vmcp_crds::status::GatewayStatus;

use crate::desired::ADMIN_PORT;

/// How long a pod has to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// A gateway pod that runs.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The name of the pod.
    pub pod: String,
    /// The uid of the pod.
    pub uid: String,
    /// Whether Kubernetes sends it clients.
    pub ready: bool,
    /// What it says, or why it says nothing.
    pub answer: Result<GatewayStatus, String>,
}

/// Asks pods for their status.
#[derive(Clone, Debug)]
pub struct Gateways {
    http: HttpClient<HttpConnector, Empty<Bytes>>,
}

impl Default for Gateways {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(PATIENCE));
        Self {
            // A connection outlives no poll: between two of them the pod may be another one at the same address.
            http: HttpClient::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
        }
    }
}

impl Gateways {
    /// Asks all `pods` at once. Those that end or do not run yet are left out; the rest is sorted by name.
    pub async fn ask<P: AsRef<Pod>>(&self, pods: &[P], token: &str) -> Vec<Gateway> {
        let running = pods.iter().filter_map(|pod| running(pod.as_ref()));
        let asked = running.map(|(pod, address)| async move {
            Gateway {
                pod: pod.name_any(),
                uid: pod.uid().unwrap_or_default(),
                ready: is_ready(pod),
                answer: self.status(address, token).await,
            }
        });
        let mut gateways = future::join_all(asked).await;
        gateways.sort_by(|a, b| a.pod.cmp(&b.pod));
        gateways
    }

    async fn status(&self, address: IpAddr, token: &str) -> Result<GatewayStatus, String> {
        let socket = SocketAddr::new(address, ADMIN_PORT);
        let request = Request::get(format!("http://{socket}/status"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|_| "does not answer")?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err("does not know the session keys of the Secret yet");
                }
                _ => return Err("does not say its status"),
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|_| "breaks off its status")?;
            serde_json::from_slice(&body.to_bytes())
                .map_err(|_| "says a status that this operator does not understand")
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await;
        answer
            .unwrap_or(Err("does not answer"))
            .map_err(|what| format!("{what} at http://{socket}/status"))
    }
}

fn running(pod: &Pod) -> Option<(&Pod, IpAddr)> {
    let status = pod.status.as_ref()?;
    let alive = pod.metadata.deletion_timestamp.is_none() && status.phase.as_deref() == Some("Running");
    let address = status.pod_ip.as_ref()?.parse().ok()?;
    alive.then_some((pod, address))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}
