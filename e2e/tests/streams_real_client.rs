//! Streams of a third-party client through two gateways without affinity.

use std::collections::BTreeMap;
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction,
    RequestMetaObject,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ErrorData, RoleClient, ServiceExt as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use vmcp_e2e::harness::Harness;
use vmcp_external::requires;

const LIMIT: Duration = Duration::from_secs(20);

/// A client that accepts every elicitation, and forwards its notifications to the test.
struct Listening {
    heard: mpsc::Sender<String>,
}

impl Listening {
    async fn tell(&self, what: String) {
        // The receiver is gone when the test has ended.
        drop(self.heard.send(what).await);
    }
}

impl ClientHandler for Listening {
    fn get_info(&self) -> ClientConfig {
        let mut info = ClientConfig::default();
        info.capabilities = serde_json::from_value(json!({"elicitation": {}})).unwrap_or_default();
        info
    }

    async fn create_elicitation(
        &self,
        _request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let content = json!({"username": "somebody", "email": "a@b.c"});
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(content))
    }

    async fn on_progress(
        &self,
        params: rmcp::model::ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.tell(format!("progress {}", params.progress)).await;
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.tell("tools changed".to_owned()).await;
    }
}

async fn heard(receiver: &mut mpsc::Receiver<String>) -> anyhow::Result<String> {
    let next = tokio::time::timeout(LIMIT, receiver.recv()).await?;
    next.ok_or_else(|| anyhow::anyhow!("the client has ended"))
}

fn call(tool: &str, arguments: Value) -> anyhow::Result<CallToolRequestParams> {
    let arguments = serde_json::from_value(arguments)?;
    let mut params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
    let token: RequestMetaObject = serde_json::from_value(json!({"progressToken": "mine"}))?;
    params.meta = Some(token);
    Ok(params)
}

/// A client on rmcp gets server requests, notifications and responses without affinity.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread")]
async fn rmcp_client_streams_without_affinity() -> anyhow::Result<()> {
    let harness = Harness::replicated(2).await?;
    let balancer = harness.balancer()?;

    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let mut config = StreamableHttpClientTransportConfig::with_uri(balancer.url());
    config.reinit_on_expired_session = false;
    let (sender, mut receiver) = mpsc::channel(100);
    let client = Listening { heard: sender }
        .serve(StreamableHttpClientTransport::from_config(config))
        .await?;

    // The server request of the tool is answered at the other gateway.
    for _ in 0..4 {
        let asked = call("fixture_test_elicitation", json!({"message": "Who?"}))?;
        let answer = tokio::time::timeout(LIMIT, client.call_tool(asked)).await??;
        let text = serde_json::to_string(&answer.content)?;
        assert!(
            text.contains("action=accept") && text.contains("somebody"),
            "{text}"
        );
    }
    let mut gateways = BTreeMap::new();
    for served in balancer
        .served()
        .into_iter()
        .filter(|served| served.status == 202)
    {
        *gateways.entry(served.replica).or_insert(0) += 1;
    }
    assert_eq!(
        gateways.len(),
        2,
        "one gateway took all the answers: {gateways:?}"
    );

    let running = call("fixture_stream_progress", json!({"steps": 2, "ms": 5}))?;
    let answer = tokio::time::timeout(LIMIT, client.call_tool(running)).await??;
    assert!(serde_json::to_string(&answer.content)?.contains("2 steps"));
    assert_eq!(
        [heard(&mut receiver).await?, heard(&mut receiver).await?],
        ["progress 1", "progress 2"]
    );

    // The client holds a stream at one gateway, which sends the notification of a new tool.
    tokio::task::block_in_place(|| {
        harness
            .server()
            .admin("POST", "/tools-changed?add=novelty", &Value::Null)
    })?;
    assert_eq!(heard(&mut receiver).await?, "tools changed");
    // The other gateway gets its own notification at about the same time.
    let listed = async {
        loop {
            let tools = client.list_all_tools().await?;
            if tools.iter().any(|tool| tool.name == "fixture_novelty") {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(LIMIT, listed).await??;
    client.cancel().await?;
    Ok(())
}
