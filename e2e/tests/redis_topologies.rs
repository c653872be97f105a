//! Redis with several servers: the sessions stay when another server takes over, and what is not known is never taken for gone.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use vmcp_e2e::providers::{redis_address, server, storage};
use vmcp_e2e::redis::{Cluster, MASTER_NAME, Redis, Sentinels};
use vmcp_gateway::config::{RedisStorage, RedisTopology, SessionLimits};
use vmcp_gateway::session::record::{Lifetimes, NewRecord, PrincipalTag, RecordKey};
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::redis::connection::{Connection, Heard};
use vmcp_gateway::session::store::{Created, Loaded, SessionStore, Setting};
use vmcp_gateway::wire::revision::Revision;

/// No test waits longer for something that has to happen.
const LIMIT: Duration = Duration::from_secs(60);
const TAG: &str = "{vmcp:tests/a}";

fn with_topology(topology: RedisTopology, any: &Redis) -> RedisStorage {
    RedisStorage {
        topology,
        ..storage(any.address)
    }
}

fn of_sentinels(sentinels: &Sentinels) -> RedisStorage {
    let topology = RedisTopology::Sentinel {
        master_name: MASTER_NAME.to_owned(),
        sentinels: sentinels.addresses.iter().copied().map(redis_address).collect(),
    };
    with_topology(topology, &sentinels.servers[0])
}

fn of_cluster(cluster: &Cluster) -> RedisStorage {
    let nodes = cluster.nodes.iter().map(|node| redis_address(node.address));
    with_topology(RedisTopology::Cluster(nodes.collect()), &cluster.nodes[0])
}

fn store(storage: &RedisStorage) -> anyhow::Result<RedisStore> {
    Ok(RedisStore::new(storage, &server("a"), Lifetimes::default())?)
}

/// Creates a session, as soon as the store is available.
async fn created(store: &RedisStore) -> anyhow::Result<RecordKey> {
    let record = NewRecord {
        principal_tag: PrincipalTag([3; 16]),
        other_tags: Vec::new(),
        revision: Revision::V2025_06_18,
        capabilities: "{}".into(),
        client_info: "{}".into(),
    };
    let limits = SessionLimits {
        server: u32::MAX,
        principal: u32::MAX,
    };
    let started = Instant::now();
    loop {
        let key = RecordKey::random();
        match store.create(&key, &record, limits).await {
            Ok(Created::Created { .. }) => return Ok(key),
            Ok(other) => anyhow::bail!("{other:?}"),
            Err(error) => anyhow::ensure!(started.elapsed() < LIMIT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reads and changes the session until both works again. What was created is never gone.
async fn lives(store: &RedisStore, key: &RecordKey) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        match store.load(key).await {
            Ok(Loaded::Gone) => anyhow::bail!("the session is gone"),
            Ok(Loaded::Found(_)) => {
                let level = Setting::LogLevel("info".to_owned());
                match store.set(key, &level).await {
                    Ok(_) => return Ok(()),
                    Err(error) => anyhow::ensure!(started.elapsed() < LIMIT, "{error}"),
                }
            }
            Err(error) => anyhow::ensure!(started.elapsed() < LIMIT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_primary_that_dies_is_replaced_and_a_session_is_never_gone() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let mut sentinels = Sentinels::start()?;
    let store = store(&of_sentinels(&sentinels))?;
    let key = created(&store).await?;
    sentinels.wait_for_replica()?;
    let old = sentinels.primary()?;
    sentinels.servers[old].kill()?;
    lives(&store, &key).await?;
    created(&store).await?;
    assert_ne!(sentinels.primary()?, old);
    Ok(())
}

#[tokio::test]
async fn a_primary_that_hands_over_is_left_although_it_still_answers() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let sentinels = Sentinels::start()?;
    let store = store(&of_sentinels(&sentinels))?;
    let key = created(&store).await?;
    sentinels.wait_for_replica()?;
    let old = sentinels.primary()?;
    sentinels.sentinel_command::<()>(0, &["SENTINEL", "FAILOVER", MASTER_NAME])?;
    let new = sentinels.wait_for_another_primary(old)?;
    lives(&store, &key).await?;
    // Soon what is created is at the new one.
    let started = Instant::now();
    loop {
        let name = format!("{TAG}:s:{}", created(&store).await?);
        if sentinels.servers[new].command::<u32>(&["EXISTS", &name])? == 1 {
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < LIMIT, "it is still created at the old one");
    }
}

#[tokio::test]
async fn sentinels_that_name_a_replica_are_not_believed() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let sentinels = Sentinels::start()?;
    let store = store(&of_sentinels(&sentinels))?;
    let key = created(&store).await?;
    let primary = &sentinels.servers[sentinels.primary()?];
    // A server that was the primary and has lost all of its data would say that the session is gone.
    let port = sentinels.servers[1].address.port().to_string();
    primary.command::<()>(&["REPLICAOF", "127.0.0.1", &port])?;
    primary.command::<()>(&["CLIENT", "KILL", "TYPE", "normal"])?;
    let started = Instant::now();
    loop {
        match store.load(&key).await {
            Ok(outcome) => assert_ne!(outcome, Loaded::Gone),
            Err(error) if error.to_string().contains("replica") => return Ok(()),
            Err(_) => {}
        }
        anyhow::ensure!(started.elapsed() < LIMIT, "nobody says that it is a replica");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_slot_that_moves_to_another_node_takes_its_sessions_and_listeners_with_it() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let storage = of_cluster(&cluster);
    let store = store(&storage)?;
    let (first, second) = (created(&store).await?, created(&store).await?);
    let source = cluster.owner(0, TAG)?;
    let target = (source + 1) % 3;
    let (from, to) = (&cluster.nodes[source], &cluster.nodes[target]);
    let (from_id, to_id) = (cluster.id(source)?, cluster.id(target)?);
    let slot = from.command::<u16>(&["CLUSTER", "KEYSLOT", TAG])?.to_string();

    let connection = Connection::new(&storage, &format!("{TAG}:incarnation"))?;
    let channel = format!("{TAG}:news");
    connection.opened().await;
    let mut subscription = connection.subscribe(&channel, Duration::from_millis(100)).await?;
    assert!(matches!(subscription.next().await?, Heard::Proved { .. }));

    to.command::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id])?;
    from.command::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id])?;
    let port = to.address.port().to_string();
    let migrate = |key: &str| from.command::<()>(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    // One session is at the one node, one at the other.
    migrate(&format!("{TAG}:s:{first}"))?;
    for key in [&first, &second] {
        let started = Instant::now();
        loop {
            match store.load(key).await {
                Ok(Loaded::Found(_)) => break,
                Ok(Loaded::Gone) => anyhow::bail!("gone while the slot moves"),
                Err(error) => anyhow::ensure!(started.elapsed() < LIMIT, "{error}"),
            }
        }
    }
    for key in from.command::<Vec<String>>(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"])? {
        migrate(&key)?;
    }
    to.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id])?;
    from.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id])?;
    for key in [&first, &second] {
        lives(&store, key).await?;
    }
    let ended = tokio::time::timeout(LIMIT, async { while subscription.next().await.is_ok() {} });
    ended
        .await
        .context("nobody says that the listener hears nothing any more")?;
    let started = Instant::now();
    let mut subscription = loop {
        connection.opened().await;
        match connection.subscribe(&channel, Duration::from_millis(100)).await {
            Ok(subscription) => break subscription,
            Err(error) => anyhow::ensure!(started.elapsed() < LIMIT, "{error}"),
        }
    };
    to.command::<()>(&["SPUBLISH", &channel, "hello"])?;
    while subscription.next().await? != Heard::Message(b"hello".to_vec()) {}
    Ok(())
}

#[tokio::test]
async fn a_node_that_dies_is_replaced_by_its_replica_and_a_session_is_never_gone() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let mut cluster = Cluster::start()?;
    let owner = cluster.owner(0, TAG)?;
    let replica = cluster.add_replica(owner)?;
    let store = store(&of_cluster(&cluster))?;
    let key = created(&store).await?;
    let name = format!("{TAG}:s:{key}");
    vmcp_e2e::wait::until("the replica has it", LIMIT, || {
        let keys: Vec<String> = cluster.nodes[replica].command(&["KEYS", &name])?;
        anyhow::ensure!(keys.len() == 1, "not yet");
        Ok(())
    })?;
    cluster.nodes[owner].kill()?;
    lives(&store, &key).await?;
    created(&store).await?;
    let other = (owner + 1) % 3;
    vmcp_e2e::wait::until("the other nodes know", LIMIT, || {
        anyhow::ensure!(cluster.owner(other, TAG)? == replica, "not yet");
        Ok(())
    })?;
    Ok(())
}
