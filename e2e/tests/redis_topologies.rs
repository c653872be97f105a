//! Redis Sentinel and Redis Cluster: sessions survive a failover, and unknown is never taken for gone.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;
use vmcp_e2e::providers::{redis_address, server, storage};
use vmcp_e2e::redis::{Cluster, MASTER_NAME, Redis, Sentinels};
use vmcp_external::requires;
use vmcp_gateway::config::{RedisStorage, RedisTopology, SessionLimits};
use vmcp_gateway::mcp::revision::Revision;
use vmcp_gateway::session::record::{Lifetimes, NewRecord, PrincipalTag, RecordKey};
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::redis::connection::{RedisConnection, SubscriptionEvent};
use vmcp_gateway::session::store::{CreateOutcome, LoadOutcome, SessionStore, SettingChange, StoreEvent};

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
            Ok(CreateOutcome::Created { .. }) => return Ok(key),
            Ok(other) => anyhow::bail!("{other:?}"),
            Err(error) => anyhow::ensure!(started.elapsed() < LIMIT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reads and changes the session until both work again. It is never reported as gone.
async fn lives(store: &RedisStore, key: &RecordKey) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        match store.load(key).await {
            Ok(LoadOutcome::Gone) => anyhow::bail!("the session is gone"),
            Ok(LoadOutcome::Found(_)) => {
                let level = SettingChange::LogLevel("info".to_owned());
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

/// A dead primary is replaced, and a session is never reported as gone.
#[requires(redis)]
#[tokio::test]
async fn dead_primary_is_replaced_and_sessions_stay() -> anyhow::Result<()> {
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

/// After a handover the gateway leaves the old primary, although it still responds.
#[requires(redis)]
#[tokio::test]
async fn demoted_primary_is_abandoned_while_responding() -> anyhow::Result<()> {
    let sentinels = Sentinels::start()?;
    let store = store(&of_sentinels(&sentinels))?;
    let key = created(&store).await?;
    sentinels.wait_for_replica()?;
    let old = sentinels.primary()?;
    sentinels.sentinel_command::<()>(0, &["SENTINEL", "FAILOVER", MASTER_NAME])?;
    let new = sentinels.wait_for_another_primary(old)?;
    lives(&store, &key).await?;
    // Soon new sessions are on the new primary.
    let started = Instant::now();
    loop {
        let name = format!("{TAG}:s:{}", created(&store).await?);
        if sentinels.servers[new].command::<u32>(&["EXISTS", &name])? == 1 {
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < LIMIT, "it is still created at the old one");
    }
}

/// A replica that sentinels name as the primary is rejected.
#[requires(redis)]
#[tokio::test]
async fn replica_named_by_sentinel_is_rejected() -> anyhow::Result<()> {
    let sentinels = Sentinels::start()?;
    let store = store(&of_sentinels(&sentinels))?;
    let key = created(&store).await?;
    let primary = &sentinels.servers[sentinels.primary()?];
    // The old primary has lost its data and would report the session as gone.
    let port = sentinels.servers[1].address.port().to_string();
    primary.command::<()>(&["REPLICAOF", "127.0.0.1", &port])?;
    primary.command::<()>(&["CLIENT", "KILL", "TYPE", "normal"])?;
    let started = Instant::now();
    loop {
        match store.load(&key).await {
            Ok(outcome) => assert_ne!(outcome, LoadOutcome::Gone),
            Err(error) if error.to_string().contains("replica") => return Ok(()),
            Err(_) => {}
        }
        anyhow::ensure!(started.elapsed() < LIMIT, "nobody says that it is a replica");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A stale sentinel that always names `primary`.
async fn stale_sentinel(primary: std::net::SocketAddr) -> anyhow::Result<std::net::SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (ip, port) = (primary.ip().to_string(), primary.port().to_string());
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let short = format!("*2\r\n{}{}", bulk(&ip), bulk(&port));
    let fields = ["ip", &ip, "port", &port, "config-epoch", "0"].map(bulk);
    let full = format!("*{}\r\n{}", fields.len(), fields.concat());
    let tasks = TaskTracker::new();
    tasks.clone().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (short, full) = (short.clone(), full.clone());
            tasks.spawn(async move {
                let mut chunk = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                    let asked = String::from_utf8_lossy(&chunk[..read]).to_uppercase();
                    let answer = match () {
                        () if asked.contains("GET-MASTER-ADDR-BY-NAME") => &*short,
                        () if asked.contains("MASTER") => &*full,
                        () => "+PONG\r\n",
                    };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

/// A stale sentinel at the head of the list, which names a former primary or a dead server, does not keep gateways from Redis, and does not
/// make them reconnect in a loop.
#[requires(redis)]
#[tokio::test]
async fn stale_sentinel_before_good_ones_is_passed_over() -> anyhow::Result<()> {
    let sentinels = Sentinels::start()?;
    let replica = &sentinels.servers[1 - sentinels.primary()?];
    for named in [replica.address, vmcp_e2e::ports::free()?] {
        let mut storage = of_sentinels(&sentinels);
        let stale = stale_sentinel(named).await?;
        if let RedisTopology::Sentinel { sentinels, .. } = &mut storage.topology {
            sentinels.insert(0, redis_address(stale));
        }
        let store = store(&storage)?;
        let key = created(&store).await?;
        lives(&store, &key).await?;
        let mut events = store
            .events(Duration::from_millis(100))
            .context("it has events")?;
        let mut proofs = 0;
        while proofs < 40 {
            match tokio::time::timeout(LIMIT, events.next())
                .await?
                .context("no end")?
            {
                StoreEvent::CurrentAsOf(_) => proofs += 1,
                StoreEvent::Interrupted => anyhow::bail!("the connection was made anew"),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A server that has become a replica is not used: its data may be stale.
#[requires(redis)]
#[tokio::test]
async fn replica_at_configured_address_is_rejected() -> anyhow::Result<()> {
    let (redis, primary) = (Redis::start(None)?, Redis::start(None)?);
    let storage = storage(redis.address);
    let store = store(&storage)?;
    let key = created(&store).await?;
    let LoadOutcome::Found(record) = store.load(&key).await? else {
        anyhow::bail!("it is gone")
    };
    let connection = RedisConnection::new(&storage, &format!("{TAG}:incarnation"))?;
    connection.opened().await;
    let mut subscription = connection
        .subscribe(&format!("{TAG}:news"), Duration::from_millis(50))
        .await?;
    assert!(matches!(
        subscription.next().await?,
        SubscriptionEvent::Pong { .. }
    ));

    // It follows another server, which does not have the data.
    redis.command::<()>(&["REPLICAOF", "127.0.0.1", &primary.address.port().to_string()])?;
    let errors = [
        store.load(&key).await.map(drop).unwrap_err(),
        store.terminate(&key, record.life).await.map(drop).unwrap_err(),
        store.touch(&[key]).await.map(drop).unwrap_err(),
        store.probe_reads().await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("replica"), "{error}");
    }
    let ended = tokio::time::timeout(LIMIT, async { while subscription.next().await.is_ok() {} });
    ended.await.context("what a replica says is taken for a proof")?;
    // A new process rejects it, too.
    let late = RedisStore::new(&storage, &server("a"), Lifetimes::default())?;
    let error = late.load(&key).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("replica"), "{error}");
    Ok(())
}

/// The first connection leads to one server, all others to another one: a subscription there gets no events of the first server.
#[requires(redis)]
#[tokio::test]
async fn subscription_at_other_server_proves_nothing() -> anyhow::Result<()> {
    let (one, other) = (Redis::start(None)?, Redis::start(None)?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let balancer = listener.local_addr()?;
    let targets = [one.address, other.address];
    let tasks = TaskTracker::new();
    tasks.clone().spawn(async move {
        let mut connections = 0;
        while let Ok((mut client, _)) = listener.accept().await {
            let target = targets[connections.min(1)];
            connections += 1;
            tasks.spawn(async move {
                if let Ok(mut server) = tokio::net::TcpStream::connect(target).await {
                    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
                }
            });
        }
    });
    let connection = RedisConnection::new(&storage(balancer), &format!("{TAG}:incarnation"))?;
    connection.opened().await;
    let refused = connection
        .subscribe(&format!("{TAG}:events"), Duration::from_millis(50))
        .await;
    let error = refused.map(drop).unwrap_err();
    assert!(error.to_string().contains("another server"), "{error}");
    Ok(())
}

/// A slot that moves to another node takes its sessions and subscriptions with it.
#[requires(redis)]
#[tokio::test]
async fn moved_slot_keeps_sessions_and_subscribers() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let storage = of_cluster(&cluster);
    let store = store(&storage)?;
    let (first, second) = (created(&store).await?, created(&store).await?);
    let source = cluster.owner(0, TAG)?;
    let target = (source + 1) % 3;
    let (from, to) = (&cluster.nodes[source], &cluster.nodes[target]);
    let (from_id, to_id) = (cluster.id(source)?, cluster.id(target)?);
    let slot = from.command::<u16>(&["CLUSTER", "KEYSLOT", TAG])?.to_string();

    let connection = RedisConnection::new(&storage, &format!("{TAG}:incarnation"))?;
    let channel = format!("{TAG}:news");
    connection.opened().await;
    let mut subscription = connection.subscribe(&channel, Duration::from_millis(100)).await?;
    assert!(matches!(
        subscription.next().await?,
        SubscriptionEvent::Pong { .. }
    ));

    to.command::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id])?;
    from.command::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id])?;
    let port = to.address.port().to_string();
    let migrate = |key: &str| from.command::<()>(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    // One session is on each node.
    migrate(&format!("{TAG}:s:{first}"))?;
    for key in [&first, &second] {
        let started = Instant::now();
        loop {
            match store.load(key).await {
                Ok(LoadOutcome::Found(_)) => break,
                Ok(LoadOutcome::Gone) => anyhow::bail!("gone while the slot moves"),
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
    while subscription.next().await? != SubscriptionEvent::Message(b"hello".to_vec()) {}
    Ok(())
}

/// A dead node is replaced by its replica, and no session is reported as gone.
#[requires(redis)]
#[tokio::test]
async fn cluster_failover_never_reports_session_gone() -> anyhow::Result<()> {
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
