//! Events of the session store, and recovery after Redis has lost its data.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use vmcp_e2e::records::{binding, created_record, new_record, redis_store};
use vmcp_e2e::redis::Redis;
use vmcp_external::requires;
use vmcp_gateway::session::record::{Lifetimes, NewRecord, Record, RecordKey};
use vmcp_gateway::session::store::memory::MemoryStore;
use vmcp_gateway::session::store::redis::RedisStore;
use vmcp_gateway::session::store::{
    BindOutcome, Incarnation, LoadOutcome, ProcessId, RecoverOutcome, RestoreReason, SessionLife,
    SessionStore, SetOutcome, SettingChange, StoreEvent, StreamClaim, TerminateOutcome,
};

/// How long anything here may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

fn store(redis: &Redis, lifetimes: Lifetimes) -> anyhow::Result<RedisStore> {
    redis_store(redis, "a", lifetimes)
}

async fn found(store: &dyn SessionStore, key: &RecordKey) -> anyhow::Result<Option<Record>> {
    Ok(match store.load(key).await? {
        LoadOutcome::Found(record) => Some(record),
        LoadOutcome::Gone => None,
    })
}

/// The record without its times.
fn said(record: &Record) -> Record {
    Record {
        version: 0,
        untouched: Duration::ZERO,
        left: Duration::ZERO,
        remaining: Duration::ZERO,
        ..record.clone()
    }
}

/// The next event, except for freshness proofs.
async fn next(events: &mut BoxStream<'static, StoreEvent>) -> anyhow::Result<StoreEvent> {
    tokio::time::timeout(LIMIT, async {
        loop {
            match events.next().await {
                Some(StoreEvent::CurrentAsOf(_)) => {}
                Some(event) => return Ok(event),
                None => anyhow::bail!("the events have ended"),
            }
        }
    })
    .await?
}

/// The record of the next event.
async fn one_record(events: &mut BoxStream<'static, StoreEvent>) -> anyhow::Result<(RecordKey, Record)> {
    match next(events).await? {
        StoreEvent::Records(mut records) if records.len() == 1 => Ok(records.remove(0)),
        other => anyhow::bail!("{other:?}"),
    }
}

/// The event stream, once the subscription is complete.
async fn listen(store: &dyn SessionStore) -> anyhow::Result<BoxStream<'static, StoreEvent>> {
    let events = store.events(Duration::from_millis(50));
    let mut events = events.ok_or_else(|| anyhow::anyhow!("no events"))?;
    proved(&mut events).await?;
    Ok(events)
}

async fn proved(events: &mut BoxStream<'static, StoreEvent>) -> anyhow::Result<()> {
    tokio::time::timeout(LIMIT, async {
        while !matches!(events.next().await, Some(StoreEvent::CurrentAsOf(_)) | None) {}
    })
    .await?;
    Ok(())
}

/// Restores a record, and waits as long as the store requires.
async fn recovered(
    store: &dyn SessionStore,
    key: &RecordKey,
    life: SessionLife,
) -> anyhow::Result<RecoverOutcome> {
    let new = NewRecord {
        capabilities: "{}".into(),
        ..new_record()
    };
    tokio::time::timeout(LIMIT, async {
        loop {
            match store.recover(key, life, &new).await? {
                RecoverOutcome::Wait(wait) => tokio::time::sleep(wait).await,
                outcome => return Ok(outcome),
            }
        }
    })
    .await?
}

/// Every change is sent to every process in order.
#[requires(redis)]
#[tokio::test]
async fn changes_reach_every_process_in_order() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let (one, two) = (
        store(&redis, Lifetimes::default())?,
        store(&redis, Lifetimes::default())?,
    );
    let mut events = listen(&two).await?;
    let (key, record) = created_record(&one).await?;
    let (told, first) = one_record(&mut events).await?;
    assert_eq!((told, &first), (key, &record));

    let bound = one.bind_backend(&key, "x", 0, &binding("one", 1)).await?;
    assert!(matches!(bound, BindOutcome::Bound(_)));
    let (_, second) = one_record(&mut events).await?;
    assert_eq!(second.bindings["x"], binding("one", 1));
    assert!(second.version > first.version);
    // A rejected change sends no event.
    one.bind_backend(&key, "x", 0, &binding("two", 1)).await?;

    let level = SettingChange::LogLevel("info".to_owned());
    assert!(matches!(one.set(&key, &level).await?, SetOutcome::Set(_)));
    let (_, third) = one_record(&mut events).await?;
    assert_eq!(third.log_level.as_deref(), Some("info"));

    let (mine, theirs) = (ProcessId([1; 8]), ProcessId([2; 8]));
    for (number, owner) in [(1, mine), (2, theirs), (3, mine)] {
        assert_eq!(one.claim_stream(&key, owner).await?, StreamClaim::Owned(number));
        assert_eq!(
            next(&mut events).await?,
            StoreEvent::StreamOwner { key, owner, number }
        );
    }
    let ended = one.terminate(&key, record.life).await?;
    assert!(
        matches!(ended, TerminateOutcome::Terminated(Some(_))),
        "{ended:?}"
    );
    assert_eq!(next(&mut events).await?, StoreEvent::Terminated(key, record.life));
    assert_eq!(one.claim_stream(&key, mine).await?, StreamClaim::Gone);
    Ok(())
}

/// Many records are created in few round trips, and sent to other processes.
#[requires(redis)]
#[tokio::test]
async fn creates_are_batched_and_published() -> anyhow::Result<()> {
    const STORM: usize = 300;
    let redis = Redis::start(None)?;
    let (one, two) = (
        store(&redis, Lifetimes::default())?,
        store(&redis, Lifetimes::default())?,
    );
    let (mut own, mut others) = (listen(&one).await?, listen(&two).await?);
    let before = redis.scripts()?;
    let storm = (0..STORM).map(|_| created_record(&one));
    let mut created = futures::future::try_join_all(storm).await?;
    let scripts = redis.scripts()? - before;
    assert!(scripts <= STORM as u64 / 10, "{scripts} scripts");

    let mut told = Vec::new();
    while told.len() < STORM {
        match next(&mut others).await? {
            StoreEvent::Records(records) => told.extend(records),
            other => anyhow::bail!("{other:?}"),
        }
    }
    created.sort_by_key(|(key, _)| *key);
    told.sort_by_key(|(key, _)| *key);
    assert_eq!(told, created);
    for (key, record) in &created {
        assert_eq!(found(&two, key).await?.as_ref().map(said), Some(said(record)));
    }
    // Their creator gets no event. The next event is the end of one.
    let (key, record) = &created[0];
    two.terminate(key, record.life).await?;
    assert_eq!(next(&mut own).await?, StoreEvent::Terminated(*key, record.life));
    Ok(())
}

/// The event of a large record contains only the change.
#[requires(redis)]
#[tokio::test]
async fn event_of_large_record_has_only_the_change() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let store = store(&redis, Lifetimes::default())?;
    let (key, _) = created_record(&store).await?;
    let mut events = listen(&store).await?;
    let subscribe = |uri| SettingChange::Subscribe {
        uri,
        backend: "x".to_owned(),
    };
    let large = subscribe(format!("a://{}", "b".repeat(20_000)));
    store.set(&key, &large).await?;
    assert_eq!(next(&mut events).await?, StoreEvent::Changed(key));
    Ok(())
}

/// An interruption is reported, and ends when Redis is back.
#[requires(redis)]
#[tokio::test]
async fn interruption_event_ends_with_redis_recovery() -> anyhow::Result<()> {
    let mut redis = Redis::start(None)?;
    let store = store(&redis, Lifetimes::default())?;
    let mut events = listen(&store).await?;
    let before = store.incarnation().await?;
    redis.kill()?;
    assert_eq!(next(&mut events).await?, StoreEvent::Interrupted);
    redis.start_again()?;
    proved(&mut events).await?;
    let after = tokio::time::timeout(LIMIT, async {
        loop {
            match store.incarnation().await {
                Ok(incarnation) => return incarnation,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    assert_ne!(
        before,
        after.await?,
        "the data was lost, and has another life now"
    );
    Ok(())
}

/// A lost session is recovered once, after a time in which processes with a cached record may restore it.
#[requires(redis)]
#[tokio::test]
async fn lost_session_is_recovered_once_after_settling() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let lifetimes = Lifetimes {
        idle: Duration::from_secs(2),
        max: Duration::from_secs(600),
    };
    let store = store(&redis, lifetimes)?;
    let (key, record) = created_record(&store).await?;
    let (known, known_record) = created_record(&store).await?;
    let BindOutcome::Bound(known_record) = store.bind_backend(&known, "x", 0, &binding("one", 1)).await?
    else {
        anyhow::bail!("not bound: {known_record:?}")
    };
    // Nothing is lost, so no process recovers anything.
    let unknown = RecordKey::random();
    let vanished = recovered(&store, &unknown, record.life).await?;
    assert!(
        matches!(vanished, RecoverOutcome::Vanished { .. }),
        "{vanished:?}"
    );

    redis.command::<()>(&["FLUSHALL"])?;
    let new = new_record();
    assert!(matches!(
        store.recover(&key, record.life, &new).await?,
        RecoverOutcome::Wait(_)
    ));
    // A process with a cached record need not wait, and overwrites nothing.
    let RecoverOutcome::Found(restored) = store.restore(&known, &known_record, RestoreReason::Lost).await?
    else {
        anyhow::bail!("not restored")
    };
    assert_eq!(said(&restored), said(&known_record));
    assert!(restored.version > known_record.version);
    let RecoverOutcome::Found(back) = recovered(&store, &key, record.life).await? else {
        anyhow::bail!("not recovered")
    };
    assert_eq!(back.life, record.life, "its id is the same");
    let RecoverOutcome::Found(found_instead) = recovered(&store, &known, known_record.life).await? else {
        anyhow::bail!("not found")
    };
    assert_eq!(found_instead.bindings.len(), 1);
    // An id that has ended by the store's clock is not recovered.
    let ended = SessionLife {
        end: 1,
        ..record.life
    };
    assert_eq!(recovered(&store, &unknown, ended).await?, RecoverOutcome::Gone);

    // It expires, and is not recovered again.
    tokio::time::timeout(LIMIT, async {
        while found(&store, &key).await?.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(recovered(&store, &key, record.life).await?, RecoverOutcome::Gone);
    assert_eq!(found(&store, &key).await?, None);
    Ok(())
}

/// A terminated session is not restored after a loss of the data.
#[requires(redis)]
#[tokio::test]
async fn terminated_session_is_not_restored() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let store = store(&redis, Lifetimes::default())?;
    let (key, record) = created_record(&store).await?;
    let (lost, lost_record) = created_record(&store).await?;
    store.terminate(&key, record.life).await?;
    assert_eq!(
        store.restore(&key, &record, RestoreReason::Lost).await?,
        RecoverOutcome::Gone
    );

    // A session whose record was lost in a failover has vanished. A process that has it cached does not restore it after a termination.
    let (vanished, vanished_record) = created_record(&store).await?;
    redis.command::<()>(&["DEL", &format!("{{vmcp:tests/a}}:s:{vanished}")])?;
    let answer = recovered(&store, &vanished, vanished_record.life).await?;
    assert!(matches!(answer, RecoverOutcome::Vanished { .. }), "{answer:?}");
    let ended = store.terminate(&vanished, vanished_record.life).await?;
    assert_eq!(ended, TerminateOutcome::Gone);
    assert_eq!(
        recovered(&store, &vanished, vanished_record.life).await?,
        RecoverOutcome::Gone
    );
    assert_eq!(
        store
            .restore(&vanished, &vanished_record, RestoreReason::Lost)
            .await?,
        RecoverOutcome::Gone
    );

    // A session whose record was lost can be terminated all the same, once.
    redis.command::<()>(&["FLUSHALL"])?;
    assert_eq!(
        store.terminate(&lost, lost_record.life).await?,
        TerminateOutcome::Terminated(None)
    );
    assert_eq!(
        store.terminate(&lost, lost_record.life).await?,
        TerminateOutcome::Gone
    );
    assert_eq!(
        recovered(&store, &lost, lost_record.life).await?,
        RecoverOutcome::Gone
    );
    assert_eq!(
        store.restore(&lost, &lost_record, RestoreReason::Lost).await?,
        RecoverOutcome::Gone
    );
    let marker = format!("{{vmcp:tests/a}}:m:{lost}");
    let remembered: i64 = redis.command(&["PTTL", &marker])?;
    assert!(
        remembered > 23 * 3_600_000,
        "for the rest of its life, and not {remembered} ms"
    );

    // A recovered and terminated session stays terminated, too.
    let (again, again_record) = created_record(&store).await?;
    redis.command::<()>(&["FLUSHALL"])?;
    let back = recovered(&store, &again, again_record.life).await?;
    assert!(matches!(back, RecoverOutcome::Found(_)));
    let ended = store.terminate(&again, again_record.life).await?;
    assert!(matches!(ended, TerminateOutcome::Terminated(Some(_))));
    assert_eq!(
        recovered(&store, &again, again_record.life).await?,
        RecoverOutcome::Gone
    );
    Ok(())
}

/// A session that was in use while it expired goes on with the stored record.
#[requires(redis)]
#[tokio::test]
async fn used_session_survives_expiry_in_outage() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let lifetimes = Lifetimes {
        idle: Duration::from_millis(200),
        max: Duration::from_secs(600),
    };
    let store = store(&redis, lifetimes)?;
    let (key, old) = created_record(&store).await?;
    store.bind_backend(&key, "x", 0, &binding("one", 1)).await?;
    tokio::time::timeout(LIMIT, async {
        while found(&store, &key).await?.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    let RecoverOutcome::Found(back) = store.restore(&key, &old, RestoreReason::Expired).await? else {
        anyhow::bail!("not restored")
    };
    assert_eq!(back.bindings["x"], binding("one", 1));
    // A session that was terminated in between stays terminated.
    let (ended, record) = created_record(&store).await?;
    redis.command::<()>(&["DEL", &format!("{{vmcp:tests/a}}:s:{ended}")])?;
    let refused = store.restore(&ended, &record, RestoreReason::Expired).await?;
    assert_eq!(refused, RecoverOutcome::Gone);
    Ok(())
}

/// The store in memory restores nothing, and has no other process.
#[tokio::test]
async fn memory_brings_nothing_back_and_has_no_other_process() -> anyhow::Result<()> {
    let store = MemoryStore::new(Lifetimes::default());
    assert!(store.events(Duration::from_secs(1)).is_none());
    let (key, record) = created_record(&store).await?;
    assert!(matches!(
        store.restore(&key, &record, RestoreReason::Lost).await?,
        RecoverOutcome::Found(_)
    ));
    let life = SessionLife {
        incarnation: Incarnation([9; 8]),
        ..record.life
    };
    let unknown = RecordKey::random();
    assert_eq!(recovered(&store, &unknown, life).await?, RecoverOutcome::Gone);
    assert_eq!(
        store.restore(&unknown, &record, RestoreReason::Lost).await?,
        RecoverOutcome::Gone
    );
    assert_eq!(
        store.claim_stream(&key, ProcessId([1; 8])).await?,
        StreamClaim::Owned(1)
    );
    store.terminate(&key, life).await?;
    assert_eq!(
        store.restore(&key, &record, RestoreReason::Lost).await?,
        RecoverOutcome::Gone
    );
    assert_eq!(
        store.claim_stream(&key, ProcessId([1; 8])).await?,
        StreamClaim::Gone
    );
    Ok(())
}
