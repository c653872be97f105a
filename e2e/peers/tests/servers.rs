//! The servers start, answer, and leave nothing behind.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use vmcp_peers::process::Process;
use vmcp_peers::server::{self, Server};
use vmcp_peers::{left_out, redis};

#[test]
fn everything_answers_and_its_port_is_closed_when_it_is_dropped() -> anyhow::Result<()> {
    if left_out("npm") {
        return Ok(());
    }
    answers_until_dropped(server::everything()?)
}

#[test]
fn time_answers_and_its_port_is_closed_when_it_is_dropped() -> anyhow::Result<()> {
    if left_out("python") {
        return Ok(());
    }
    answers_until_dropped(server::time()?)
}

fn answers_until_dropped(server: Server) -> anyhow::Result<()> {
    let address = server
        .url
        .trim_start_matches("http://")
        .trim_end_matches("/mcp")
        .to_owned();
    TcpStream::connect(&address)?;
    let log = server.process.log().to_owned();
    drop(server);
    assert!(TcpStream::connect(&address).is_err());
    assert!(!log.exists());
    Ok(())
}

#[test]
fn a_server_that_ends_is_reported_with_its_last_words() {
    let error = server::start("broken", |_| {
        let mut command = Command::new("sh");
        command.args(["-c", "echo the licence has expired >&2; exit 7"]);
        command
    })
    .unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("the licence has expired") && text.contains("exit status: 7"),
        "{text}"
    );
    let (_, rest) = text.split_once("all of it in ").unwrap();
    let (log, _) = rest.split_once(')').unwrap();
    std::fs::remove_file(log).unwrap();
}

#[test]
fn the_children_of_a_program_end_with_it() {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 600 & echo $!; wait"]);
    let process = Process::start("parent", &command).unwrap();
    let child = loop {
        if let Ok(pid) = std::fs::read_to_string(process.log())
            .unwrap()
            .trim()
            .parse::<u32>()
        {
            break pid;
        }
    };
    drop(process);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        // A zombie that nobody has waited for yet is as good as gone.
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            break;
        }
        assert!(Instant::now() < deadline, "the child still runs: {state}");
    }
}

#[test]
fn redis_is_there_and_nobody_started_it() {
    if left_out("redis") {
        return;
    }
    let version = Command::new(redis::redis_server().unwrap())
        .arg("--version")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&version.stdout).contains("Redis server"));
    assert!(redis::redis_cli().unwrap().is_file());
}
