//! The network namespace of a cluster, for threads of a test.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Pid;

/// The network in which the addresses of the API server, the nodes, the pods and the Services are reachable.
///
/// A socket always belongs to the namespace of the thread that opened it, even if other threads use it. A test therefore
/// needs no helper program: it opens its connections with [`Network::connect`], or runs an asynchronous runtime whose
/// threads call [`Network::enter`] when they start:
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// # let cluster = vmcp_cluster::Cluster::up(&vmcp_cluster::Options::default())?;
/// let network = cluster.network();
/// let pods = network.connect("10.96.0.1:443".parse()?)?;
/// # drop(pods);
/// // tokio: Builder::new_multi_thread().on_thread_start(move || network.enter().unwrap())
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Network {
    /// The path of the namespace. An open file would keep the namespace alive after the cluster.
    path: PathBuf,
    identity: u64,
}

impl Network {
    pub(crate) fn of(pid: Pid) -> anyhow::Result<Self> {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let identity = path
            .metadata()
            .with_context(|| format!("no network at {}", path.display()))?
            .ino();
        Ok(Self { path, identity })
    }

    /// The path of the namespace, for `nsenter --net=`.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Moves the calling thread into the network permanently.
    ///
    /// # Errors
    /// If the cluster has ended.
    pub fn enter(&self) -> anyhow::Result<()> {
        let file = File::open(&self.path).context("the cluster has ended: its network cannot be opened")?;
        if file.metadata()?.ino() != self.identity {
            bail!(
                "the cluster has ended: {} is another network now",
                self.path.display()
            );
        }
        join(&file)
    }

    /// Runs `work` in the network on a new thread, and waits for it.
    ///
    /// # Errors
    /// If the cluster has ended.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| self.enter().map(|()| work()));
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Opens a connection to an address of the cluster.
    ///
    /// # Errors
    /// If the connection is not accepted within five seconds, or the cluster has ended.
    pub fn connect(&self, address: SocketAddr) -> anyhow::Result<TcpStream> {
        self.connect_within(address, Duration::from_secs(5))
    }

    pub(crate) fn connect_within(&self, address: SocketAddr, limit: Duration) -> anyhow::Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&address, limit))?
            .with_context(|| format!("cannot connect to {address} in the cluster"))
    }
}

#[cfg(target_os = "linux")]
fn join(namespace: &File) -> anyhow::Result<()> {
    use std::os::fd::AsFd as _;

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter the cluster's network; only root can")
}

/// Fails, because only Linux has clusters. It exists so that `cargo xtask` compiles on other systems.
#[cfg(not(target_os = "linux"))]
fn join(_: &File) -> anyhow::Result<()> {
    bail!("a cluster needs Linux")
}
