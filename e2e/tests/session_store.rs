//! The contract of the session store, for each provider: memory, and every topology of Redis.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use vmcp_e2e::providers;
use vmcp_e2e::records::{MANY, binding, created, found, new_record, redis_store};
use vmcp_e2e::redis::{Redis, documented_user};
use vmcp_external::requires;
use vmcp_gateway::backend::ID_BLOCKS;
use vmcp_gateway::config::SessionLimits;
use vmcp_gateway::session::record::{Lifetimes, NewRecord, PrincipalTag, Record, RecordKey};
use vmcp_gateway::session::store::{
    BindOutcome, CreateOutcome, ID_BLOCK_LEASE, Incarnation, LoadOutcome, MAX_SUBSCRIPTIONS, ProcessId,
    SessionLife, SessionLimit, SessionStore, SetOutcome, SettingChange, TerminateOutcome, TouchOutcome,
};

/// An incarnation that the store does not know, with an ended life.
const LIFE: SessionLife = SessionLife {
    incarnation: Incarnation([0; 8]),
    end: 0,
};

/// Checks a part of the contract with all providers at the same time.
async fn every_provider<F: Future<Output = anyhow::Result<()>>>(
    lifetimes: Lifetimes,
    part: impl Fn(Arc<dyn SessionStore>) -> F,
) -> anyhow::Result<()> {
    let parts = providers::every(lifetimes)?.into_iter().map(|provider| {
        let part = part(provider.store);
        async move { part.await.context(provider.name) }
    });
    for outcome in futures::future::join_all(parts).await {
        outcome?;
    }
    Ok(())
}

fn is_bound(outcome: &BindOutcome) -> anyhow::Result<()> {
    anyhow::ensure!(matches!(outcome, BindOutcome::Bound(_)), "{outcome:?}");
    Ok(())
}

/// Changes a setting of a live session.
async fn set(store: &dyn SessionStore, key: &RecordKey, setting: SettingChange) -> anyhow::Result<Record> {
    match store.set(key, &setting).await? {
        SetOutcome::Set(record) => Ok(record),
        other => anyhow::bail!("{other:?}"),
    }
}

fn subscribe(uri: &str, backend: &str) -> SettingChange {
    let (uri, backend) = (uri.to_owned(), backend.to_owned());
    SettingChange::Subscribe { uri, backend }
}

fn unsubscribe(uri: &str) -> SettingChange {
    SettingChange::Unsubscribe { uri: uri.to_owned() }
}

/// Waits until a record is gone, and returns how long that took.
async fn gone_after(store: &dyn SessionStore, key: &RecordKey, limit: Duration) -> anyhow::Result<Duration> {
    let started = Instant::now();
    while store.load(key).await? != LoadOutcome::Gone {
        anyhow::ensure!(started.elapsed() < limit, "the record lives after {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(started.elapsed())
}

/// A created record is loaded with the same content.
#[tokio::test]
async fn created_record_is_loaded_unchanged() -> anyhow::Result<()> {
    every_provider(Lifetimes::default(), |store| async move {
        let key = created(&*store).await?;
        let record = found(&*store, &key).await?;
        let new = new_record();
        assert_eq!(record.principal_tag, new.principal_tag);
        assert_eq!(record.revision, new.revision);
        assert_eq!(record.capabilities, new.capabilities);
        assert_eq!(record.client_info, new.client_info);
        assert!(record.bindings.is_empty());
        assert_eq!(store.load(&RecordKey::random()).await?, LoadOutcome::Gone);
        Ok(())
    })
    .await
}

/// Creation returns the time and the incarnation, and overwrites no record.
#[tokio::test]
async fn create_returns_time_and_never_overwrites() -> anyhow::Result<()> {
    every_provider(Lifetimes::default(), |store| async move {
        let key = RecordKey::random();
        let first = store.create(&key, &new_record(), MANY).await?;
        let CreateOutcome::Created { created, record } = first else {
            anyhow::bail!("{first:?}")
        };
        let SessionLife { incarnation, end } = record.life;
        assert_eq!(u64::from(end - created), Lifetimes::default().max.as_secs());
        assert_eq!(found(&*store, &key).await?.life, record.life);
        assert_eq!(store.incarnation().await?, incarnation);
        store.bind_backend(&key, "x", 0, &binding("one", 1)).await?;
        assert_eq!(
            store.create(&key, &new_record(), MANY).await?,
            CreateOutcome::AlreadyExists
        );
        assert_eq!(found(&*store, &key).await?.bindings.len(), 1);
        let second = store.create(&RecordKey::random(), &new_record(), MANY).await?;
        assert!(
            matches!(second, CreateOutcome::Created { record, .. } if record.life.incarnation == incarnation)
        );
        Ok(())
    })
    .await
}

/// A binding replaces only the generation that it expects.
#[tokio::test]
async fn binding_replaces_only_expected_one() -> anyhow::Result<()> {
    every_provider(Lifetimes::default(), |store| async move {
        let key = created(&*store).await?;
        let bound = store.bind_backend(&key, "x", 0, &binding("one", 1)).await?;
        let BindOutcome::Bound(record) = bound else {
            anyhow::bail!("{bound:?}")
        };
        assert_eq!(record.bindings["x"], binding("one", 1));
        let lost = store.bind_backend(&key, "x", 0, &binding("two", 1)).await?;
        let BindOutcome::Lost(record) = lost else {
            anyhow::bail!("{lost:?}")
        };
        assert_eq!(record.bindings["x"], binding("one", 1));
        is_bound(&store.bind_backend(&key, "x", 1, &binding("three", 2)).await?)?;
        is_bound(&store.bind_backend(&key, "y", 0, &binding("other", 1)).await?)?;
        let mut without_id = binding("", 1);
        without_id.session.id = None;
        is_bound(&store.bind_backend(&key, "z", 0, &without_id).await?)?;
        let bindings = found(&*store, &key).await?.bindings;
        assert_eq!(bindings["x"], binding("three", 2));
        assert_eq!(bindings["y"], binding("other", 1));
        assert_eq!(bindings["z"], without_id);
        Ok(())
    })
    .await
}

/// One of several concurrent bindings wins, and the others get the winner.
#[tokio::test]
async fn one_of_concurrent_bindings_wins() -> anyhow::Result<()> {
    every_provider(Lifetimes::default(), |store| async move {
        let key = created(&*store).await?;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                let mine = binding(&format!("session-{number}"), 1);
                (mine.clone(), store.bind_backend(&key, "x", 0, &mine).await)
            });
        }
        let outcomes = tasks.join_all().await;
        let winner = found(&*store, &key).await?.bindings["x"].clone();
        let mut won = 0;
        for (mine, outcome) in outcomes {
            match outcome? {
                BindOutcome::Bound(_) => {
                    won += 1;
                    assert_eq!(mine, winner);
                }
                BindOutcome::Lost(record) => assert_eq!(record.bindings["x"], winner),
                BindOutcome::Gone => anyhow::bail!("gone"),
            }
        }
        assert_eq!(won, 1);
        Ok(())
    })
    .await
}

/// A termination returns the record once, and nothing revives the session.
#[tokio::test]
async fn termination_returns_record_once_and_is_final() -> anyhow::Result<()> {
    every_provider(Lifetimes::default(), |store| async move {
        let key = created(&*store).await?;
        store.bind_backend(&key, "x", 0, &binding("one", 1)).await?;
        let ended = store.terminate(&key, LIFE).await?;
        let TerminateOutcome::Terminated(Some(record)) = ended else {
            anyhow::bail!("{ended:?}")
        };
        assert_eq!(record.bindings["x"], binding("one", 1));
        assert_eq!(store.terminate(&key, LIFE).await?, TerminateOutcome::Gone);
        assert_eq!(
            store.bind_backend(&key, "x", 1, &binding("two", 2)).await?,
            BindOutcome::Gone
        );
        assert_eq!(
            store.bind_backend(&key, "y", 0, &binding("two", 1)).await?,
            BindOutcome::Gone
        );
        assert_eq!(store.touch(&[key]).await?, [TouchOutcome::Gone]);
        assert_eq!(store.load(&key).await?, LoadOutcome::Gone);
        Ok(())
    })
    .await
}

/// An idle record expires, and nothing revives the session.
#[tokio::test]
async fn idle_record_expires_for_good() -> anyhow::Result<()> {
    let lifetimes = Lifetimes {
        idle: Duration::from_millis(150),
        max: Duration::from_secs(60),
    };
    every_provider(lifetimes, |store| async move {
        let key = created(&*store).await?;
        gone_after(&*store, &key, Duration::from_secs(2)).await?;
        assert_eq!(store.touch(&[key]).await?, [TouchOutcome::Gone]);
        assert_eq!(
            store.bind_backend(&key, "x", 0, &binding("one", 1)).await?,
            BindOutcome::Gone
        );
        assert_eq!(store.terminate(&key, LIFE).await?, TerminateOutcome::Gone);
        assert_eq!(store.load(&key).await?, LoadOutcome::Gone);
        Ok(())
    })
    .await
}

/// Settings are kept, and every later binding or setting returns all of them.
#[tokio::test]
async fn client_settings_are_kept_and_returned() -> anyhow::Result<()> {
    every_provider(Lifetimes::default(), |store| async move {
        let key = created(&*store).await?;
        let fresh = found(&*store, &key).await?;
        assert_eq!((fresh.log_level, fresh.subscriptions.len()), (None, 0));

        set(&*store, &key, SettingChange::LogLevel("info".to_owned())).await?;
        set(&*store, &key, subscribe("a://b:c ü", "x")).await?;
        set(&*store, &key, subscribe("a://d", "x")).await?;
        // The resource has moved; and a level replaces the one before.
        set(&*store, &key, subscribe("a://d", "y")).await?;
        let record = set(&*store, &key, SettingChange::LogLevel("error".to_owned())).await?;
        let both =
            [("a://b:c ü", "x"), ("a://d", "y")].map(|(uri, backend)| (uri.to_owned(), backend.to_owned()));
        assert_eq!(record.log_level.as_deref(), Some("error"));
        assert_eq!(record.subscriptions, BTreeMap::from(both.clone()));

        // A binding returns the settings for the upstream session, and a setting returns the bindings to notify.
        let BindOutcome::Bound(record) = store.bind_backend(&key, "x", 0, &binding("one", 1)).await? else {
            anyhow::bail!("not bound")
        };
        assert_eq!(record.subscriptions, BTreeMap::from(both));
        assert_eq!(record.log_level.as_deref(), Some("error"));
        set(&*store, &key, unsubscribe("a://b:c ü")).await?;
        let record = set(&*store, &key, unsubscribe("a://never")).await?;
        assert_eq!(record.subscriptions.keys().collect::<Vec<_>>(), ["a://d"]);
        assert_eq!(record.bindings["x"], binding("one", 1));
        let loaded = found(&*store, &key).await?;
        assert_eq!(
            (loaded.log_level, loaded.subscriptions),
            (record.log_level, record.subscriptions)
        );
        Ok(())
    })
    .await
}

/// The number of subscriptions of a session is limited.
#[tokio::test]
async fn subscriptions_per_session_are_limited() -> anyhow::Result<()> {
    every_provider(Lifetimes::default(), |store| async move {
        let key = created(&*store).await?;
        for number in 0..MAX_SUBSCRIPTIONS {
            set(&*store, &key, subscribe(&format!("a://{number}"), "x")).await?;
        }
        assert_eq!(
            store.set(&key, &subscribe("a://more", "x")).await?,
            SetOutcome::Full
        );
        // A repeated subscription counts once.
        set(&*store, &key, subscribe("a://0", "y")).await?;
        set(&*store, &key, unsubscribe("a://1")).await?;
        let record = set(&*store, &key, subscribe("a://more", "x")).await?;
        assert_eq!(record.subscriptions.len(), MAX_SUBSCRIPTIONS);
        Ok(())
    })
    .await
}

/// A setting does not revive a terminated session.
#[tokio::test]
async fn setting_does_not_revive_session() -> anyhow::Result<()> {
    let lifetimes = Lifetimes {
        idle: Duration::from_millis(150),
        max: Duration::from_secs(60),
    };
    every_provider(lifetimes, |store| async move {
        let (expired, ended) = (created(&*store).await?, created(&*store).await?);
        assert!(matches!(
            store.terminate(&ended, LIFE).await?,
            TerminateOutcome::Terminated(_)
        ));
        gone_after(&*store, &expired, Duration::from_secs(2)).await?;
        for key in [expired, ended, RecordKey::random()] {
            for setting in [
                SettingChange::LogLevel("info".to_owned()),
                subscribe("a://b", "x"),
                unsubscribe("a://b"),
            ] {
                assert_eq!(store.set(&key, &setting).await?, SetOutcome::Gone);
            }
            assert_eq!(store.load(&key).await?, LoadOutcome::Gone);
        }
        Ok(())
    })
    .await
}

/// The catalog of a backend is stored for new processes.
#[tokio::test]
async fn catalog_is_stored_for_new_processes() -> anyhow::Result<()> {
    every_provider(Lifetimes::default(), |store| async move {
        assert!(store.offers().await?.is_empty());
        for (backend, offer) in [("a", "1"), ("b", "2"), ("a", "3")] {
            store.keep_offer(backend, Some(offer.as_bytes())).await?;
        }
        let mut offers = store.offers().await?;
        if store.provider() == "memory" {
            assert!(offers.is_empty(), "nobody starts where this process ends");
            return Ok(());
        }
        offers.sort();
        let known = |backend: &str, offer: &str| (backend.to_owned(), offer.as_bytes().to_vec());
        assert_eq!(offers, [known("a", "3"), known("b", "2")]);
        store.keep_offer("a", None).await?;
        assert_eq!(store.offers().await?, [known("b", "2")]);
        Ok(())
    })
    .await
}

/// No two processes use the same block of request ids for long, whatever the store has lost.
#[requires(redis)]
#[tokio::test]
async fn block_of_ids_is_one_process_s_own_also_after_data_loss() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let store = redis_store(&redis, "a", Lifetimes::default())?;
    let [one, other] = [ProcessId([1; 8]), ProcessId([2; 8])];
    let last = ID_BLOCKS - 1;
    assert_eq!(store.claim_id_block("x", one, last, false).await?, last);
    assert_eq!(
        store.claim_id_block("x", other, last, false).await?,
        0,
        "the next one"
    );
    assert_eq!(
        store.claim_id_block("y", other, last, false).await?,
        last,
        "another backend's"
    );
    assert_eq!(
        store.claim_id_block("x", one, last, true).await?,
        last,
        "it has that"
    );
    assert_eq!(
        store.claim_id_block("x", one, last, false).await?,
        1,
        "it has used that up"
    );
    let left: u64 = redis.command(&["TTL", "{vmcp:tests/a}:shared"])?;
    assert!(left > ID_BLOCK_LEASE.as_secs(), "{left}");
    // The data is lost, and another process claims the block before the one that has it.
    redis.command::<()>(&["FLUSHALL"])?;
    assert_eq!(store.claim_id_block("x", other, 1, false).await?, 1);
    assert_eq!(store.claim_id_block("x", one, 1, true).await?, 2, "it leaves it");
    assert_eq!(store.claim_id_block("x", other, 1, true).await?, 1);
    // Its claim is too old.
    redis.command::<()>(&["HSET", "{vmcp:tests/a}:shared", "x:block:1", "AgICAgICAgI 1"])?;
    assert_eq!(store.claim_id_block("x", one, 1, false).await?, 1);
    Ok(())
}

/// Use moves the idle deadline of a session, but not its end.
#[tokio::test]
async fn use_moves_the_idle_deadline_but_not_the_end() -> anyhow::Result<()> {
    let lifetimes = Lifetimes {
        idle: Duration::from_secs(1),
        max: Duration::from_secs(3),
    };
    every_provider(lifetimes, |store| async move {
        let started = Instant::now();
        let (used, unused) = (created(&*store).await?, created(&*store).await?);
        let mut unused_lived = None;
        while matches!(store.touch(&[used]).await?[..], [TouchOutcome::Alive { .. }]) {
            anyhow::ensure!(
                started.elapsed() < lifetimes.max * 3,
                "the record outlives its end"
            );
            if unused_lived.is_none() && store.load(&unused).await? == LoadOutcome::Gone {
                unused_lived = Some(started.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let lived = started.elapsed();
        let unused_lived = unused_lived.ok_or_else(|| anyhow::anyhow!("the unused record lived as long"))?;
        assert!(
            unused_lived >= lifetimes.idle && lived >= lifetimes.max,
            "unused {unused_lived:?}, used {lived:?}"
        );
        assert!(lived > unused_lived, "use did not move the deadline");
        Ok(())
    })
    .await
}

/// A touch returns for each record whether it is alive, and moves its idle deadline.
#[tokio::test]
async fn touch_reports_and_refreshes_each_record() -> anyhow::Result<()> {
    every_provider(Lifetimes::default(), |store| async move {
        let alive = created(&*store).await?;
        let gone = RecordKey::random();
        let before = loop {
            let untouched = found(&*store, &alive).await?.untouched;
            if untouched >= Duration::from_millis(40) {
                break untouched;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let touching = Instant::now();
        let touched = store.touch(&[gone, alive, gone]).await?;
        let version = found(&*store, &alive).await?.version;
        assert!(
            matches!(touched[..], [TouchOutcome::Gone, TouchOutcome::Alive { version: touched, left }, TouchOutcome::Gone]
                if touched == version && left > Lifetimes::default().idle - Duration::from_secs(60)),
            "{touched:?}, version {version}"
        );
        let after = found(&*store, &alive).await?.untouched;
        // The store counts whole milliseconds.
        assert!(
            after <= touching.elapsed() + Duration::from_millis(1),
            "{after:?}, before {before:?}"
        );
        assert_eq!(store.touch(&[]).await?, []);
        Ok(())
    })
    .await
}

/// The virtual server and each principal have limited numbers of sessions, until some end.
#[tokio::test]
async fn session_limits_hold_per_server_and_principal() -> anyhow::Result<()> {
    let lifetimes = Lifetimes {
        idle: Duration::from_secs(2),
        max: Duration::from_secs(60),
    };
    every_provider(lifetimes, |store| async move {
        let limits = SessionLimits {
            server: 3,
            principal: 2,
        };
        let create = async |principal: u8| -> anyhow::Result<Result<RecordKey, SessionLimit>> {
            let (key, mut record) = (RecordKey::random(), new_record());
            record.principal_tag = PrincipalTag([principal; 16]);
            match store.create(&key, &record, limits).await? {
                CreateOutcome::Limit(of) => {
                    assert_eq!(store.load(&key).await?, LoadOutcome::Gone);
                    Ok(Err(of))
                }
                CreateOutcome::Created { .. } => Ok(Ok(key)),
                CreateOutcome::AlreadyExists => anyhow::bail!("taken"),
            }
        };
        let started = Instant::now();
        let first = create(1).await?;
        create(1).await?.unwrap();
        assert_eq!(create(1).await?, Err(SessionLimit::Principal));
        // With another key the principal has another tag, and the same limit.
        let again = NewRecord {
            principal_tag: PrincipalTag([9; 16]),
            other_tags: vec![PrincipalTag([8; 16]), PrincipalTag([1; 16])],
            ..new_record()
        };
        let refused = store.create(&RecordKey::random(), &again, limits).await?;
        assert_eq!(refused, CreateOutcome::Limit(SessionLimit::Principal));
        create(2).await?.unwrap();
        assert_eq!(create(3).await?, Err(SessionLimit::Server));
        // A terminated session makes room for one.
        store.terminate(&first.unwrap(), LIFE).await?;
        let last = create(1).await?.unwrap();
        assert_eq!(create(1).await?, Err(SessionLimit::Server));
        anyhow::ensure!(
            started.elapsed() < lifetimes.idle,
            "this machine is too busy for this test"
        );
        // Expired sessions make room, too, also before they are claimed. Used sessions do not.
        let began = Instant::now();
        while create(2).await?.is_err() {
            anyhow::ensure!(began.elapsed() < Duration::from_secs(20), "nothing expires");
            store.touch(&[last]).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        found(&*store, &last).await?;
        Ok(())
    })
    .await
}

/// Concurrent creations do not exceed the limit of sessions.
#[tokio::test]
async fn concurrent_creates_respect_session_limit() -> anyhow::Result<()> {
    every_provider(Lifetimes::default(), |store| async move {
        let create = async |principal: u8, limits: SessionLimits| {
            let mut record = new_record();
            record.principal_tag = PrincipalTag([principal; 16]);
            store.create(&RecordKey::random(), &record, limits).await
        };
        let create = &create;
        let [few, own] =
            [(100, 100), (100, 10)].map(|(server, principal)| SessionLimits { server, principal });
        // Two principals who may have ten each, and one who may have as many as the virtual server, all at once.
        let storm = (0..300).map(|number: u16| async move {
            let (principal, limits) = [(1, own), (2, own), (3, few)][usize::from(number % 3)];
            anyhow::Ok((principal, create(principal, limits).await?))
        });
        let mut counts = BTreeMap::new();
        for (principal, outcome) in futures::future::try_join_all(storm).await? {
            let outcome = match outcome {
                CreateOutcome::Created { .. } => "created",
                CreateOutcome::Limit(SessionLimit::Principal) => "principal",
                CreateOutcome::Limit(SessionLimit::Server) => "server",
                CreateOutcome::AlreadyExists => "taken",
            };
            *counts.entry((principal, outcome)).or_insert(0) += 1;
        }
        let created: u32 = { &counts }
            .iter()
            .filter_map(|((_, outcome), count)| (*outcome == "created").then_some(*count))
            .sum();
        assert_eq!(created, 100, "{counts:?}");
        for principal in [1, 2] {
            assert!(counts[&(principal, "created")] <= 10, "{counts:?}");
        }
        Ok(())
    })
    .await
}

/// An expired session is claimed by exactly one process.
#[tokio::test]
async fn expired_session_is_claimed_by_one_process() -> anyhow::Result<()> {
    let lifetimes = Lifetimes {
        idle: Duration::from_millis(300),
        max: Duration::from_secs(60),
    };
    every_provider(lifetimes, |store| async move {
        let mut keys = Vec::new();
        for number in 0..5 {
            let key = created(&*store).await?;
            store
                .bind_backend(&key, "x", 0, &binding(&format!("of-{number}"), 1))
                .await?;
            keys.push(key);
        }
        let (used, ended) = (keys.pop().context("none")?, keys.pop().context("none")?);
        store.terminate(&ended, LIFE).await?;
        // Two processes claim at the same time. No expired session is claimed twice, and no live one is claimed.
        let mut claimed = Vec::new();
        let (began, ago) = (Instant::now(), Duration::from_secs(2));
        while claimed.len() < keys.len() {
            anyhow::ensure!(
                began.elapsed() < Duration::from_secs(20),
                "{} claimed",
                claimed.len()
            );
            assert!(matches!(
                store.touch(&[used]).await?[..],
                [TouchOutcome::Alive { .. }]
            ));
            let looks = [store.claim_expired(ago, 2), store.claim_expired(ago, 2)];
            for look in futures::future::join_all(looks).await {
                claimed.extend(look?);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        claimed.sort_by(|a, b| a.1.bindings["x"].session.id.cmp(&b.1.bindings["x"].session.id));
        assert_eq!(claimed.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys);
        assert_eq!(claimed[0].1.bindings["x"], binding("of-0", 1));
        // Live sessions are not removed, and removed sessions are not claimed again.
        keys.push(used);
        assert!(matches!(
            store.touch(&[used]).await?[..],
            [TouchOutcome::Alive { .. }]
        ));
        store.remove_expired(&keys).await?;
        found(&*store, &used).await?;
        assert_eq!(store.claim_expired(Duration::from_secs(3600), 9).await?, []);
        Ok(())
    })
    .await
}

/// The claim of a dead process is taken over, and nothing is left in Redis.
#[requires(redis)]
#[tokio::test]
async fn claim_of_dead_process_is_taken_over() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let lifetimes = Lifetimes {
        idle: Duration::from_millis(50),
        max: Duration::from_secs(60),
    };
    let store = redis_store(&redis, "a", lifetimes)?;
    let key = created(&store).await?;
    let began = Instant::now();
    let mut times = 0;
    let ago = Duration::from_millis(100);
    while times < 2 {
        anyhow::ensure!(began.elapsed() < Duration::from_secs(20), "claimed {times} times");
        times += store.claim_expired(ago, 9).await?.len();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        began.elapsed() >= 2 * ago,
        "it was not left to the first one for as long"
    );
    store.remove_expired(&[key]).await?;
    let left: Vec<String> = redis.command(&["KEYS", "*"])?;
    assert_eq!(left, ["{vmcp:tests/a}:incarnation"]);
    // A record that Redis itself has removed is not counted forever.
    let key = created(&store).await?;
    redis.command::<()>(&["DEL", &format!("{{vmcp:tests/a}}:s:{key}")])?;
    let began = Instant::now();
    while redis.command::<u32>(&["EXISTS", "{vmcp:tests/a}:sessions"])? == 1 {
        anyhow::ensure!(began.elapsed() < Duration::from_secs(20), "it is counted");
        assert_eq!(store.claim_expired(ago, 9).await?, []);
    }
    Ok(())
}

/// The sets of a removed virtual server expire with its sessions.
#[requires(redis)]
#[tokio::test]
async fn sets_of_removed_server_expire_with_sessions() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let store = redis_store(&redis, "a", Lifetimes::default())?;
    let (key, limits) = (RecordKey::random(), SessionLimits { principal: 1, ..MANY });
    let outcome = store.create(&key, &new_record(), limits).await?;
    assert!(matches!(outcome, CreateOutcome::Created { .. }), "{outcome:?}");
    let longest = Lifetimes::default().max + Duration::from_secs(600);
    let keys: Vec<String> = redis.command(&["KEYS", "*"])?;
    assert_eq!(keys.len(), 4, "{keys:?}");
    for name in keys {
        let left: i64 = redis.command(&["PTTL", &name])?;
        let limit = if name.ends_with(&key.to_string()) {
            Lifetimes::default().idle + Duration::from_secs(600)
        } else {
            longest
        };
        if name.ends_with(":incarnation") {
            assert_eq!(left, -1, "the life of the data does not end");
        } else {
            let left = Duration::from_millis(u64::try_from(left)?);
            assert!(
                left <= limit && left > limit - Duration::from_secs(60),
                "{name}: {left:?}"
            );
        }
    }
    Ok(())
}

// The suite runs as the documented user, which has no other permissions.
#[requires(redis)]
#[test]
fn documented_redis_user_reaches_sessions_and_nothing_else() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    redis.add_documented_user()?;
    let may = |words: &[&str]| -> anyhow::Result<String> {
        let command = [&["ACL", "DRYRUN", documented_user::NAME], words].concat();
        redis.command(&command)
    };
    assert_eq!(may(&["GET", "{vmcp:tools/weather}:s:x"])?, "OK");
    for refused in [
        &["GET", "theirs"][..],
        &["GET", "vmcp:x"],
        &["PUBLISH", "theirs", "x"],
        &["SUBSCRIBE", "theirs"],
        &["KEYS", "*"],
        &["FLUSHALL"],
        &["CONFIG", "GET", "*"],
        &["ACL", "LIST"],
    ] {
        assert_ne!(may(refused)?, "OK", "{refused:?}");
    }
    Ok(())
}

/// Two virtual servers on one Redis do not see each other's sessions.
#[requires(redis)]
#[tokio::test]
async fn two_virtual_servers_on_one_redis_never_see_each_other() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let a = redis_store(&redis, "a", Lifetimes::default())?;
    let b = redis_store(&redis, "b", Lifetimes::default())?;
    let key = created(&a).await?;
    assert_eq!(b.load(&key).await?, LoadOutcome::Gone);
    assert_eq!(b.terminate(&key, LIFE).await?, TerminateOutcome::Gone);
    found(&a, &key).await?;
    Ok(())
}
