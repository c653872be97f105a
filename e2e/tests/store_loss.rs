//! Sessions survive the loss of the session store's data.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use vmcp_crds::config::{RedisSentinel, SessionStorage, SessionStorageProvider};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::redis::{MASTER_NAME, Redis, Sentinels};
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::process::Signal;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);

/// A test server and Redis. The tests start the gateways.
fn start() -> anyhow::Result<Harness<Redis>> {
    let builder = Harness::builder().test_server("fixture", &[]);
    builder.redis(Redis::start(None)?).replicas(0).start()
}

fn count(session: &Session, gateway: &Gateway) -> anyhow::Result<u64> {
    let answer = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
    Ok(answer.tool_text()?.parse()?)
}

/// Sessions survive the loss of Redis and of all gateways at the same time.
#[requires(redis)]
#[test]
fn sessions_survive_loss_of_redis_and_all_gateways() -> anyhow::Result<()> {
    let mut harness = start()?;
    let (mut one, mut two) = (harness.recipe.start()?, harness.recipe.start()?);
    let capabilities = json!({"roots": {"listChanged": true}, "elicitation": {"form": {}}});
    let sessions: Vec<_> = (0..5)
        .map(|_| Session::open_with(one.mcp, "2025-06-18", &capabilities))
        .collect::<Result<_, _>>()?;
    for session in &sessions {
        assert_eq!(count(session, &one)?, 1);
        assert_eq!(count(session, &two)?, 2);
    }
    harness.redis.kill()?;
    one.kill()?;
    two.kill()?;
    harness.redis.start_again()?;
    let gateways = [harness.recipe.start()?, harness.recipe.start()?];
    // Their state at the backend is lost with the upstream session ids. The sessions are not.
    for session in &sessions {
        assert_eq!(count(session, &gateways[0])?, 1);
        assert_eq!(count(session, &gateways[1])?, 2);
    }
    let recovered: f64 = gateways
        .iter()
        .map(|gateway| gateway.metric("vmcp_sessions_recovered_total", ""))
        .sum::<anyhow::Result<f64>>()?;
    assert_eq!(recovered as usize, sessions.len());
    // The capabilities of the client are known from the session id.
    let asked = harness
        .server()
        .admin_answer("GET", "/sessions", &serde_json::Value::Null)?;
    let declared = |session: &&serde_json::Value| session["client"]["name"] == "unknown";
    let clients: Vec<_> = asked.as_array().into_iter().flatten().filter(declared).collect();
    assert_eq!(clients.len(), sessions.len(), "{asked}");

    // A terminated session stays terminated after another loss of the data, as long as a gateway remembers it.
    assert_eq!(sessions[0].delete(gateways[0].mcp)?.status, 200);
    harness.redis.command::<()>(&["FLUSHALL"])?;
    for gateway in &gateways {
        let refused = sessions[0].call(gateway.mcp, "fixture_counter", &json!({}))?;
        assert_eq!(refused.error_code(), -32001, "{}", refused.text());
    }
    assert_eq!(count(&sessions[1], &gateways[1])?, 3, "the others go on");
    Ok(())
}

/// Request ids and event ids of the old upstream session are invalid in the recovered session.
#[requires(redis)]
#[test]
fn old_tokens_are_invalid_in_recovered_session() -> anyhow::Result<()> {
    let mut harness = start()?;
    let mut lost = harness.recipe.start()?;
    let session = Session::open_with(lost.mcp, "2025-11-25", &json!({"roots": {}}))?;
    let mut call = Stream::call(lost.mcp, &session, &json!(7), "fixture_list_roots", &json!({}))?;
    let (event, asked) = call.await_method("roots/list")?;
    let place = event.id.context("the event has no id")?;
    // The store and the gateway have lost everything. The backend still waits.
    harness.redis.kill()?;
    lost.kill()?;
    harness.redis.start_again()?;
    let fresh = harness.recipe.start()?;
    assert_eq!(count(&session, &fresh)?, 1, "in another upstream session");
    let roots = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": []}});
    let refused = session.post(fresh.mcp, &roots)?;
    assert_eq!((refused.status, refused.error_code()), (400, -32600));
    assert!(refused.text().contains("replaced"), "{}", refused.text());
    let mut rest = Stream::get(fresh.mcp, &session, Some(&place))?;
    let failed = rest.message()?;
    assert_eq!(
        (&failed["id"], &failed["error"]["code"]),
        (&json!(7), &json!(-32603))
    );
    assert!(failed.to_string().contains("replaced"), "{failed}");
    Ok(())
}

/// A session that one gateway has cached is restored for all gateways.
#[requires(redis)]
#[test]
fn session_cached_by_one_gateway_is_restored() -> anyhow::Result<()> {
    let mut harness = start()?;
    let gateways = [harness.recipe.start()?, harness.recipe.start()?];
    let session = Session::open(gateways[0].mcp)?;
    assert_eq!(count(&session, &gateways[0])?, 1);
    let level = json!({"level": "error"});
    session
        .request(gateways[0].mcp, "logging/setLevel", &level)?
        .outcome()?;
    let ended = Session::open(gateways[0].mcp)?;
    assert_eq!(ended.delete(gateways[0].mcp)?.status, 200);

    harness.redis.kill()?;
    harness.redis.start_again()?;
    // Without any call: the gateways restore cached sessions by themselves.
    wait::until("the session is back", PATIENCE, || {
        let keys: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
        let [key] = &keys[..] else {
            anyhow::bail!("{keys:?}")
        };
        let level: Option<String> = harness.redis.command(&["HGET", key, "log"])?;
        anyhow::ensure!(level.as_deref() == Some("error"), "{level:?}");
        Ok(())
    })?;
    wait::until("who was terminated is known", PATIENCE, || {
        let keys: Vec<String> = harness.redis.command(&["KEYS", "*:m:*"])?;
        let mut markers = Vec::new();
        for key in &keys {
            markers.push(harness.redis.command::<String>(&["GET", key])?);
        }
        anyhow::ensure!(markers.iter().any(|marker| marker == "terminated"), "{markers:?}");
        Ok(())
    })?;
    let fresh = harness.recipe.start()?;
    assert_eq!(count(&session, &fresh)?, 2);
    let refused = ended.call(fresh.mcp, "fixture_counter", &json!({}))?;
    assert_eq!(refused.error_code(), -32001);
    assert_eq!(harness.server().initializes("http-client")?, 1);
    Ok(())
}

/// Sessions and terminations that a failover lost are written again.
#[requires(redis)]
#[test]
fn writes_lost_in_failover_are_restored() -> anyhow::Result<()> {
    let harness = start()?;
    let gateways = [harness.recipe.start()?, harness.recipe.start()?];
    let (created, ended) = (Session::open(gateways[0].mcp)?, Session::open(gateways[0].mcp)?);
    for session in [&created, &ended] {
        assert_eq!(count(session, &gateways[0])?, 1);
    }
    // A replica without the last writes: one session is missing, and the other one is not terminated.
    let keys: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
    let mut dumps = Vec::new();
    for key in &keys {
        let fields: Vec<String> = harness.redis.command(&["HGETALL", key])?;
        dumps.push((key.clone(), fields));
    }
    assert_eq!(ended.delete(gateways[0].mcp)?.status, 200);
    let left: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
    let [created_key] = &left[..] else {
        anyhow::bail!("{left:?}")
    };
    for (key, fields) in &dumps {
        if key == created_key {
            harness.redis.command::<()>(&["DEL", key])?;
        } else {
            let command = ["HSET".to_owned(), key.clone()];
            let words: Vec<&str> = command.iter().chain(fields).map(String::as_str).collect();
            harness.redis.command::<()>(&words)?;
        }
    }
    let markers: Vec<String> = harness.redis.command(&["KEYS", "*:m:*"])?;
    for marker in &markers {
        harness.redis.command::<()>(&["DEL", marker])?;
    }
    harness
        .redis
        .command::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"])?;
    wait::until("both are as they should be", PATIENCE, || {
        let keys: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
        anyhow::ensure!(keys == [created_key.clone()], "{keys:?}");
        Ok(())
    })?;
    let fresh = harness.recipe.start()?;
    assert_eq!(count(&created, &fresh)?, 2);
    let refused = ended.call(fresh.mcp, "fixture_counter", &json!({}))?;
    assert_eq!(refused.error_code(), -32001);
    Ok(())
}

/// A saved record of a session with all its keys.
struct Saved {
    key: String,
    fields: Vec<String>,
    left: String,
}

impl Saved {
    fn of(redis: &Redis, key: &str) -> anyhow::Result<Self> {
        Ok(Self {
            key: key.to_owned(),
            fields: redis.command(&["HGETALL", key])?,
            left: redis.command::<i64>(&["PTTL", key])?.to_string(),
        })
    }

    /// Restores it in one transaction and closes the subscriptions, as in a failover to a replica without the last writes.
    fn take_over(&self, redis: &Redis) -> anyhow::Result<()> {
        let script = "redis.call('DEL', KEYS[1]) redis.call('HSET', KEYS[1], unpack(ARGV, 2)) \
                      redis.call('PEXPIRE', KEYS[1], ARGV[1])";
        let words = ["EVAL", script, "1", &self.key, &self.left];
        let words: Vec<&str> = words
            .into_iter()
            .chain(self.fields.iter().map(String::as_str))
            .collect();
        redis.command::<()>(&words)?;
        redis.command::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"])
    }
}

/// Bindings and settings that a failover lost are restored, whichever gateway serves the session first. No upstream session is reopened.
#[requires(redis)]
#[test]
fn fail_over_loses_no_binding_and_no_setting() -> anyhow::Result<()> {
    let harness = start()?;
    let gateways = [harness.recipe.start()?, harness.recipe.start()?];
    for ask_first in [None, Some(0), Some(1)] {
        let session = Session::open(gateways[0].mcp)?;
        session.request(gateways[1].mcp, "ping", &json!({}))?.outcome()?;
        let keys: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
        let [key] = &keys[..] else {
            anyhow::bail!("{keys:?}")
        };
        let saved = Saved::of(&harness.redis, key)?;
        assert_eq!(count(&session, &gateways[0])?, 1);
        assert_eq!(count(&session, &gateways[1])?, 2);
        let level = json!({"level": "error"});
        session
            .request(gateways[0].mcp, "logging/setLevel", &level)?
            .outcome()?;
        let watched = json!({"uri": "test://watched-resource"});
        session
            .request(gateways[0].mcp, "resources/subscribe", &watched)?
            .outcome()?;
        saved.take_over(&harness.redis)?;
        let mut expected = 3;
        if let Some(place) = ask_first {
            assert_eq!(
                count(&session, &gateways[place])?,
                expected,
                "asked {place} first"
            );
            expected += 1;
        }
        // It happens without a request.
        wait::until("all of it is back", PATIENCE, || {
            let fields: Vec<String> = harness.redis.command(&["HKEYS", key])?;
            for wanted in ["b:fixture", "log", "u:test://watched-resource"] {
                anyhow::ensure!(fields.iter().any(|field| field == wanted), "{fields:?}");
            }
            Ok(())
        })?;
        let fresh = harness.recipe.start()?;
        for gateway in gateways.iter().chain([&fresh]) {
            assert_eq!(count(&session, gateway)?, expected);
            expected += 1;
        }
        assert_eq!(session.delete(gateways[0].mcp)?.status, 200);
    }
    assert_eq!(harness.server().initializes("http-client")?, 3);
    Ok(())
}

/// The new primary's clock is ahead by more than `ttl`, so all sessions seem expired. Sessions in use go on.
#[requires(redis)]
#[test]
fn clock_ahead_after_fail_over_ends_no_session_in_use() -> anyhow::Result<()> {
    let harness = start()?;
    let gateways = [harness.recipe.start()?, harness.recipe.start()?];
    let session = Session::open(gateways[0].mcp)?;
    let mut expected = 0;
    for gateway in gateways.iter().cycle().take(4) {
        expected += 1;
        assert_eq!(count(&session, gateway)?, expected);
    }
    // A clock that is ahead means deadlines in the past. Redis keeps the record for longer than its idle deadline.
    let ahead: u64 = 31 * 60 * 1000;
    let keys: Vec<String> = harness.redis.command(&["KEYS", "*:s:*"])?;
    let [key] = &keys[..] else {
        anyhow::bail!("{keys:?}")
    };
    harness.redis.change_field(key, "times", |times| {
        let mut words = times.split(' ');
        let idle: u64 = words.next().unwrap_or_default().parse().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        format!("{} {}", idle - ahead, rest.join(" "))
    })?;
    let left: u64 = harness.redis.command(&["PTTL", key])?;
    harness
        .redis
        .command::<()>(&["PEXPIRE", key, &(left - ahead).to_string()])?;
    let sets: Vec<String> = harness.redis.command(&["KEYS", "*:sessions"])?;
    let members: Vec<String> = harness.redis.command(&["ZRANGE", &sets[0], "0", "-1"])?;
    harness
        .redis
        .command::<()>(&["ZINCRBY", &sets[0], &format!("-{ahead}"), &members[0]])?;
    harness
        .redis
        .command::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"])?;
    for gateway in gateways.iter().cycle().take(20) {
        expected += 1;
        assert_eq!(count(&session, gateway)?, expected);
    }
    let fresh = harness.recipe.start()?;
    assert_eq!(count(&session, &fresh)?, expected + 1);
    Ok(())
}

/// Cuts the replication without the sentinels noticing.
fn cut_off(primary: &Redis) -> anyhow::Result<()> {
    primary.command::<()>(&["ACL", "SETUSER", "default", "-psync", "-sync"])?;
    primary
        .command::<u32>(&["CLIENT", "KILL", "TYPE", "replica"])
        .map(drop)
}

fn behind_sentinels(test_server: &TestServer, sentinels: &Sentinels) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::new(&[("fixture", &test_server.url)])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        sentinel: Some(RedisSentinel {
            master_name: MASTER_NAME.to_owned(),
            addresses: sentinels.addresses.iter().map(ToString::to_string).collect(),
        }),
        ..SessionStorage::default()
    };
    Ok(recipe)
}

/// A primary that loses its last second of writes loses no session and revives none.
#[requires(redis)]
#[test]
fn failover_losing_last_second_loses_no_session() -> anyhow::Result<()> {
    let (test_server, mut sentinels) = (TestServer::start(&[])?, Sentinels::start()?);
    let recipe = behind_sentinels(&test_server, &sentinels)?;
    let gateways = [recipe.start()?, recipe.start()?];
    let [old, ended] = [Session::open(gateways[0].mcp)?, Session::open(gateways[0].mcp)?];
    for session in [&old, &ended] {
        assert_eq!(count(session, &gateways[1])?, 1);
    }
    sentinels.wait_for_replica()?;
    let primary = sentinels.primary()?;
    cut_off(&sentinels.servers[primary])?;

    // Writes that the replica never gets.
    let created = Session::open(gateways[0].mcp)?;
    assert_eq!(count(&created, &gateways[1])?, 1);
    assert_eq!(ended.delete(gateways[1].mcp)?.status, 200);
    let late = Session::open(gateways[1].mcp)?;
    assert_eq!(late.delete(gateways[0].mcp)?.status, 200);
    let replica: Vec<String> = sentinels.servers[1 - primary].command(&["KEYS", "*:s:*"])?;
    let records: Vec<String> = sentinels.servers[primary].command(&["KEYS", "*:s:*"])?;
    assert_eq!((replica.len(), records.len()), (2, 2), "{replica:?}, {records:?}");
    assert!(
        records.iter().filter(|key| replica.contains(key)).count() == 1,
        "{replica:?}, {records:?}"
    );
    sentinels.servers[primary].kill()?;
    let promoted = &sentinels.servers[sentinels.wait_for_another_primary(primary)?];
    wait::until("the new primary has what the old one had", PATIENCE, || {
        let now: Vec<String> = promoted.command(&["KEYS", "*:s:*"])?;
        let same = now.len() == records.len() && now.iter().all(|key| records.contains(key));
        anyhow::ensure!(same, "{now:?} and not {records:?}");
        Ok(())
    })?;

    // A new gateway has only the stored data.
    let fresh = recipe.start()?;
    for gateway in [&fresh, &gateways[0], &gateways[1]] {
        for session in [&ended, &late] {
            let refused = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
            assert_eq!(refused.error_code(), -32001, "{}", refused.text());
        }
    }
    for session in [&old, &created] {
        assert_eq!(count(session, &fresh)?, 2);
        assert_eq!(count(session, &gateways[0])?, 3);
    }
    Ok(())
}

/// A replica without a cached copy responds with 503 to a session that was lost in a failover, until another replica restores it. If none
/// does, it responds with 404 in the end.
#[requires(redis)]
#[test]
fn session_lost_in_fail_over_gets_503_until_written_back() -> anyhow::Result<()> {
    let (test_server, mut sentinels) = (TestServer::start(&[])?, Sentinels::start()?);
    let recipe = behind_sentinels(&test_server, &sentinels)?;
    let (mut knows, mut dies) = (recipe.start()?, recipe.start()?);
    // The incarnation begins before the replication is cut.
    Session::open(knows.mcp)?;
    sentinels.wait_for_replica()?;
    let primary = sentinels.primary()?;
    cut_off(&sentinels.servers[primary])?;
    let (created, orphan) = (Session::open(knows.mcp)?, Session::open(dies.mcp)?);
    assert_eq!(count(&created, &knows)?, 1);
    // It got neither event, and the gateways that got them are gone.
    let gateway = recipe.start()?;
    dies.kill()?;
    knows.signal(Signal::STOP)?;
    sentinels.servers[primary].kill()?;
    sentinels.wait_for_another_primary(primary)?;
    wait::until("the gateway has found the new primary", PATIENCE, || {
        let status = gateway.status(&recipe)?.session_store;
        anyhow::ensure!(status.available, "{status:?}");
        Ok(())
    })?;
    for session in [&created, &orphan] {
        let answer = session.request(gateway.mcp, "ping", &json!({}))?;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
    }
    knows.signal(Signal::CONT)?;
    wait::until("the session is written back", PATIENCE, || {
        let answer = created.call(gateway.mcp, "fixture_counter", &json!({}))?;
        anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        assert_eq!(answer.tool_text()?, "2");
        Ok(())
    })?;
    wait::until("nobody is waited for any more", PATIENCE, || {
        let answer = orphan.request(gateway.mcp, "ping", &json!({}))?;
        if answer.status == 503 {
            anyhow::bail!("{}", answer.text());
        }
        answer.ensure_session_not_found()
    })
}
