//! Faults of Redis and of its data: the store reports itself unavailable, and never a session as gone.

use std::time::{Duration, Instant};

use vmcp_e2e::providers::{server, storage};
use vmcp_e2e::records::{MANY, binding, created, found, new_record, redis_store};
use vmcp_e2e::redis::Redis;
use vmcp_external::requires;
use vmcp_gateway::session::record::{Lifetimes, RecordKey};
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::{
    BindOutcome, Incarnation, LoadOutcome, RecoverOutcome, RestoreReason, SessionLife, SessionStore,
    SettingChange, TerminateOutcome, TouchOutcome,
};

/// An incarnation that the store does not know, with an ended life.
const LIFE: SessionLife = SessionLife {
    incarnation: Incarnation([0; 8]),
    end: 0,
};

/// A silent Redis is unavailable within the deadline, and its sessions are never gone.
#[requires(redis)]
#[tokio::test]
async fn unresponsive_redis_is_unavailable_never_gone() -> anyhow::Result<()> {
    let mut redis = Redis::start(None)?;
    let key = created(&redis_store(&redis, "a", Lifetimes::default())?).await?;
    // The deadline of the gateway.
    let store = RedisStore::new(&storage(redis.address), &server("a"), Lifetimes::default())?;

    redis.pause()?;
    let started = Instant::now();
    store.load(&key).await.unwrap_err();
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    store
        .create(&RecordKey::random(), &new_record(), MANY)
        .await
        .unwrap_err();
    store
        .bind_backend(&key, "x", 0, &binding("one", 1))
        .await
        .unwrap_err();
    store.touch(&[key]).await.unwrap_err();
    redis.resume()?;
    let answered = tokio::time::timeout(Duration::from_secs(5), async {
        while store.load(&key).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    answered.await?;
    found(&store, &key).await?;

    redis.kill()?;
    store.load(&key).await.unwrap_err();
    store.terminate(&key, LIFE).await.unwrap_err();
    Ok(())
}

/// A session that was used during an outage longer than `ttl` can be restored for as long as it may have been served.
#[requires(redis)]
#[tokio::test]
async fn expired_record_is_kept_for_the_outage_grace() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let lifetimes = Lifetimes {
        idle: Duration::from_millis(300),
        ..Lifetimes::default()
    };
    let hour = Duration::from_secs(60 * 60);
    for (grace, kept) in [(hour, hour), (Duration::ZERO, Duration::from_secs(10 * 60))] {
        let storage = vmcp_gateway::config::RedisStorage {
            outage_grace: grace,
            ..vmcp_e2e::providers::patient(redis.address)
        };
        let store = RedisStore::new(&storage, &server("a"), lifetimes)?;
        let key = created(&store).await?;
        let record = found(&store, &key).await?;
        let name = format!("{{vmcp:tests/a}}:s:{key}");
        let left = || redis.command::<u64>(&["PTTL", &name]).map(Duration::from_millis);
        assert!(left()? > kept, "{:?} is left", left()?);
        store.touch(&[key]).await?;
        assert!(
            left()? > kept && left()? < kept + hour / 60,
            "{:?} is left",
            left()?
        );
        let expired = tokio::time::timeout(Duration::from_secs(20), async {
            while store
                .load(&key)
                .await
                .is_ok_and(|loaded| loaded != LoadOutcome::Gone)
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        expired.await?;
        let back = store.restore(&key, &record, RestoreReason::Expired).await?;
        assert!(matches!(back, RecoverOutcome::Found(_)), "{back:?}");
    }
    Ok(())
}

/// Errors of Redis make a session unavailable, and never gone.
#[requires(redis)]
#[tokio::test]
async fn errors_of_redis_itself_are_unavailable_and_never_gone() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let store = redis_store(&redis, "a", Lifetimes::default())?;
    let key = created(&store).await?;

    // OOM: nothing more may be written.
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
    let error = store
        .create(&RecordKey::random(), &new_record(), MANY)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("unavailable"), "{error}");
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"])?;

    // READONLY: a replica of another server rejects writes.
    redis.command::<()>(&["REPLICAOF", "127.0.0.1", "1"])?;
    store.touch(&[key]).await.unwrap_err();
    redis.command::<()>(&["REPLICAOF", "NO", "ONE"])?;

    // NOPERM: the user may not see the keys.
    redis.command::<()>(&["ACL", "SETUSER", "default", "resetkeys"])?;
    store.load(&key).await.unwrap_err();
    store.terminate(&key, LIFE).await.unwrap_err();
    redis.command::<()>(&["ACL", "SETUSER", "default", "allkeys"])?;

    found(&store, &key).await?;
    Ok(())
}

/// The record of a newer gateway is unavailable, and is left unchanged.
#[requires(redis)]
#[tokio::test]
async fn record_of_newer_gateway_is_left_unchanged() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let store = redis_store(&redis, "a", Lifetimes::default())?;
    let key = created(&store).await?;
    let name = format!("{{vmcp:tests/a}}:s:{key}");
    // The fields after the principal belong to a newer gateway.
    redis.change_field(&name, "fixed", |fixed| {
        let known: Vec<&str> = fixed.splitn(5, ' ').collect();
        format!("2 {} something else", known[1..4].join(" "))
    })?;
    // It can be touched all the same, and its unknown times are kept.
    redis.change_field(&name, "times", |_| "4102444800000 1 7 and more".to_owned())?;
    let touched = store.touch(&[key]).await?;
    assert!(
        matches!(touched[..], [TouchOutcome::Alive { version: 7, .. }]),
        "{touched:?}"
    );
    let times: String = redis.command(&["HGET", &name, "times"])?;
    let moved = !times.starts_with("4102444800000 1 ") && times.ends_with(" 7 and more");
    assert!(moved, "{times}");
    let before: Vec<String> = redis.command(&["HGETALL", &name])?;
    let loaded = store.load(&key).await.unwrap_err();
    let terminated = store.terminate(&key, LIFE).await.unwrap_err();
    for error in [loaded, terminated] {
        assert!(
            error.is_corrupt_record() && error.to_string().contains("schema"),
            "{error}"
        );
    }
    assert_eq!(redis.command::<Vec<String>>(&["HGETALL", &name])?, before);
    Ok(())
}

/// A corrupt record is unavailable, and kept until its client terminates it.
#[requires(redis)]
#[tokio::test]
async fn damaged_record_is_kept_until_its_client_ends_it() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let store = redis_store(&redis, "a", Lifetimes::default())?;
    // The words of `fixed` are the schema, the incarnation, the end, the principal, the revision, and the length of the capabilities.
    let word = |place: usize, word: &'static str| {
        move |fixed: &str| {
            let mut words: Vec<&str> = fixed.split(' ').collect();
            words[place] = word;
            words.join(" ")
        }
    };
    type Damage = Box<dyn Fn(&str) -> String>;
    let damages: [(&str, Damage); 9] = [
        ("fixed", Box::new(|_| String::new())),
        ("fixed", Box::new(word(1, "?"))),
        ("fixed", Box::new(word(2, "never"))),
        ("fixed", Box::new(word(3, "!"))),
        ("fixed", Box::new(word(4, "1999-01-01"))),
        ("fixed", Box::new(word(5, "100000"))),
        ("times", Box::new(|_| String::new())),
        ("times", Box::new(|times| times.replacen(' ', "", 1))),
        ("b:x", Box::new(|_| "not json".to_owned())),
    ];
    for (number, (field, damage)) in damages.iter().enumerate() {
        let key = created(&store).await?;
        store.bind_backend(&key, "x", 0, &binding("one", 1)).await?;
        let name = format!("{{vmcp:tests/a}}:s:{key}");
        redis.change_field(&name, field, damage)?;
        let level = SettingChange::LogLevel("info".to_owned());
        let errors = [
            store.load(&key).await.unwrap_err(),
            store
                .bind_backend(&key, "y", 0, &binding("two", 1))
                .await
                .unwrap_err(),
            store.set(&key, &level).await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.is_corrupt_record(), "damage {number}: {error}");
        }
        let touched = store.touch(&[key]).await?;
        assert!(
            matches!(touched[..], [TouchOutcome::Alive { .. }]),
            "damage {number}"
        );
        assert_eq!(redis.command::<u32>(&["EXISTS", &name])?, 1, "damage {number}");
        assert_eq!(
            store.terminate(&key, LIFE).await?,
            TerminateOutcome::Terminated(None)
        );
        assert_eq!(store.load(&key).await?, LoadOutcome::Gone);
    }
    Ok(())
}

/// After a binding that timed out and was executed later, a retry gets its own binding.
#[requires(redis)]
#[tokio::test]
async fn late_binding_is_lost_to_its_own_process() -> anyhow::Result<()> {
    let mut redis = Redis::start(None)?;
    let store = redis_store(&redis, "a", Lifetimes::default())?;
    let key = created(&store).await?;
    let hasty = RedisStore::new(&storage(redis.address), &server("a"), Lifetimes::default())?;
    // Redis knows the script already.
    hasty.bind_backend(&key, "y", 0, &binding("other", 1)).await?;
    redis.pause()?;
    let mine = binding("mine", 1);
    hasty.bind_backend(&key, "x", 0, &mine).await.unwrap_err();
    redis.resume()?;
    // A retry with the same expectation returns the binding as its own.
    let began = Instant::now();
    while found(&store, &key).await?.bindings.is_empty() {
        anyhow::ensure!(began.elapsed() < Duration::from_secs(20), "it never happened");
    }
    let again = store.bind_backend(&key, "x", 0, &mine).await?;
    assert!(matches!(again, BindOutcome::Lost(record) if record.bindings["x"] == mine));
    Ok(())
}
