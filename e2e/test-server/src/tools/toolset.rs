//! Tools that one session has and others have not, as servers offer that let a model choose a toolset.

use rmcp::model::Tool;
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Call, plain, text, tool};
use crate::server::Server;

/// The tool that adds others.
const ENABLE: &str = "enable_toolset";

/// The tools that only this session has.
pub(super) fn list(server: &Server) -> Vec<Tool> {
    if !server.shared.args.toolsets {
        return Vec::new();
    }
    let schema = json!({
        "name": {"type": "string", "description": "The name of the tool to add"},
        "quiet": {"type": "boolean", "description": "Whether to leave out the notification"},
    });
    let enable = tool(
        ENABLE,
        "Adds a tool to the session that calls it",
        &schema,
        &["name"],
    );
    let own = server.session.enabled_tools().into_iter();
    let own = own.map(|name| plain(name, "A tool of this session, answers with its own name"));
    std::iter::once(enable).chain(own).collect()
}

/// Whether `name` is one of them.
pub(super) fn has(server: &Server, name: &str) -> bool {
    server.shared.args.toolsets && (name == ENABLE || server.session.has_tool(name))
}

#[derive(Deserialize)]
struct Enable {
    name: String,
    #[serde(default)]
    quiet: bool,
}

pub(super) async fn enable(call: &Call<'_>) -> Answer {
    let Enable { name, quiet } = call.arguments()?;
    call.server.session.enable_tool(name.clone());
    if !quiet && let Err(error) = call.context.peer.notify_tool_list_changed().await {
        tracing::debug!(%error, "cannot tell that the list has changed");
    }
    text(format!("{name} is enabled"))
}
