//! `cargo xtask demo` works as the README describes.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use vmcp_e2e::{binaries, http_client, wait};
use vmcp_external::process::{Process, Signal};
use vmcp_external::requires;

/// The demo shows the merged tools, and serves an endpoint until Ctrl-C.
#[requires(npm, python)]
#[test]
fn demo_shows_merged_tools_and_serves_until_ctrl_c() -> anyhow::Result<()> {
    let port = vmcp_e2e::ports::free()?.port();
    let mut command = Command::new(binaries::path("demo")?);
    command.args(["--port", &port.to_string()]);
    let mut demo = Process::start("demo", &command)?;
    let printed = wait::until("the endpoint is up", Duration::from_secs(90), || {
        if let Some(status) = demo.ended()? {
            return Ok(format!("the demo ended: {status}"));
        }
        let printed = std::fs::read_to_string(demo.log())?;
        anyhow::ensure!(printed.contains("Ctrl-C ends it"), "it has printed {printed}");
        Ok(printed)
    })?;
    for expected in [
        "everything_echo",
        "time_get_current_time",
        "-> Echo: hello through the gateway",
        "\"timezone\": \"UTC\"",
        ": step 1 of 4",
        ": step 4 of 4",
        "The server everything is killed.",
        "backend everything",
        "20 calls to time: all answered",
        "2 tools are listed",
        "The server everything is back.",
        "-> Echo: are you there?",
        "claude mcp add",
    ] {
        assert!(printed.contains(expected), "{expected} is not in\n{printed}");
    }

    let gateway = ([127, 0, 0, 1], port).into();
    let session = http_client::Session::open(gateway)?;
    let echo = session.call(gateway, "everything_echo", &json!({"message": "a test"}))?;
    assert_eq!(echo.tool_text()?, "Echo: a test");

    let children = descendants(demo.id())?;
    assert!(children.len() >= 3, "two servers and a gateway run: {children:?}");
    demo.signal(Signal::INT)?;
    let status = wait::until("the demo ends", Duration::from_secs(20), || {
        demo.ended()?.context("it runs")
    })?;
    assert!(status.success(), "{status}");
    wait::until(
        "everything that it started has ended",
        Duration::from_secs(5),
        || {
            let left: Vec<_> = children.iter().filter(|child| is_running(**child)).collect();
            anyhow::ensure!(left.is_empty(), "{left:?} run");
            Ok(())
        },
    )
}

/// In the demo of outages no call fails and no session is lost.
#[requires(redis)]
#[test]
fn outage_demo_loses_no_call_and_no_session() -> anyhow::Result<()> {
    let output = Command::new(binaries::path("demo")?)
        .args(["outages", "--seconds", "2"])
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{told}");
    let row = |what: &str| -> anyhow::Result<Vec<u64>> {
        let line = printed.lines().find(|line| line.starts_with(what));
        let line = line.with_context(|| format!("{what} is not in\n{printed}"))?;
        Ok(line
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect())
    };
    for what in [
        "nothing yet",
        "one replica (SIGKILL)",
        "all replicas (SIGKILL)",
        "the backend's memory",
        "Redis, stopped for a while (SIGSTOP)",
        "Redis (SIGKILL), back empty",
        "together",
    ] {
        let row = row(what)?;
        assert!(row[0] > 0, "no calls while {what}:\n{printed}");
        assert_eq!(row[2..4], [0, 0], "failed, or lost, while {what}:\n{printed}");
        let replicas_were_killed = what.contains("replica") || what == "together";
        assert!(
            replicas_were_killed || row[1] == 0,
            "cut while {what}:\n{printed}"
        );
    }
    Ok(())
}

/// The processes that a process has started, and those that they have. Those in its own process group are left out: the watcher
/// that ends the demo when this test ends is among them.
fn descendants(of: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = vec![of];
    let mut index = 0;
    while let Some(parent) = found.get(index).copied() {
        for thread in std::fs::read_dir(format!("/proc/{parent}/task"))?.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
        index += 1;
    }
    found.retain(|process| stat(*process).get(2) != Some(&of.to_string()));
    Ok(found)
}

/// The words of `/proc/PID/stat` behind the process's name: its state, its parent, its group, and so on.
fn stat(process: u32) -> Vec<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    words.map(str::to_owned).collect()
}

/// Whether a process exists and is not a zombie.
fn is_running(process: u32) -> bool {
    stat(process).first().is_some_and(|state| state != "Z")
}
