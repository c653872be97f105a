//! A process is asked for a session of which it knows nothing but the id, and the store does not say whether it lives.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use vmcp_crds::config::{
    BackendConfig, Duration as ConfigDuration, SessionState, SessionStorage, SessionStorageProvider,
};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::proxy::{Fault, Proxy};
use vmcp_e2e::raw::{Answer, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    /// Its state counts.
    kept: Fixture,
    disposable: Fixture,
    redis: Redis,
    recipe: Recipe,
}

impl World {
    fn new() -> anyhow::Result<Option<Self>> {
        if vmcp_peers::left_out("redis") {
            return Ok(None);
        }
        let (kept, disposable, redis) = (Fixture::start(&[])?, Fixture::start(&[])?, Redis::start(None)?);
        let mut recipe = Recipe::new(&[("kept", &kept.url)])?;
        let backend = BackendConfig {
            name: "disposable".to_owned(),
            url: disposable.url.clone(),
            session_state: SessionState::Disposable,
            ..BackendConfig::default()
        };
        if let Some(hot) = &mut recipe.config.hot {
            hot.backends.push(backend);
        }
        recipe.config.session_storage = SessionStorage {
            provider: SessionStorageProvider::Redis,
            address: Some(redis.address.to_string()),
            ..SessionStorage::default()
        };
        Ok(Some(Self {
            kept,
            disposable,
            redis,
            recipe,
        }))
    }

    /// How many calls have reached a backend.
    fn calls(&self) -> anyhow::Result<u64> {
        let count = |fixture: &Fixture| {
            let requests = fixture.stats()?.requests;
            anyhow::Ok(requests.get("tools/call").copied().unwrap_or_default())
        };
        Ok(count(&self.kept)? + count(&self.disposable)?)
    }
}

fn echo(session: &Session, gateway: &Gateway, backend: &str) -> anyhow::Result<Answer> {
    session.call(
        gateway.mcp,
        &format!("{backend}_echo"),
        &json!({"message": "hello"}),
    )
}

fn is_unavailable(answer: &Answer) -> anyhow::Result<()> {
    ensure!(
        (answer.status, answer.error_code()) == (503, -32603) && answer.header("retry-after").is_some(),
        "{answer:?} {}",
        answer.text()
    );
    Ok(())
}

/// One late answer is no outage: a session that was ended is not served behind it, at no backend.
#[tokio::test(flavor = "multi_thread")]
async fn ended_session_is_not_served_behind_a_late_answer() -> anyhow::Result<()> {
    let Some(world) = World::new()? else {
        return Ok(());
    };
    let proxy = Proxy::start(world.redis.address).await?;
    tokio::task::spawn_blocking(move || {
        let first = world.recipe.start()?;
        let session = Session::open(first.mcp)?;
        assert_eq!(echo(&session, &first, "disposable")?.status, 200);
        assert_eq!(session.delete(first.mcp)?.status, 200);
        let mut recipe = world.recipe;
        recipe.config.session_storage.address = Some(proxy.address.to_string());
        // It has never heard of the session.
        let second = recipe.start()?;
        wait::until("its store answers", PATIENCE, || {
            let status = second.status(&recipe)?.session_store;
            ensure!(status.available, "{status:?}");
            Ok(())
        })?;
        let calls = |world: &Fixture| {
            let requests = world.stats()?.requests;
            anyhow::Ok(requests.get("tools/call").copied().unwrap_or_default())
        };
        let before = calls(&world.disposable)?;
        for _ in 0..5 {
            proxy.set(Fault {
                late: Duration::from_millis(400),
                ..Fault::default()
            });
            let answer = echo(&session, &second, "disposable")?;
            proxy.set(Fault::default());
            is_unavailable(&answer)?;
            wait::until("it is gone", PATIENCE, || {
                let answer = echo(&session, &second, "disposable")?;
                ensure!(answer.status == 404, "{answer:?}");
                Ok(())
            })?;
        }
        ensure!(calls(&world.disposable)? == before, "the tool was executed");
        Ok(())
    })
    .await?
}

/// In an outage that is known to be one, a session is served by its id where nothing can be lost, until the end that its id names.
#[test]
fn session_known_by_its_id_is_served_within_its_end() -> anyhow::Result<()> {
    let Some(mut world) = World::new()? else {
        return Ok(());
    };
    let lifetime = Duration::from_secs(12);
    let storage = &mut world.recipe.config.session_storage;
    storage.ttl = ConfigDuration::from_secs(lifetime.as_secs());
    storage.max_lifetime = ConfigDuration::from_secs(lifetime.as_secs());
    let mut first = world.recipe.start()?;
    let opened = Instant::now();
    let session = Session::open(first.mcp)?;
    first.kill()?;
    world.redis.kill()?;
    let second = world.recipe.start()?;
    wait::until("the outage is known", PATIENCE, || {
        let answer = echo(&session, &second, "disposable")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    })?;
    ensure!(
        opened.elapsed() < lifetime,
        "the machine is too slow for this test"
    );
    session.request(second.mcp, "tools/list", &json!({}))?.outcome()?;
    let before = world.calls()?;
    is_unavailable(&echo(&session, &second, "kept")?)?;
    assert_eq!(world.calls()?, before, "what could be lost was not begun");
    // The id has seconds, and is compared with a clock that has them, too.
    let over = lifetime + Duration::from_secs(1);
    std::thread::sleep(over.saturating_sub(opened.elapsed()));
    let before = world.calls()?;
    for backend in ["disposable", "kept"] {
        is_unavailable(&echo(&session, &second, backend)?)?;
    }
    is_unavailable(&session.request(second.mcp, "tools/list", &json!({}))?)?;
    assert_eq!(world.calls()?, before);
    Ok(())
}
