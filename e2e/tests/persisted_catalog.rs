//! The persisted catalog: a new gateway has the lists of its backends from Redis before the backends respond.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use vmcp_crds::config::Timeouts;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::mount::Mount;
use vmcp_e2e::ports;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

/// No test waits longer for something that has to happen.
const LIMIT: Duration = Duration::from_secs(20);
/// How long readiness waits for a backend without a persisted catalog.
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

/// Starts a gateway, and returns how long it took to be ready.
fn started(recipe: &Recipe) -> anyhow::Result<(Gateway, Duration)> {
    let began = Instant::now();
    let mut gateway = recipe.start_unready(ports::free()?)?;
    gateway.wait_until_ready()?;
    Ok((gateway, began.elapsed()))
}

/// A new gateway lists a hanging backend from the persisted catalog, and is ready at once.
#[requires(redis)]
#[test]
fn new_gateway_lists_hanging_backend_from_redis() -> anyhow::Result<()> {
    let timeouts = Timeouts {
        first_byte: Some(vmcp_crds::config::Duration::from_secs(1)),
        ..Timeouts::default()
    };
    let mut harness = Harness::builder()
        .test_server("fine", &[])
        .test_server("hung", &[])
        .redis(Redis::start(None)?)
        .configure(|recipe| recipe.hot().backends[1].timeouts = timeouts)
        .start()?;
    let [mut first] = harness.take_gateways()?;
    let hung = &harness.servers[1];
    let before = everything(&first)?;
    wait_until_stored(&harness.redis, &["fine", "hung"])?;
    first.kill()?;

    hung.set_faults(&json!({"hang": true}))?;
    let (second, ready_after) = started(&harness.recipe)?;
    assert!(ready_after < FIRST_LOOK, "ready after {ready_after:?}");
    assert!(everything(&second)? == before, "the lists differ");
    let session = Session::open(second.mcp)?;
    let echo =
        |backend: &str| session.call(second.mcp, &format!("{backend}_echo"), &json!({"message": "hi"}));
    assert_eq!(echo("fine")?.tool_text()?, "hi");
    let late = echo("hung")?.text();
    assert!(late.contains("hung") && late.contains("isError"), "{late}");

    // Once the backend responds again, its own lists are used.
    hung.clear_faults()?;
    hung.admin("POST", "/tools-changed?add=a_new_one", &json!({}))?;
    wait::until("what the backend says itself is listed", LIMIT, || {
        let names = session.names(second.mcp, "tools/list")?;
        ensure!(names.contains(&"hung_a_new_one".to_owned()), "{names:?}");
        Ok(())
    })?;
    assert_eq!(echo("hung")?.tool_text()?, "hi");
    Ok(())
}

/// The persisted catalog follows changes, removals and losses of data.
#[requires(redis)]
#[test]
fn stored_catalog_follows_backends() -> anyhow::Result<()> {
    let (one, two) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let both = format!(
        "backends:\n- {{name: one, url: '{}'}}\n- {{name: two, url: '{}'}}\n",
        one.url, two.url
    );
    let mount = Mount::new(&both)?;
    let mut harness = Harness::builder()
        .redis(Redis::start(None)?)
        .configure(|recipe| {
            recipe.config.hot = None;
            recipe.config.hot_file = Some(mount.file());
        })
        .start()?;
    let ([mut gateway], redis, recipe) = (harness.take_gateways()?, harness.redis, harness.recipe);
    wait_until_stored(&redis, &["one", "two"])?;

    // A change of a backend is stored.
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
    // Lost data are stored again.
    redis.command::<()>(&["FLUSHALL"])?;
    drop(Session::open(gateway.mcp)?);
    wait_until_stored(&redis, &["one", "two"])?;
    // A removed backend is deleted from Redis.
    mount.put(&format!("backends:\n- {{name: one, url: '{}'}}\n", one.url))?;
    wait_until_stored(&redis, &["one"])?;
    gateway.kill()?;

    // A backend with the same name and another URL is listed from the backend itself, and a damaged entry is ignored.
    two.set_faults(&json!({"hang": true}))?;
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
