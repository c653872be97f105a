//! Keeps one connection open.
//!
//! Callers never open connections and never wait for one to be opened again: they see the [`ConnectionState`] as it is. It is *open*, or
//! *opening* (for the first time, or because the connection has just broken: a call waits, within its deadline), or *down* (an
//! attempt has failed, or too many calls had no answer: a call fails at once with the reason, so that nothing piles up).
//!
//! The keeper is a task that brings it back to *open*. It tries every [`PROBE_EVERY`], beginning each time with the question which
//! server to talk to, and a connection counts only when the server has answered on it. A connection that works is given up only for
//! one that works: when the password has changed or the sentinels name another primary, the new connection is opened first.

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

/// How often a connection is tried to be opened while there is none.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// The shortest time between two connections.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

/// What callers see of the connection.
#[derive(Clone)]
pub(super) enum ConnectionState {
    /// It will be open, or down, soon.
    Opening,
    /// It is open.
    Open(OpenConnection),
    /// It is not open, for this reason.
    Down(Arc<str>),
}

/// An open connection.
#[derive(Clone)]
pub(super) struct OpenConnection {
    /// Counts the connections.
    pub(super) number: u64,
    /// Whose connection it is.
    pub(super) address: Arc<RedisAddress>,
    /// Where that server is.
    pub(super) peer: SocketAddr,
    pub(super) connection: MultiplexedConnection,
}

/// What a caller tells the keeper: the connection of this number is of no use.
#[derive(Debug)]
pub(super) struct BrokenReport {
    pub(super) number: u64,
    /// Who has the keys instead, as the server said.
    pub(super) hint: Option<RedisAddress>,
}

/// The task's state.
pub(super) struct Reconnector {
    pub(super) dialler: Arc<Dialler>,
    pub(super) topology: Topology,
    pub(super) link: Arc<watch::Sender<ConnectionState>>,
    pub(super) doubts: mpsc::Receiver<BrokenReport>,
}

/// The connection that callers use.
struct CurrentConnection {
    number: u64,
    address: Arc<RedisAddress>,
    secret: Option<SecretString>,
    /// When it is dropped, the connection ends as soon as the calls on it have.
    _retirement: DropGuard,
}

/// Why another connection is wanted.
enum ReconnectReason {
    /// The one there is has ended.
    Ended,
    /// Somebody says that it is of no use.
    Doubted(BrokenReport),
    /// It may go on until there is a better one.
    Outdated,
}

impl Reconnector {
    /// Works until it is aborted.
    pub(super) async fn keep(mut self) {
        let mut drivers = JoinSet::new();
        let mut standing: Option<CurrentConnection> = None;
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
                    standing = Some(self.install(&mut drivers, number, address, dialled, secret));
                    started + REOPEN_PAUSE
                }
                Err(reason) => {
                    if standing.is_none() {
                        tracing::debug!(reason, "no connection to Redis");
                        self.link.send_replace(ConnectionState::Down(reason.into()));
                    } else {
                        tracing::warn!(
                            reason,
                            "the new connection to Redis failed; the one before stays in use"
                        );
                    }
                    started + PROBE_EVERY
                }
            };
            tokio::time::sleep_until(next).await;
            let Some(current) = &standing else { continue };
            // Outdated, and nothing better to be had: look again soon.
            match self.until_unfit(current, &mut drivers, password.as_mut()).await {
                ReconnectReason::Outdated => {}
                ReconnectReason::Ended => {
                    self.link.send_if_modified(|link| {
                        let open = matches!(link, ConnectionState::Open(open) if open.number == number);
                        if open {
                            *link = ConnectionState::Opening;
                        }
                        open
                    });
                    standing = None;
                }
                ReconnectReason::Doubted(doubt) => {
                    hint = doubt.hint;
                    if hint.is_none() {
                        // A server that takes no writes would otherwise be connected to again and again.
                        tokio::time::sleep_until(started + PROBE_EVERY).await;
                    }
                    standing = None;
                }
            }
        }
    }

    async fn open(
        &self,
        hint: Option<RedisAddress>,
    ) -> Result<(RedisAddress, Dialled, Option<SecretString>), String> {
        let secret = self.dialler.secret()?;
        let (address, dialled) = self.topology.open(&self.dialler, secret.as_ref(), hint).await?;
        Ok((address, dialled, secret))
    }

    /// Gives the connection to the callers.
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
        self.link.send_replace(ConnectionState::Open(OpenConnection {
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

    async fn until_unfit(
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
                Some(doubt) = self.doubts.recv() => {
                    if doubt.number == current.number {
                        return ReconnectReason::Doubted(doubt);
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
