//! The tools: what is offered, and what runs.

mod ask;
mod basic;
mod content;
mod jobs;
mod modern;
mod toolset;

use std::borrow::Cow;

use rmcp::model::{CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, JsonObject, Tool};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::broadcast::Change;
use crate::input_required::Round;
use crate::server::Server;

/// What a tool answers.
type Answer = Result<CallToolResponse, ErrorData>;

/// One call on its way to its tool.
struct Call<'a> {
    server: &'a Server,
    arguments: JsonObject,
    context: RequestContext<RoleServer>,
}

impl Call<'_> {
    /// The arguments as the tool declares them.
    fn arguments<T: DeserializeOwned>(&self) -> Result<T, ErrorData> {
        serde_json::from_value(Value::Object(self.arguments.clone()))
            .map_err(|error| ErrorData::invalid_params(error.to_string(), None))
    }
}

/// The tools that are offered from the start.
pub(crate) fn built_in(extra: usize) -> Vec<Tool> {
    let extra = (1..=extra).map(|number| plain(format!("extra_{number:04}"), "Answers with its own name"));
    let families = [
        content::list(),
        basic::list(),
        ask::list(),
        modern::list(),
        jobs::list(),
    ];
    families.into_iter().flatten().chain(extra).collect()
}

/// Every tool, in the order in which it is listed.
pub(crate) fn list(server: &Server) -> Vec<Tool> {
    let shared = &server.shared;
    let added = |name: &str| plain(name.to_owned(), "Added while running, answers with its own name");
    let mut tools = shared
        .list_edits
        .tools
        .apply(&shared.tools, |tool| &tool.name, added);
    tools.extend(toolset::list(server));
    tools
}

/// Runs the tool that the request names.
pub(crate) async fn call(
    server: &Server,
    request: CallToolRequestParams,
    context: RequestContext<RoleServer>,
) -> Answer {
    let name = request.name;
    let is_built_in = || server.shared.tools.iter().any(|tool| tool.name == name);
    let is_own = toolset::has(server, &name);
    if !is_own && !server.shared.list_edits.tools.offers(&name, is_built_in) {
        return Err(ErrorData::invalid_params(format!("Unknown tool: {name}"), None));
    }
    server.shared.stats.called(&name);
    let round = Round::new(
        request.input_responses,
        request.request_state.as_deref(),
        &context,
    )?;
    let call = Call {
        server,
        arguments: request.arguments.unwrap_or_default(),
        context,
    };
    match name.as_ref() {
        "enable_toolset" => toolset::enable(&call).await,
        _ if is_own => text(format!("{name} of this session")),
        "echo" => basic::echo(&call),
        "counter" => basic::counter(&call),
        "sleep" => basic::sleep(&call).await,
        "big" => basic::big(&call),
        "whoami" => basic::whoami(&call),
        "stream_progress" => basic::stream_progress(&call).await,
        "test_simple_text" => content::simple_text(),
        "test_image_content" => content::image(),
        "test_audio_content" => content::audio(),
        "test_embedded_resource" => content::embedded_resource(),
        "test_multiple_content_types" => content::mixed(),
        "test_error_handling" => content::error(),
        "test_tool_with_logging" => content::logging(&call).await,
        "test_tool_with_progress" => content::progress(&call).await,
        "test_reconnection" => content::reconnection(&call).await,
        "test_sampling" => ask::sampling(&call).await,
        "test_elicitation" => ask::elicitation(&call).await,
        "test_elicitation_sep1034_defaults" => ask::defaults(&call).await,
        "test_elicitation_sep1330_enums" => ask::enums(&call).await,
        "list_roots" => ask::roots(&call).await,
        "test_missing_capability" => modern::missing_capability(&call),
        "test_logging_tool" => content::logging(&call).await,
        "test_trigger_tool_change" => modern::trigger(&call, Change::Tools).await,
        "test_trigger_prompt_change" => modern::trigger(&call, Change::Prompts).await,
        "test_mirrored_header" => modern::mirrored_header(&call),
        "test_streaming_elicitation" | "test_input_required_result_elicitation" => {
            modern::elicitation(&round)
        }
        "test_input_required_result_sampling" => modern::sampling(&round),
        "test_input_required_result_list_roots" => modern::list_roots(&round),
        "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
            modern::request_state(&round)
        }
        "test_input_required_result_multiple_inputs" => modern::multiple_inputs(&round),
        "test_input_required_result_multi_round" => modern::multi_round(&round),
        "test_input_required_result_capabilities" => modern::capabilities(&round),
        "greet" => jobs::greet(&call),
        "slow_compute" => jobs::slow_compute(&call).await,
        "failing_job" => jobs::failing_job(&call),
        "protocol_error_job" => jobs::protocol_error_job(&call),
        "confirm_delete" => jobs::confirm_delete(&call),
        "multi_input" => jobs::multi_input(&call),
        "test_tool_with_task" => jobs::with_name(&call, &round),
        // The tools that are only there to be many, to come and to go.
        _ => text(name),
    }
}

/// A tool without arguments.
fn plain(name: impl Into<Cow<'static, str>>, description: &'static str) -> Tool {
    tool(name, description, &json!({}), &[])
}

/// A tool that takes an object with these properties.
fn tool(
    name: impl Into<Cow<'static, str>>,
    description: &'static str,
    properties: &Value,
    required: &[&str],
) -> Tool {
    let schema = json!({"type": "object", "properties": properties, "required": required});
    Tool::new(name, description, object(schema))
}

/// A JSON object that was written as a literal.
fn object(value: Value) -> JsonObject {
    match value {
        Value::Object(object) => object,
        other => JsonObject::from_iter([("value".to_owned(), other)]),
    }
}

/// The usual answer: one text.
fn text(text: impl Into<String>) -> Answer {
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
}
