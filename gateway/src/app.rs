//! Builds the parts of the process from the configuration, runs them, and shuts them down.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};
use vmcp_crds::config::without_ipv6;

use crate::admin::Admin;
use crate::backend::HttpClient;
use crate::budget;
use crate::config::{Config, HotSource, SessionStorage};
use crate::core::Core;
use crate::frontend::auth::Authentication;
use crate::frontend::{self, Frontend};
use crate::http::listener_tls::ListenerTls;
use crate::http::server::Server;
use crate::reload;
use crate::runtime::drain::Drain;
use crate::runtime::readiness::{Readiness, ReadinessWait};
use crate::runtime::tasks::Tasks;
use crate::session::id::signing_keys::SigningKeys;
use crate::session::record::Lifetimes;
use crate::session::store::SessionStore;
use crate::session::store::memory::MemoryStore;
use crate::session::store::redis::RedisStore;
use crate::session::{SessionOptions, Sessions};
use crate::telemetry::Metrics;
use crate::telemetry::logs::LevelHandle;

/// Time after the deadline of the longest call for which the process waits for running tasks.
const FINISH_MARGIN: Duration = Duration::from_secs(5);

/// How long the process waits for the end of the admin port.
const ADMIN_FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long readiness waits for the persisted catalog in the session store.
const PERSISTED_CATALOG_TIMEOUT: Duration = Duration::from_secs(1);

/// Size of the kernel's send buffer for each client connection. By default, the kernel would buffer up to 4 MiB for each client that does not
/// read. That memory counts as the pod's, and the gateway would notice later that the client does not read.
const SEND_BUFFER_BYTES: u32 = 128 * 1024;
/// Most connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// The gateway process. Its listeners are open, but it does not serve requests before [`Self::run`].
#[derive(Debug)]
pub struct App {
    mcp: TcpListener,
    tls: Option<ListenerTls>,
    frontend: Frontend,
    sessions: Sessions,
    /// The startup step that loads the persisted catalog.
    loading: ReadinessWait,
    /// The startup step that reaches the session store.
    first_access: ReadinessWait,
    /// The startup step in which the backend answers that clients see in place of the gateway, if there is one.
    backend_answered: Option<ReadinessWait>,
    core: Core,
    admin: std::thread::JoinHandle<()>,
    /// Closes the admin port, which reports until the last call has finished.
    admin_end: Drain,
    drain: Drain,
    idle_timeout: Duration,
    drain_delay: Duration,
    tasks: Tasks,
    hot_source: Option<HotSource>,
    /// The directory of the session keys, and the keys in use.
    session_keys: Option<(PathBuf, SigningKeys)>,
    level: LevelHandle,
    metrics: Metrics,
}

impl App {
    /// Builds every part and opens both listeners.
    ///
    /// # Errors
    /// If a key cannot be read or a listener cannot be bound.
    pub async fn build(config: Config, level: LevelHandle) -> anyhow::Result<Self> {
        level.set(config.hot.log_level);
        let (drain, admin_end, readiness, tasks, metrics) = (
            Drain::default(),
            Drain::default(),
            Readiness::default(),
            Tasks::default(),
            Metrics::new(),
        );
        let listening = readiness.wait_for("the listener");
        let loading = readiness.wait_at_most("the persisted catalog", PERSISTED_CATALOG_TIMEOUT);
        let first_access = readiness.wait_for("the session store");

        let presents_backend = config.hot.presents_backend;
        let backend_answered = presents_backend.then(|| readiness.wait_for("the server"));

        let named_keys = config
            .session_keys
            .as_deref()
            .map(SigningKeys::load)
            .transpose()?;
        let keys = named_keys.clone().map_or_else(SigningKeys::random, Ok)?;
        let lifetimes = Lifetimes {
            idle: config.session_ttl,
            max: config.session_max_lifetime,
        };
        let store: Arc<dyn SessionStore> = match &config.session_storage {
            SessionStorage::Memory => Arc::new(MemoryStore::new(lifetimes).within(budget::session_bytes())),
            SessionStorage::Redis(redis) => Arc::new(RedisStore::new(redis, &config.server, lifetimes)?),
        };

        let session_keys = config.session_keys.zip(named_keys.clone());

        let tls = config.mcp_tls.map(ListenerTls::new).transpose();
        let tls = tls.map_err(|reason| anyhow::anyhow!("listeners.tls: {reason}"))?;
        let mcp = listen(config.mcp_listener)?;
        let admin_listener = listen(config.admin_listener)?;
        tracing::info!(
            mcp = %mcp.local_addr()?,
            tls = tls.is_some(),
            admin = %admin_listener.local_addr()?,
            server = %config.server,
            session_storage = store.provider(),
            backends = config.hot.backends.len(),
            "listening"
        );

        let core = Core::new(
            config.hot,
            HttpClient::new(tasks.clone()),
            tasks.clone(),
            &readiness,
            metrics.clone(),
        );
        let auth = Authentication::new(&config.incoming_auth, &tasks, &readiness, &metrics)?;
        let settings = SessionOptions {
            lifetimes,
            max_staleness: config.sessions.max_staleness,
            serve_in_outage: config.sessions.serve_in_outage,
            outage_grace: config.sessions.outage_grace,
            ..SessionOptions::default()
        };
        let sessions = Sessions::new(
            config.server.clone(),
            store,
            settings,
            keys,
            core.clone(),
            tasks.clone(),
            metrics.clone(),
        );
        let admin = Admin {
            server: config.server.clone(),
            auth: auth.clone(),
            core: core.clone(),
            sessions: sessions.clone(),
            keys: named_keys,
            readiness,
            drain: drain.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
        };
        let admin = admin
            .spawn(admin_listener.into_std()?, admin_end.clone())
            .context("failed to start the admin thread")?;
        let frontend = Frontend::new(
            config.server,
            auth,
            sessions.clone(),
            core.clone(),
            metrics.clone(),
            drain.clone(),
            mcp.local_addr()?.ip().is_loopback(),
        );
        drop(listening);
        Ok(Self {
            mcp,
            tls,
            frontend,
            sessions,
            loading,
            first_access,
            backend_answered,
            core,
            admin,
            admin_end,
            drain,
            idle_timeout: config.idle_timeout,
            drain_delay: config.drain_delay,
            tasks,
            hot_source: config.hot_source,
            session_keys,
            level,
            metrics,
        })
    }

    /// The address of the MCP endpoint.
    ///
    /// # Errors
    /// If the operating system does not report it.
    pub fn mcp_address(&self) -> std::io::Result<SocketAddr> {
        self.mcp.local_addr()
    }

    /// Serves until `shutdown`, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        self.sessions.run(self.loading, self.first_access);
        if let Some((directory, keys)) = self.session_keys.clone() {
            self.tasks
                .spawn_until_drain(reload::session_keys(directory, keys));
        }
        if let Some(source) = self.hot_source {
            let (core, level, metrics) = (self.core.clone(), self.level.clone(), self.metrics.clone());
            self.tasks
                .spawn_until_drain(reload::configuration(source, core, level, metrics));
        }
        if let Some(answered) = self.backend_answered {
            let core = self.core.clone();
            self.tasks.spawn_until_drain(async move {
                core.catalog().wait_for_first_offer().await;
                drop(answered);
            });
        }
        let frontend = Arc::new(self.frontend);
        let server = Server {
            drain: self.drain.clone(),
            tasks: self.tasks.clone(),
            error_body: frontend::error_body,
            idle_timeout: self.idle_timeout,
            tls: self.tls,
        };
        let serving = server.serve(self.mcp, move |request| {
            let frontend = Arc::clone(&frontend);
            async move { frontend.serve(request).await }
        });
        let ending = async {
            shutdown.await;
            tracing::info!(delay_s = self.drain_delay.as_secs_f32(), "draining");
            self.drain.begin();
            tokio::time::sleep(self.drain_delay).await;
            self.drain.close();
        };
        tokio::join!(serving, ending);
        let limit = self.core.longest_call() + FINISH_MARGIN;
        if tokio::time::timeout(limit, self.tasks.finish()).await.is_err() {
            tracing::warn!("shutdown timeout: calls are still running");
        }
        self.admin_end.close();
        join_admin(self.admin).await;
        tracing::info!("ended");
    }
}

/// Waits for the end of the admin thread, for at most [`ADMIN_FINISH_TIMEOUT`].
async fn join_admin(admin: std::thread::JoinHandle<()>) {
    let ended = async {
        while !admin.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(ADMIN_FINISH_TIMEOUT, ended).await.is_err() {
        tracing::warn!("shutdown timeout: the admin port is still open");
    } else if admin.join().is_err() {
        tracing::error!("the admin thread panicked");
    }
}

/// Binds a listener to `address`, or to `0.0.0.0` instead of `[::]` on a machine without IPv6. Its connections inherit its send buffer size.
fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listening = |address: SocketAddr| {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listening(address)
        .or_else(|error| match without_ipv6(address, &error) {
            Some(ipv4) => listening(ipv4),
            None => Err(error),
        })
        .with_context(|| format!("cannot listen on {address}"))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn any_ipv6_address_takes_ipv4_clients_too() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
        }
    }
}
