//! Finds the servers in the file of a client.

use super::field_path::{Fields, Problem, field_path};
use super::inputs::Inputs;
use super::ordered_json::OrderedJson;

/// What the file must look like, for error messages.
pub(super) const EXPECTED: &str = r#"expected an object with the servers by their names, for example {"mcpServers": {"time": {"command": "uvx", "args": ["mcp-server-time"]}}}"#;

/// The servers of a file.
pub(super) struct ClientFile {
    /// The servers in their order: path, name, and fields.
    pub(super) servers: Vec<(String, String, OrderedJson)>,
    /// What VS Code asks the user for.
    pub(super) inputs: Inputs,
    /// Fields beside the servers that are not read.
    pub(super) ignored: Vec<String>,
}

impl ClientFile {
    /// Finds the servers: in `mcpServers` (Claude, Cursor and most others), in `servers` (VS Code's `mcp.json`), or in `mcp.servers`
    /// (VS Code's `settings.json`).
    pub(super) fn find(file: OrderedJson) -> Result<Self, Problem> {
        let kind = file.kind();
        let OrderedJson::Object(_) = &file else {
            return Err(Problem::new(".", format!("found {kind}; {EXPECTED}")));
        };
        let mut fields = Fields::new("", file)?;
        let mut found = Self {
            servers: Vec::new(),
            inputs: Inputs::default(),
            ignored: Vec::new(),
        };
        let mut has_list = false;
        if let Some(servers) = fields.take("mcpServers") {
            has_list = true;
            found.add("mcpServers", servers)?;
        }
        if let Some(mcp) = fields.take("mcp") {
            let mut mcp = Fields::new("mcp", mcp)?;
            has_list |= found.add_vscode(&mut mcp)?;
            found.ignored.extend(
                mcp.into_unread()
                    .into_iter()
                    .map(|(name, _)| field_path("mcp", &name)),
            );
        }
        has_list |= found.add_vscode(&mut fields)?;
        if !has_list {
            return Err(Problem::new(
                ".",
                format!("found neither `mcpServers` nor `servers`; {EXPECTED}"),
            ));
        }
        if found.servers.is_empty() {
            return Err(Problem::new(".", format!("found no server; {EXPECTED}")));
        }
        let unread = fields.into_unread().into_iter();
        found
            .ignored
            .extend(unread.map(|(name, _)| name).filter(|name| name != "$schema"));
        Ok(found)
    }

    fn add_vscode(&mut self, fields: &mut Fields) -> Result<bool, Problem> {
        let Some(servers) = fields.take("servers") else {
            return Ok(false);
        };
        self.add(&fields.path_of("servers"), servers)?;
        let inputs = fields.take("inputs");
        self.inputs = Inputs::parse(inputs, &fields.path_of("inputs"))?;
        Ok(true)
    }

    fn add(&mut self, path: &str, servers: OrderedJson) -> Result<(), Problem> {
        let servers = Fields::new(path, servers)?.into_unread().into_iter();
        self.servers
            .extend(servers.map(|(name, fields)| (field_path(path, &name), name, fields)));
        Ok(())
    }
}
