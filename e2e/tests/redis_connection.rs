//! The gateway's connection to Redis, with real servers that are slow, gone, or back.

use std::time::{Duration, Instant};

use vmcp_e2e::providers::{server, storage};
use vmcp_e2e::redis::Redis;
use vmcp_external::requires;
use vmcp_gateway::config::{RedisPassword, RedisStorage, SessionLimits};
use vmcp_gateway::mcp::revision::Revision;
use vmcp_gateway::session::record::{Lifetimes, NewRecord, PrincipalTag, RecordKey};
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::redis::connection::{RedisConnection, Subscription, SubscriptionEvent};
use vmcp_gateway::session::store::{CreateOutcome, LoadOutcome, SessionStore, StoreError};

const CHANNEL: &str = "{vmcp:tests/a}:events";
const PROBE_KEY: &str = "{vmcp:tests/a}:incarnation";
const PING_EVERY: Duration = Duration::from_millis(50);
/// No test waits longer for something that has to happen.
const LIMIT: Duration = Duration::from_secs(20);

async fn ping(connection: &RedisConnection) -> Result<(), String> {
    let pinged = connection.command::<()>(&redis::cmd("PING")).await;
    pinged.map_err(|error| error.to_string())
}

/// Waits until Redis answers, and says how long that took.
async fn answered(connection: &RedisConnection) -> anyhow::Result<Duration> {
    let started = Instant::now();
    while let Err(error) = ping(connection).await {
        anyhow::ensure!(started.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(started.elapsed())
}

async fn subscribed(connection: &RedisConnection) -> anyhow::Result<Subscription> {
    let started = Instant::now();
    loop {
        connection.opened().await;
        match connection.subscribe(CHANNEL, PING_EVERY).await {
            Ok(subscription) => return Ok(subscription),
            Err(error) => anyhow::ensure!(started.elapsed() < LIMIT, "{error}"),
        }
    }
}

async fn next(subscription: &mut Subscription) -> anyhow::Result<SubscriptionEvent> {
    Ok(tokio::time::timeout(LIMIT, subscription.next()).await??)
}

/// A freshness proof arrives after everything that was published before it was requested.
#[requires(redis)]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn freshness_proof_follows_all_earlier_events() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let connection = RedisConnection::new(&storage(redis.address), PROBE_KEY)?;
    let mut subscription = connection.subscribe(CHANNEL, Duration::from_millis(1)).await?;
    let (published, mut publishings) = tokio::sync::mpsc::unbounded_channel();
    let publisher = connection.clone();
    let mut publishing = tokio::task::JoinSet::new();
    publishing.spawn(async move {
        for number in 0..2000_u32 {
            let mut publish = redis::cmd(publisher.publish_command());
            publish.arg(CHANNEL).arg(number);
            publisher.command::<()>(&publish).await?;
            published.send((number, tokio::time::Instant::now())).ok();
        }
        anyhow::Ok(())
    });
    let (mut heard, mut known, mut proofs) = (0, (0, None), 0);
    while heard < 2000 {
        match next(&mut subscription).await? {
            SubscriptionEvent::Message(message) => {
                assert_eq!(
                    String::from_utf8(message)?,
                    heard.to_string(),
                    "in order, without a gap"
                );
                heard += 1;
            }
            SubscriptionEvent::Pong { sent } => {
                proofs += 1;
                // Everything that was published before the PING has arrived.
                while known.1.is_none_or(|at| at < sent) {
                    if let Some(at) = known.1.filter(|at| *at < sent) {
                        assert!(
                            heard > known.0,
                            "{} was published at {at:?}, answered PING sent {sent:?}",
                            known.0
                        );
                    }
                    match publishings.try_recv() {
                        Ok((number, at)) => known = (number, Some(at)),
                        Err(_) => break,
                    }
                }
            }
        }
    }
    publishing.join_next().await.transpose()?.transpose()?;
    assert!(proofs > 10, "{proofs}");
    Ok(())
}

/// A subscription ends with its connection, and the next one receives events again.
#[requires(redis)]
#[tokio::test]
async fn subscription_ends_with_connection_and_resumes() -> anyhow::Result<()> {
    let mut redis = Redis::start(None)?;
    let connection = RedisConnection::new(&storage(redis.address), PROBE_KEY)?;
    let mut subscription = subscribed(&connection).await?;
    assert!(matches!(
        next(&mut subscription).await?,
        SubscriptionEvent::Pong { .. }
    ));
    redis.kill()?;
    let ended = tokio::time::timeout(LIMIT, async {
        loop {
            if let Err(ended) = subscription.next().await {
                return ended.to_string();
            }
        }
    });
    assert!(ended.await?.contains("subscription"));
    redis.start_again()?;
    // The command connection may still be the old one. When it reconnects, so does the subscription.
    let heard = async {
        loop {
            let mut subscription = subscribed(&connection).await?;
            redis.command::<()>(&["PUBLISH", CHANNEL, "hello"])?;
            while let Ok(heard) = subscription.next().await {
                if heard == SubscriptionEvent::Message(b"hello".to_vec()) {
                    return anyhow::Ok(());
                }
            }
        }
    };
    tokio::time::timeout(LIMIT, heard).await?
}

/// A hanging Redis ends the subscription, and commands fail fast until Redis resumes.
#[requires(redis)]
#[tokio::test]
async fn hanging_redis_fails_fast_until_it_resumes() -> anyhow::Result<()> {
    let mut redis = Redis::start(None)?;
    let connection = RedisConnection::new(&storage(redis.address), PROBE_KEY)?;
    let mut subscription = subscribed(&connection).await?;
    answered(&connection).await?;
    redis.pause()?;
    for _ in 0..3 {
        ping(&connection).await.unwrap_err();
    }
    // No command waits any more, and each gets the reason.
    let started = Instant::now();
    for _ in 0..1000 {
        let error = ping(&connection).await.unwrap_err();
        assert!(error.contains("within"), "{error}");
    }
    assert!(
        started.elapsed() < Duration::from_millis(250),
        "{:?}",
        started.elapsed()
    );
    tokio::time::timeout(LIMIT, async { while subscription.next().await.is_ok() {} }).await?;
    redis.resume()?;
    let back = answered(&connection).await?;
    assert!(back < Duration::from_secs(2), "{back:?}");
    subscribed(&connection).await?;
    Ok(())
}

/// A Redis that starts later is found.
#[requires(redis)]
#[tokio::test]
async fn redis_that_starts_later_is_found() -> anyhow::Result<()> {
    let mut redis = Redis::start(None)?;
    redis.kill()?;
    let connection = RedisConnection::new(&storage(redis.address), PROBE_KEY)?;
    let error = ping(&connection).await.unwrap_err();
    assert!(error.contains(&redis.address.to_string()), "{error}");
    redis.start_again()?;
    answered(&connection).await?;
    Ok(())
}

/// The error of a command, once it differs from the earlier one.
async fn refused(connection: &RedisConnection, code: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let mut write = redis::cmd("SET");
        write.arg(PROBE_KEY).arg("x");
        let outcome = connection
            .command::<()>(&write)
            .await
            .map_err(|error| error.to_string());
        match &outcome {
            Err(reason) if reason.contains(code) => {
                assert!(!reason.contains("hunter2"), "{reason}");
                return Ok(());
            }
            _ => anyhow::ensure!(started.elapsed() < LIMIT, "{code} is expected, not {outcome:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The error names why Redis rejects commands, and commands work again afterwards.
#[requires(redis)]
#[tokio::test]
async fn refused_command_names_reason_and_recovers() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let connection = RedisConnection::new(&storage(redis.address), PROBE_KEY)?;
    answered(&connection).await?;

    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
    refused(&connection, "OOM").await?;
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"])?;

    redis.command::<()>(&["REPLICAOF", "127.0.0.1", "1"])?;
    refused(&connection, "READONLY").await?;
    redis.command::<()>(&["CONFIG", "SET", "replica-serve-stale-data", "no"])?;
    refused(&connection, "MASTERDOWN").await?;
    redis.command::<()>(&["REPLICAOF", "NO", "ONE"])?;

    redis.command::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"])?;
    refused(&connection, "NOREPLICAS").await?;
    redis.command::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"])?;

    redis.command::<()>(&["ACL", "SETUSER", "default", "-set"])?;
    refused(&connection, "NOPERM").await?;
    redis.command::<()>(&["ACL", "SETUSER", "default", "+set"])?;

    // The snapshot cannot be written where there is no directory.
    redis.command::<()>(&["CONFIG", "SET", "save", "1 1"])?;
    redis.lose_directory()?;
    redis.command::<String>(&["BGSAVE"])?;
    refused(&connection, "MISCONF").await?;
    redis.command::<()>(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"])?;
    answered(&connection).await?;
    Ok(())
}

/// Redis is asked again on each new connection whether it drops sessions, and a user who may not ask gets no warning.
#[requires(redis)]
#[tokio::test]
async fn policy_that_drops_sessions_is_reported() -> anyhow::Result<()> {
    let redis = Redis::start_with(None, &["maxmemory 100mb", "maxmemory-policy allkeys-lru"])?;
    let store = RedisStore::new(&storage(redis.address), &server("a"), Lifetimes::default())?;
    let becomes = async |policy: Option<&str>| {
        let started = Instant::now();
        loop {
            let warning = store.eviction_warning();
            let is_wanted = match (&warning, policy) {
                (Some(warning), Some(policy)) => warning.contains(policy),
                (warning, policy) => warning.is_none() && policy.is_none(),
            };
            if is_wanted {
                return Ok(());
            }
            anyhow::ensure!(
                started.elapsed() < LIMIT,
                "{policy:?} does not become known: {warning:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reconnect = || redis.command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    becomes(Some("allkeys-lru")).await?;
    redis.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])?;
    reconnect()?;
    becomes(None).await?;
    redis.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"])?;
    reconnect()?;
    becomes(Some("volatile-ttl")).await?;
    redis.command::<()>(&["ACL", "SETUSER", "default", "-info"])?;
    reconnect()?;
    becomes(None).await
}

/// A loading Redis is unavailable, and its sessions are found afterwards.
#[requires(redis)]
#[tokio::test]
async fn loading_redis_is_unavailable_then_keeps_sessions() -> anyhow::Result<()> {
    // Loading takes 50 ms per key, until the delay is removed.
    let slowly = [
        "key-load-delay 50000",
        "loading-process-events-interval-bytes 1024",
    ];
    let mut redis = Redis::start_with(None, &slowly)?;
    let storage = storage(redis.address);
    let store = || RedisStore::new(&storage, &server("a"), Lifetimes::default());
    let new = NewRecord {
        principal_tag: PrincipalTag([3; 16]),
        other_tags: Vec::new(),
        revision: Revision::V2025_06_18,
        capabilities: "{}".into(),
        client_info: "{}".into(),
    };
    let (key, limits) = (
        RecordKey::random(),
        SessionLimits {
            server: 10,
            principal: 10,
        },
    );
    let created = store()?.create(&key, &new, limits).await?;
    let CreateOutcome::Created { record, .. } = created else {
        anyhow::bail!("{created:?}")
    };
    let much = "for number = 1, 2000 do redis.call('SET', number, string.rep('x', 2000)) end";
    redis.command::<()>(&["EVAL", much, "0"])?;
    redis.save()?;
    redis.kill()?;
    let (store, connection) = (store()?, RedisConnection::new(&storage, PROBE_KEY)?);
    redis.start_loading()?;
    refused(&connection, "LOADING").await?;
    let loaded = loading(async || store.load(&key).await.map(drop)).await?;
    assert!(!loaded.is_corrupt_record(), "{loaded}");
    loading(async || store.terminate(&key, record.life).await.map(drop)).await?;
    loading(async || store.touch(&[key]).await.map(drop)).await?;
    redis.command::<()>(&["CONFIG", "SET", "key-load-delay", "0"])?;
    answered(&connection).await?;
    let found = tokio::time::timeout(LIMIT, async {
        loop {
            match store.load(&key).await {
                Ok(found) => return found,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    assert!(matches!(found.await?, LoadOutcome::Found(_)));
    Ok(())
}

/// The error of `operation` while Redis is loading.
async fn loading(operation: impl AsyncFn() -> Result<(), StoreError>) -> anyhow::Result<StoreError> {
    let started = Instant::now();
    loop {
        match operation().await {
            Err(error) if error.to_string().contains("LOADING") => return Ok(error),
            outcome => anyhow::ensure!(started.elapsed() < LIMIT, "{outcome:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The error names a long-running script of another client of Redis.
#[requires(redis)]
#[tokio::test]
async fn long_running_foreign_script_is_named() -> anyhow::Result<()> {
    let redis = Redis::start_with(None, &["busy-reply-threshold 50"])?;
    let connection = RedisConnection::new(&storage(redis.address), PROBE_KEY)?;
    answered(&connection).await?;
    // Its reply is not read.
    redis
        .command::<()>(&["EVAL", "while true do end", "0"])
        .unwrap_err();
    refused(&connection, "BUSY").await?;
    redis.command::<()>(&["SCRIPT", "KILL"])?;
    answered(&connection).await?;
    Ok(())
}

/// A wrong or missing password is named as the reason. The password itself is not printed.
#[requires(redis)]
#[tokio::test]
async fn password_error_is_named_without_password() -> anyhow::Result<()> {
    let redis = Redis::start(Some("right"))?;
    let without = RedisConnection::new(&storage(redis.address), PROBE_KEY)?;
    refused(&without, "NOAUTH").await?;
    let with = |password: &str| RedisStorage {
        password: Some(RedisPassword::Fixed(password.into())),
        ..storage(redis.address)
    };
    let wrong = RedisConnection::new(&with("hunter2"), PROBE_KEY)?;
    refused(&wrong, "WRONGPASS").await?;
    answered(&RedisConnection::new(&with("right"), PROBE_KEY)?).await?;
    Ok(())
}

/// A cluster without its slots is unavailable until they are assigned again.
#[requires(redis)]
#[tokio::test]
async fn cluster_without_slots_is_down_until_assigned() -> anyhow::Result<()> {
    let bus = format!("cluster-port {}", vmcp_e2e::ports::free()?.port());
    let redis = Redis::start_with(None, &["cluster-enabled yes", &bus])?;
    let connection = RedisConnection::new(&storage(redis.address), PROBE_KEY)?;
    refused(&connection, "CLUSTERDOWN").await?;
    redis.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])?;
    answered(&connection).await?;
    Ok(())
}
