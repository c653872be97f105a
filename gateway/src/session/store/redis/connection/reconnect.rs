//! Reconnect loop: keeps one connection to Redis open.
//!
//! Callers never open connections. They see the [`ConnectionState`]: *open*; *opening* (at the start, or just after
//! the connection broke: a call waits within its deadline); or *down* (an attempt failed, or too many calls got no
//! answer: a call fails at once with the reason, so that calls do not pile up).
//!
//! The loop tries every [`PROBE_EVERY`] to get back to *open*. Each time it looks up the server again, and a
//! connection counts only after the server has answered on it. A working connection is replaced only by another
//! working one: when the password changes or the sentinels name another primary, the new connection is opened first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dial::{Dialled, Dialler};
use super::topology::Topology;
use crate::config::file_watcher::FileWatcher;
use crate::config::{RedisAddress, RedisPassword};
use crate::session::store::StoreError;

/// Interval between attempts while there is no connection.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Minimum interval between two connections.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

/// State of the connection, as callers see it.
#[derive(Clone)]
pub(super) enum ConnectionState {
    /// The connection is being opened.
    Opening,
    /// The connection is usable until it is found to be dead.
    Open(OpenConnection),
    /// There is no connection, for this reason.
    Down(StoreError),
}

/// An open connection, with the server that it leads to.
#[derive(Clone)]
pub(super) struct OpenConnection {
    /// Number of this connection. Later connections have higher numbers.
    pub(super) number: u64,
    /// The server's configured name.
    pub(super) address: Arc<RedisAddress>,
    /// The server's IP address.
    pub(super) peer: SocketAddr,
    pub(super) connection: MultiplexedConnection,
}

/// Report of a caller that the connection with this number is unusable.
#[derive(Debug)]
pub(super) struct BrokenReport {
    pub(super) number: u64,
    /// The server that owns the keys instead, if a redirection named one.
    pub(super) hint: Option<RedisAddress>,
}

/// State of the reconnect task.
pub(super) struct Reconnector {
    pub(super) dialler: Arc<Dialler>,
    pub(super) topology: Topology,
    pub(super) state: Arc<watch::Sender<ConnectionState>>,
    pub(super) reports: mpsc::Receiver<BrokenReport>,
}

/// The connection in use.
struct CurrentConnection {
    number: u64,
    address: Arc<RedisAddress>,
    secret: Option<SecretString>,
    /// Dropping it ends the connection after the calls on it.
    _retirement: DropGuard,
}

/// Why another connection is needed.
enum ReconnectReason {
    /// The connection has ended.
    Ended,
    /// A caller reported it as unusable.
    Reported(BrokenReport),
    /// The connection works until a better one is open.
    Outdated,
}

impl Reconnector {
    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        let mut drivers = JoinSet::new();
        let mut current: Option<CurrentConnection> = None;
        let (mut number, mut hint) = (0, None);
        let mut password = match &self.dialler.password {
            Some(RedisPassword::File(file)) => Some(FileWatcher::new(file)),
            Some(RedisPassword::Fixed(_)) | None => None,
        };
        loop {
            let started = Instant::now();
            let opened = self.open(hint.take()).await;
            let next = match opened {
                Ok((address, dialled, secret)) => {
                    number += 1;
                    tracing::debug!(%address, number, "connected to Redis");
                    current = Some(self.install(&mut drivers, number, address, dialled, secret));
                    started + REOPEN_PAUSE
                }
                Err(error) => {
                    let reason = error.reason();
                    if current.is_none() {
                        tracing::debug!(reason, "no connection to Redis");
                        self.state.send_replace(ConnectionState::Down(error));
                    } else {
                        tracing::warn!(
                            reason,
                            "failed to replace connection to Redis; keeping the current one"
                        );
                    }
                    started + PROBE_EVERY
                }
            };
            tokio::time::sleep_until(next).await;
            let Some(connection) = &current else { continue };
            // The connection is outdated, but there is no other. Try again soon.
            match self
                .wait_for_reconnect_reason(connection, &mut drivers, password.as_mut())
                .await
            {
                ReconnectReason::Outdated => {}
                ReconnectReason::Ended => {
                    self.state.send_if_modified(|state| {
                        let open = matches!(state, ConnectionState::Open(open) if open.number == number);
                        if open {
                            *state = ConnectionState::Opening;
                        }
                        open
                    });
                    current = None;
                }
                ReconnectReason::Reported(report) => {
                    hint = report.hint;
                    if hint.is_none() {
                        // Otherwise a server that refuses writes would be reconnected to in a loop.
                        tokio::time::sleep_until(started + PROBE_EVERY).await;
                    }
                    current = None;
                }
            }
        }
    }

    async fn open(
        &self,
        hint: Option<RedisAddress>,
    ) -> Result<(RedisAddress, Dialled, Option<SecretString>), StoreError> {
        let secret = self.dialler.secret()?;
        let (address, dialled) = self.topology.open(&self.dialler, secret.as_ref(), hint).await?;
        Ok((address, dialled, secret))
    }

    /// Publishes the connection to the callers.
    fn install(
        &self,
        drivers: &mut JoinSet<u64>,
        number: u64,
        address: RedisAddress,
        dialled: Dialled,
        secret: Option<SecretString>,
    ) -> CurrentConnection {
        let Dialled {
            connection,
            peer,
            driver,
        } = dialled;
        let retired = CancellationToken::new();
        let (retirement, grace) = (retired.clone().drop_guard(), self.topology.command_timeout * 2);
        drivers.spawn(async move {
            let retirement = async {
                retired.cancelled().await;
                tokio::time::sleep(grace).await;
            };
            tokio::select! {
                () = driver => {}
                () = retirement => {}
            }
            number
        });
        let address = Arc::new(address);
        self.state.send_replace(ConnectionState::Open(OpenConnection {
            number,
            address: Arc::clone(&address),
            peer,
            connection,
        }));
        CurrentConnection {
            number,
            address,
            secret,
            _retirement: retirement,
        }
    }

    async fn wait_for_reconnect_reason(
        &mut self,
        current: &CurrentConnection,
        drivers: &mut JoinSet<u64>,
        mut password: Option<&mut FileWatcher>,
    ) -> ReconnectReason {
        let replaced = self.topology.replaced(&self.dialler, &current.address);
        tokio::pin!(replaced);
        loop {
            tokio::select! {
                Some(ended) = drivers.join_next() => {
                    if ended.is_ok_and(|number| number == current.number) {
                        return ReconnectReason::Ended;
                    }
                }
                Some(report) = self.reports.recv() => {
                    if report.number == current.number {
                        return ReconnectReason::Reported(report);
                    }
                }
                () = &mut replaced => return ReconnectReason::Outdated,
                () = changed(&mut password) => {
                    let secret = self.dialler.secret().ok().flatten();
                    let text = |secret: &Option<SecretString>| secret.as_ref().map(|secret| secret.expose_secret().to_owned());
                    if secret.is_some() && text(&secret) != text(&current.secret) {
                        return ReconnectReason::Outdated;
                    }
                }
            }
        }
    }
}

async fn changed(watch: &mut Option<&mut FileWatcher>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
