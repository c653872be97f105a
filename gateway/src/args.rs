//! The command line of `vmcp-gateway`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use vmcp_crds::config::Duration;

use crate::bridge;
use crate::bridge::BridgeProcesses;

use crate::import::ImportOptions;

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

Flags can also be set in the environment: VMCP_CONFIG=FILE for --config FILE. The password of the session store can be set
only there: THV_SESSION_REDIS_PASSWORD.

Exit codes: 0 success, 64 invalid configuration, 2 invalid command line, 1 any other error.
docs/configuration.md describes all fields."
)]
pub struct Args {
    /// The subcommand to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands of `vmcp-gateway`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve clients until SIGTERM or Ctrl-C.
    #[command(after_help = "\
Clients connect to http://127.0.0.1:4483/mcp, or to the address in listeners.mcp. The admin port http://127.0.0.1:9483
(listeners.admin) serves /readyz, /livez, /metrics and /status. The log goes to standard error, one JSON object per line.

The settings under `hot`, or in the file that `hotFile` names, can change while the gateway runs. A change takes effect within
a second. An invalid file changes nothing; the log and /status give the reason. All other settings need a restart.

On SIGTERM the gateway reports that it is not ready, waits for drainDelay (5s), and finishes the running calls. Sessions in
Redis outlive it.")]
    Serve(ConfigFile),
    /// Check a configuration and print it with all defaults. The output contains no secrets.
    #[command(after_help = "\
The output is a complete configuration in one file. If the file is invalid, the error on standard error names the file, the line,
the field and what is allowed, and the exit code is 64.")]
    Validate(ConfigFile),
    /// Print a new session key, for the file `current` in the directory that `sessionKeys.directory` names.
    #[command(after_help = "\
Example, for gateways that share Redis and therefore must share their keys:

  mkdir keys
  vmcp-gateway keygen > keys/current")]
    Keygen,
    /// Print the bearer token for `/status` on the admin port. It is derived from the session keys.
    #[command(after_help = "\
Example:

  TOKEN=$(vmcp-gateway status-token --config gateway.yaml)
  curl -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:9483/status")]
    StatusToken(ConfigFile),
    /// Serve a program that speaks MCP on its standard streams as an HTTP endpoint.
    #[command(after_help = "\
Example, a server as http://127.0.0.1:8080/mcp:

  vmcp-gateway bridge --listen 127.0.0.1:8080 --admin 127.0.0.1:9483 -- npx -y @modelcontextprotocol/server-everything

Clients see the names, capabilities and instructions of the server. Each session has a process of its own, unless --processes shared is
set. The program gets the whole environment of the bridge; what it writes to standard error goes to the log. /readyz on the admin port
says that the server has answered initialize once.")]
    Bridge(BridgeArgs),
    /// Copy this program to a file, for example into a volume that another container mounts.
    Install(InstallArgs),
    /// Run a server of the gateway, and end it with the gateway.
    #[command(hide = true)]
    Supervise(ServerArgs),
    /// Convert the MCP servers of a desktop client into a configuration.
    #[command(after_help = "\
Reads the JSON of Claude Desktop, Claude Code (.mcp.json), VS Code (mcp.json), Cursor and similar clients. The values of environment
variables and headers go to vmcp.env, which only you can read. Messages on standard error name each server and field that is not
imported. No existing file is changed without --force.

Example:

  vmcp-gateway import ~/.config/Claude/claude_desktop_config.json
  set -a; . ./vmcp.env; set +a
  vmcp-gateway serve --config gateway.yaml

Exit codes: 0 all servers are imported, 1 a server is left out or a file cannot be read or written, 64 the file has no server
that the gateway can use. docs/desktop.md has more.")]
    Import(ImportOptions),
    /// Print the version, the commit that it was built from, and the supported revisions of the protocol.
    Version,
}

/// The configuration file of a subcommand.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// The configuration file, in YAML.
    #[arg(long, value_name = "FILE", env = "VMCP_CONFIG")]
    pub config: PathBuf,
}

/// A program and its arguments.
#[derive(Debug, clap::Args)]
pub struct ServerArgs {
    /// The program, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// The server of a bridge, and how clients reach it.
#[derive(Debug, clap::Args)]
pub struct BridgeArgs {
    /// Address of the MCP endpoint, whose path is /mcp
    #[arg(long, value_name = "ADDRESS", env = "VMCP_BRIDGE_LISTEN", default_value_t = bridge::DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    /// Address of /livez, /readyz, /metrics and /status
    #[arg(long, value_name = "ADDRESS", env = "VMCP_BRIDGE_ADMIN", default_value_t = bridge::DEFAULT_ADMIN)]
    pub admin: SocketAddr,
    /// Which clients a process of the program has
    #[arg(long, value_enum, env = "VMCP_BRIDGE_PROCESSES", default_value_t)]
    pub processes: BridgeProcesses,
    /// Maximum number of processes for clients' sessions, from 1 to 4096
    #[arg(
        long,
        value_name = "N",
        env = "VMCP_BRIDGE_MAX_PROCESSES",
        default_value_t = 32
    )]
    pub max_processes: u32,
    /// Time without a call after which a session's process ends, from 1s to 24h
    #[arg(long, value_name = "DURATION", env = "VMCP_BRIDGE_IDLE_TIMEOUT", default_value = "10m", value_parser = bridge::duration)]
    pub idle_timeout: Duration,
    /// The program and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Where the copy of this program goes.
#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    /// The file to write
    #[arg(value_name = "FILE")]
    pub target: PathBuf,
}
