//! Redis answers PING and refuses what matters, for longer than `outageGrace`: what a gateway then does, for each state of Redis.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
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
    /// What the configuration file of Redis says beyond the defaults.
    settings: &'static [&'static str],
    begin: fn(&mut Redis) -> anyhow::Result<()>,
    end: fn(&mut Redis) -> anyhow::Result<()>,
    afterwards: Afterwards,
    /// Whether somebody else can remove a record meanwhile.
    can_remove: bool,
}

const FULL: State = State {
    name: "its memory is full",
    code: "OOM",
    settings: &[],
    begin: |redis| redis.command(&["CONFIG", "SET", "maxmemory", "1"]),
    end: |redis| redis.command(&["CONFIG", "SET", "maxmemory", "0"]),
    afterwards: Afterwards::Served,
    can_remove: true,
};
const REPLICA: State = State {
    name: "it has become a replica",
    code: "READONLY",
    settings: &[],
    begin: |redis| redis.command(&["REPLICAOF", "127.0.0.1", "1"]),
    end: |redis| redis.command(&["REPLICAOF", "NO", "ONE"]),
    afterwards: Afterwards::Refused,
    can_remove: false,
};
const NO_SCRIPTS: State = State {
    name: "its user may run no script",
    code: "NOPERM",
    settings: &[],
    begin: |redis| redis.command(&["ACL", "SETUSER", "default", "-eval", "-evalsha"]),
    end: |redis| redis.command(&["ACL", "SETUSER", "default", "+@all"]),
    afterwards: Afterwards::Refused,
    can_remove: true,
};
const NO_RECORDS: State = State {
    name: "its user may write no record",
    code: "NOPERM",
    settings: &[],
    begin: |redis| redis.command(&["ACL", "SETUSER", "default", "-hset"]),
    end: |redis| redis.command(&["ACL", "SETUSER", "default", "+@all"]),
    afterwards: Afterwards::Served,
    can_remove: true,
};
const NO_REPLICAS: State = State {
    name: "too few replicas follow it",
    code: "NOREPLICAS",
    settings: &[],
    begin: |redis| redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]),
    end: |redis| redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]),
    afterwards: Afterwards::Served,
    can_remove: false,
};
/// A cluster of one node, which loses its slots.
const WITHOUT_SLOTS: State = State {
    name: "the cluster has no quorum",
    code: "CLUSTERDOWN",
    settings: &["cluster-enabled yes"],
    begin: |redis| redis.command(&["CLUSTER", "DELSLOTSRANGE", "0", "16383"]),
    end: |redis| redis.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]),
    afterwards: Afterwards::Refused,
    can_remove: false,
};
/// The snapshot cannot take the place of a directory.
const CANNOT_SAVE: State = State {
    name: "it cannot save its data",
    code: "MISCONF",
    settings: &["save 3600 1"],
    begin: |redis| {
        redis.block_saving()?;
        redis.command::<String>(&["BGSAVE"])?;
        wait::until("the snapshot fails", PATIENCE, || {
            let info: String = redis.command(&["INFO", "persistence"])?;
            ensure!(info.contains("rdb_last_bgsave_status:err"), "{info}");
            Ok(())
        })
    },
    end: |redis| {
        redis.unblock_saving()?;
        redis.command::<String>(&["BGSAVE"]).map(drop)
    },
    afterwards: Afterwards::Served,
    can_remove: false,
};
/// Reading takes 10 ms for each key, so that it lasts until it is told to be faster. Behind each key Redis looks at its connections.
const LOADING: State = State {
    name: "it reads its data after a start",
    code: "LOADING",
    settings: &[
        "key-load-delay 10000",
        "rdbcompression no",
        "loading-process-events-interval-bytes 1024",
    ],
    begin: |redis| {
        let much = "for number = 1, 3000 do redis.call('SET', number, string.rep('x', 2000)) end";
        redis.command::<()>(&["EVAL", much, "0"])?;
        redis.save()?;
        redis.kill()?;
        redis.start_loading()
    },
    end: |redis| redis.command(&["CONFIG", "SET", "key-load-delay", "0"]),
    afterwards: Afterwards::Refused,
    can_remove: false,
};
const BUSY: State = State {
    name: "a script of somebody else runs",
    code: "BUSY",
    settings: &["busy-reply-threshold 50"],
    begin: |redis| {
        let mut client = TcpStream::connect(redis.address)?;
        client.write_all(b"EVAL \"while true do end\" 0\r\n")?;
        // The client waits for the answer.
        std::thread::spawn(move || client.read(&mut [0]));
        Ok(())
    },
    end: |redis| redis.command(&["SCRIPT", "KILL"]),
    afterwards: Afterwards::Refused,
    can_remove: false,
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

fn outlast(state: &State, redis: &mut Redis, recipe: &Recipe) -> anyhow::Result<()> {
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

    (state.begin)(redis)?;
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
    if state.afterwards == Afterwards::Served && state.can_remove {
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

    (state.end)(redis)?;
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
    Ok(())
}

/// In each state of Redis, sessions that are known are served for the grace, or for as long as Redis says that they live; nothing is
/// served without end; what is refused is 503; and the log does not grow.
fn each_is_outlasted(states: &[State]) -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let fixture = Fixture::start(&[])?;
    let mut failed = Vec::new();
    for state in states {
        let mut redis = Redis::start_with(None, state.settings)?;
        let recipe = recipe(&fixture, &redis)?;
        if let Err(error) = outlast(state, &mut redis, &recipe) {
            failed.push(format!("{}: {error:#}", state.name));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

#[test]
fn each_state_of_redis_is_outlasted() -> anyhow::Result<()> {
    each_is_outlasted(&[FULL, REPLICA, NO_SCRIPTS, NO_RECORDS, NO_REPLICAS])
}

#[test]
fn redis_that_does_something_else_is_outlasted() -> anyhow::Result<()> {
    each_is_outlasted(&[CANNOT_SAVE, LOADING, BUSY])
}

#[test]
fn cluster_without_quorum_is_outlasted() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let bus = format!("cluster-port {}", vmcp_e2e::ports::free()?.port());
    let settings = [WITHOUT_SLOTS.settings, &[bus.as_str()]].concat();
    let (fixture, mut redis) = (Fixture::start(&[])?, Redis::start_with(None, &settings)?);
    (WITHOUT_SLOTS.end)(&mut redis)?;
    let mut recipe = recipe(&fixture, &redis)?;
    recipe.config.session_storage.address = None;
    recipe.config.session_storage.cluster = Some(vmcp_crds::config::RedisCluster {
        addresses: vec![redis.address.to_string()],
    });
    outlast(&WITHOUT_SLOTS, &mut redis, &recipe)
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
