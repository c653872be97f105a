//! `cargo xtask inspector`.

use std::os::unix::process::CommandExt as _;

use anyhow::Context as _;
use clap::Args;
use vmcp_external::client;

/// Run the MCP inspector in the version of the tests: a command line client that shows the responses of a server.
///
/// Example: `cargo xtask inspector --cli http://127.0.0.1:4483/mcp --transport http --method tools/list`. It is installed on first use.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Inspector {
    /// Arguments of the inspector
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Inspector {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut inspector = client::inspector_with(self.arguments.iter().map(String::as_str))?;
        // `exec` replaces this process, so that the inspector gets the signals and sets the exit code.
        let error = inspector.exec();
        Err(error).context("failed to run the inspector")
    }
}
