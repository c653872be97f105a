//! Both tables against a gateway that others are using, and what is left of it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::load::Load;
use vmcp_e2e::raw::Session;
use vmcp_e2e::wait;

use crate::world::{LIMIT, World, echo};
use crate::{backend, client};

/// How many clients call all the time, how many of them where they have to say who they are, and how often each of them does.
const OTHERS: usize = 6;
const NAMED: usize = 2;
const PACE: Duration = Duration::from_millis(25);

/// How much more memory the gateway may hold behind the tables than before them: what its allocator keeps of a line of 16 MiB and of a
/// few large bodies. A leak of one of them in each round would be more.
const MARGIN: u64 = 32 << 20;

/// How much memory the gateway may have in its hands at a time while all of it happens.
const PEAK: u64 = 256 << 20;

/// What the gateway holds when nobody uses it.
#[derive(Debug)]
struct Held {
    tasks: f64,
    files: usize,
    bytes: u64,
}

impl Held {
    fn by(gateway: &Gateway) -> anyhow::Result<Self> {
        Ok(Self {
            tasks: gateway.metric("vmcp_tasks", "")?,
            files: gateway.open_files()?,
            bytes: gateway.resident_bytes()?,
        })
    }
}

#[test]
fn all_faults_at_once_disturb_nobody_and_leave_nothing_behind() -> anyhow::Result<()> {
    let world = World::start()?;
    // Once before anything is measured: what is made on first use stays.
    round(&world)?;
    let gateways = [&world.gateway, &world.guarded.gateway];
    let before = [at_rest(gateways[0])?, at_rest(gateways[1])?];
    for gateway in gateways {
        gateway.forget_peak_memory()?;
    }

    let gateway = world.gateway.mcp;
    let mut sessions = Vec::new();
    for _ in NAMED..OTHERS {
        sessions.push(world.open()?);
    }
    let mut callers = Vec::new();
    for subject in 0..NAMED {
        callers.push(world.guarded.open(&format!("subject {subject}"))?);
    }
    let load = Load::start(OTHERS, PACE, |worker| {
        let caller = callers.get(worker).cloned();
        let session: Option<Session> = worker.checked_sub(NAMED).map(|at| sessions[at].clone());
        Box::new(move |turn| {
            let backend = if turn % 2 == 0 { "good" } else { "bad" };
            let nonce = format!("{worker} {turn}");
            match (&caller, &session) {
                (Some(caller), _) => caller.echo(backend, &nonce),
                (None, Some(session)) => echo(gateway, session, backend, &nonce),
                (None, None) => Ok(()),
            }
        })
    });
    load.go_on_for(50)?;
    let idle = idlers(&world)?;
    round(&world)?;
    load.go_on_for(50)?;
    drop(idle);
    let report = load.finish();
    report.without_failure()?;
    for session in &sessions {
        world.close(session)?;
    }
    for caller in &callers {
        caller.close()?;
    }

    // What is there afterwards says nothing of what a pod with a limit would have been killed for.
    for gateway in gateways {
        let peak = gateway.peak_memory()?;
        println!("at most {} MiB at a time", peak >> 20);
        ensure!(peak < PEAK, "{peak} bytes at a time");
    }
    for (gateway, before) in gateways.into_iter().zip(&before) {
        given_back(gateway, before)?;
    }
    world.is_well()
}

fn round(world: &World) -> anyhow::Result<()> {
    client::check_all(world)?;
    backend::check_all(world)
}

/// Clients that hold on to something and never go on: a head and a body that do not end, and answers that are not read.
fn idlers(world: &World) -> anyhow::Result<Vec<TcpStream>> {
    let gateway = world.gateway.mcp;
    let session = world.open()?;
    let mut idlers = Vec::new();
    for number in 0..10 {
        for begun in [
            "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ".to_owned(),
            format!(
                "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
                 accept: application/json, text/event-stream\r\nmcp-session-id: {}\r\ncontent-length: 4000000\r\n\r\n{{",
                session.id
            ),
            {
                let params = json!({"name": "good_big", "arguments": {"bytes": 8 << 20}});
                let call = json!({"jsonrpc": "2.0", "id": format!("big {number}"), "method": "tools/call", "params": params});
                let body = call.to_string();
                format!(
                    "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
                     accept: application/json, text/event-stream\r\nmcp-session-id: {}\r\ncontent-length: {}\r\n\r\n{body}",
                    session.id,
                    body.len()
                )
            },
        ] {
            let mut stream = TcpStream::connect(gateway)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(begun.as_bytes())?;
            if begun.contains("good_big") {
                // The answer has begun, and its first byte is all that is ever read of it.
                stream.read_exact(&mut [0])?;
            }
            idlers.push(stream);
        }
    }
    Ok(idlers)
}

/// How long nothing may change until the gateway counts as idle: longer than it keeps idle connections to backends.
const QUIET: Duration = Duration::from_secs(5);

/// What the gateway holds when nobody uses it.
fn at_rest(gateway: &Gateway) -> anyhow::Result<Held> {
    let (mut last, mut since) = (Held::by(gateway)?, Instant::now());
    wait::until("the gateway is idle", LIMIT * 2, || {
        let now = Held::by(gateway)?;
        // The files hold the connection by which we ask, until it is closed at some time.
        if now.tasks != last.tasks {
            since = Instant::now();
        }
        last = now;
        ensure!(since.elapsed() > QUIET, "{last:?}");
        Ok(())
    })?;
    Held::by(gateway)
}

/// Waits until the gateway holds no more than `before`, but for [`MARGIN`].
fn given_back(gateway: &Gateway, before: &Held) -> anyhow::Result<()> {
    wait::until("what was taken is given back", LIMIT * 2, || {
        let held = Held::by(gateway)?;
        ensure!(
            held.tasks <= before.tasks && held.files <= before.files && held.bytes <= before.bytes + MARGIN,
            "{held:?}, and before {before:?}"
        );
        Ok(())
    })
}
