//! Degraded states of Redis that answer PING but reject reads or writes for longer than `outageGrace`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use vmcp_crds::config::Duration as ConfigDuration;
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::{self, Answer, Session};
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(4);
/// How long each state lasts.
const LASTS: Duration = Duration::from_secs(10);
/// The limit of log lines about the store in that time.
const MOST_LINES: usize = 8;

/// The outcome for a cached session, once the state has lasted longer than the grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    /// It is served, because Redis confirms that it is alive.
    Served,
    /// The session gets 503.
    Refused,
}

/// A state of Redis.
struct State {
    name: &'static str,
    /// A part of the error on `/status`.
    code: &'static str,
    /// Further settings of Redis.
    settings: &'static [&'static str],
    begin: fn(&mut Redis) -> anyhow::Result<()>,
    end: fn(&mut Redis) -> anyhow::Result<()>,
    afterwards: Afterwards,
    /// Whether another client of Redis can remove a record meanwhile.
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
/// Loading takes 10 ms per key, until the delay is removed. Redis serves its connections after each key.
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

/// The test server and `redis`. The tests start the gateways.
fn start(redis: Redis) -> anyhow::Result<Harness<Redis>> {
    let grace = ConfigDuration::from_secs(GRACE.as_secs());
    Harness::builder()
        .test_server("fixture", &[])
        .redis(redis)
        .configure(|recipe| recipe.config.session_storage.outage_grace = grace)
        .replicas(0)
        .start()
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

/// The number of log lines about the store.
fn lines(gateway: &Gateway) -> anyhow::Result<usize> {
    let log = gateway.log()?;
    Ok(log.lines().filter(|line| line.contains("store")).count())
}

fn outlast(state: &State, harness: &mut Harness<Redis>) -> anyhow::Result<()> {
    let (redis, recipe) = (&mut harness.redis, &harness.recipe);
    let gateway = recipe.start()?;
    wait::until("sessions can be opened", PATIENCE, || {
        let answer = http_client::initialize(gateway.mcp)?;
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
        // Each attempt to open a session fails.
        is_unavailable(&http_client::initialize(gateway.mcp)?)?;
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
            // On a busy machine a call may begin before the end of the grace and finish after it.
            let until = served_until + longest;
            ensure!(
                until > GRACE / 2,
                "served until {served_until:?}, a turn took {longest:?}"
            );
            // A second for the delay of a busy machine.
            let late = GRACE + Duration::from_secs(3);
            ensure!(served_until < late, "served until {served_until:?}");
        }
    }
    // A session whose record was removed is not served forever.
    if state.afterwards == Afterwards::Served && state.can_remove {
        let removed = keys.iter().try_for_each(|key| redis.command::<()>(&["DEL", key]));
        removed?;
        wait::until("no session is served without a record", PATIENCE, || {
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
        let answer = http_client::initialize(gateway.mcp)?;
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

/// In each state of Redis cached sessions are served for the grace, or for as long as Redis confirms that they are alive. Other requests get
/// 503, and the log does not grow.
fn each_is_outlasted(states: &[State]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for state in states {
        let mut harness = start(Redis::start_with(None, state.settings)?)?;
        if let Err(error) = outlast(state, &mut harness) {
            failed.push(format!("{}: {error:#}", state.name));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

/// Sessions survive a Redis that is full, a replica, without scripts, without records, or without replicas.
#[requires(redis)]
#[test]
fn sessions_survive_every_degraded_redis() -> anyhow::Result<()> {
    each_is_outlasted(&[FULL, REPLICA, NO_SCRIPTS, NO_RECORDS, NO_REPLICAS])
}

/// Sessions survive a Redis that cannot save, is loading, or runs a long script.
#[requires(redis)]
#[test]
fn sessions_survive_busy_redis() -> anyhow::Result<()> {
    each_is_outlasted(&[CANNOT_SAVE, LOADING, BUSY])
}

/// Sessions survive a Redis Cluster that is down because it has lost its slots.
#[requires(redis)]
#[test]
fn sessions_survive_cluster_without_quorum() -> anyhow::Result<()> {
    let bus = format!("cluster-port {}", vmcp_e2e::ports::free()?.port());
    let settings = [WITHOUT_SLOTS.settings, &[bus.as_str()]].concat();
    let mut harness = start(Redis::start_with(None, &settings)?)?;
    (WITHOUT_SLOTS.end)(&mut harness.redis)?;
    let storage = &mut harness.recipe.config.session_storage;
    storage.cluster = Some(vmcp_crds::config::RedisCluster {
        addresses: storage.address.take().into_iter().collect(),
    });
    outlast(&WITHOUT_SLOTS, &mut harness)
}

/// With a full memory, sessions in use are still touched, and expired sessions are still removed, which frees memory.
#[requires(redis)]
#[test]
fn full_redis_keeps_sessions_in_use_and_sweeps_the_rest() -> anyhow::Result<()> {
    let mut harness = start(Redis::start(None)?)?;
    harness.recipe.config.session_storage.ttl = ConfigDuration::from_secs(3);
    let gateways = [harness.recipe.start()?, harness.recipe.start()?];
    let (test_server, redis) = (harness.server(), &harness.redis);
    let (used, idle) = (Session::open(gateways[0].mcp)?, Session::open(gateways[0].mcp)?);
    ensure!(counted(&call(&idle, &gateways[0])?)? == 1, "it begins with 1");
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
    let began = Instant::now();
    let mut count = 0;
    // Its binding cannot be written: no stateful upstream session is opened in an outage.
    is_unavailable(&call(&used, &gateways[0])?)?;
    while began.elapsed() < Duration::from_secs(15) {
        for gateway in &gateways {
            let answer = used.request(gateway.mcp, "ping", &json!({}))?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
            is_unavailable(&http_client::initialize(gateway.mcp)?)?;
        }
        count += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(count > 10, "{count}");
    wait::until("the one that expired is ended", PATIENCE, || {
        let keys: Vec<String> = redis.command(&["KEYS", "*:s:*"])?;
        ensure!(keys.len() == 1 && test_server.stats()?.deletes >= 1, "{keys:?}");
        Ok(())
    })
}
