//! The result of `initialize`: a backend's capabilities and instructions.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::UpstreamSession;
use crate::mcp::jsonrpc;
use crate::mcp::revision::Revision;
use crate::runtime::truncate;

/// The most bytes of a backend's instructions that are kept.
const MAX_INSTRUCTIONS: usize = 64 * 1024;
/// The most bytes of a backend's `serverInfo` that are kept. It may contain icons.
const MAX_SERVER_INFO: usize = 16 * 1024;

/// A backend's result of `initialize`, with the session that it opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitializeResult {
    /// The session that the handshake opened.
    pub session: UpstreamSession,
    /// The capabilities that the backend declares.
    pub capabilities: ServerCapabilities,
    /// The backend's instructions for models, truncated to 64 KiB.
    pub instructions: Option<String>,
    /// The backend's name and version, as JSON; `None` if that is longer than 16 KiB.
    pub server_info: Option<String>,
}

/// The capabilities that a backend declares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCapabilities {
    /// The backend has tools.
    pub tools: bool,
    /// The backend has prompts.
    pub prompts: bool,
    /// The backend has resources.
    pub resources: bool,
    /// The backend notifies subscribers of changed resources.
    pub subscribe: bool,
    /// The backend completes arguments.
    pub completions: bool,
    /// The backend sends log messages.
    pub logging: bool,
}

/// The parts of an `InitializeResult` that the gateway reads.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawInitializeResult<'a> {
    #[serde(borrow)]
    pub(super) protocol_version: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, default)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow, default)]
    server_info: Option<&'a RawValue>,
}

impl RawInitializeResult<'_> {
    pub(super) fn parse_initialize_result(self, session: UpstreamSession) -> InitializeResult {
        let capabilities = self.capabilities.map_or("{}", RawValue::get);
        let instructions = self.instructions.and_then(jsonrpc::string);
        InitializeResult {
            capabilities: ServerCapabilities::read(capabilities, session.revision),
            instructions: instructions
                .filter(|text| !text.trim().is_empty())
                .map(|instructions| truncate::head(&instructions, MAX_INSTRUCTIONS).to_owned()),
            server_info: self
                .server_info
                .filter(|info| info.get().len() <= MAX_SERVER_INFO)
                .map(|info| info.get().to_owned()),
            session,
        }
    }
}

impl ServerCapabilities {
    /// Reads the declared capabilities. An unreadable one counts as not declared. Revision 2024-11-05 has completion without a capability.
    fn read(text: &str, revision: Revision) -> Self {
        #[derive(Default, Deserialize)]
        struct Declared<'a> {
            #[serde(borrow, default)]
            tools: Option<&'a RawValue>,
            #[serde(borrow, default)]
            prompts: Option<&'a RawValue>,
            #[serde(borrow, default)]
            resources: Option<&'a RawValue>,
            #[serde(borrow, default)]
            completions: Option<&'a RawValue>,
            #[serde(borrow, default)]
            logging: Option<&'a RawValue>,
        }
        #[derive(Default, Deserialize)]
        struct Resources {
            #[serde(default)]
            subscribe: bool,
        }
        let declared: Declared<'_> = serde_json::from_str(text).unwrap_or_default();
        let resources = declared.resources.map_or("{}", RawValue::get);
        let resources: Resources = serde_json::from_str(resources).unwrap_or_default();
        Self {
            tools: declared.tools.is_some(),
            prompts: declared.prompts.is_some(),
            resources: declared.resources.is_some(),
            subscribe: resources.subscribe,
            completions: declared.completions.is_some() || revision == Revision::V2024_11_05,
            logging: declared.logging.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_declared_capabilities_are_read() {
        let read = |text| ServerCapabilities::read(text, Revision::LATEST);
        let some = read(r#"{"tools":{},"resources":{"subscribe":true,"listChanged":true},"x":{}}"#);
        assert_eq!(
            some,
            ServerCapabilities {
                tools: true,
                resources: true,
                subscribe: true,
                ..ServerCapabilities::default()
            }
        );
        assert_eq!(read("[]"), ServerCapabilities::default());
        assert_eq!(read(r#"{"tools":null}"#), ServerCapabilities::default());
        assert!(ServerCapabilities::read("{}", Revision::V2024_11_05).completions);
    }
}
