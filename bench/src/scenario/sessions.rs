//! The cost of sessions in Redis, compared with sessions in memory.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;

use super::Run;
use super::idle::{CLIENTS, MIB, SESSIONS, open, settled};
use crate::load::{self, Call, Client, Target};
use crate::metric::{Bound, Metric};
use crate::process::{self, Gateway, Program, Redis, Storage, keys};
use crate::samples::median;
use crate::scenario::round::{RoundTarget, round};

/// A virtual server with its sessions in Redis.
struct Server {
    redis: Redis,
    backend: Program,
    keys: tempfile::TempDir,
}

impl Server {
    fn start(run: &Run) -> anyhow::Result<Self> {
        Ok(Self {
            redis: Redis::start(run.cores)?,
            backend: Program::backends(run.cores, 1, 10)?,
            keys: keys()?,
        })
    }

    async fn replica(&self, run: &Run) -> anyhow::Result<(Gateway, Target)> {
        let storage = Storage::Redis(self.redis.address);
        let mut gateway = Gateway::start(
            run.cores.measured,
            storage,
            &self.backend.addresses,
            Some(&self.keys),
        )?;
        gateway.ready().await?;
        let target = target(&gateway);
        Ok((gateway, target))
    }
}

fn target(gateway: &Gateway) -> Target {
    Target {
        address: gateway.mcp,
        prefix: "b0_",
    }
}

pub(super) async fn sessions(run: &Run) -> anyhow::Result<Vec<Metric>> {
    let mut metrics = warm(run).await?;
    metrics.extend(quiet(run).await?);
    metrics.extend(stored(run).await?);
    Ok(metrics)
}

/// Measures warm calls and new sessions with both stores, and the commands to Redis during warm calls.
async fn warm(run: &Run) -> anyhow::Result<Vec<Metric>> {
    let server = Server::start(run)?;
    let (redis_gateway, redis) = server.replica(run).await?;
    let addresses = &server.backend.addresses;
    let mut gateway = Gateway::start(run.cores.measured, Storage::Memory, addresses, None)?;
    gateway.ready().await?;
    let memory = target(&gateway);

    let connect = async |clients| -> anyhow::Result<[RoundTarget; 2]> {
        Ok([
            RoundTarget {
                clients: load::connect(&memory, clients).await?,
                process: gateway.id(),
            },
            RoundTarget {
                clients: load::connect(&redis, clients).await?,
                process: redis_gateway.id(),
            },
        ])
    };
    let p50 = |calls: &load::Outcome| calls.latencies.percentile(50);
    let latency = in_rounds(run, &mut connect(1).await?, Call::Echo, p50).await?;
    let mut many = connect(32).await?;
    let rate = in_rounds(run, &mut many, Call::Echo, load::Outcome::rate).await?;
    let scripts = scripts_per_call(run, &server.redis, &redis).await?;
    let created = in_rounds(run, &mut many, Call::Initialize, load::Outcome::rate).await?;
    let metric = |name, rounds: &[[f64; 2]], bound, unit: &str| {
        let [memory, redis] = [0, 1].map(|place| median(rounds.iter().map(|round| round[place])));
        let ratio = median(rounds.iter().map(|[memory, redis]| redis / memory));
        let parts = format!("memory {memory:.1}, Redis {redis:.1} {unit}");
        Metric::new(name, ratio, "of memory", bound, parts)
    };
    Ok(vec![
        metric("redis_1_p50", &latency, Bound::AtMost(1.1), "us"),
        metric("redis_32_rate", &rate, Bound::AtLeast(0.9), "calls/s"),
        scripts,
        metric(
            "redis_32_initialize_rate",
            &created,
            Bound::AtLeast(0.6),
            "sessions/s",
        ),
    ])
}

async fn in_rounds(
    run: &Run,
    targets: &mut [RoundTarget; 2],
    call: Call,
    read: impl Fn(&load::Outcome) -> f64,
) -> anyhow::Result<Vec<[f64; 2]>> {
    let mut rounds = Vec::new();
    for number in 1..=run.repeats {
        let [memory, redis] = round(run, call, targets).await?.map(|done| read(&done.calls));
        eprintln!(
            "    {number}/{}  {call:?}, {} clients: memory {memory:.1}, Redis {redis:.1}",
            run.repeats,
            targets[0].clients.len()
        );
        rounds.push([memory, redis]);
    }
    Ok(rounds)
}

/// Number of scripts that Redis runs per warm call. During the measurement, each session may be touched once in the background.
async fn scripts_per_call(run: &Run, redis: &Redis, target: &Target) -> anyhow::Result<Metric> {
    let mut clients = load::connect(target, 32).await?;
    load::closed_loop(&mut clients, Call::Echo, run.duration / 5).await?;
    let before = redis.commands()?.scripts;
    let calls = load::closed_loop(&mut clients, Call::Echo, run.duration)
        .await?
        .latencies
        .len();
    let scripts = redis.commands()?.scripts - before;
    let parts = format!("{scripts} scripts in {calls} calls of {} sessions", clients.len());
    eprintln!("    Redis ran {parts}");
    let on_the_way = scripts.saturating_sub(clients.len() as u64) as f64 / calls as f64;
    let name = "redis_commands_per_warm_call";
    Ok(Metric::new(
        name,
        on_the_way,
        "commands",
        Bound::AtMost(0.0),
        parts,
    ))
}

/// The commands to Redis while 50 sessions call once in five seconds each, in turn at three replicas.
async fn quiet(run: &Run) -> anyhow::Result<Vec<Metric>> {
    const QUIET: usize = 50;
    const REPLICAS: usize = 3;
    const EVERY: Duration = Duration::from_secs(5);
    const LASTS: Duration = Duration::from_secs(60);
    let server = Server::start(run)?;
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(server.replica(run).await?);
    }
    let mut sessions = Vec::new();
    for _ in 0..QUIET {
        let first = Client::open(&replicas[0].1).await?;
        let mut clients = Vec::new();
        for (_, target) in &replicas[1..] {
            clients.push(first.elsewhere(target).await?);
        }
        clients.push(first);
        for client in &mut clients {
            client.call(Call::Echo).await?;
        }
        sessions.push(clients);
    }
    eprintln!("    {QUIET} sessions call once in {EVERY:?} each, over {REPLICAS} replicas, for {LASTS:?}");
    let before = server.redis.commands()?;
    let clients: Vec<_> = sessions
        .into_iter()
        .map(|clients| std::sync::Arc::new(tokio::sync::Mutex::new(clients)))
        .collect();
    let rate = QUIET as f64 / EVERY.as_secs_f64();
    load::open_loop(rate, LASTS, QUIET, |number| {
        let session = std::sync::Arc::clone(&clients[number % QUIET]);
        async move {
            let mut clients = session.lock().await;
            let replica = (number / QUIET) % clients.len();
            clients[replica].call(Call::Echo).await.map(drop)
        }
    })
    .await?;
    let after = server.redis.commands()?;
    let (scripts, pings) = (after.scripts - before.scripts, after.pings - before.pings);
    let touches = scripts as f64 / (QUIET * REPLICAS) as f64 / (LASTS.as_secs_f64() / 30.0);
    // A window of a minute may contain one more of the events that happen once a second.
    let pings_each = (pings as f64 - REPLICAS as f64) / REPLICAS as f64 / LASTS.as_secs_f64();
    let calls = rate * LASTS.as_secs_f64();
    let parts = |what: &str, count: u64| format!("{count} {what} in {calls:.0} calls over {LASTS:?}");
    Ok(vec![
        Metric::new(
            "redis_50_quiet_touches",
            touches,
            "per 30 s",
            Bound::AtMost(1.0),
            format!("per session and replica; {}", parts("scripts", scripts)),
        ),
        Metric::new(
            "redis_50_quiet_pings",
            pings_each,
            "per s",
            Bound::AtMost(1.0),
            format!("per replica; {}", parts("pings", pings)),
        ),
    ])
}

/// Measures the memory of idle sessions in the replica and in Redis, and then calls in far more sessions than the replica caches.
async fn stored(run: &Run) -> anyhow::Result<Vec<Metric>> {
    const MANY: usize = 100_000;
    let server = Server::start(run)?;
    let (gateway, target) = server.replica(run).await?;
    let (rss, redis) = (process::resident(gateway.id())?, server.redis.memory()?);
    open(&target, SESSIONS).await?;
    let grown = (settled(gateway.id()).await? as f64 - rss as f64) / MIB;
    let each = server.redis.memory()?.saturating_sub(redis) as f64 / SESSIONS as f64 / 1024.0;
    eprintln!("    {SESSIONS} sessions: the replica grew by {grown:.1} MiB, Redis by {each:.2} KiB for each");
    let metrics = vec![
        Metric::new(
            "redis_idle_10000_memory",
            grown,
            "MiB",
            Bound::Below(40.0),
            "of the replica".to_owned(),
        ),
        Metric::new(
            "redis_memory_per_session",
            each,
            "KiB",
            Bound::Below(1.5),
            "in Redis".to_owned(),
        ),
    ];
    let served = served(&target, MANY - SESSIONS).await;
    let after = (settled(gateway.id()).await? as f64 - rss as f64) / MIB;
    let parts = match &served {
        Ok(calls) => format!("{calls} calls in sessions from all over; the replica grew by {after:.1} MiB"),
        Err(error) => format!("{error:#}"),
    };
    eprintln!("    {MANY} sessions in Redis: {parts}");
    let failed = f64::from(u8::from(served.is_err()));
    let many = Metric::new("redis_100000_failed", failed, "calls", Bound::AtMost(0.0), parts);
    Ok(metrics.into_iter().chain([many]).collect())
}

/// Opens `more` sessions, and calls in some of them, from the oldest to the newest. Returns the number of these calls.
async fn served(target: &Target, more: usize) -> anyhow::Result<usize> {
    const EACH: usize = 50;
    let clients = load::connect(target, CLIENTS).await?;
    let each = clients.into_iter().map(|mut client| async move {
        let mut kept = Vec::new();
        for number in 0..more / CLIENTS {
            client.open_another().await?;
            if number % (more / CLIENTS / EACH) == 0 {
                kept.push(client.session()?);
            }
        }
        let calls = kept.len();
        for session in kept {
            client.resume(session);
            client
                .call(Call::Echo)
                .await
                .context("a session that was opened earlier")?;
        }
        Ok::<_, anyhow::Error>(calls)
    });
    Ok(try_join_all(each).await?.into_iter().sum())
}

/// Opens sessions, calls once in each, and abandons them, for the duration of 600 measurements: ten minutes with the default duration.
pub(super) async fn soak(run: &Run) -> anyhow::Result<Vec<Metric>> {
    const RATE: f64 = 500.0;
    let (first_part, rest) = (run.duration * 60, run.duration * 9 * 60);
    let server = Server::start(run)?;
    let (gateway, target) = server.replica(run).await?;
    // The clients take turns, because the gateway closes connections that are idle for longer than a minute.
    let clients = VecDeque::from(load::connect(&target, 4 * CLIENTS).await?);
    let clients = std::sync::Arc::new(tokio::sync::Mutex::new(clients));
    let churn = |_| {
        let clients = std::sync::Arc::clone(&clients);
        async move {
            let mut client = clients
                .lock()
                .await
                .pop_front()
                .context("more run than there are clients")?;
            client.open_another().await?;
            client.call(Call::Echo).await?;
            clients.lock().await.push_back(client);
            Ok(())
        }
    };
    let whole = first_part + rest;
    eprintln!("    {RATE} sessions a second are opened, call once, and are abandoned; for {whole:?}");
    load::open_loop(RATE, first_part, 4 * CLIENTS, churn).await?;
    let first = process::resident(gateway.id())? as f64 / MIB;
    eprintln!("    after {first_part:?}: {first:.1} MiB");
    let outcome = load::open_loop(RATE, rest, 4 * CLIENTS, churn).await?;
    let last = process::resident(gateway.id())? as f64 / MIB;
    let parts = format!(
        "from {first:.1} to {last:.1} MiB; {} sessions, p50 {:.2} ms, p99 {:.2} ms",
        outcome.latencies.len(),
        outcome.latencies.percentile(50) / 1e3,
        outcome.latencies.percentile(99) / 1e3
    );
    eprintln!("    {parts}");
    // A gateway that falls behind has served fewer sessions than the metric assumes.
    let rate = outcome.rate();
    Ok(vec![
        Metric::new("soak_memory", last / first, "of first", Bound::AtMost(1.1), parts),
        Metric::new(
            "soak_rate",
            rate,
            "per s",
            Bound::AtLeast(0.99 * RATE),
            "sessions that were opened and called".to_owned(),
        ),
    ])
}
