//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// One MCP endpoint over many MCP servers, with sessions that outlive the process.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "\
Example, two servers as one endpoint at http://127.0.0.1:4483/mcp:

  cat > gateway.yaml <<END
  version: v1
  hot:
    backends:
      - {name: time, url: 'http://127.0.0.1:8000/mcp'}
      - {name: files, url: 'http://127.0.0.1:8001/mcp'}
  END
  vmcp-gateway serve --config gateway.yaml

docs/configuration.md describes every field."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve clients until SIGTERM or Ctrl-C.
    Serve(ConfigFile),
    /// Check a configuration and print what it means, without secrets. Exits with 64 when the file is bad.
    Validate(ConfigFile),
    /// Print a new session key, for the file `current` in the directory that `sessionKeys.directory` names.
    Keygen,
}

/// Which configuration.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// The configuration file, in YAML.
    #[arg(long, value_name = "FILE", env = "VMCP_CONFIG")]
    pub config: PathBuf,
}
