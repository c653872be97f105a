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

Every flag can be given in the environment: --config FILE as VMCP_CONFIG=FILE. The password of the session store comes
only from there: THV_SESSION_REDIS_PASSWORD.

The exit code is 0 when all went well, 64 when the configuration is bad, 2 when the command line is, and 1 for anything
else. docs/configuration.md describes every field."
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
    #[command(after_help = "\
Clients connect to http://127.0.0.1:4483/mcp, or where listeners.mcp says. http://127.0.0.1:9483 (listeners.admin) has /readyz,
/livez, /metrics and /status. The log goes to standard error, a line of JSON for each event.

What stands under `hot`, or in the file that `hotFile` names, can change while the gateway runs: it is taken within a second of
the file's change. A file that is not right changes nothing; the log and /status say why. Everything else takes a restart.

On SIGTERM the gateway reports that it is not ready, waits for drainDelay (5s), and finishes the calls that are running. Sessions
in Redis outlive it.")]
    Serve(ConfigFile),
    /// Check a configuration and print what it means: every field, also those that have their defaults, and no secret.
    #[command(after_help = "\
What is printed is a configuration too, in one file. When the file is bad, what is wrong goes to standard error with file, line, field
and what is allowed, and the exit code is 64.")]
    Validate(ConfigFile),
    /// Print a new session key, for the file `current` in the directory that `sessionKeys.directory` names.
    #[command(after_help = "\
Example, for gateways that share a Redis and so must share their keys:

  mkdir keys
  vmcp-gateway keygen > keys/current")]
    Keygen,
    /// Print the bearer token that `/status` on the admin port wants, which the session keys give.
    #[command(after_help = "\
Example:

  TOKEN=$(vmcp-gateway status-token --config gateway.yaml)
  curl -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:9483/status")]
    StatusToken(ConfigFile),
    /// Print the version, the commit from which it was built, and the revisions of the protocol that it speaks.
    Version,
}

/// Which configuration.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// The configuration file, in YAML.
    #[arg(long, value_name = "FILE", env = "VMCP_CONFIG")]
    pub config: PathBuf,
}
