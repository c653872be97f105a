//! The gateway is at least as lenient towards clients as servers on the official SDKs are: what any of them accepts works through the gateway, too,
//! unless it is unsafe.
//!
//! One corpus of odd clients talks with a server on each SDK, directly and through a gateway. Each difference stands in a table with its reason. The
//! Java SDK is left out: its server needs a JDK and a servlet container, and Maven has no lock with the checksums of everything that it gets.

mod connection;
mod conversation;
mod differences;
mod odd_requests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, ensure};
use vmcp_e2e::conforming;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::scripted_server::ScriptedServer;
use vmcp_external::{is_unavailable, server};

use crate::conversation::{Conversation, Sessions, locked};
use crate::differences::{Played, unexplained};
use crate::odd_requests::odd_clients;

/// The SDKs, and the programs that they require.
const SDKS: [(&str, &str); 4] = [
    ("python", "python"),
    ("typescript-v1", "conformance"),
    ("typescript-v2", "conformance"),
    ("go", "go"),
];

/// The name of the backend, whose prefix is this name with an underscore.
const BACKEND: &str = "sdk";
const PREFIX: &str = "sdk_";

/// The number of concurrent clients of a server. Most of them wait.
const AT_A_TIME: usize = 6;

/// The outcomes of all clients at a server.
fn play(server: SocketAddr, prefix: &'static str) -> anyhow::Result<Played> {
    let waiting = Mutex::new(odd_clients());
    let (played, open) = (Mutex::new(Played::new()), Sessions::default());
    let work = || -> anyhow::Result<()> {
        loop {
            let Some(client) = locked(&waiting).pop() else {
                return Ok(());
            };
            let mut conversation = Conversation::new(server, prefix, &open);
            (client.play)(&mut conversation).with_context(|| client.name.clone())?;
            locked(&played).insert(client.name, conversation.steps);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        let mut ended = workers.into_iter().map(thread::ScopedJoinHandle::join);
        ended.try_for_each(|ended| ended.map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })?;
    Ok(played.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
    Ok(address.parse()?)
}

/// The outcomes of odd clients at a server on an SDK are the same through the gateway, except for the differences in the table, and all of
/// those exist.
#[test]
fn odd_clients_are_served_as_without_gateway() -> anyhow::Result<()> {
    let compare = |sdk: &'static str| -> anyhow::Result<Vec<String>> {
        let server = server::sdk(sdk)?;
        let recipe = Recipe::new(&[(BACKEND, &server.url)])?;
        let gateway = recipe.start()?;
        let direct = play(address(&server.url)?, "")?;
        let through = play(gateway.mcp, PREFIX)?;
        unexplained(sdk, &direct, &through)
    };
    let here = SDKS.into_iter().filter(|(_, needs)| !is_unavailable(needs));
    let wrong = thread::scope(|scope| {
        let comparing: Vec<_> = here.map(|(sdk, _)| scope.spawn(move || compare(sdk))).collect();
        let mut wrong = Vec::new();
        for one in comparing {
            wrong.extend(one.join().unwrap()?);
        }
        anyhow::Ok(wrong)
    })?;
    ensure!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}

/// Requests of the gateway conform to the specification for every request of a client, except for parameters, which the server checks.
#[test]
fn backend_of_odd_clients_gets_conforming_requests() -> anyhow::Result<()> {
    let server = ScriptedServer::start(|_| None)?;
    let recipe = Recipe::new(&[(BACKEND, &server.url)])?;
    let gateway = recipe.start()?;
    play(gateway.mcp, PREFIX)?;
    let received = server.received();
    ensure!(received.len() > 200, "{} requests came", received.len());
    let faults: BTreeSet<_> = conforming::faults_of_gateway(&received).into_iter().collect();
    ensure!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

/// Each client has a name of its own, and there are many.
#[test]
fn corpus_of_odd_clients_is_large() -> anyhow::Result<()> {
    let clients = odd_clients();
    let names: BTreeSet<_> = clients.iter().map(|client| &client.name).collect();
    ensure!(names.len() == clients.len(), "two clients have one name");
    ensure!(clients.len() >= 400, "{}", clients.len());
    Ok(())
}
