//! A real MCP client, on the Rust SDK rmcp.

use std::time::Duration;

use anyhow::Context as _;
use rmcp::RoleClient;
use rmcp::model::{CallToolRequestParams, ClientConfig, Implementation, JsonObject, ProtocolVersion, Tool};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::Value;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The client's name in `initialize`, by which the test server counts.
pub const NAME: &str = "rmcp-client";

/// A connected client with its session.
#[derive(Debug)]
pub struct Client {
    service: RunningService<RoleClient, ClientConfig>,
}

impl Client {
    /// Connects with `initialize` and `notifications/initialized`. The client does not reopen a lost session.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        Self::connect_with(url, false, ClientLifecycleMode::Initialize).await
    }

    /// Connects with the SDK's defaults: the client reopens a lost session.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect_as_shipped(url: &str) -> anyhow::Result<Self> {
        Self::connect_with(url, true, ClientLifecycleMode::Initialize).await
    }

    /// Connects in the modern era, or in the legacy one where the server's answer to the probe says so.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect_in_any_era(url: &str) -> anyhow::Result<Self> {
        let lifecycle = ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: None,
        };
        Self::connect_with(url, true, lifecycle).await
    }

    async fn connect_with(
        url: &str,
        reopens_session: bool,
        lifecycle: ClientLifecycleMode,
    ) -> anyhow::Result<Self> {
        // The client library wants a TLS provider even where no TLS is spoken; a second installation changes nothing.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let mut config = StreamableHttpClientTransportConfig::with_uri(url.to_owned());
        config.reinit_on_expired_session = reopens_session;
        let transport = StreamableHttpClientTransport::from_config(config);
        let mut info = ClientConfig::default();
        info.client_info = Implementation::new(NAME, "1");
        let service = info
            .serve_with_lifecycle(transport, lifecycle)
            .await
            .with_context(|| format!("cannot open a session at {url}"))?;
        Ok(Self { service })
    }

    /// Every tool.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn tools(&self) -> anyhow::Result<Vec<Tool>> {
        Ok(tokio::time::timeout(LIMIT, self.service.list_all_tools()).await??)
    }

    /// Calls a tool and returns the text of its first content.
    ///
    /// # Errors
    /// When the server refuses or does not answer, or the tool fails.
    pub async fn call(&self, tool: &str, arguments: Value) -> anyhow::Result<String> {
        let arguments: JsonObject = serde_json::from_value(arguments)?;
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let result = tokio::time::timeout(LIMIT, self.service.call_tool(params)).await??;
        let text = result
            .content
            .first()
            .and_then(|content| content.as_text())
            .map(|text| text.text.clone());
        let text = text.with_context(|| format!("{tool} gave no text: {result:?}"))?;
        anyhow::ensure!(result.is_error != Some(true), "{tool} failed: {text}");
        Ok(text)
    }

    /// Ends the session.
    ///
    /// # Errors
    /// When the client cannot be stopped.
    pub async fn close(self) -> anyhow::Result<()> {
        self.service.cancel().await?;
        Ok(())
    }
}
