//! Clients on third-party SDKs with their defaults: each notices a lost session, connects although it probes for the modern era first, and
//! understands every event. `docs/clients.md` lists the behaviour of each.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_e2e::client::Client;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::recorder::Recorder;
use vmcp_external::{client, requires};

/// A gateway in front of one backend that answers with streams, and a recorder of what clients send to the gateway.
struct RecordedGateway {
    harness: Harness,
    recorder: Recorder,
}

impl RecordedGateway {
    fn start() -> anyhow::Result<Self> {
        let builder = Harness::builder().test_server("fixture", &[]);
        let harness = builder.without_session_keys().start()?;
        let recorder = Recorder::start(harness.address())?;
        Ok(Self { harness, recorder })
    }

    fn url(&self) -> String {
        format!("http://{}/mcp", self.recorder.address)
    }

    /// Terminates the newest session with another client.
    fn end_session(&self) -> anyhow::Result<()> {
        let said = self.recorder.said();
        let named = said.lines().rev().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("mcp-session-id")
                .then(|| value.trim().to_owned())
        });
        let id = named.context("no session was named")?;
        let ended = Session { id }.delete(self.harness.address())?;
        ensure!(ended.status == 200, "{ended:?}");
        Ok(())
    }
}

/// A client that prints one line of JSON per step, and waits for a line of input before the step after its session is terminated.
struct Script {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Script {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no output")?;
        Ok(Self {
            child,
            output: BufReader::new(output),
        })
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("not a line of JSON: {line:?}"))
    }

    /// Terminates the session after the first call, and returns the client's report of its next call.
    fn lose_session(&mut self, gateway: &RecordedGateway) -> anyhow::Result<Value> {
        let first = self.line()?;
        ensure!(first["failed"] == json!(false), "{first}");
        gateway.end_session()?;
        self.child.stdin.as_mut().context("no input")?.write_all(b"\n")?;
        self.line()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[requires(go)]
#[test]
fn go_sdk_notices_lost_session() -> anyhow::Result<()> {
    // The call says so, and the session ends by itself. Only a new connection has a new one.
    let gateway = RecordedGateway::start()?;
    let mut script = Script::start(client::go("lost", &gateway.url())?)?;
    let noticed = script.lose_session(&gateway)?;
    assert_eq!(noticed["noticed"], true, "{noticed}");
    let ended = script.line()?;
    assert_eq!(ended["ended"], true, "{ended}");
    let again = script.line()?;
    assert!(again["error"].is_string(), "{again}");
    Ok(())
}

#[requires(conformance)]
#[test]
fn typescript_sdks_notice_lost_session() -> anyhow::Result<()> {
    // The call fails with the status. The client keeps the old session; a new client gets a new one.
    for version in ["v1", "v2"] {
        let gateway = RecordedGateway::start()?;
        let mut script = Script::start(client::lost_session_typescript(version, &gateway.url())?)?;
        let noticed = script.lose_session(&gateway)?;
        assert_eq!(noticed["noticed"], true, "{version}: {noticed}");
        let again = script.line()?;
        assert_eq!(again["failed"], false, "{version}: {again}");
    }
    Ok(())
}

#[requires(python)]
#[test]
fn python_sdk_notices_lost_session() -> anyhow::Result<()> {
    // The call fails with -32001. The client keeps the old session; a new client gets a new one.
    let gateway = RecordedGateway::start()?;
    let mut script = Script::start(client::lost_session_python(&gateway.url())?)?;
    let noticed = script.lose_session(&gateway)?;
    assert_eq!(noticed["noticed"], true, "{noticed}");
    let again = script.line()?;
    assert_eq!(again["failed"], false, "{again}");
    Ok(())
}

#[tokio::test]
async fn rmcp_reopens_lost_session() -> anyhow::Result<()> {
    // The call is sent again in a new session; its caller sees nothing.
    let gateway = RecordedGateway::start()?;
    let client = Client::connect_as_shipped(&gateway.url()).await?;
    let echo = json!({"message": "hi"});
    assert_eq!(client.call("fixture_echo", echo.clone()).await?, "hi");
    gateway.end_session()?;
    assert_eq!(client.call("fixture_echo", echo).await?, "hi");
    let said = gateway.recorder.said();
    assert_eq!(said.matches(r#""method":"initialize""#).count(), 2, "{said}");
    client.close().await
}

/// rmcp that probes for the modern era first connects.
#[tokio::test]
async fn rmcp_probing_for_modern_era_connects() -> anyhow::Result<()> {
    let gateway = RecordedGateway::start()?;
    let client = Client::connect_in_any_era(&gateway.url()).await?;
    assert_eq!(client.call("fixture_echo", json!({"message": "hi"})).await?, "hi");
    let said = gateway.recorder.said();
    assert!(
        said.contains("server/discover") && said.contains(r#""method":"initialize""#),
        "{said}"
    );
    client.close().await
}

#[requires(conformance)]
#[test]
fn ai_sdks_connect_with_their_defaults_and_call() -> anyhow::Result<()> {
    // Version 2 probes for the modern era first; version 1 waits for the type of each event.
    for version in ["1", "2"] {
        let gateway = RecordedGateway::start()?;
        let mut script = Script::start(client::ai_sdk(version, &gateway.url())?)?;
        let result = script.line()?;
        assert_eq!(result["content"][0]["text"], "hi", "{version}: {result}");
        assert_eq!(
            gateway.recorder.said().contains("server/discover"),
            version == "2"
        );
    }
    Ok(())
}

/// mcp-go needs the type of each event, and gets it.
#[requires(go)]
#[test]
fn mcp_go_that_needs_event_types_can_call() -> anyhow::Result<()> {
    let gateway = RecordedGateway::start()?;
    let mut script = Script::start(client::go("call", &gateway.url())?)?;
    let line = script.line()?;
    assert_eq!(line["result"]["content"][0]["text"], "hi", "{line}");
    Ok(())
}
