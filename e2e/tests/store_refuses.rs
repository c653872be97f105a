//! Redis answers PING and refuses what matters, for longer than `outageGrace`: what a gateway then does, for each state of Redis.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use vmcp_crds::config::{Duration as ConfigDuration, SessionStorage, SessionStorageProvider};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::{self, Answer, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(4);
/// How long each state lasts.
const LASTS: Duration = Duration::from_secs(10);
/// How many lines a gateway may write about the store in that time, and the moments before and after.
const MOST_LINES: usize = 8;

/// What becomes of a session that a gateway knows, once the state has lasted longer than the grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    /// It is served: Redis says that it lives.
    Served,
    /// 503: nobody says that.
    Refused,
}

/// A state of Redis.
struct State {
    name: &'static str,
    /// What the reason contains that `/status` gives.
    code: &'static str,
    begin: &'static [&'static [&'static str]],
    end: &'static [&'static [&'static str]],
    afterwards: Afterwards,
}

const STATES: &[State] = &[
    State {
        name: "its memory is full",
        code: "OOM",
        begin: &[&["CONFIG", "SET", "maxmemory", "1"]],
        end: &[&["CONFIG", "SET", "maxmemory", "0"]],
        afterwards: Afterwards::Served,
    },
    State {
        name: "it has become a replica",
        code: "READONLY",
        begin: &[&["REPLICAOF", "127.0.0.1", "1"]],
        end: &[&["REPLICAOF", "NO", "ONE"]],
        afterwards: Afterwards::Refused,
    },
    State {
        name: "its user may run no script",
        code: "NOPERM",
        begin: &[&["ACL", "SETUSER", "default", "-eval", "-evalsha"]],
        end: &[&["ACL", "SETUSER", "default", "+@all"]],
        afterwards: Afterwards::Refused,
    },
    State {
        name: "its user may write no record",
        code: "NOPERM",
        begin: &[&["ACL", "SETUSER", "default", "-hset"]],
        end: &[&["ACL", "SETUSER", "default", "+@all"]],
        afterwards: Afterwards::Served,
    },
    State {
        name: "too few replicas follow it",
        code: "NOREPLICAS",
        begin: &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
        end: &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
        afterwards: Afterwards::Served,
    },
];

/// A cluster of one node, which loses its slots.
const WITHOUT_SLOTS: State = State {
    name: "the cluster has no quorum",
    code: "CLUSTERDOWN",
    begin: &[&["CLUSTER", "DELSLOTSRANGE", "0", "16383"]],
    end: &[&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]],
    afterwards: Afterwards::Refused,
};

fn recipe(fixture: &Fixture, redis: &Redis) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::new(&[("fixture", &fixture.url)])?;
    recipe.config.session_storage = SessionStorage {
        provider: SessionStorageProvider::Redis,
        address: Some(redis.address.to_string()),
        outage_grace: ConfigDuration::from_secs(GRACE.as_secs()),
        ..SessionStorage::default()
    };
    Ok(recipe)
}

fn counted(answer: &Answer) -> anyhow::Result<u64> {
    Ok(answer.tool_text()?.parse()?)
}

fn is_unavailable(answer: &Answer) -> anyhow::Result<()> {
    ensure!(
        (answer.status, answer.error_code()) == (503, -32603) && answer.header("retry-after").is_some(),
        "{answer:?} {}",
        answer.text()
    );
    Ok(())
}

fn call(session: &Session, gateway: &Gateway) -> anyhow::Result<Answer> {
    session.call(gateway.mcp, "fixture_counter", &json!({}))
}

/// Lines of the gateway about the store.
fn lines(gateway: &Gateway) -> anyhow::Result<usize> {
    let log = gateway.log()?;
    Ok(log.lines().filter(|line| line.contains("store")).count())
}

fn run(commands: &[&[&str]], redis: &Redis) -> anyhow::Result<()> {
    commands.iter().try_for_each(|words| redis.command::<()>(words))
}

fn outlast(state: &State, redis: &Redis, recipe: &Recipe, fixture: &Fixture) -> anyhow::Result<()> {
    let gateway = recipe.start()?;
    wait::until("sessions can be opened", PATIENCE, || {
        let answer = raw::initialize(gateway.mcp)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    })?;
    let (session, deleted) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    let mut count = counted(&call(&session, &gateway)?)?;
    ensure!(counted(&call(&deleted, &gateway)?)? == 1, "it begins with 1");
    let before = lines(&gateway)?;
    let keys: Vec<String> = redis.command(&["KEYS", "*:s:*"])?;

    run(state.begin, redis)?;
    let began = Instant::now();
    let (mut served_until, mut longest, mut turn) = (Duration::ZERO, Duration::ZERO, 0_u64);
    while began.elapsed() < LASTS {
        let asked = began.elapsed();
        // Somebody always wants a new session, and never gets one.
        is_unavailable(&raw::initialize(gateway.mcp)?)?;
        let answer = call(&session, &gateway)?;
        if answer.status == 200 {
            count += 1;
            ensure!(counted(&answer)? == count, "{}", answer.text());
            served_until = asked;
        } else {
            is_unavailable(&answer)?;
        }
        longest = longest.max(began.elapsed() - asked);
        turn += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(turn > 10, "{turn} turns");
    let status = gateway.status(recipe)?.session_store;
    let error = status.error.clone().unwrap_or_default();
    ensure!(!status.available && error.contains(state.code), "{status:?}");
    match state.afterwards {
        Afterwards::Served => ensure!(served_until > LASTS - GRACE / 2, "served until {served_until:?}"),
        Afterwards::Refused => {
            // A turn that the machine had no time for was asked before and answered behind the end of the grace.
            let until = served_until + longest;
            ensure!(
                until > GRACE / 2,
                "served until {served_until:?}, a turn took {longest:?}"
            );
            // A second for what a busy machine needs from the first refusal to the first request.
            let late = GRACE + Duration::from_secs(3);
            ensure!(served_until < late, "served until {served_until:?}");
        }
    }
    // A record that is not there any more is not served without end, whoever took it away.
    let may_be_removed = state.code != "NOREPLICAS";
    if state.afterwards == Afterwards::Served && may_be_removed {
        let removed = keys.iter().try_for_each(|key| redis.command::<()>(&["DEL", key]));
        removed?;
        wait::until("nobody is served without a record", PATIENCE, || {
            let answer = call(&deleted, &gateway)?;
            ensure!(
                matches!(answer.status, 404 | 503),
                "{} {}",
                answer.status,
                answer.text()
            );
            Ok(())
        })?;
    }
    let written = lines(&gateway)? - before;
    ensure!(written <= MOST_LINES, "{written} lines:\n{}", gateway.log()?);

    run(state.end, redis)?;
    wait::until("sessions can be opened again", PATIENCE, || {
        let answer = raw::initialize(gateway.mcp)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    })?;
    wait::until("the gateway says that all is well", PATIENCE, || {
        let status = gateway.status(recipe)?.session_store;
        ensure!(status.available, "{status:?}");
        Ok(())
    })?;
    if state.afterwards == Afterwards::Refused {
        ensure!(
            counted(&call(&session, &gateway)?)? == count + 1,
            "nothing was lost"
        );
        ensure!(counted(&call(&deleted, &gateway)?)? == 2, "nothing was lost");
    }
    drop(gateway);
    redis.command::<()>(&["FLUSHALL"])?;
    fixture.stats().map(drop)
}

/// In each state of Redis, sessions that are known are served for the grace, or for as long as Redis says that they live; nothing is
/// served without end; what is refused is 503; and the log does not grow.
#[test]
fn each_state_of_redis_is_outlasted() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let recipe = recipe(&fixture, &redis)?;
    let mut failed = Vec::new();
    for state in STATES {
        if let Err(error) = outlast(state, &redis, &recipe, &fixture) {
            failed.push(format!("{}: {error:#}", state.name));
            run(state.end, &redis)?;
            redis.command::<()>(&["FLUSHALL"])?;
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

#[test]
fn cluster_without_quorum_is_outlasted() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let bus = format!("cluster-port {}", vmcp_e2e::ports::free()?.port());
    let (fixture, redis) = (
        Fixture::start(&[])?,
        Redis::start_with(None, &["cluster-enabled yes", &bus])?,
    );
    run(WITHOUT_SLOTS.end, &redis)?;
    let mut recipe = recipe(&fixture, &redis)?;
    recipe.config.session_storage.address = None;
    recipe.config.session_storage.cluster = Some(vmcp_crds::config::RedisCluster {
        addresses: vec![redis.address.to_string()],
    });
    outlast(&WITHOUT_SLOTS, &redis, &recipe, &fixture)
}

/// A full memory keeps neither sessions in use from being touched nor expired ones from being ended: the latter makes room.
#[test]
fn full_redis_keeps_sessions_in_use_and_sweeps_the_rest() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, redis) = (Fixture::start(&[])?, Redis::start(None)?);
    let mut recipe = recipe(&fixture, &redis)?;
    recipe.config.session_storage.ttl = ConfigDuration::from_secs(3);
    let gateways = [recipe.start()?, recipe.start()?];
    let (used, idle) = (Session::open(gateways[0].mcp)?, Session::open(gateways[0].mcp)?);
    ensure!(counted(&call(&idle, &gateways[0])?)? == 1, "it begins with 1");
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
    let began = Instant::now();
    let mut count = 0;
    // Its binding was not written: what a backend keeps is not begun in an outage.
    is_unavailable(&call(&used, &gateways[0])?)?;
    while began.elapsed() < Duration::from_secs(15) {
        for gateway in &gateways {
            let answer = used.request(gateway.mcp, "ping", &json!({}))?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
            is_unavailable(&raw::initialize(gateway.mcp)?)?;
        }
        count += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(count > 10, "{count}");
    wait::until("the one that expired is ended", PATIENCE, || {
        let keys: Vec<String> = redis.command(&["KEYS", "*:s:*"])?;
        ensure!(keys.len() == 1 && fixture.stats()?.deletes >= 1, "{keys:?}");
        Ok(())
    })
}
