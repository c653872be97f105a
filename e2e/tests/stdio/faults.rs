//! Servers that end, write something else, or cannot be started.

use serde_json::json;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

use crate::{LIMIT, backend, new_mark, recipe, server, servers, test_server, value};

/// A killed process fails the calls on it, and the next call starts another.
#[test]
fn killed_process_fails_its_calls_and_is_replaced() -> anyhow::Result<()> {
    let mark = new_mark("killed");
    let mut recipe = test_server()?;
    recipe.hot().backends[0]
        .env
        .insert("MARK".to_owned(), value(&mark));
    let gateway = recipe.start()?;
    let own = servers(&mark)?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(
        session
            .call(gateway.mcp, "local_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    let mut process = servers(&mark)?;
    process.retain(|id| !own.contains(id));
    assert_eq!(process.len(), 1);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| session.call(gateway.mcp, "local_sleep", &json!({"ms": 60_000})));
        wait::until("the call runs", LIMIT, || {
            anyhow::ensure!(
                gateway.metric("vmcp_backend_requests_in_flight", "local")? >= 1.0,
                "not yet"
            );
            Ok(())
        })?;
        kill(&process[0])?;
        let failed = running
            .join()
            .map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        let text = failed.text();
        assert!(
            text.contains("ended by signal 9") && text.contains("may have been executed"),
            "{text}"
        );
        anyhow::Ok(())
    })?;
    assert_eq!(
        session
            .call(gateway.mcp, "local_counter", &json!({}))?
            .tool_text()?,
        "1",
        "a new process"
    );
    let exit = last_exit(&gateway, &recipe)?;
    assert_eq!(exit.code, Some(128 + 9), "{exit:?}");
    Ok(())
}

fn kill(process: &str) -> anyhow::Result<()> {
    let killed = std::process::Command::new("kill")
        .args(["-9", process])
        .status()?;
    anyhow::ensure!(killed.success(), "{killed}");
    Ok(())
}

fn last_exit(gateway: &Gateway, recipe: &Recipe) -> anyhow::Result<vmcp_crds::status::ServerExit> {
    wait::until("the end of a process is in the status", LIMIT, || {
        let status = gateway.status(recipe)?;
        let local = status
            .backends
            .into_iter()
            .find(|backend| backend.name == "local");
        let exit = local.and_then(|backend| backend.processes?.last_exit);
        exit.ok_or_else(|| anyhow::anyhow!("nothing has ended"))
    })
}

/// A program that is absent or ends at once is described with its last words, and the other backends work.
#[test]
fn failing_program_is_described_and_others_work() -> anyhow::Result<()> {
    for (command, words) in [
        (&["no-such-program"][..], "cannot run \\\"no-such-program\\\""),
        (
            &["sh", "-c", "echo out of luck >&2; exit 3"],
            "exited with code 3; its last line was \"out of luck\"",
        ),
        (&["sh", "-c", "exec >&-; sleep 60"], "closed its standard output"),
    ] {
        let other = TestServer::start(&[])?;
        let mut recipe = recipe(command)?;
        recipe.hot().backends.push(vmcp_crds::config::BackendConfig {
            name: "other".to_owned(),
            url: other.url.clone(),
            ..Default::default()
        });
        let gateway = recipe.start()?;
        let session = Session::open(gateway.mcp)?;
        assert_eq!(
            session
                .call(gateway.mcp, "other_echo", &json!({"message": "a"}))?
                .tool_text()?,
            "a"
        );
        let exit = last_exit(&gateway, &recipe)?;
        assert!(exit.reason.contains(words), "{exit:?}");
        let text = session.call(gateway.mcp, "local_x", &json!({}))?.text();
        assert!(text.contains("was not executed"), "{text}");
    }
    Ok(())
}

/// The pauses between the starts of a program that keeps ending grow.
#[test]
fn crash_loop_starts_ever_fewer_processes() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let starts = directory.path().join("starts");
    let script = format!("echo x >> {}; exit 1", starts.display());
    let gateway = recipe(&["sh", "-c", &script])?.start()?;
    let session = Session::open(gateway.mcp)?;
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_secs(5) {
        session.call(gateway.mcp, "local_x", &json!({}))?;
    }
    // One at once, and then after 0.25 s, 0.5 s, 1 s, 2 s and 4 s.
    let count = std::fs::read_to_string(starts)?.lines().count();
    assert!((3..=7).contains(&count), "{count} starts");
    Ok(())
}

/// Lines that are no JSON are logged and skipped. A server that writes nothing else counts as broken.
#[test]
fn foreign_lines_are_logged_and_skipped() -> anyhow::Result<()> {
    let server = server()?;
    let banner = format!("echo; echo 'Welcome!'; echo '{{not json'; exec {server} --stdio");
    let gateway = recipe(&["sh", "-c", &banner])?.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(
        session
            .call(gateway.mcp, "local_echo", &json!({"message": "a"}))?
            .tool_text()?,
        "a"
    );
    wait::until("the banner is in the log", LIMIT, || {
        let log = gateway.log()?;
        anyhow::ensure!(log.contains("Welcome!") && log.contains("{not json"), "{log}");
        Ok(())
    })?;

    let noisy = recipe(&["sh", "-c", "while :; do echo noise; done"])?;
    let gateway = noisy.start()?;
    let exit = last_exit(&gateway, &noisy)?;
    assert!(
        exit.reason
            .contains("100 lines in a row on its standard output were not JSON"),
        "{exit:?}"
    );
    Ok(())
}

/// A variable without a value makes only its backend unusable.
#[test]
fn variable_without_a_value_is_named() -> anyhow::Result<()> {
    let mut recipe = test_server()?;
    let absent = vmcp_crds::config::VariableSource {
        env: Some("NOT_SET_ANYWHERE".to_owned()),
        ..Default::default()
    };
    recipe.hot().backends[0].env.insert("TOKEN".to_owned(), absent);
    recipe
        .hot()
        .backends
        .push(backend("whole", &[&server()?, "--stdio"]));
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(
        session
            .call(gateway.mcp, "whole_echo", &json!({"message": "a"}))?
            .tool_text()?,
        "a"
    );
    let text = session
        .call(gateway.mcp, "local_echo", &json!({"message": "a"}))?
        .text();
    assert!(
        text.contains("variable TOKEN: the environment variable NOT_SET_ANYWHERE"),
        "{text}"
    );
    Ok(())
}
