//! Clients on the SDKs of others, as they are shipped: each notices that its session is gone, connects although it probes for the modern
//! era first, and understands every event. What each does then stands in `docs/clients.md`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vmcp_e2e::client::Client;
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::raw::Session;
use vmcp_e2e::recorder::Recorder;
use vmcp_peers::{client, left_out};

/// A gateway in front of one backend that answers with streams, and what clients say to it.
struct World {
    _fixture: Fixture,
    gateway: Gateway,
    recorder: Recorder,
}

impl World {
    fn start() -> anyhow::Result<Self> {
        let fixture = Fixture::start(&[])?;
        let gateway = Recipe::in_memory(&[("fixture", &fixture.url)])?.start()?;
        let recorder = Recorder::start(gateway.mcp)?;
        Ok(Self {
            _fixture: fixture,
            gateway,
            recorder,
        })
    }

    fn url(&self) -> String {
        format!("http://{}/mcp", self.recorder.address)
    }

    /// Ends the session that was named last, elsewhere.
    fn end_session(&self) -> anyhow::Result<()> {
        let said = self.recorder.said();
        let named = said.lines().rev().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("mcp-session-id")
                .then(|| value.trim().to_owned())
        });
        let id = named.context("no session was named")?;
        let ended = Session { id }.delete(self.gateway.mcp)?;
        ensure!(ended.status == 200, "{ended:?}");
        Ok(())
    }
}

/// A client that prints one line of JSON per step, and waits for a line where its session is to end. It ends with the test.
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

    /// Ends the session behind the first call, and gives what the client says of its next one.
    fn lose_session(&mut self, world: &World) -> anyhow::Result<Value> {
        let first = self.line()?;
        ensure!(first["failed"] == json!(false), "{first}");
        world.end_session()?;
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

#[test]
fn go_sdk_notices_that_its_session_is_gone() -> anyhow::Result<()> {
    // The call says so, and the session ends by itself. Only a new connection has a new one.
    if left_out("go") {
        return Ok(());
    }
    let world = World::start()?;
    let mut script = Script::start(client::go("lost", &world.url())?)?;
    let noticed = script.lose_session(&world)?;
    assert_eq!(noticed["noticed"], true, "{noticed}");
    let ended = script.line()?;
    assert_eq!(ended["ended"], true, "{ended}");
    let again = script.line()?;
    assert!(again["error"].is_string(), "{again}");
    Ok(())
}

#[test]
fn typescript_sdks_notice_that_their_session_is_gone() -> anyhow::Result<()> {
    // The call fails with the status. The client keeps the old session; a new client gets a new one.
    if left_out("conformance") {
        return Ok(());
    }
    for version in ["v1", "v2"] {
        let world = World::start()?;
        let mut script = Script::start(client::lost_session_typescript(version, &world.url())?)?;
        let noticed = script.lose_session(&world)?;
        assert_eq!(noticed["noticed"], true, "{version}: {noticed}");
        let again = script.line()?;
        assert_eq!(again["failed"], false, "{version}: {again}");
    }
    Ok(())
}

#[test]
fn python_sdk_notices_that_its_session_is_gone() -> anyhow::Result<()> {
    // The call fails with -32001. The client keeps the old session; a new client gets a new one.
    if left_out("python") {
        return Ok(());
    }
    let world = World::start()?;
    let mut script = Script::start(client::lost_session_python(&world.url())?)?;
    let noticed = script.lose_session(&world)?;
    assert_eq!(noticed["noticed"], true, "{noticed}");
    let again = script.line()?;
    assert_eq!(again["failed"], false, "{again}");
    Ok(())
}

#[tokio::test]
async fn rmcp_opens_another_session_by_itself() -> anyhow::Result<()> {
    // The call is sent again in a new session; its caller sees nothing.
    let world = World::start()?;
    let client = Client::connect_as_shipped(&world.url()).await?;
    let echo = json!({"message": "hi"});
    assert_eq!(client.call("fixture_echo", echo.clone()).await?, "hi");
    world.end_session()?;
    assert_eq!(client.call("fixture_echo", echo).await?, "hi");
    let said = world.recorder.said();
    assert_eq!(said.matches(r#""method":"initialize""#).count(), 2, "{said}");
    client.close().await
}

#[tokio::test]
async fn rmcp_that_probes_for_the_modern_era_connects() -> anyhow::Result<()> {
    let world = World::start()?;
    let client = Client::connect_in_any_era(&world.url()).await?;
    assert_eq!(client.call("fixture_echo", json!({"message": "hi"})).await?, "hi");
    let said = world.recorder.said();
    assert!(
        said.contains("server/discover") && said.contains(r#""method":"initialize""#),
        "{said}"
    );
    client.close().await
}

#[test]
fn ai_sdks_connect_with_their_defaults_and_call() -> anyhow::Result<()> {
    // Version 2 probes for the modern era first; version 1 waits for the type of each event.
    if left_out("conformance") {
        return Ok(());
    }
    for version in ["1", "2"] {
        let world = World::start()?;
        let mut script = Script::start(client::ai_sdk(version, &world.url())?)?;
        let result = script.line()?;
        assert_eq!(result["content"][0]["text"], "hi", "{version}: {result}");
        assert_eq!(world.recorder.said().contains("server/discover"), version == "2");
    }
    Ok(())
}

#[test]
fn mcp_go_that_waits_for_the_type_of_events_calls() -> anyhow::Result<()> {
    if left_out("go") {
        return Ok(());
    }
    let world = World::start()?;
    let mut script = Script::start(client::go("call", &world.url())?)?;
    let line = script.line()?;
    assert_eq!(line["result"]["content"][0]["text"], "hi", "{line}");
    Ok(())
}
