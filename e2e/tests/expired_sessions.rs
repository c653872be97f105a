//! A session that nobody uses any more leaves nothing behind, wherever it was.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use vmcp_crds::config::{self, SessionStorage, SessionStorageProvider};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::raw;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;

/// No test waits longer for something that has to happen.
const LIMIT: Duration = Duration::from_secs(30);

fn open_at(fixture: &Fixture) -> anyhow::Result<BTreeSet<String>> {
    Ok(fixture.stats()?.sessions.into_iter().collect())
}

/// Two sessions of which one is used on: the upstream session of the other is deleted.
fn the_unused_one_ends(recipe: &Recipe, fixture: &Fixture) -> anyhow::Result<()> {
    let (mut first, second) = (recipe.start()?, recipe.start()?);
    let before = open_at(fixture)?;
    let unused = raw::Session::open(first.mcp)?;
    assert_eq!(
        unused
            .call(first.mcp, "fixture_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    let of_unused: BTreeSet<String> = open_at(fixture)?.difference(&before).cloned().collect();
    assert_eq!(of_unused.len(), 1, "{of_unused:?}");
    // With memory each gateway ends its own; with Redis it is enough that there is one.
    let survivor = if recipe.config.session_storage.provider == SessionStorageProvider::Redis {
        first.kill()?;
        &second
    } else {
        &first
    };
    let used = raw::Session::open(survivor.mcp)?;
    let mut count = 0;
    wait::until("the upstream session is deleted", LIMIT, || {
        count += 1;
        let counted = used
            .call(survivor.mcp, "fixture_counter", &json!({}))?
            .tool_text()?;
        assert_eq!(counted, count.to_string(), "use keeps a session and its state");
        anyhow::ensure!(open_at(fixture)?.is_disjoint(&of_unused), "it is there");
        Ok(())
    })?;
    let refused = unused.call(survivor.mcp, "fixture_counter", &json!({}))?;
    assert_eq!(refused.status, 404);
    Ok(())
}

/// The upstream sessions of an idle session are deleted by any replica.
#[test]
fn any_replica_deletes_upstreams_of_idle_session() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        ttl: config::Duration::from_secs(2),
        ..SessionStorage::default()
    };
    the_unused_one_ends(&recipe, &fixture)?;
    // The used one is all that is left.
    let records: Vec<String> = redis.command(&["KEYS", "*:s:*"])?;
    assert_eq!(records.len(), 1, "{records:?}");
    Ok(())
}

/// The upstream sessions of an idle session in memory are deleted.
#[test]
fn memory_store_deletes_upstreams_of_idle_session() -> anyhow::Result<()> {
    let fixture = Fixture::start(&[])?;
    let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
    recipe.config.session_storage.ttl = config::Duration::from_secs(2);
    the_unused_one_ends(&recipe, &fixture)
}

#[test]
fn a_session_of_a_newer_gateway_answers_503_alone() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let redis = Redis::start(None)?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        ..SessionStorage::default()
    };
    let first = recipe.start()?;
    let strange = raw::Session::open(first.mcp)?;
    let keys: Vec<String> = redis.command(&["KEYS", "*:s:*"])?;
    redis.change_field(&keys[0], "fixed", |fixed| fixed.replacen("1 ", "2 ", 1))?;
    // A replica that has not seen it before has to read it.
    let gateway = recipe.start()?;
    let session = raw::Session::open(gateway.mcp)?;
    let answer = strange.request(gateway.mcp, "ping", &json!({}))?;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(strange.delete(gateway.mcp)?.status, 503);
    let status = gateway.status(&recipe)?;
    assert!(status.session_store.available, "{status:?}");
    assert_eq!(session.request(gateway.mcp, "ping", &json!({}))?.status, 200);
    assert_eq!(redis.command::<u32>(&["EXISTS", &keys[0]])?, 1);
    Ok(())
}
