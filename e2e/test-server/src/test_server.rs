//! The running test server: what its parts share, and how they start.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rmcp::ServiceExt as _;
use rmcp::model::Tool;
use rmcp::task_manager::TaskManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;
use tokio::sync::RwLock;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::args::{Args, Refusal};
use crate::broadcast::Audience;
use crate::faults::Faults;
use crate::framing::Framing;
use crate::list_edits::ListEdits;
use crate::server::Server;
use crate::session::Session;
use crate::sessions::Sessions;
use crate::stats::Stats;
use crate::streams::Streams;
use crate::{admin, fault_layer, listen, tools};

/// A running MCP server and its admin port. Dropping it stops both.
#[derive(Debug)]
pub struct TestServer {
    mcp: SocketAddr,
    admin: SocketAddr,
    _stop: DropGuard,
}

impl TestServer {
    /// Binds both ports and serves them in the background.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn start(args: Args) -> anyhow::Result<Self> {
        let mcp = bind(args.listen).await?;
        let admin = bind(args.admin).await?;
        let stop = CancellationToken::new();
        let started = Self {
            mcp: mcp.local_addr()?,
            admin: admin.local_addr()?,
            _stop: stop.clone().drop_guard(),
        };
        let shared = Arc::new(Shared::new(args));
        let tasks = TaskTracker::new();
        tasks.spawn(listen::serve(
            mcp,
            fault_layer::router(&shared, &stop),
            stop.clone(),
        ));
        tasks.spawn(listen::serve(admin, admin::router(&shared), stop));
        Ok(started)
    }

    /// URL of the MCP endpoint.
    #[must_use]
    pub fn mcp_url(&self) -> String {
        format!("http://{}/mcp", self.mcp)
    }

    /// Base URL of the admin endpoint.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// Both URLs as the one line that the binary prints when it is ready.
    #[must_use]
    pub fn ready_line(&self) -> String {
        format!(r#"{{"mcp":"{}","admin":"{}"}}"#, self.mcp_url(), self.admin_url())
    }
}

/// Serves one session on standard input and output until the input ends.
///
/// # Errors
/// When the client does not begin with `initialize`.
pub async fn serve_stdio(args: Args) -> anyhow::Result<()> {
    let server = Server::new(Arc::new(Shared::new(args)));
    let running = server.serve(rmcp::transport::stdio()).await?;
    running.waiting().await?;
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// What the MCP endpoint, its tools and the admin port have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) args: Args,
    pub(crate) stats: Stats,
    pub(crate) sessions: Arc<Sessions>,
    /// The tools that are offered from the start.
    pub(crate) tools: Vec<Tool>,
    pub(crate) list_edits: ListEdits,
    pub(crate) audience: Audience,
    pub(crate) faults: Faults,
    pub(crate) framing: Framing,
    pub(crate) streams: Arc<Streams>,
    pub(crate) tasks: Tasks,
    /// Read by every request that is being answered, written by who wants none to be.
    pub(crate) calls: Arc<RwLock<()>>,
    /// The sessions that were made to be forgotten, and what to say about them.
    forgotten: Mutex<HashMap<String, Refusal>>,
    /// What clients without a session count in.
    pub(crate) sessionless: Arc<Session>,
}

impl Shared {
    fn new(args: Args) -> Self {
        Self {
            sessions: Arc::new(Sessions::new(&args)),
            stats: Stats::default(),
            tools: tools::built_in(args.extra_tools),
            list_edits: ListEdits::default(),
            audience: Audience::default(),
            faults: Faults::default(),
            framing: Framing::new(args.json_response),
            streams: Arc::default(),
            tasks: Tasks::default(),
            calls: Arc::default(),
            forgotten: Mutex::default(),
            sessionless: Arc::default(),
            args,
        }
    }

    /// Forgets a session as if the process had restarted, and says so in the given way from then on.
    pub(crate) async fn forget(&self, session: &str, style: Refusal) {
        self.forgotten().insert(session.to_owned(), style);
        self.sessions.forget(session).await;
    }

    /// How a request for a session that is not known is refused.
    pub(crate) fn refusal(&self, session: &str) -> Refusal {
        self.forgotten()
            .get(session)
            .copied()
            .unwrap_or(self.args.unknown_session)
    }

    fn forgotten(&self) -> MutexGuard<'_, HashMap<String, Refusal>> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rmcp service that answers what the gate lets through.
    pub(crate) fn service(
        self: &Arc<Self>,
        stop: &CancellationToken,
    ) -> StreamableHttpService<Server, Sessions> {
        let shared = Arc::clone(self);
        let config = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(!self.args.stateless)
            .with_sse_retry(Some(Duration::from_millis(self.args.sse_retry)))
            .with_cancellation_token(stop.clone());
        let config = match (self.args.check_host, self.args.allowed_hosts.as_slice()) {
            // The service's own default: loopback names.
            (true, []) => config,
            // A cluster reaches the test server under names that it does not know.
            (false, []) => config.disable_allowed_hosts(),
            (_, hosts) => config.with_allowed_hosts(hosts),
        };
        StreamableHttpService::new(
            move || Ok(Server::new(Arc::clone(&shared))),
            Arc::clone(&self.sessions),
            config,
        )
    }
}

/// The tasks of all clients.
#[derive(Default)]
pub(crate) struct Tasks(pub(crate) TaskManager);

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tasks")
            .field(&self.0.running_task_count())
            .finish()
    }
}
