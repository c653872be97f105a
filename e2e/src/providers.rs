//! Every kind of session store, on real servers, for tests of the common contract.
//!
//! The servers are started once for a test program, and end with it. Each store has a virtual server of its own, so that tests that
//! run at the same time do not interfere.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use vmcp_gateway::config::{
    CertificatePair, RedisAddress, RedisPassword, RedisStorage, RedisTls, RedisTopology, ServerName,
};
use vmcp_gateway::session::record::Lifetimes;
use vmcp_gateway::session::store::SessionStore;
use vmcp_gateway::session::store::memory::MemoryStore;
use vmcp_gateway::session::store::redis::RedisStore;

use crate::redis::{Certificates, Cluster, MASTER_NAME, Redis, Sentinels, documented_user};

/// The timeout of operations, for a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A store of one kind, empty.
#[derive(Debug)]
pub struct Provider {
    /// Which kind.
    pub name: &'static str,
    /// The store.
    pub store: Arc<dyn SessionStore>,
}

/// The servers that stores share.
#[derive(Debug)]
struct Servers {
    storages: Vec<(&'static str, RedisStorage)>,
    _redis: Vec<Redis>,
    _certificates: Certificates,
    _sentinels: Sentinels,
    _cluster: Cluster,
}

static SERVERS: LazyLock<Result<Servers, String>> =
    LazyLock::new(|| Servers::start().map_err(|error| format!("{error:#}")));

/// A store of every kind that this system can run. Must be called inside a runtime.
///
/// # Errors
/// When a server does not start.
pub fn every(lifetimes: Lifetimes) -> anyhow::Result<Vec<Provider>> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut providers = vec![Provider {
        name: "memory",
        store: Arc::new(MemoryStore::new(lifetimes)),
    }];
    if vmcp_external::is_unavailable("redis") {
        return Ok(providers);
    }
    let servers = SERVERS.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    for (name, storage) in &servers.storages {
        let server = server(&format!("suite-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        providers.push(Provider {
            name,
            store: Arc::new(RedisStore::new(storage, &server, lifetimes)?),
        });
    }
    Ok(providers)
}

/// The virtual server `name`.
#[must_use]
pub fn server(name: &str) -> ServerName {
    ServerName {
        namespace: "tests".to_owned(),
        name: name.to_owned(),
    }
}

/// The storage of a gateway whose configuration has only the address of one Redis.
#[must_use]
pub fn storage(address: SocketAddr) -> RedisStorage {
    RedisStorage {
        topology: RedisTopology::Single(redis_address(address)),
        db: 0,
        key_prefix: "vmcp:".to_owned(),
        username: None,
        password: None,
        tls: None,
        connect_timeout: Duration::from_secs(1),
        command_timeout: Duration::from_millis(250),
        outage_grace: Duration::from_secs(10 * 60),
    }
}

/// The same, for a test on a busy machine that is not about time.
#[must_use]
pub fn patient(address: SocketAddr) -> RedisStorage {
    RedisStorage {
        connect_timeout: PATIENCE,
        command_timeout: PATIENCE,
        ..storage(address)
    }
}

/// The same, as the user that docs/redis.md prints.
fn as_documented_user(address: SocketAddr) -> RedisStorage {
    RedisStorage {
        username: Some(documented_user::NAME.to_owned()),
        password: Some(RedisPassword::Fixed(documented_user::PASSWORD.into())),
        ..patient(address)
    }
}

/// An address as the configuration has it.
#[must_use]
pub fn redis_address(address: SocketAddr) -> RedisAddress {
    RedisAddress {
        host: address.ip().to_string(),
        port: address.port(),
    }
}

impl Servers {
    fn start() -> anyhow::Result<Self> {
        let plain = Redis::start(None)?;
        let certificates = Certificates::new()?;
        let (encrypted, encrypted_at) = Redis::start_encrypted(&certificates, "redis.test", true, &[])?;
        let identity = certificates.issue("gateway")?;
        let restricted = Redis::start(None)?;
        let sentinels = Sentinels::start()?;
        let cluster = Cluster::start()?;
        for redis in sentinels
            .servers
            .iter()
            .chain(&cluster.nodes)
            .chain([&restricted])
        {
            redis.add_documented_user()?;
        }
        let mut storages = vec![
            ("redis", patient(plain.address)),
            (
                "redis with TLS",
                RedisStorage {
                    tls: Some(RedisTls {
                        ca_file: Some(certificates.authority()),
                        identity: Some(CertificatePair {
                            cert_file: identity.cert,
                            key_file: identity.key,
                        }),
                        server_name: Some("redis.test".to_owned()),
                        insecure_skip_verify: false,
                    }),
                    ..patient(encrypted_at)
                },
            ),
            (
                "redis with a user that may do only what is needed",
                RedisStorage {
                    db: 3,
                    ..as_documented_user(restricted.address)
                },
            ),
            (
                "redis with sentinels",
                RedisStorage {
                    topology: RedisTopology::Sentinel {
                        master_name: MASTER_NAME.to_owned(),
                        sentinels: sentinels.addresses.iter().copied().map(redis_address).collect(),
                    },
                    ..as_documented_user(plain.address)
                },
            ),
            (
                "redis cluster",
                RedisStorage {
                    topology: RedisTopology::Cluster(
                        cluster
                            .nodes
                            .iter()
                            .map(|node| redis_address(node.address))
                            .collect(),
                    ),
                    ..as_documented_user(plain.address)
                },
            ),
        ];
        let mut redis = vec![plain, encrypted, restricted];
        match vmcp_external::redis::valkey_server() {
            Some(program) => {
                let valkey = Redis::start_as(&program, None, &[])?;
                storages.push(("valkey", patient(valkey.address)));
                redis.push(valkey);
            }
            None => eprintln!("skipped: the store on Valkey, because valkey-server is not installed"),
        }
        Ok(Self {
            storages,
            _redis: redis,
            _certificates: certificates,
            _sentinels: sentinels,
            _cluster: cluster,
        })
    }
}
