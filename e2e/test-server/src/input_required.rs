//! The 2026-07-28 way to ask a client: an answer that asks, and the same request again with what was asked.

use std::sync::LazyLock;

use rmcp::model::{
    ClientCapabilities, GetPromptRequestParams, InputRequiredResult, InputResponses, RequestStateCodec,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::Value;

/// Detects a changed state. It guards nothing, so the key is no secret.
static CODEC: LazyLock<RequestStateCodec> =
    LazyLock::new(|| RequestStateCodec::new(*b"the test server detects changes, and keeps no secret"));

/// What a client has given so far.
#[derive(Debug, Default)]
pub(crate) struct Round {
    responses: InputResponses,
    state: Option<String>,
    pub(crate) capabilities: ClientCapabilities,
}

impl Round {
    /// # Errors
    /// When the state is not one that the test server gave out.
    pub(crate) fn new(
        responses: Option<InputResponses>,
        state: Option<&str>,
        context: &RequestContext<RoleServer>,
    ) -> Result<Self, ErrorData> {
        let state = state.map(open).transpose()?;
        let capabilities = context.client_capabilities().unwrap_or_default();
        Ok(Self {
            responses: responses.unwrap_or_default(),
            state,
            capabilities,
        })
    }

    /// The round of a prompt.
    pub(crate) fn of_prompt(
        request: &GetPromptRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<Self, ErrorData> {
        Self::new(
            request.input_responses.clone(),
            request.request_state.as_deref(),
            context,
        )
    }

    /// A response, at a JSON pointer.
    pub(crate) fn given(&self, pointer: &str) -> Option<&Value> {
        let (key, rest) = pointer.split_once('/').unwrap_or((pointer, ""));
        let response = self.responses.get(key)?;
        if rest.is_empty() {
            Some(response)
        } else {
            response.pointer(&format!("/{rest}"))
        }
    }

    /// The same, when it is a text.
    pub(crate) fn text(&self, pointer: &str) -> Option<&str> {
        self.given(pointer)?.as_str()
    }

    /// The state that an earlier round ended with.
    pub(crate) fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

fn open(sealed: &str) -> Result<String, ErrorData> {
    let opened = CODEC
        .open(sealed)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    opened.ok_or_else(|| ErrorData::invalid_params("The request state was changed", None))
}

/// An answer that asks for `requests`, and remembers `state`.
pub(crate) fn ask(requests: Value, state: Option<&str>) -> Result<InputRequiredResult, ErrorData> {
    let requests = serde_json::from_value(requests)
        .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    Ok(InputRequiredResult::new(
        Some(requests),
        state.map(|state| CODEC.seal(state.as_bytes())),
    ))
}
