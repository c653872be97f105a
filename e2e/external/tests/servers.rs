//! The servers start, answer, and leave nothing behind.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use vmcp_external::process::Process;
use vmcp_external::server::{self, Server};
use vmcp_external::{redis, requires};

#[requires(npm)]
#[test]
fn server_everything_responds_until_dropped() -> anyhow::Result<()> {
    answers_until_dropped(server::everything()?)
}

#[requires(python)]
#[test]
fn server_time_responds_until_dropped() -> anyhow::Result<()> {
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
fn ended_server_is_reported_with_its_output() {
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
fn children_of_program_end_with_it() {
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
        // A zombie has ended; its parent has not waited for it yet.
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            break;
        }
        assert!(Instant::now() < deadline, "the child still runs: {state}");
    }
}

#[requires(redis)]
#[test]
fn redis_programs_are_installed() {
    let version = Command::new(redis::redis_server().unwrap())
        .arg("--version")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&version.stdout).contains("Redis server"));
    assert!(redis::redis_cli().unwrap().is_file());
}
