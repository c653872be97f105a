//! The command line, every flag of which has an environment variable for manifests.

use std::net::SocketAddr;

use clap::Parser;
use serde::{Deserialize, Serialize};

/// An MCP server for tests: every item of the conformance suite, a few tools with observable state, and an admin port
/// that injects faults.
#[derive(Debug, Clone, Parser)]
#[command(name = "vmcp-test-server", version)]
pub struct Args {
    /// Address of the MCP endpoint, whose path is /mcp
    #[arg(long, env = "TEST_SERVER_LISTEN", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,

    /// Address of the admin endpoint
    #[arg(long, env = "TEST_SERVER_ADMIN", default_value = "127.0.0.1:0")]
    pub admin: SocketAddr,

    /// Speak on standard input and output, with one session, and without the endpoints
    #[arg(long)]
    pub stdio: bool,

    /// Name of the server in `initialize` and `whoami`
    #[arg(long, env = "TEST_SERVER_NAME", default_value = "test-server")]
    pub name: String,

    /// Give out no session ids
    #[arg(long, env = "TEST_SERVER_STATELESS")]
    pub stateless: bool,

    /// Offer this many more tools, named extra_0001 and so on
    #[arg(long, env = "TEST_SERVER_EXTRA_TOOLS", default_value_t = 0)]
    pub extra_tools: usize,

    /// Offer the tool enable_toolset, which adds a tool to the session that calls it
    #[arg(long, env = "TEST_SERVER_TOOLSETS")]
    pub toolsets: bool,

    /// Cut lists into pages of this size; 0 gives one page
    #[arg(long, env = "TEST_SERVER_PAGE_SIZE", default_value_t = 0)]
    pub page_size: usize,

    /// Answer as application/json where possible, instead of as an event stream (also: PUT /framing)
    #[arg(long, env = "TEST_SERVER_JSON_RESPONSE")]
    pub json_response: bool,

    /// How a request with an unknown session id is refused
    #[arg(long, env = "TEST_SERVER_UNKNOWN_SESSION", value_enum, default_value_t)]
    pub unknown_session: Refusal,

    /// End sessions that are idle for this many seconds; 0 keeps them
    #[arg(long, env = "TEST_SERVER_SESSION_IDLE", default_value_t = 1800)]
    pub session_idle: u64,

    /// Milliseconds that clients are told to wait before they open a stream again
    #[arg(long, env = "TEST_SERVER_SSE_RETRY", default_value_t = 500)]
    pub sse_retry: u64,

    /// Refuse requests whose Host is not a loopback name
    #[arg(long, env = "TEST_SERVER_CHECK_HOST")]
    pub check_host: bool,

    /// Refuse requests whose Host is not in this comma-separated list
    #[arg(long, env = "TEST_SERVER_ALLOWED_HOSTS", value_delimiter = ',')]
    pub allowed_hosts: Vec<String>,
}

/// The two responses of real servers to an unknown session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum Refusal {
    /// 404, as the specification requires.
    #[default]
    #[value(name = "404")]
    #[serde(rename = "404")]
    NotFound,
    /// 400 with "No valid session ID provided", as server-everything.
    #[value(name = "400")]
    #[serde(rename = "400")]
    BadRequest,
}
