//! The merged lists over time: pages, changes and failures of backends, and configuration reloads.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmcp_crds::config::{BackendConfig, Duration as ConfigDuration, FailureMode, HotConfig};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::Session;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

/// How long a change may take to reach clients, with `refresh: 1s`.
const LIMIT: Duration = Duration::from_secs(10);

const LISTS: [&str; 4] = [
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
];

fn hot(recipe: &mut Recipe) -> &mut HotConfig {
    recipe.hot()
}

/// Waits until `name` is listed, or is not.
fn wait_for(
    session: &Session,
    gateway: &Gateway,
    method: &str,
    name: &str,
    listed: bool,
) -> anyhow::Result<()> {
    wait::until("the list changes", LIMIT, || {
        let names = session.names(gateway.mcp, method)?;
        anyhow::ensure!(names.iter().any(|other| other == name) == listed, "{names:?}");
        Ok(())
    })
}

#[test]
fn pages_of_every_list_are_complete() -> anyhow::Result<()> {
    // The backend gives its lists in pages too, and all of them are followed.
    let test_server = TestServer::start(&["--page-size", "2", "--extra-tools", "5"])?;
    let mut recipe = Recipe::new(&[("a", &test_server.url)])?;
    let whole = recipe.start()?;
    hot(&mut recipe).aggregation.page_size = 2;
    let paged = recipe.start()?;
    let (session_of_whole, session) = (Session::open(whole.mcp)?, Session::open(paged.mcp)?);
    for method in LISTS {
        let all = session_of_whole.list(whole.mcp, method)?;
        assert!(!all.is_empty(), "{method}");
        let first = session.request(paged.mcp, method, &json!({}))?.message()?;
        assert_eq!(
            first["result"].get("nextCursor").is_some(),
            all.len() > 2,
            "{method}"
        );
        let texts = |items: &[Box<serde_json::value::RawValue>]| -> Vec<String> {
            items.iter().map(|item| item.get().to_owned()).collect()
        };
        assert_eq!(texts(&session.list(paged.mcp, method)?), texts(&all), "{method}");
    }
    // A cursor is valid on every replica, and for its own list only.
    let next = session
        .request(paged.mcp, "tools/list", &json!({"cursor": ""}))?
        .message()?;
    let cursor = next["result"]["nextCursor"].clone();
    let replica = recipe.start()?;
    let there = Session::open(replica.mcp)?;
    let page = |session: &Session, gateway: &Gateway| -> anyhow::Result<Value> {
        let answer = session.request(gateway.mcp, "tools/list", &json!({"cursor": cursor}))?;
        Ok(answer.message()?["result"].clone())
    };
    assert_eq!(page(&there, &replica)?, page(&session, &paged)?);
    for (method, cursor) in [
        ("prompts/list", cursor.clone()),
        ("tools/list", json!("garbage")),
        ("tools/list", json!(2)),
        ("resources/templates/list", json!("MTIz")),
    ] {
        let answer = session.request(paged.mcp, method, &json!({"cursor": cursor}))?;
        assert_eq!(
            (answer.status, answer.error_code()),
            (200, -32602),
            "{method} {cursor}"
        );
    }
    Ok(())
}

/// A storm of changes causes few list requests, and clients see the last change.
#[test]
fn storm_of_list_changes_costs_few_relists() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let gateway = Recipe::new(&[("a", &test_server.url)])?.start()?;
    let session = Session::open(gateway.mcp)?;
    let lists = || -> anyhow::Result<u64> {
        let stats = test_server.stats()?;
        Ok(stats.requests.get("tools/list").copied().unwrap_or_default())
    };
    let (before, began) = (lists()?, Instant::now());
    for number in 0..200 {
        test_server.admin("POST", &format!("/tools-changed?add=new_{number}"), &json!({}))?;
    }
    wait_for(&session, &gateway, "tools/list", "a_new_199", true)?;
    // One discovery at a time, and a tenth of a second between two.
    let (looks, at_most) = (lists()? - before, began.elapsed().as_millis() / 100 + 2);
    assert!(
        u128::from(looks) <= at_most,
        "{looks} looks where {at_most} are allowed"
    );
    Ok(())
}

/// Tools that a backend adds or removes are added or removed in open sessions.
#[test]
fn added_and_removed_tools_reach_open_sessions() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let mut recipe = Recipe::new(&[("a", &test_server.url)])?;
    hot(&mut recipe).aggregation.refresh = ConfigDuration::from_secs(1);
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    for (path, method, name, added) in [
        ("/tools-changed", "tools/list", "a_new", "new"),
        ("/prompts-changed", "prompts/list", "a_new", "new"),
        ("/resources-changed", "resources/list", "test://new", "test://new"),
    ] {
        wait_for(&session, &gateway, method, name, false)?;
        test_server.admin("POST", &format!("{path}?add={added}"), &json!({}))?;
        wait_for(&session, &gateway, method, name, true)?;
        test_server.admin("POST", &format!("{path}?remove={added}"), &json!({}))?;
        wait_for(&session, &gateway, method, name, false)?;
    }
    Ok(())
}

/// A failing backend is kept or hidden, as configured, and returns by itself.
#[test]
fn failing_backend_is_kept_or_hidden_and_recovers() -> anyhow::Result<()> {
    let (mut test_server, other) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let mut recipe = Recipe::new(&[("a", &test_server.url), ("b", &other.url)])?;
    hot(&mut recipe).aggregation.refresh = ConfigDuration::from_secs(1);
    let keeping = recipe.start()?;
    hot(&mut recipe).aggregation.failure_mode = FailureMode::Hide;
    let hiding = recipe.start()?;
    let (on_keeping, on_hiding) = (Session::open(keeping.mcp)?, Session::open(hiding.mcp)?);
    wait_for(&on_hiding, &hiding, "tools/list", "a_echo", true)?;
    test_server.kill()?;
    wait_for(&on_hiding, &hiding, "tools/list", "a_echo", false)?;
    wait_for(&on_hiding, &hiding, "tools/list", "b_echo", true)?;
    wait::until("the other gateway has noticed too", LIMIT, || {
        let error = keeping.status(&recipe)?.backends[0].error.clone();
        anyhow::ensure!(error.is_some(), "no error yet");
        Ok(())
    })?;
    wait_for(&on_keeping, &keeping, "tools/list", "a_echo", true)?;
    // A call by an older list gets the reason, and not that the tool is unknown.
    let call = on_hiding.call(hiding.mcp, "a_echo", &json!({"message": "hi"}))?;
    assert_eq!(call.message()?["result"]["isError"], true, "{}", call.text());
    test_server.restart()?;
    wait_for(&on_hiding, &hiding, "tools/list", "a_echo", true)?;
    let call = on_hiding.call(hiding.mcp, "a_echo", &json!({"message": "hi"}))?;
    assert_eq!(call.tool_text()?, "hi");
    Ok(())
}

/// A failing list of a backend does not hide its other lists.
#[test]
fn failing_list_does_not_hide_other_lists() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    test_server.admin(
        "POST",
        "/faults",
        &json!({"status": 500, "only_method": "prompts/list"}),
    )?;
    let recipe = Recipe::new(&[("a", &test_server.url)])?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    wait_for(&session, &gateway, "tools/list", "a_echo", true)?;
    assert!(session.names(gateway.mcp, "prompts/list")?.is_empty());
    let faults = gateway.status(&recipe)?.faults;
    assert!(
        faults
            .iter()
            .any(|fault| fault.contains("backend a: prompts/list") && fault.contains("500")),
        "{faults:?}"
    );
    Ok(())
}

/// A reload changes exposure and backends in open sessions.
#[test]
fn reload_changes_exposure_in_open_sessions() -> anyhow::Result<()> {
    let (one, two) = (TestServer::start(&[])?, TestServer::start(&[])?);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("hot.yaml");
    let mut recipe = Recipe::new(&[("one", &one.url)])?;
    let mut config = recipe.config.hot.take().unwrap();
    recipe.config.hot_file = Some(file.clone());
    let write = |config: &HotConfig| -> anyhow::Result<()> {
        Ok(std::fs::write(&file, serde_yaml::to_string(config)?)?)
    };
    write(&config)?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let count = |session: &Session| -> anyhow::Result<String> {
        session.call(gateway.mcp, "one_counter", &json!({}))?.tool_text()
    };
    assert_eq!(count(&session)?, "1");
    config.backends[0].tools.deny = vec!["echo".to_owned()];
    config.backends.push(BackendConfig {
        name: "two".to_owned(),
        url: two.url.clone(),
        prefix: Some("second_".to_owned()),
        ..BackendConfig::default()
    });
    write(&config)?;
    wait_for(&session, &gateway, "tools/list", "second_echo", true)?;
    wait_for(&session, &gateway, "tools/list", "one_echo", false)?;
    // The upstream session and its state are kept.
    assert_eq!(count(&session)?, "2");
    config.backends.remove(1);
    write(&config)?;
    wait_for(&session, &gateway, "tools/list", "second_echo", false)?;
    // An invalid file changes nothing, and is reported.
    std::fs::write(&file, "aggregation: {strategy: sometimes}")?;
    wait::until("the refusal is told", LIMIT, || {
        let error = gateway.status(&recipe)?.hot_config_error.unwrap_or_default();
        anyhow::ensure!(error.contains("sometimes"), "{error}");
        Ok(())
    })?;
    wait_for(&session, &gateway, "tools/list", "one_counter", true)
}

/// The lists of 150 backends fit one page by default.
#[test]
fn lists_of_150_backends_fit_one_page() -> anyhow::Result<()> {
    let test_server = TestServer::start(&["--extra-tools", "10"])?;
    let names: Vec<String> = (0..150).map(|number| format!("b{number:03}")).collect();
    let backends: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), test_server.url.as_str()))
        .collect();
    let mut recipe = Recipe::new(&backends)?;
    for backend in &mut hot(&mut recipe).backends {
        backend.tools.allow = vec!["extra_*".to_owned()];
    }
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    wait::until("every backend has answered", Duration::from_secs(30), || {
        let listed = session.names(gateway.mcp, "tools/list")?.len();
        anyhow::ensure!(listed == 1500, "{listed} tools are listed");
        Ok(())
    })?;
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let started = Instant::now();
            session.request(gateway.mcp, "tools/list", &json!({}))?;
            Ok(started.elapsed())
        })
        .collect::<anyhow::Result<_>>()?;
    times.sort();
    println!("tools/list of 1500 tools: {:?} in the median", times[10]);
    let called = session.call(gateway.mcp, "b149_extra_0010", &json!({}))?;
    assert_eq!(called.tool_text()?, "extra_0010");
    Ok(())
}
