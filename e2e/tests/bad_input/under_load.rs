//! Both tables against a gateway that other clients use, and the resources that it holds afterwards.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use vmcp_e2e::gateway::Gateway;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::load::Load;
use vmcp_e2e::wait;

use crate::gateways::{Gateways, LIMIT, echo};
use crate::{backend, client};

/// The number of clients that call all the time, the number of those with authentication, and the interval of each client's calls.
const OTHERS: usize = 6;
const NAMED: usize = 2;
const PACE: Duration = Duration::from_millis(25);

/// How much more memory the gateway may hold after the tables than before: what its allocator keeps of a line of 16 MiB and of a few large
/// bodies. A leak of one of them per round would be more.
const MARGIN: u64 = 32 << 20;

/// The limit for the peak memory of the gateway meanwhile.
const PEAK: u64 = 256 << 20;

/// What the gateway holds without clients.
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

/// All faults at once disturb no other client, and the gateway holds no resources afterwards.
#[test]
fn concurrent_faults_disturb_no_other_client() -> anyhow::Result<()> {
    let gateways = Gateways::start()?;
    // One round before anything is measured: allocations of the first use stay.
    round(&gateways)?;
    let both = [&gateways.gateway, &gateways.guarded.gateway];
    let before = [at_rest(both[0])?, at_rest(both[1])?];
    for gateway in both {
        gateway.forget_peak_memory()?;
    }

    let gateway = gateways.gateway.mcp;
    let mut sessions = Vec::new();
    for _ in NAMED..OTHERS {
        sessions.push(gateways.open()?);
    }
    let mut callers = Vec::new();
    for subject in 0..NAMED {
        callers.push(gateways.guarded.open(&format!("subject {subject}"))?);
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
    let idle = idlers(&gateways)?;
    round(&gateways)?;
    load.go_on_for(50)?;
    drop(idle);
    let report = load.finish();
    report.without_failure()?;
    for session in &sessions {
        gateways.close(session)?;
    }
    for caller in &callers {
        caller.close()?;
    }

    // The peak matters, too: a pod with a memory limit would have been killed at the peak.
    for gateway in both {
        let peak = gateway.peak_memory()?;
        println!("at most {} MiB at a time", peak >> 20);
        ensure!(peak < PEAK, "{peak} bytes at a time");
    }
    for (gateway, before) in both.into_iter().zip(&before) {
        given_back(gateway, before)?;
    }
    gateways.is_well()
}

fn round(gateways: &Gateways) -> anyhow::Result<()> {
    client::check_all(gateways)?;
    backend::check_all(gateways)
}

/// Idle clients that hold resources: unfinished heads and bodies, and unread responses.
fn idlers(gateways: &Gateways) -> anyhow::Result<Vec<TcpStream>> {
    let gateway = gateways.gateway.mcp;
    let session = gateways.open()?;
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
                // Only the first byte of the response is ever read.
                stream.read_exact(&mut [0])?;
            }
            idlers.push(stream);
        }
    }
    Ok(idlers)
}

/// How long nothing may change until the gateway counts as idle: longer than it keeps idle connections to backends.
const QUIET: Duration = Duration::from_secs(5);

/// What the gateway holds without clients.
fn at_rest(gateway: &Gateway) -> anyhow::Result<Held> {
    let (mut last, mut since) = (Held::by(gateway)?, Instant::now());
    wait::until("the gateway is idle", LIMIT * 2, || {
        let now = Held::by(gateway)?;
        // The open files include the connection of this question until it is closed.
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
