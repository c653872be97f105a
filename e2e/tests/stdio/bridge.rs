//! `vmcp-gateway bridge` serves one program over HTTP.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use vmcp_crds::status::BridgeStatus;
use vmcp_e2e::counting_session::CountingSession;
use vmcp_e2e::http_client::{self, Session};
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::{binaries, ports, wait};
use vmcp_external::process::{Process, Signal};

use crate::{LIMIT, marked, new_mark, server, servers};

struct Bridge {
    mcp: SocketAddr,
    admin: SocketAddr,
    process: Process,
}

impl Bridge {
    /// Starts a bridge for `command`, and waits until it listens.
    fn start(options: &[&str], command: &[&str], mark: &str) -> anyhow::Result<Self> {
        let (mcp, admin) = (ports::free()?, ports::free()?);
        let mut bridge = Command::new(binaries::path("vmcp-gateway")?);
        bridge
            .args([
                "bridge",
                "--listen",
                &mcp.to_string(),
                "--admin",
                &admin.to_string(),
            ])
            .args(options)
            .arg("--")
            .args(command)
            .env("MARK", mark);
        let process = Process::start("bridge", &bridge)?;
        let bridge = Self { mcp, admin, process };
        wait::until("the bridge listens", LIMIT, || {
            http_client::get(admin, "/livez", &[])
        })?;
        Ok(bridge)
    }

    fn wait_until_ready(&self) -> anyhow::Result<()> {
        wait::until("the bridge is ready", LIMIT, || {
            let ready = http_client::get(self.admin, "/readyz", &[])?;
            anyhow::ensure!(ready.status == 200, "{}", ready.text());
            Ok(())
        })
    }
}

/// The result of `initialize` without what a bridge adds: list changes and subscriptions that it notifies of.
fn initialized(server: SocketAddr) -> anyhow::Result<Value> {
    let mut result = http_client::initialize(server)?.message()?["result"].take();
    let capabilities = result["capabilities"].as_object_mut();
    let kept = ["tools", "prompts", "resources", "completions", "logging"];
    if let Some(capabilities) = capabilities {
        capabilities.retain(|name, _| kept.contains(&name.as_str()));
    }
    Ok(result)
}

/// Clients see the server itself: its name, capabilities, instructions and tools.
#[test]
fn bridge_presents_the_server() -> anyhow::Result<()> {
    let mark = new_mark("bridge");
    let bridge = Bridge::start(&[], &[&server()?, "--stdio"], &mark)?;
    bridge.wait_until_ready()?;
    let direct = TestServer::start(&[])?;
    let direct: SocketAddr = direct_address(&direct.url)?;
    assert_eq!(initialized(bridge.mcp)?, initialized(direct)?);
    let session = Session::open(bridge.mcp)?;
    let mut offered = session.names(bridge.mcp, "tools/list")?;
    let mut expected = Session::open(direct)?.names(direct, "tools/list")?;
    offered.sort();
    expected.sort();
    assert_eq!(offered, expected);
    assert_eq!(
        session
            .call(bridge.mcp, "echo", &json!({"message": "a"}))?
            .tool_text()?,
        "a"
    );
    let mut counting = CountingSession::open(bridge.mcp, "counter")?;
    for _ in 0..3 {
        counting.call(bridge.mcp)?;
    }
    // The operator reads this status.
    let status = http_client::get(bridge.admin, "/status", &[])?;
    let status: BridgeStatus = serde_json::from_slice(&status.body)?;
    let described = &status.backends[0];
    assert_eq!(described.revision.as_deref(), Some("2025-11-25"));
    assert_eq!(
        (described.tools, described.error.as_deref()),
        (offered.len(), None)
    );
    // The server has the whole environment of the bridge.
    assert!(
        marked(&mark)?.len() >= 5,
        "the bridge, and two servers with their supervisors"
    );
    Ok(())
}

fn direct_address(url: &str) -> anyhow::Result<SocketAddr> {
    Ok(url
        .trim_start_matches("http://")
        .trim_end_matches("/mcp")
        .parse()?)
}

/// The bridge is ready when the server has answered `initialize`, and not before.
#[test]
fn bridge_is_ready_after_the_first_initialize() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let gate = directory.path().join("gate");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; exec {} --stdio",
        gate.display(),
        server()?
    );
    let bridge = Bridge::start(&[], &["sh", "-c", &script], "slow")?;
    // Longer than the gateway waits for backends in general.
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(7) {
        let ready = http_client::get(bridge.admin, "/readyz", &[])?;
        let text = ready.text();
        assert!(
            ready.status == 503 && text.starts_with("not ready: the server"),
            "{text}"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    std::fs::write(gate, "")?;
    bridge.wait_until_ready()
}

#[test]
fn shared_bridge_has_one_process() -> anyhow::Result<()> {
    let options = [
        "--processes",
        "shared",
        "--idle-timeout",
        "1h",
        "--max-processes",
        "2",
    ];
    let bridge = Bridge::start(&options, &[&server()?, "--stdio"], "shared")?;
    bridge.wait_until_ready()?;
    for count in ["1", "2", "3"] {
        let session = Session::open(bridge.mcp)?;
        assert_eq!(
            session.call(bridge.mcp, "counter", &json!({}))?.tool_text()?,
            count
        );
    }
    Ok(())
}

#[test]
fn nothing_is_left_after_sigkill_of_the_bridge() -> anyhow::Result<()> {
    let mark = new_mark("killed-bridge");
    let marking = format!("MARK={mark}");
    let mut bridge = Bridge::start(&[], &["env", &marking, &server()?, "--stdio"], "none")?;
    bridge.wait_until_ready()?;
    assert_eq!(servers(&mark)?.len(), 1);
    bridge.process.signal(Signal::KILL)?;
    wait::until("nothing is left", LIMIT, || {
        let left = marked(&mark)?;
        anyhow::ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })
}

/// The installed copy is a whole program that everyone may execute.
#[test]
fn installed_copy_runs() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("vmcp-gateway");
    let gateway = binaries::path("vmcp-gateway")?;
    for _ in 0..2 {
        let installed = Command::new(&gateway).arg("install").arg(&copy).status()?;
        assert!(installed.success());
    }
    let version = Command::new(&copy).arg("version").output()?;
    assert!(
        String::from_utf8_lossy(&version.stdout).starts_with("vmcp-gateway "),
        "{version:?}"
    );
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 1);
    let refused = Command::new(&gateway)
        .args(["install", "/nowhere/vmcp-gateway"])
        .output()?;
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("cannot write /nowhere/"),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn invalid_option_is_refused_with_its_reason() -> anyhow::Result<()> {
    for (options, reason) in [
        (&["--max-processes", "0"][..], "allowed are 1 to 4096"),
        (&["--idle-timeout", "1ms"], "allowed are 1s to 24h"),
        (&["--idle-timeout", "soon"], "expected a duration"),
        (
            &["--listen", "127.0.0.1:9", "--admin", "127.0.0.1:9"],
            "use different ports",
        ),
    ] {
        let refused = Command::new(binaries::path("vmcp-gateway")?)
            .arg("bridge")
            .args(options)
            .args(["--", "true"])
            .output()?;
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(
            !refused.status.success() && text.contains(reason),
            "{options:?}: {text}"
        );
    }
    Ok(())
}
