//! `cargo xtask inspector`.

use std::os::unix::process::CommandExt as _;

use anyhow::Context as _;
use clap::Args;
use vmcp_peers::client;

/// The MCP inspector, in the version that the tests use: a command line that shows what a server says.
///
/// `cargo xtask inspector --cli http://127.0.0.1:4483/mcp --transport http --method tools/list`. It is installed on first use.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Inspector {
    /// Passed to the inspector
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Inspector {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut inspector = client::inspector_with(self.arguments.iter().map(String::as_str))?;
        // In place of this process, so that signals and the exit code are the inspector's own.
        let error = inspector.exec();
        Err(error).context("cannot run the inspector")
    }
}
