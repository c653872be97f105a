//! Which server to talk to.
//!
//! All keys of a virtual server are in one slot, so that at any time one server has all of them: the only one, the primary that the
//! sentinels name, or the node of the cluster that owns the slot. Whoever that is, one connection to it is enough. A server is
//! asked before it is used, because an old primary answers reads too, and would say of what it never heard that it is gone.

use std::time::Duration;

use ::redis::{Cmd, Value};
use secrecy::SecretString;

use super::dial::{Dialled, Dialler};
use super::failure::{Failure, reason};
use crate::config::{RedisAddress, RedisTopology};

/// How often nodes of a cluster may point to another one in a row.
const MAX_HOPS: usize = 5;
/// How often a sentinel is asked whether the primary is still the same.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The servers, and how to find the one that counts.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) servers: RedisTopology,
    /// A key of the virtual server.
    pub(super) probe_key: String,
    pub(super) command_timeout: Duration,
}

impl Topology {
    /// A connection to the server that has the keys. `hint` is who has them, as somebody said.
    ///
    /// # Errors
    /// Why there is none: what the last server said, or why it said nothing.
    pub(super) async fn open(
        &self,
        dialler: &Dialler,
        secret: Option<&SecretString>,
        hint: Option<RedisAddress>,
    ) -> Result<(RedisAddress, Dialled), String> {
        match &self.servers {
            RedisTopology::Single(address) => {
                let mut dialled = dialler.for_commands(address, secret).await?;
                self.probe(&mut dialled).await?.map_err(|error| reason(&error))?;
                Ok((address.clone(), dialled))
            }
            RedisTopology::Sentinel {
                master_name,
                sentinels,
            } => {
                let address = self.primary(dialler, secret, master_name, sentinels).await?;
                let mut dialled = dialler.for_commands(&address, secret).await?;
                let role: Vec<Value> = dialled.ask(&::redis::cmd("ROLE"), self.command_timeout).await?;
                if role.first() != Some(&Value::BulkString(b"master".to_vec())) {
                    return Err(format!(
                        "the sentinels name {address}, which says that it is a replica"
                    ));
                }
                self.probe(&mut dialled).await?.map_err(|error| reason(&error))?;
                Ok((address, dialled))
            }
            RedisTopology::Cluster(nodes) => {
                let mut failed = "sessionStorage.cluster names no node".to_owned();
                for node in hint.iter().chain(nodes) {
                    match self.owner(dialler, secret, node.clone()).await {
                        Ok(found) => return Ok(found),
                        Err(reason) => failed = reason,
                    }
                }
                Err(failed)
            }
        }
    }

    /// Asks for a key, which only the server that has it answers.
    async fn probe(&self, dialled: &mut Dialled) -> Result<::redis::RedisResult<()>, String> {
        let probe: Cmd = ::redis::Cmd::get(&self.probe_key);
        let answer = dialled.try_ask::<Value>(&probe, self.command_timeout).await?;
        Ok(answer.map(drop))
    }

    /// The node that has the keys, as `node` and those to whom it points say.
    async fn owner(
        &self,
        dialler: &Dialler,
        secret: Option<&SecretString>,
        mut node: RedisAddress,
    ) -> Result<(RedisAddress, Dialled), String> {
        for _ in 0..MAX_HOPS {
            let mut dialled = dialler.for_commands(&node, secret).await?;
            let Err(error) = self.probe(&mut dialled).await? else {
                return Ok((node, dialled));
            };
            match Failure::of(&error, &node) {
                Failure::Moved(to) => node = to,
                // The key itself is on its way to another node; the slot is still here.
                Failure::Ask(_) | Failure::TryAgain => return Ok((node, dialled)),
                _ => return Err(reason(&error)),
            }
        }
        Err("the nodes of the Redis cluster point to each other".to_owned())
    }

    async fn primary(
        &self,
        dialler: &Dialler,
        secret: Option<&SecretString>,
        master_name: &str,
        sentinels: &[RedisAddress],
    ) -> Result<RedisAddress, String> {
        let mut failed = "sessionStorage.sentinel names no sentinel".to_owned();
        for sentinel in sentinels {
            let asked = async {
                let mut dialled = dialler.for_sentinel(sentinel, secret).await?;
                self.ask_sentinel(&mut dialled, master_name).await
            };
            match asked.await {
                Ok(address) => return Ok(address),
                Err(reason) => failed = format!("the sentinel {sentinel}: {reason}"),
            }
        }
        Err(failed)
    }

    async fn ask_sentinel(&self, dialled: &mut Dialled, master_name: &str) -> Result<RedisAddress, String> {
        let mut ask = ::redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master_name);
        let answer: Option<(String, u16)> = dialled.ask(&ask, self.command_timeout).await?;
        let (host, port) =
            answer.ok_or_else(|| format!("it knows no primary of the name {master_name:?}"))?;
        Ok(RedisAddress { host, port })
    }

    /// Ends when the sentinels name another primary than `address`; never, when there are none. The server that they have replaced
    /// may be cut off, so that it does not say so itself.
    pub(super) async fn replaced(&self, dialler: &Dialler, address: &RedisAddress) {
        let RedisTopology::Sentinel {
            master_name,
            sentinels,
        } = &self.servers
        else {
            return std::future::pending().await;
        };
        let mut asked: Option<Dialled> = None;
        let mut next = sentinels.iter().cycle();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if asked.is_none()
                && let Some(sentinel) = next.next()
                && let Ok(secret) = dialler.secret()
            {
                asked = dialler.for_sentinel(sentinel, secret.as_ref()).await.ok();
            }
            let Some(dialled) = &mut asked else { continue };
            match self.ask_sentinel(dialled, master_name).await {
                Ok(named) if named == *address => {}
                Ok(_) => return,
                Err(_) => asked = None,
            }
        }
    }
}
