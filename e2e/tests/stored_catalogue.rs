//! A gateway that starts knows what its backends offer before they say so, from what other gateways have left in Redis.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use vmcp_crds::config::{SessionStorage, SessionStorageProvider, Timeouts};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::mount::Mount;
use vmcp_e2e::ports;
use vmcp_e2e::raw::Session;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;

/// No test waits longer for something that has to happen.
const LIMIT: Duration = Duration::from_secs(20);
/// Readiness waits so long for a backend of which nothing is known.
const FIRST_LOOK: Duration = Duration::from_secs(3);

const LISTS: [&str; 4] = [
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
];

/// Everything that a gateway lists, byte for byte.
fn everything(gateway: &Gateway) -> anyhow::Result<Vec<String>> {
    let session = Session::open(gateway.mcp)?;
    let mut items = Vec::new();
    for method in LISTS {
        let list = session.list(gateway.mcp, method)?;
        items.extend(list.iter().map(|item| item.get().to_owned()));
    }
    Ok(items)
}

fn stored(redis: &Redis) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let keys: Vec<String> = redis.command(&["KEYS", "*:catalogue"])?;
    match &*keys {
        [key] => redis.command(&["HGETALL", key]),
        [] => Ok(BTreeMap::new()),
        _ => anyhow::bail!("{keys:?}"),
    }
}

fn wait_until_stored(redis: &Redis, backends: &[&str]) -> anyhow::Result<()> {
    wait::until("the offers are stored", LIMIT, || {
        let stored = stored(redis)?;
        let names: Vec<_> = stored.keys().map(String::as_str).collect();
        ensure!(names == backends, "{names:?}");
        Ok(())
    })
}

fn in_redis(recipe: &mut Recipe, redis: &Redis) {
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        ..SessionStorage::default()
    };
}

/// Starts a gateway, and says how long it took to be ready.
fn started(recipe: &Recipe) -> anyhow::Result<(Gateway, Duration)> {
    let began = Instant::now();
    let mut gateway = recipe.start_unready(ports::free()?)?;
    gateway.wait_until_ready()?;
    Ok((gateway, began.elapsed()))
}

#[test]
fn a_cold_gateway_knows_what_a_backend_offers_that_hangs() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fine, hung) = (Fixture::start(&[])?, Fixture::start(&[])?);
    let redis = Redis::start(None)?;
    let mut recipe = Recipe::new(&[("fine", &fine.url), ("hung", &hung.url)])?;
    in_redis(&mut recipe, &redis);
    recipe.config.hot.as_mut().unwrap().backends[1].timeouts = Timeouts {
        first_byte: Some(vmcp_crds::config::Duration::from_secs(1)),
        ..Timeouts::default()
    };
    let mut first = recipe.start()?;
    let before = everything(&first)?;
    wait_until_stored(&redis, &["fine", "hung"])?;
    first.kill()?;

    hung.admin("POST", "/faults", &json!({"hang": true}))?;
    let (second, ready_after) = started(&recipe)?;
    assert!(ready_after < FIRST_LOOK, "ready after {ready_after:?}");
    assert!(everything(&second)? == before, "the lists differ");
    let session = Session::open(second.mcp)?;
    let echo =
        |backend: &str| session.call(second.mcp, &format!("{backend}_echo"), &json!({"message": "hi"}));
    assert_eq!(echo("fine")?.tool_text()?, "hi");
    let late = echo("hung")?.text();
    assert!(late.contains("hung") && late.contains("isError"), "{late}");

    // Once it answers again, it says itself what it offers.
    hung.admin("DELETE", "/faults", &json!(null))?;
    hung.admin("POST", "/tools-changed?add=a_new_one", &json!({}))?;
    wait::until("what the backend says itself is listed", LIMIT, || {
        let names = session.names(second.mcp, "tools/list")?;
        ensure!(names.contains(&"hung_a_new_one".to_owned()), "{names:?}");
        Ok(())
    })?;
    assert_eq!(echo("hung")?.tool_text()?, "hi");
    Ok(())
}

#[test]
fn what_is_stored_is_kept_true() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (one, two) = (Fixture::start(&[])?, Fixture::start(&[])?);
    let redis = Redis::start(None)?;
    let both = format!(
        "backends:\n- {{name: one, url: '{}'}}\n- {{name: two, url: '{}'}}\n",
        one.url, two.url
    );
    let mount = Mount::new(&both)?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.hot = None;
    recipe.config.hot_file = Some(mount.file());
    in_redis(&mut recipe, &redis);
    let mut gateway = recipe.start()?;
    wait_until_stored(&redis, &["one", "two"])?;

    // What a backend adds is stored.
    let before = stored(&redis)?;
    one.admin("POST", "/tools-changed?add=another", &json!({}))?;
    wait::until("the change is stored", LIMIT, || {
        let now = stored(&redis)?;
        ensure!(
            now["one"] != before["one"] && now["two"] == before["two"],
            "it is not"
        );
        Ok(())
    })?;
    // What Redis lost is stored again.
    redis.command::<()>(&["FLUSHALL"])?;
    drop(Session::open(gateway.mcp)?);
    wait_until_stored(&redis, &["one", "two"])?;
    // A backend that is configured no more is removed.
    mount.put(&format!("backends:\n- {{name: one, url: '{}'}}\n", one.url))?;
    wait_until_stored(&redis, &["one"])?;
    gateway.kill()?;

    // A backend of the same name that is somewhere else offers what it says itself, and nothing that is not readable is believed.
    two.admin("POST", "/faults", &json!({"hang": true}))?;
    let keys: Vec<String> = redis.command(&["KEYS", "*:catalogue"])?;
    redis.command::<()>(&["HSET", &keys[0], "three", "damaged"])?;
    mount.put(&format!(
        "backends:\n- {{name: one, url: '{}'}}\n- {{name: three, url: '{}'}}\n",
        two.url, one.url
    ))?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let names = session.names(gateway.mcp, "tools/list")?;
    assert!(
        names.iter().all(|name| name.starts_with("three_")) && names.contains(&"three_another".to_owned()),
        "{names:?}"
    );
    wait::until("what was damaged is replaced", LIMIT, || {
        ensure!(stored(&redis)?["three"] != b"damaged", "it is there");
        Ok(())
    })
}
