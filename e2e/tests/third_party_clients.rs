//! Third-party clients get the same from third-party servers with and without the gateway.

use anyhow::Context as _;
use rmcp::model::{
    CallToolRequestParams, ClientConfig, CompleteRequestParams, GetPromptRequestParams,
    ReadResourceRequestParams,
};
use rmcp::service::{RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{RoleClient, ServiceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use vmcp_e2e::third_party::scripted_client::{self, converse};
use vmcp_e2e::third_party::story::{self, Request};
use vmcp_e2e::third_party::{self, Conversation, ThirdPartyServers};
use vmcp_external::client as external_client;
use vmcp_external::requires;

/// A client that responds to every server request.
fn everything(servers: &ThirdPartyServers) -> Vec<Request> {
    [
        story::calls(&servers.files()),
        story::questions(),
        story::others(),
    ]
    .concat()
}

/// A client on the TypeScript SDK v1 gets the same with and without the gateway.
#[requires(npm, python, conformance)]
#[test]
fn typescript_sdk_v1_sees_no_difference() -> anyhow::Result<()> {
    let servers = ThirdPartyServers::shared()?;
    let ask = |conversations: &[Conversation]| converse(external_client::typescript_v1()?, conversations);
    servers.compare_lists(ask)?;
    servers.compare(&everything(&servers), |conversations| {
        let mut answers = ask(conversations)?;
        were_asked(&answers)?;
        blank_elicitation_ids(&mut answers);
        Ok(answers)
    })
}

/// A client on the Python SDK gets the same with and without the gateway.
#[requires(npm, python, conformance)]
#[test]
fn python_sdk_sees_no_difference() -> anyhow::Result<()> {
    let servers = ThirdPartyServers::shared()?;
    let ask = |conversations: &[Conversation]| converse(external_client::python_legacy()?, conversations);
    servers.compare_lists(ask)?;
    servers.compare(&everything(&servers), |conversations| {
        let mut answers = ask(conversations)?;
        were_asked(&answers)?;
        blank_elicitation_ids(&mut answers);
        Ok(answers)
    })
}

/// The gateway gives elicitations ids of its own, so that no backend completes another's.
fn blank_elicitation_ids(answers: &mut [Value]) {
    let asked = answers
        .iter_mut()
        .filter_map(|answer| answer["asked"].as_array_mut());
    for id in asked
        .flatten()
        .filter_map(|asked| asked.pointer_mut("/params/elicitationId"))
    {
        *id = Value::Null;
    }
}

/// Checks that server requests and progress have reached the client.
fn were_asked(answers: &[Value]) -> anyhow::Result<()> {
    let asked: Vec<_> = answers
        .iter()
        .flat_map(|answer| answer["asked"].as_array().into_iter().flatten())
        .map(|asked| asked["method"].as_str().unwrap_or_default())
        .collect();
    let times = |method| asked.iter().filter(|asked| **asked == method).count();
    anyhow::ensure!(
        times("elicitation/create") == 3 && times("sampling/createMessage") == 2,
        "{asked:?}"
    );
    let reported = answers
        .iter()
        .map(|answer| answer["reported"].as_array().map_or(0, Vec::len));
    anyhow::ensure!(reported.sum::<usize>() >= 7, "{answers:?}");
    Ok(())
}

/// A client on rmcp gets the same with and without the gateway.
#[requires(npm, python, conformance)]
#[test]
fn rmcp_sees_no_difference() -> anyhow::Result<()> {
    let servers = ThirdPartyServers::shared()?;
    servers.compare_lists(rmcp)?;
    let requests = [story::calls(&servers.files()), story::others()].concat();
    servers.compare(&requests, rmcp)
}

fn rmcp(conversations: &[Conversation]) -> anyhow::Result<Vec<Value>> {
    // The client library wants a TLS provider even where no TLS is spoken; a second installation changes nothing.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut answers = Vec::new();
        for conversation in conversations {
            let config = StreamableHttpClientTransportConfig::with_uri(conversation.url.clone());
            let transport = StreamableHttpClientTransport::from_config(config);
            // The capabilities that the gateway declares in discovery: some servers list tools only to clients with them.
            let capabilities = json!({"roots": {}, "sampling": {}, "elicitation": {"form": {}, "url": {}}});
            let mut info = ClientConfig::default();
            info.capabilities = serde_json::from_value(capabilities)?;
            let service = info.serve(transport).await?;
            for (method, params) in &conversation.requests {
                let answer =
                    tokio::time::timeout(LIMIT, ask_rmcp(&service, method, params.clone())).await??;
                answers.push(serde_json::from_str(&scripted_client::masked(
                    &answer.to_string(),
                ))?);
            }
            service.cancel().await?;
        }
        Ok(answers)
    })
}

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

async fn ask_rmcp(
    service: &RunningService<RoleClient, ClientConfig>,
    method: &str,
    params: Value,
) -> anyhow::Result<Value> {
    fn typed<P: DeserializeOwned>(params: Value) -> anyhow::Result<P> {
        Ok(serde_json::from_value(params)?)
    }
    fn plain<R: Serialize>(answer: Result<R, ServiceError>) -> anyhow::Result<Value> {
        match answer {
            Ok(result) => Ok(json!({"result": result})),
            Err(ServiceError::McpError(error)) => Ok(json!({"error": error})),
            Err(error) => Err(error.into()),
        }
    }
    match method {
        "tools/list" => plain(service.list_all_tools().await),
        "prompts/list" => plain(service.list_all_prompts().await),
        "resources/list" => plain(service.list_all_resources().await),
        "resources/templates/list" => plain(service.list_all_resource_templates().await),
        "tools/call" => plain(service.call_tool(typed::<CallToolRequestParams>(params)?).await),
        "prompts/get" => plain(service.get_prompt(typed::<GetPromptRequestParams>(params)?).await),
        "resources/read" => plain(
            service
                .read_resource(typed::<ReadResourceRequestParams>(params)?)
                .await,
        ),
        _ => plain(service.complete(typed::<CompleteRequestParams>(params)?).await),
    }
}

#[requires(npm, python, conformance)]
#[test]
fn readme_inspector_command_lists_tools() -> anyhow::Result<()> {
    let servers = ThirdPartyServers::shared()?;
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"))?;
    let program = "cargo xtask inspector ";
    let command = readme.lines().find_map(|line| line.strip_prefix(program));
    let arguments = command.context("the README has no such command")?;
    let arguments = arguments.replace("http://127.0.0.1:4483/mcp", &servers.url());
    let mut inspector = external_client::inspector_with(arguments.split_whitespace())?;
    let listed: Value = serde_json::from_slice(&inspector.output()?.stdout)?;
    let session = third_party::session(servers.gateway.mcp)?;
    let wire = session
        .request(servers.gateway.mcp, "tools/list", &json!({}))?
        .message()?;
    assert_eq!(listed, wire["result"]);
    Ok(())
}

/// The inspector prints the same as the servers send.
#[requires(npm, python, conformance)]
#[test]
fn inspector_prints_same_with_gateway() -> anyhow::Result<()> {
    let servers = ThirdPartyServers::shared()?;
    let session = third_party::session(servers.gateway.mcp)?;
    let file = format!("path={}/still.txt", servers.files());
    let call = |tool: &'static str, arguments: &[&'static str]| -> Vec<&'static str> {
        [&["--tool-name", tool, "--tool-arg"], arguments].concat()
    };
    for (method, arguments, params) in [
        ("tools/list", vec![], json!({})),
        ("prompts/list", vec![], json!({})),
        ("resources/list", vec![], json!({})),
        ("resources/templates/list", vec![], json!({})),
        (
            "tools/call",
            call("everything_get-sum", &["a=1", "b=2"]),
            json!({"name": "everything_get-sum", "arguments": {"a": 1, "b": 2}}),
        ),
        (
            "tools/call",
            vec!["--tool-name", "filesystem_read_text_file", "--tool-arg", &file],
            json!({"name": "filesystem_read_text_file", "arguments": {"path": format!("{}/still.txt", servers.files())}}),
        ),
        (
            "tools/call",
            call("memory_search_nodes", &["query=nobody"]),
            json!({"name": "memory_search_nodes", "arguments": {"query": "nobody"}}),
        ),
        (
            "tools/call",
            call(
                "time_convert_time",
                &["source_timezone=UTC", "time=16:30", "target_timezone=Asia/Tokyo"],
            ),
            json!({"name": "time_convert_time",
                "arguments": {"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Tokyo"}}),
        ),
        (
            "tools/call",
            call("sessionless_add", &["a=1", "b=2"]),
            json!({"name": "sessionless_add", "arguments": {"a": 1, "b": 2}}),
        ),
        (
            "resources/read",
            vec!["--uri", "sessionless://motto"],
            json!({"uri": "sessionless://motto"}),
        ),
        (
            "prompts/get",
            vec![
                "--prompt-name",
                "everything_args-prompt",
                "--prompt-args",
                "city=Bern",
            ],
            json!({"name": "everything_args-prompt", "arguments": {"city": "Bern"}}),
        ),
    ] {
        let output = external_client::inspector(&servers.url(), method)?
            .args(arguments)
            .output()?;
        anyhow::ensure!(
            output.status.success(),
            "{method}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let printed: Value = serde_json::from_slice(&output.stdout)?;
        let wire = session.request(servers.gateway.mcp, method, &params)?.message()?;
        assert_eq!(printed, wire["result"], "{method} {params}");
    }
    Ok(())
}
