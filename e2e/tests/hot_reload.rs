//! Hot reload: a running gateway applies a valid configuration, and keeps the old one if the new one is invalid.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use vmcp_crds::config::{GatewayConfig, HotConfig, split_file};
use vmcp_crds::status::config_hash;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::mount::Mount;
use vmcp_e2e::scripted_server::ScriptedServer;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

const LIMIT: Duration = Duration::from_secs(20);

/// The response of the backend through the gateway.
fn echo(gateway: &Gateway, session: &Session, backend: &str) -> anyhow::Result<String> {
    let tool = format!("{backend}_echo");
    session
        .call(gateway.mcp, &tool, &json!({"message": "hi"}))?
        .tool_text()
}

/// A change is applied, an invalid one is rejected, and the rejection ends when the file is restored.
#[test]
fn reload_applies_valid_and_rejects_invalid_changes() -> anyhow::Result<()> {
    let (one, two) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let backends = |names: &[(&str, &str)]| {
        let entries = names
            .iter()
            .map(|(name, url)| format!("- {{name: {name}, url: '{url}'}}\n"));
        format!("backends:\n{}", entries.collect::<String>())
    };
    let first = backends(&[("one", &one.url)]);
    let mount = Mount::new(&first)?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.hot = None;
    recipe.config.hot_file = Some(mount.file());
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let echo = |backend: &str| echo(&gateway, &session, backend);
    assert_eq!(echo("one")?, "hi");

    // A backend is added: the session that was there before uses it, and the other one keeps its upstream session.
    mount.put(&backends(&[("one", &one.url), ("two", &two.url)]))?;
    wait::until("the new backend is offered", LIMIT, || echo("two"))?;
    assert_eq!(echo("one")?, "hi");
    assert_eq!(one.initializes("http-client")?, 1);

    // An invalid file changes nothing, and the status gives the reason.
    mount.put("backends:\n- {name: one, uri: nowhere}\n")?;
    let refused = wait::until("the file is refused", LIMIT, || {
        let error = gateway.status(&recipe)?.hot_config_error;
        error.ok_or_else(|| anyhow::anyhow!("it is not refused"))
    })?;
    assert!(refused.contains("`uri`"), "{refused}");
    assert_eq!((echo("one")?, echo("two")?), ("hi".to_owned(), "hi".to_owned()));

    // An empty file is ignored, too: its writer may not have finished.
    mount.put("# Nothing yet.\n")?;
    wait::until("the empty file is refused", LIMIT, || {
        let error = gateway.status(&recipe)?.hot_config_error.unwrap_or_default();
        anyhow::ensure!(error.contains("the file is empty"), "{error}");
        Ok(())
    })?;
    assert_eq!((echo("one")?, echo("two")?), ("hi".to_owned(), "hi".to_owned()));
    mount.put("backends:\n- {name: one, uri: nowhere}\n")?;
    wait::until("the file is refused again", LIMIT, || {
        let error = gateway.status(&recipe)?.hot_config_error.unwrap_or_default();
        anyhow::ensure!(error.contains("`uri`"), "{error}");
        Ok(())
    })?;

    // A rejected file is counted once, however often it is read.
    let reloads = |outcome| gateway.metric("vmcp_config_reloads_total", outcome);
    assert_eq!((reloads("accepted")?, reloads("refused")?), (1.0, 3.0));

    // The file is restored: the rejection ends.
    mount.put(&backends(&[("one", &one.url), ("two", &two.url)]))?;
    wait::until("nothing is refused", LIMIT, || {
        anyhow::ensure!(
            gateway.status(&recipe)?.hot_config_error.is_none(),
            "it is still refused"
        );
        Ok(())
    })?;

    assert_eq!(reloads("accepted")?, 1.0, "nothing has changed");

    // A backend is removed: its tools are unknown. And the log level changes.
    assert!(
        !gateway.log()?.contains("\"message\":\"request served\""),
        "requests are logged at info"
    );
    mount.put(&format!("logLevel: debug\n{first}"))?;
    wait::until("the backend is gone", LIMIT, || {
        let answer = session.call(gateway.mcp, "two_echo", &json!({"message": "hi"}))?;
        anyhow::ensure!(answer.error_code() == -32602, "{}", answer.text());
        Ok(())
    })?;
    assert_eq!(echo("one")?, "hi");
    assert!(
        gateway.log()?.contains("\"message\":\"request served\""),
        "debug logs no requests"
    );
    assert_eq!((reloads("accepted")?, reloads("refused")?), (2.0, 3.0));
    Ok(())
}

/// A single configuration file is watched, too. Changes of its hot part are applied, other changes need a restart.
#[test]
fn single_config_file_is_reloaded_partly() -> anyhow::Result<()> {
    let (one, two) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let recipe = Recipe::new(&[("one", &one.url)])?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let echo = |backend: &str| echo(&gateway, &session, backend);
    assert_eq!(echo("one")?, "hi");
    let file = gateway.config_file();
    let mut config = GatewayConfig::load(&file)?;
    let mut added = config.hot.as_ref().unwrap().backends[0].clone();
    (added.name, added.url) = ("two".to_owned(), two.url.clone());
    config.hot.as_mut().unwrap().backends.push(added);
    let put = |config: &GatewayConfig| -> anyhow::Result<()> {
        let new = file.with_extension("new");
        std::fs::write(&new, serde_yaml::to_string(config)?)?;
        Ok(std::fs::rename(new, &file)?)
    };
    put(&config)?;
    wait::until("the new backend is offered", LIMIT, || echo("two"))?;
    assert_eq!(
        one.initializes("http-client")?,
        1,
        "the session at the other one is kept"
    );
    // A file that is truncated before its hot part changes nothing. A file with an empty list of backends is applied.
    let whole = config.clone();
    config.hot = None;
    put(&config)?;
    wait::until("the file is refused", LIMIT, || {
        let error = gateway.status(&recipe)?.hot_config_error.unwrap_or_default();
        anyhow::ensure!(error.contains("at `hot`: missing"), "{error}");
        Ok(())
    })?;
    assert_eq!((echo("one")?, echo("two")?), ("hi".to_owned(), "hi".to_owned()));
    config.hot = Some(HotConfig::default());
    put(&config)?;
    wait::until("nothing is offered", LIMIT, || {
        anyhow::ensure!(echo("one").is_err(), "it is offered still");
        Ok(())
    })?;
    config = whole;
    put(&config)?;
    wait::until("the backends are offered again", LIMIT, || {
        echo("one")?;
        echo("two")
    })?;
    let needs_restart = "take effect at the next start";
    assert!(!gateway.log()?.contains(needs_restart));
    config.name = "another".to_owned();
    put(&config)?;
    wait::until("what takes a restart is told", LIMIT, || {
        anyhow::ensure!(gateway.log()?.contains(needs_restart), "not yet");
        Ok(())
    })?;
    assert_eq!((echo("one")?, echo("two")?), ("hi".to_owned(), "hi".to_owned()));
    Ok(())
}

/// A file in several parts takes effect when all of its parts have been replaced. In between, the last configuration stays in use.
#[test]
fn file_in_parts_changes_as_a_whole() -> anyhow::Result<()> {
    let (one, two) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("hot.yaml");
    let parts = |backends: &[(&str, &str)]| {
        let entries = backends
            .iter()
            .map(|(name, url)| format!("- {{name: {name}, url: '{url}'}}\n"));
        let line = |number| format!("# Line {number}, which makes the file longer than one part.\n");
        let padding: String = (0..20).map(line).collect();
        // A change of the backends moves the cuts of all parts.
        let text = format!("backends:\n{}{padding}", entries.collect::<String>());
        split_file::split(&text, 512).context("too many parts")
    };
    let write = |parts: &[String], indexes: std::ops::Range<usize>| -> anyhow::Result<()> {
        for index in indexes {
            let name = split_file::part_name("hot.yaml", index);
            std::fs::write(directory.path().join(name), &parts[index])?;
        }
        Ok(())
    };
    let first = parts(&[("one", &one.url)])?;
    assert!(first.len() > 2, "{}", first.len());
    write(&first, 0..first.len())?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.hot = None;
    recipe.config.hot_file = Some(file);
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(echo(&gateway, &session, "one")?, "hi");

    let second = parts(&[("one", &one.url), ("two", &two.url)])?;
    write(&second, 1..second.len())?;
    wait::until("the mixed parts are refused", LIMIT, || {
        let error = gateway.status(&recipe)?.hot_config_error.unwrap_or_default();
        anyhow::ensure!(error.contains("do not belong together"), "{error}");
        Ok(())
    })?;
    assert_eq!(echo(&gateway, &session, "one")?, "hi");
    write(&second, 0..1)?;
    wait::until("the new backend is offered", LIMIT, || {
        echo(&gateway, &session, "two")
    })?;
    assert_eq!(gateway.status(&recipe)?.hot_config_error, None);
    Ok(())
}

/// New settings of a backend that name a missing file wait for it. Until then the backend serves with the previous settings, and the status
/// reports the file. Other changes of the same configuration are used at once.
#[test]
fn backend_keeps_settings_until_file_exists() -> anyhow::Result<()> {
    let server = ScriptedServer::start(|_| None)?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("token");
    let mount = Mount::new(&format!("backends: [{{name: one, url: '{}'}}]\n", server.url))?;
    let mut recipe = Recipe::new(&[])?;
    recipe.config.hot = None;
    recipe.config.hot_file = Some(mount.file());
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(echo(&gateway, &session, "one")?, "hi");
    let last_token = || {
        let calls = server.received();
        let last = calls.iter().rfind(|request| request.method() == "tools/call");
        last.and_then(|request| request.header("x-token").map(str::to_owned))
    };

    let headers = format!("{{X-Token: {{file: '{}'}}}}", file.display());
    let text = format!(
        "logLevel: debug\nbackends: [{{name: one, url: '{}', headers: {headers}}}]\n",
        server.url
    );
    mount.put(&text)?;
    wait::until("the configuration is taken", LIMIT, || {
        let status = gateway.status(&recipe)?;
        anyhow::ensure!(status.hot_config_hash == config_hash(&text), "not yet");
        let [warning] = &status.warnings[..] else {
            anyhow::bail!("no warning: {:?}", status.warnings)
        };
        anyhow::ensure!(
            warning.starts_with("backend one keeps its previous URL")
                && warning.contains(&file.display().to_string()),
            "{warning}"
        );
        Ok(())
    })?;
    assert_eq!(echo(&gateway, &session, "one")?, "hi");
    assert_eq!(last_token(), None);
    assert!(
        gateway.log()?.contains("\"message\":\"request served\""),
        "the log level is the new one"
    );

    std::fs::write(&file, "s3cret")?;
    wait::until("the header is sent", LIMIT, || {
        assert_eq!(echo(&gateway, &session, "one")?, "hi");
        anyhow::ensure!(last_token().as_deref() == Some("s3cret"), "not yet");
        Ok(())
    })?;
    assert!(gateway.status(&recipe)?.warnings.is_empty());
    Ok(())
}
