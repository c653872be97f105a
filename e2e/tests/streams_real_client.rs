//! The streams as a client sees them that nobody here wrote, through two gateways without affinity.

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
use vmcp_crds::config::{SessionStorage, SessionStorageProvider};
use vmcp_e2e::balancer::Balancer;
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::redis::Redis;

const LIMIT: Duration = Duration::from_secs(20);

/// A client that accepts every form, and tells the test what it hears.
struct Listening {
    heard: mpsc::Sender<String>,
}

impl Listening {
    async fn tell(&self, what: String) {
        // The test has ended when nobody wants to know.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_real_client_is_asked_told_and_answered_without_affinity() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        ..SessionStorage::default()
    };
    let (one, two) = (recipe.start()?, recipe.start()?);
    let balancer = Balancer::start(&[one.mcp, two.mcp]).await?;

    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let mut config = StreamableHttpClientTransportConfig::with_uri(balancer.url());
    config.reinit_on_expired_session = false;
    let (sender, mut receiver) = mpsc::channel(100);
    let client = Listening { heard: sender }
        .serve(StreamableHttpClientTransport::from_config(config))
        .await?;

    // What the tool asks is answered at the other gateway than the one that runs the call.
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

    // It holds a stream at one of the gateways; a tool that comes is told there.
    tokio::task::block_in_place(|| fixture.admin("POST", "/tools-changed?add=novelty", &Value::Null))?;
    assert_eq!(heard(&mut receiver).await?, "tools changed");
    // The other gateway hears of it by itself, at about the same time.
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
