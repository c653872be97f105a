//! Every example configuration is what it says: the gateway runs with it.

use std::path::Path;
use std::process::Command;

use vmcp_crds::config::{GatewayConfig, SessionStorageProvider};
use vmcp_e2e::fixture::Fixture;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::{binaries, raw};

fn example() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/gateway.yaml")
}

#[test]
fn the_example_configuration_runs_as_it_is_but_for_its_addresses() -> anyhow::Result<()> {
    if vmcp_peers::left_out("redis") {
        return Ok(());
    }
    let (fixture, redis) = (Fixture::start(&[])?, Redis::start(Some("example"))?);
    let config = GatewayConfig::load(&example())?;
    assert_eq!(config.session_storage.provider, SessionStorageProvider::Redis);
    let mut recipe = Recipe::new(&[])?;
    let keys = recipe.config.session_keys.take();
    recipe.config = GatewayConfig {
        session_keys: keys,
        ..config
    };
    recipe.config.session_storage.address = Some(redis.address.to_string());
    for backend in &mut recipe.config.hot.as_mut().unwrap().backends {
        backend.url.clone_from(&fixture.url);
    }
    recipe.password = Some("example".to_owned());
    let gateway = recipe.start()?;
    let session = raw::Session::open(gateway.mcp)?;
    for backend in ["time", "everything"] {
        let echo = session.call(
            gateway.mcp,
            &format!("{backend}_echo"),
            &serde_json::json!({"message": "hi"}),
        )?;
        assert_eq!(echo.tool_text()?, "hi");
    }
    let named: Vec<String> = redis.command(&["KEYS", "{vmcp:tools/everything}:s:*"])?;
    assert_eq!(named.len(), 1, "{named:?}");
    Ok(())
}

#[test]
fn the_readme_shows_the_example() -> anyhow::Result<()> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let example = std::fs::read_to_string(example())?;
    let shown = example.trim_start_matches(|character| character != 'v').trim();
    let body = &example[example.find("version: v1").unwrap()..];
    assert!(
        readme.contains(body.trim()),
        "the README does not show examples/gateway.yaml as it is:\n{shown}"
    );
    Ok(())
}

#[test]
fn validate_prints_what_a_file_means_and_refuses_a_bad_one_with_64() -> anyhow::Result<()> {
    let gateway = binaries::path("vmcp-gateway")?;
    let run = |file: &Path| {
        Command::new(&gateway)
            .arg("validate")
            .arg("--config")
            .arg(file)
            .output()
    };
    let good = run(&example())?;
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let printed = GatewayConfig::parse(&String::from_utf8(good.stdout)?, Path::new("printed"))?;
    assert_eq!(printed, GatewayConfig::load(&example())?);

    let directory = tempfile::tempdir()?;
    let bad = directory.path().join("bad.yaml");
    std::fs::write(
        &bad,
        "version: v1\nhot:\n  backends:\n    - name: time\n      uri: http://time\n",
    )?;
    let refused = run(&bad)?;
    assert_eq!(refused.status.code(), Some(64));
    let error = String::from_utf8(refused.stderr)?;
    for expected in ["bad.yaml:", "hot.backends[0]", "`uri`", "`url`"] {
        assert!(error.contains(expected), "{expected} is not in {error}");
    }
    Ok(())
}
