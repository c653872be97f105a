//! Topology: finds the server that has the virtual server's keys.
//!
//! All keys are in one slot, so one server has them: the only one, the primary that the sentinels name, or the
//! cluster node that owns the slot. One connection to it is enough. Each server is probed before use, because a
//! demoted primary still answers reads, and would report records that it never received as gone.

use std::collections::HashMap;
use std::time::Duration;

use ::redis::{Cmd, Value};
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use secrecy::SecretString;
use tokio::time::Instant;

use super::dial::{Dialled, Dialler};
use super::failure::{CommandFailure, is_forbidden, unavailable};
use crate::config::{RedisAddress, RedisTopology};
use crate::session::store::StoreError;

/// Maximum number of consecutive redirections between cluster nodes.
const MAX_HOPS: usize = 5;
/// Interval at which the sentinels are asked whether the primary has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The configured servers, and how to find the current one.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) servers: RedisTopology,
    /// Some key of the virtual server.
    pub(super) probe_key: String,
    pub(super) command_timeout: Duration,
}

impl Topology {
    /// Opens a connection to the server that has the keys. `hint` is a server named by a redirection.
    ///
    /// # Errors
    /// No server is usable; the last server's reason, or that of one that refuses this process.
    pub(super) async fn open(
        &self,
        dialler: &Dialler,
        secret: Option<&SecretString>,
        hint: Option<RedisAddress>,
    ) -> Result<(RedisAddress, Dialled), StoreError> {
        match &self.servers {
            RedisTopology::Single(address) => {
                let dialled = self.primary_at(dialler, secret, address).await?;
                Ok((address.clone(), dialled))
            }
            RedisTopology::Sentinel {
                master_name,
                sentinels,
            } => {
                let mut failed = StoreError::unavailable("the sentinels name no primary");
                for address in self.named(dialler, secret, master_name, sentinels).await? {
                    match self.primary_at(dialler, secret, &address).await {
                        Ok(dialled) => return Ok((address, dialled)),
                        Err(error) => {
                            failed = denial_or_last(
                                failed,
                                error.context(format_args!("the sentinels name {address}")),
                            );
                        }
                    }
                }
                Err(failed)
            }
            RedisTopology::Cluster(nodes) => {
                let mut failed = StoreError::unavailable("sessionStorage.cluster names no node");
                for node in hint.iter().chain(nodes) {
                    match self.owner(dialler, secret, node.clone()).await {
                        Ok(found) => return Ok(found),
                        Err(error) => failed = denial_or_last(failed, error),
                    }
                }
                Err(failed)
            }
        }
    }

    /// Reads a key, which only the server that owns it answers.
    async fn probe(&self, dialled: &mut Dialled) -> Result<::redis::RedisResult<()>, StoreError> {
        let probe: Cmd = ::redis::Cmd::get(&self.probe_key);
        let answer = dialled.try_ask::<Value>(&probe, self.command_timeout).await?;
        Ok(answer.map(drop))
    }

    /// Follows redirections from `node` to the node that owns the keys.
    async fn owner(
        &self,
        dialler: &Dialler,
        secret: Option<&SecretString>,
        mut node: RedisAddress,
    ) -> Result<(RedisAddress, Dialled), StoreError> {
        for _ in 0..MAX_HOPS {
            let mut dialled = dialler.for_commands(&node, secret).await?;
            let Err(error) = self.probe(&mut dialled).await? else {
                return Ok((node, dialled));
            };
            match CommandFailure::of(&error, &node) {
                CommandFailure::Moved(to) => node = to,
                // The key is being migrated, but the slot is still here.
                CommandFailure::Ask(_) | CommandFailure::TryAgain => return Ok((node, dialled)),
                _ => return Err(unavailable(&error)),
            }
        }
        Err(StoreError::unavailable(
            "the nodes of the Redis cluster point to each other",
        ))
    }

    /// Opens a connection to the server at `address`, unless it reports that it is a replica.
    async fn primary_at(
        &self,
        dialler: &Dialler,
        secret: Option<&SecretString>,
        address: &RedisAddress,
    ) -> Result<Dialled, StoreError> {
        let mut dialled = dialler.for_commands(address, secret).await?;
        self.probe(&mut dialled)
            .await?
            .map_err(|error| unavailable(&error))?;
        match dialled
            .try_ask(&::redis::cmd("ROLE"), self.command_timeout)
            .await?
        {
            Ok(role) if is_primary(&role) => Ok(dialled),
            Ok(_) => Err(StoreError::unavailable(format!(
                "Redis at {address} is a replica (READONLY); connect to the primary, or name the sentinels"
            ))),
            // Each script detects that by itself.
            Err(error) if is_forbidden(&error) => Ok(dialled),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Primaries named by the sentinels, the one of the latest failover first: an isolated sentinel may still name an
    /// earlier primary.
    async fn named(
        &self,
        dialler: &Dialler,
        secret: Option<&SecretString>,
        master_name: &str,
        sentinels: &[RedisAddress],
    ) -> Result<Vec<RedisAddress>, StoreError> {
        let asking = sentinels.iter().map(|sentinel| async move {
            let asking = async {
                let mut dialled = dialler.for_sentinel(sentinel, secret).await?;
                self.ask_sentinel(&mut dialled, master_name).await
            };
            asking
                .await
                .map_err(|error| error.context(format_args!("the sentinel {sentinel}")))
        });
        let mut asking: FuturesUnordered<_> = asking.collect();
        let mut failed = StoreError::unavailable("sessionStorage.sentinel names no sentinel");
        let mut named: Vec<NamedPrimary> = Vec::new();
        let mut until = None;
        loop {
            // After the first response, the other sentinels get little more time.
            let next = async {
                match until {
                    Some(until) => tokio::time::timeout_at(until, asking.next()).await.ok().flatten(),
                    None => asking.next().await,
                }
            };
            match next.await {
                Some(Ok(answer)) => {
                    named.push(answer);
                    until.get_or_insert(Instant::now() + self.command_timeout);
                }
                Some(Err(error)) => failed = denial_or_last(failed, error),
                None if named.is_empty() => return Err(failed),
                None => return Ok(latest_first(named)),
            }
        }
    }

    async fn ask_sentinel(
        &self,
        dialled: &mut Dialled,
        master_name: &str,
    ) -> Result<NamedPrimary, StoreError> {
        let ask = |what: &str| {
            let mut ask = ::redis::cmd("SENTINEL");
            ask.arg(what).arg(master_name);
            ask
        };
        let full: ::redis::RedisResult<HashMap<String, String>> =
            dialled.try_ask(&ask("MASTER"), self.command_timeout).await?;
        let known = full.ok().and_then(|fields| {
            let host = fields.get("ip")?.clone();
            let port = fields.get("port")?.parse().ok()?;
            let epoch = fields.get("config-epoch")?.parse().ok()?;
            Some(NamedPrimary {
                address: RedisAddress { host, port },
                epoch,
            })
        });
        if let Some(known) = known {
            return Ok(known);
        }
        // The user may lack the permission to ask for more.
        let answer: Option<(String, u16)> = dialled
            .ask(&ask("GET-MASTER-ADDR-BY-NAME"), self.command_timeout)
            .await?;
        let (host, port) = answer.ok_or_else(|| {
            StoreError::unavailable(format!("it knows no primary of the name {master_name:?}"))
        })?;
        Ok(NamedPrimary {
            address: RedisAddress { host, port },
            epoch: 0,
        })
    }

    /// Completes when the sentinels name a usable primary other than `address`; never without sentinels. The replaced
    /// server may be isolated and not report it. All sentinels are asked, because an isolated one keeps naming it.
    pub(super) async fn replaced(&self, dialler: &Dialler, address: &RedisAddress) {
        let RedisTopology::Sentinel {
            master_name,
            sentinels,
        } = &self.servers
        else {
            return std::future::pending().await;
        };
        let mut connections: Vec<Option<Dialled>> = sentinels.iter().map(|_| None).collect();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Ok(secret) = dialler.secret() else { continue };
            let secret = secret.as_ref();
            let asking = connections
                .iter_mut()
                .zip(sentinels)
                .map(|(connection, sentinel)| async move {
                    if connection.is_none() {
                        *connection = dialler.for_sentinel(sentinel, secret).await.ok();
                    }
                    let named = self.ask_sentinel(connection.as_mut()?, master_name).await;
                    if named.is_err() {
                        *connection = None;
                    }
                    named.ok()
                });
            let named = join_all(asking).await.into_iter().flatten().collect();
            if let Some(latest) = latest_first(named).first()
                && latest != address
                && self.primary_at(dialler, secret, latest).await.is_ok()
            {
                return;
            }
        }
    }
}

/// Which of two failures to report: the later one, unless only the earlier one says that Redis refuses this process.
fn denial_or_last(earlier: StoreError, later: StoreError) -> StoreError {
    if earlier.is_access_denied() && !later.is_access_denied() {
        earlier
    } else {
        later
    }
}

/// A primary, as a sentinel names it.
#[derive(Debug)]
struct NamedPrimary {
    address: RedisAddress,
    /// Configuration epoch: grows with each failover.
    epoch: u64,
}

/// The distinct addresses, those of later failovers first.
fn latest_first(mut named: Vec<NamedPrimary>) -> Vec<RedisAddress> {
    named.sort_by_key(|named| std::cmp::Reverse(named.epoch));
    let mut addresses: Vec<RedisAddress> = Vec::new();
    for named in named {
        if !addresses.contains(&named.address) {
            addresses.push(named.address);
        }
    }
    addresses
}

/// Whether the response to `ROLE` is that of a primary.
pub(super) fn is_primary(role: &Value) -> bool {
    let Value::Array(parts) = role else { return false };
    parts.first() == Some(&Value::BulkString(b"master".to_vec()))
}
