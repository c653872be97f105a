//! The prompts, and completion of their arguments.

use std::sync::LazyLock;

use rmcp::model::{
    CompleteRequestParams, CompleteResult, CompletionInfo, ContentBlock, GetPromptRequestParams,
    GetPromptResponse, GetPromptResult, JsonObject, Prompt, PromptArgument, PromptMessage, ResourceContents,
    Role,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};

use crate::input_required::{Round, ask};
use crate::resources::PIXEL;
use crate::test_server::Shared;

static BUILT_IN: LazyLock<Vec<Prompt>> = LazyLock::new(|| {
    vec![
        Prompt::new("test_simple_prompt", Some("A prompt without arguments"), None),
        Prompt::new(
            "test_prompt_with_arguments",
            Some("A prompt that repeats its two arguments"),
            Some(vec![
                required("arg1", "First test argument"),
                required("arg2", "Second test argument"),
            ]),
        ),
        Prompt::new(
            "test_prompt_with_embedded_resource",
            Some("A prompt that embeds the resource it is given"),
            Some(vec![required("resourceUri", "URI of the resource to embed")]),
        ),
        Prompt::new("test_prompt_with_image", Some("A prompt with an image"), None),
        Prompt::new(
            "test_input_required_result_prompt",
            Some("A prompt that asks for its context"),
            None,
        ),
    ]
});

/// What the completion of any argument chooses from.
const CITIES: [&str; 6] = ["paris", "park", "party", "london", "lisbon", "berlin"];

fn required(name: &str, description: &str) -> PromptArgument {
    PromptArgument::new(name)
        .with_description(description)
        .with_required(true)
}

/// Every prompt, in the order in which it is listed.
pub(crate) fn list(shared: &Shared) -> Vec<Prompt> {
    let added = |name: &str| Prompt::new(name, Some("Added while running"), None);
    shared
        .list_edits
        .prompts
        .apply(&BUILT_IN, |prompt| &prompt.name, added)
}

/// The messages of one prompt.
pub(crate) fn get(
    shared: &Shared,
    request: &GetPromptRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<GetPromptResponse, ErrorData> {
    let name = request.name.as_str();
    if !list(shared).iter().any(|prompt| prompt.name == name) {
        return Err(ErrorData::invalid_params(format!("Unknown prompt: {name}"), None));
    }
    let arguments = request.arguments.clone().unwrap_or_default();
    let messages = match name {
        "test_simple_prompt" => vec![says("This is a simple prompt for testing.")],
        "test_prompt_with_arguments" => {
            let (one, two) = (argument(&arguments, "arg1")?, argument(&arguments, "arg2")?);
            vec![says(format!("Prompt with arguments: arg1='{one}', arg2='{two}'"))]
        }
        "test_prompt_with_embedded_resource" => {
            let uri = argument(&arguments, "resourceUri")?;
            let text = ResourceContents::text("Embedded resource content for testing.", uri);
            let resource = ContentBlock::resource(text.with_mime_type("text/plain"));
            vec![
                PromptMessage::new(Role::User, resource),
                says("Please process the embedded resource above."),
            ]
        }
        "test_prompt_with_image" => vec![
            PromptMessage::new(Role::User, ContentBlock::image(PIXEL, "image/png")),
            says("Please analyze the image above."),
        ],
        "test_input_required_result_prompt" => {
            let round = Round::of_prompt(request, context)?;
            let Some(chosen) = round.text("user_context/content/context") else {
                return Ok(ask(user_context(), None)?.into());
            };
            vec![says(format!("The context is {chosen}"))]
        }
        added => vec![says(added)],
    };
    Ok(GetPromptResult::new(messages).into())
}

/// The values that begin like what was typed.
pub(crate) fn complete(request: &CompleteRequestParams) -> Result<CompleteResult, ErrorData> {
    let typed = &request.argument.value;
    let values = CITIES
        .iter()
        .filter(|city| city.starts_with(typed))
        .map(ToString::to_string)
        .collect();
    let completion =
        CompletionInfo::with_all_values(values).map_err(|error| ErrorData::internal_error(error, None))?;
    Ok(CompleteResult::new(completion))
}

/// What the prompt that asks asks for.
fn user_context() -> Value {
    let schema = json!({
        "type": "object",
        "properties": {"context": {"type": "string"}},
        "required": ["context"],
    });
    let params = json!({"message": "What context should the prompt use?", "requestedSchema": schema});
    json!({"user_context": {"method": "elicitation/create", "params": params}})
}

fn says(text: impl Into<String>) -> PromptMessage {
    PromptMessage::new_text(Role::User, text)
}

fn argument<'a>(arguments: &'a JsonObject, name: &str) -> Result<&'a str, ErrorData> {
    arguments
        .get(name)
        .and_then(|value| value.as_str())
        .ok_or_else(|| ErrorData::invalid_params(format!("Missing argument: {name}"), None))
}
