//! `catalog: perSession`: the gateway lists the backend in each client's own upstream session. Items of one session are listed and reachable in
//! that session only, on every replica.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use vmcp_crds::config::{self, BackendConfig, CatalogScope, ConflictStrategy, ToolOverride};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::stream::Stream;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;
use vmcp_external::requires;

const PATIENCE: Duration = Duration::from_secs(20);

/// One gateway in front of a server whose tools a session can add to.
fn started(change: impl FnOnce(&mut BackendConfig)) -> anyhow::Result<(TestServer, Gateway)> {
    let test_server = TestServer::start(&["--toolsets"])?;
    let mut recipe = Recipe::new(&[("a", &test_server.url)])?;
    let backend = &mut recipe.hot().backends[0];
    backend.catalog = CatalogScope::PerSession;
    change(backend);
    let gateway = recipe.start()?;
    Ok((test_server, gateway))
}

fn lists(gateway: SocketAddr, session: &Session, tool: &str) -> anyhow::Result<bool> {
    let names = session.names(gateway, "tools/list")?;
    Ok(names.iter().any(|name| name == tool))
}

fn enable(gateway: SocketAddr, session: &Session, prefix: &str, name: &str) -> anyhow::Result<()> {
    let arguments = json!({"name": name, "quiet": true});
    let answer = session.call(gateway, &format!("{prefix}enable_toolset"), &arguments)?;
    anyhow::ensure!(answer.tool_text()? == format!("{name} is enabled"), "{answer:?}");
    Ok(())
}

/// A tool that one session has is listed and called in that session, without any notification; another session neither sees nor reaches it.
#[test]
fn tool_of_one_session_is_seen_and_reached_there_alone() -> anyhow::Result<()> {
    let (_test_server, gateway) = started(|_| {})?;
    let (one, other) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    assert!(!lists(gateway.mcp, &one, "a_report")?);
    enable(gateway.mcp, &one, "a_", "report")?;
    assert!(lists(gateway.mcp, &one, "a_report")? && lists(gateway.mcp, &one, "a_echo")?);
    let called = session_call(gateway.mcp, &one, "a_report")?;
    assert_eq!(called.unwrap(), "report of this session");
    // Without a list before the call, too.
    enable(gateway.mcp, &one, "a_", "later")?;
    assert_eq!(
        session_call(gateway.mcp, &one, "a_later")?.unwrap(),
        "later of this session"
    );
    assert!(!lists(gateway.mcp, &other, "a_report")?);
    assert_eq!(session_call(gateway.mcp, &other, "a_report")?, Err(-32602));
    Ok(())
}

/// The text of the tool's answer, or the code of the error.
fn session_call(gateway: SocketAddr, session: &Session, tool: &str) -> anyhow::Result<Result<String, i64>> {
    let answer = session.call(gateway, tool, &json!({}))?;
    let code = answer.error_code();
    Ok(if code == 0 {
        Ok(answer.tool_text()?)
    } else {
        Err(code)
    })
}

/// By default every client sees the lists of the gateway's own session.
#[test]
fn shared_catalog_knows_no_tools_of_sessions() -> anyhow::Result<()> {
    let (_test_server, gateway) = started(|backend| backend.catalog = CatalogScope::Shared)?;
    let session = Session::open(gateway.mcp)?;
    enable(gateway.mcp, &session, "a_", "report")?;
    assert!(!lists(gateway.mcp, &session, "a_report")?);
    assert_eq!(session_call(gateway.mcp, &session, "a_report")?, Err(-32602));
    Ok(())
}

/// `/status` names a backend with lists per session, and the option for it. A backend that notifies all sessions of a change is not named.
#[test]
fn status_names_backend_needing_per_session_catalog() -> anyhow::Result<()> {
    let (test_server, everybody) = (TestServer::start(&["--toolsets"])?, TestServer::start(&[])?);
    let recipe = Recipe::new(&[("a", &test_server.url), ("b", &everybody.url)])?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    for tool in ["a_echo", "b_echo"] {
        session
            .call(gateway.mcp, tool, &json!({"message": "hi"}))?
            .tool_text()?;
    }
    let _stream = Stream::get(gateway.mcp, &session, None)?;
    wait::until("both are listened to", PATIENCE, || {
        let open = [test_server.stats()?.gets_open, everybody.stats()?.gets_open];
        anyhow::ensure!(open == [2, 2], "{open:?}");
        Ok(())
    })?;
    everybody.admin("POST", "/tools-changed?add=added", &json!(null))?;
    session
        .call(gateway.mcp, "a_enable_toolset", &json!({"name": "report"}))?
        .tool_text()?;
    let named = |warnings: &[String], name: &str| {
        let beginning = format!("backend {name} has told a client's session");
        warnings
            .iter()
            .any(|warning| warning.starts_with(&beginning) && warning.contains("catalog: perSession"))
    };
    wait::until("the backend is named", PATIENCE, || {
        let warnings = gateway.status(&recipe)?.warnings;
        anyhow::ensure!(named(&warnings, "a"), "{warnings:?}");
        anyhow::ensure!(!named(&warnings, "b"), "{warnings:?}");
        Ok(())
    })
}

/// A `list_changed` of an upstream session reaches its own client only.
#[test]
fn list_change_of_session_reaches_its_client_only() -> anyhow::Result<()> {
    let (test_server, gateway) = started(|_| {})?;
    let (one, other) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    for session in [&one, &other] {
        assert!(!lists(gateway.mcp, session, "a_report")?);
    }
    let mut streams = [
        Stream::get(gateway.mcp, &one, None)?,
        Stream::get(gateway.mcp, &other, None)?,
    ];
    wait::until("the test server is listened to", PATIENCE, || {
        anyhow::ensure!(test_server.stats()?.gets_open == 3, "{:?}", test_server.stats()?);
        Ok(())
    })?;
    let arguments = json!({"name": "report"});
    let answer = one.call(gateway.mcp, "a_enable_toolset", &arguments)?;
    let in_the_answer = answer.text().contains("notifications/tools/list_changed");
    if !in_the_answer {
        let told = streams[0].message()?;
        assert_eq!(told["method"], "notifications/tools/list_changed", "{told}");
    }
    assert!(lists(gateway.mcp, &one, "a_report")?);
    // The next message of the other client is a different one.
    let changed = "/resources-changed?add=test://added";
    test_server.admin("POST", changed, &json!(null))?;
    let told = streams[1].message()?;
    assert_eq!(told["method"], "notifications/resources/list_changed", "{told}");
    Ok(())
}

/// Filters, hidden tools, overrides and conflict rules apply to items of a session as to the shared catalog.
#[test]
fn exposure_policy_applies_to_session_tools() -> anyhow::Result<()> {
    let (_test_server, gateway) = started(|backend| {
        backend.tools.deny = vec!["secret*".to_owned()];
        backend.tools.hidden = vec!["quiet".to_owned()];
        let renamed = ToolOverride {
            name: Some("summary".to_owned()),
            description: Some("Another description".to_owned()),
            ..ToolOverride::default()
        };
        backend.tools.overrides.insert("report".to_owned(), renamed);
    })?;
    let session = Session::open(gateway.mcp)?;
    for tool in ["secret_1", "quiet", "report", "plain"] {
        enable(gateway.mcp, &session, "a_", tool)?;
    }
    let items = session.list(gateway.mcp, "tools/list")?;
    let items: Vec<&str> = items.iter().map(|item| item.get()).collect();
    let item = |name: &str| {
        let name = format!("\"name\":\"{name}\"");
        items.iter().find(|item| item.contains(&name))
    };
    assert!(item("a_plain").is_some());
    assert!(item("a_summary").unwrap().contains("Another description"));
    for (tool, found) in [
        ("a_secret_1", None),
        ("a_quiet", None),
        ("a_report", None),
        ("a_summary", Some("report of this session")),
        ("a_plain", Some("plain of this session")),
    ] {
        let called = session_call(gateway.mcp, &session, tool)?;
        assert_eq!(called.as_deref().ok(), found, "{tool}");
        assert_eq!(item(tool).is_some(), found.is_some(), "{tool}");
    }
    Ok(())
}

/// Without prefixes a tool of a session wins a name over later backends, in that session only, on a new replica, too.
#[requires(redis)]
#[test]
fn session_tool_follows_conflict_strategy() -> anyhow::Result<()> {
    let builder = Harness::builder().test_server("first", &["--toolsets"]);
    let builder = builder.test_server("later", &["--name", "later"]);
    let builder = builder.configure(|recipe| {
        let hot = recipe.hot();
        hot.backends[0].catalog = CatalogScope::PerSession;
        hot.backends[0].tools.deny = vec!["whoami".to_owned()];
        hot.aggregation.strategy = ConflictStrategy::None;
    });
    let harness = builder.redis(Redis::start(None)?).replicas(2).start()?;
    let [one, two] = harness.all()?.each_ref().map(|gateway| gateway.mcp);
    let (session, other) = (Session::open(one)?, Session::open(one)?);
    // `whoami` is denied at the first backend, so that the name is the other's, and `counter` is both's.
    harness.servers[1].admin("POST", "/tools-changed?add=special", &json!(null))?;
    wait::until("the gateways have looked", PATIENCE, || {
        for gateway in [one, two] {
            anyhow::ensure!(lists(gateway, &other, "special")?, "not yet");
        }
        Ok(())
    })?;
    assert_eq!(session_call(two, &session, "special")?.unwrap(), "special");
    enable(one, &session, "", "special")?;
    for gateway in [two, one] {
        assert_eq!(
            session_call(gateway, &session, "special")?.unwrap(),
            "special of this session"
        );
    }
    assert_eq!(session_call(two, &other, "special")?.unwrap(), "special");
    Ok(())
}

/// Another replica and a new one list and call the tools of a session.
#[requires(redis)]
#[test]
fn session_tools_survive_gateway_restart() -> anyhow::Result<()> {
    let mut harness = Harness::builder()
        .test_server("fixture", &["--toolsets"])
        .redis(Redis::start(None)?)
        .configure(|recipe| recipe.hot().backends[0].catalog = CatalogScope::PerSession)
        .replicas(2)
        .start()?;
    let [one, two] = harness.all()?.each_ref().map(|gateway| gateway.mcp);
    let (session, other) = (Session::open(one)?, Session::open(one)?);
    enable(one, &session, "fixture_", "report")?;
    // A call first, and then a list: neither needs the other.
    assert_eq!(
        session_call(two, &session, "fixture_report")?.unwrap(),
        "report of this session"
    );
    assert!(lists(two, &session, "fixture_report")? && !lists(two, &other, "fixture_report")?);
    enable(two, &session, "fixture_", "another")?;
    assert!(lists(one, &session, "fixture_another")?);
    harness.kill_gateways()?;
    harness.replace_gateways()?;
    let fresh = harness.addresses()[0];
    assert!(lists(fresh, &session, "fixture_report")? && lists(fresh, &session, "fixture_another")?);
    assert_eq!(
        session_call(fresh, &session, "fixture_report")?.unwrap(),
        "report of this session"
    );
    assert_eq!(session_call(fresh, &other, "fixture_report")?, Err(-32602));
    Ok(())
}

/// When the backend has lost the upstream session, its tools are gone, and the client gets `list_changed`.
#[test]
fn replaced_upstream_session_has_lists_of_its_own() -> anyhow::Result<()> {
    let (mut test_server, gateway) = started(|_| {})?;
    let session = Session::open(gateway.mcp)?;
    enable(gateway.mcp, &session, "a_", "report")?;
    assert!(lists(gateway.mcp, &session, "a_report")?);
    let mut stream = Stream::get(gateway.mcp, &session, None)?;
    test_server.restart()?;
    wait::until("the client is told", PATIENCE, || {
        let told = stream.message()?;
        let is_change = told["method"] == "notifications/tools/list_changed";
        anyhow::ensure!(is_change, "{told}");
        Ok(())
    })?;
    assert!(!lists(gateway.mcp, &session, "a_report")? && lists(gateway.mcp, &session, "a_echo")?);
    Ok(())
}

/// A backend whose lists cannot be read in the session is listed from the shared catalog, and delays no response.
#[test]
fn unanswered_session_list_falls_back_to_shared_catalog() -> anyhow::Result<()> {
    let (mut test_server, gateway) = started(|_| {})?;
    let session = Session::open(gateway.mcp)?;
    test_server.kill()?;
    assert!(lists(gateway.mcp, &session, "a_echo")?);
    Ok(())
}

/// Two backends without prefixes, `first` before `second`; the one of the name `per_session` lists to single sessions and lists nothing any
/// more, after a session has called it.
fn with_a_hanging_backend(per_session: &str) -> anyhow::Result<(Gateway, [TestServer; 2], Session)> {
    let toolsets = TestServer::start(&["--toolsets"])?;
    let other = TestServer::start(&["--name", "other"])?;
    let test_servers = if per_session == "first" {
        [toolsets, other]
    } else {
        [other, toolsets]
    };
    let mut recipe = Recipe::new(&[("first", &test_servers[0].url), ("second", &test_servers[1].url)])?;
    let hot = recipe.hot();
    hot.aggregation.strategy = ConflictStrategy::None;
    let backend = hot
        .backends
        .iter_mut()
        .find(|backend| backend.name == per_session);
    backend.unwrap().catalog = CatalogScope::PerSession;
    let other = &test_servers[usize::from(per_session == "first")];
    other.admin("POST", "/tools-changed?add=special", &json!(null))?;
    other.admin("POST", "/resources-changed?add=test://special", &json!(null))?;
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    enable(gateway.mcp, &session, "", "special")?;
    let rules = ["tools/list", "resources/list", "resources/templates/list"];
    let rules = rules.map(|method| json!({"only_method": method, "hang": true}));
    let toolsets = &test_servers[usize::from(per_session != "first")];
    toolsets.admin("POST", "/faults", &json!(rules))?;
    Ok((gateway, test_servers, session))
}

/// How long the session waits for `special`, which is a tool or a resource, from the backend that is not listed to single sessions.
fn waits(gateway: &Gateway, session: &Session, method: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let is_call = method == "tools/call";
    let (params, found) = if is_call {
        (json!({"name": "special", "arguments": {}}), "special\"")
    } else {
        (json!({"uri": "test://special"}), "test://special")
    };
    let answer = session.request(gateway.mcp, method, &params)?;
    anyhow::ensure!(answer.error_code() == 0, "{answer:?}");
    let text = answer.text();
    anyhow::ensure!(
        text.contains(found) && !text.contains("of this session"),
        "{text}"
    );
    Ok(began.elapsed())
}

/// A name that an earlier backend owns is not looked up at a later one.
#[test]
fn backend_that_cannot_own_a_name_is_not_asked() -> anyhow::Result<()> {
    let (gateway, _test_servers, session) = with_a_hanging_backend("second")?;
    for method in ["tools/call", "resources/read"] {
        let waited = waits(&gateway, &session, method)?;
        assert!(waited < Duration::from_secs(2), "{method}: {waited:?}");
    }
    Ok(())
}

/// A hanging session list delays the items of other backends once. It is used once it arrives.
#[test]
fn hanging_session_list_delays_other_backends_once() -> anyhow::Result<()> {
    let (gateway, test_servers, session) = with_a_hanging_backend("first")?;
    let first = std::thread::scope(|scope| -> anyhow::Result<_> {
        let early = scope.spawn(|| waits(&gateway, &session, "tools/call"));
        std::thread::sleep(Duration::from_secs(2));
        let late = waits(&gateway, &session, "tools/call")?;
        let early = early.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        Ok([early, late])
    })?;
    assert!(first[0] < Duration::from_secs(6), "{first:?}");
    assert!(
        first[1] < Duration::from_secs(4),
        "it waits no longer than the first: {first:?}"
    );
    for method in ["tools/call", "resources/read", "tools/call", "resources/read"] {
        let waited = waits(&gateway, &session, method)?;
        assert!(waited < Duration::from_secs(2), "{method}: {waited:?}");
    }
    test_servers[0].admin("DELETE", "/faults", &json!({}))?;
    wait::until("the session's own tool is found", PATIENCE, || {
        let called = session_call(gateway.mcp, &session, "special")?;
        anyhow::ensure!(called.as_deref() == Ok("special of this session"), "{called:?}");
        Ok(())
    })
}

/// The catalog of a session is dropped when the session ends: terminated here, terminated on another replica, or expired.
#[requires(redis)]
#[test]
fn session_catalog_ends_with_session() -> anyhow::Result<()> {
    let harness = Harness::builder()
        .test_server("fixture", &["--toolsets"])
        .redis(Redis::start(None)?)
        .configure(|recipe| {
            recipe.config.session_storage.ttl = config::Duration::from_secs(4);
            recipe.hot().backends[0].catalog = CatalogScope::PerSession;
        })
        .replicas(2)
        .start()?;
    let [one, two] = harness.all()?.each_ref().map(|gateway| gateway.mcp);
    let kept = || harness.gateways[0].metric("vmcp_buffered_bytes", "");
    wait::until("the catalog is known", PATIENCE, || {
        let session = Session::open(one)?;
        let is_known = lists(one, &session, "fixture_echo")?;
        session.delete(one)?;
        anyhow::ensure!(is_known, "not yet");
        Ok(())
    })?;
    let mut before = 0.0;
    wait::until("nothing changes any more", PATIENCE, || {
        let last = std::mem::replace(&mut before, kept()?);
        std::thread::sleep(Duration::from_millis(500));
        anyhow::ensure!((last - before).abs() < 1.0, "{last} {before}");
        Ok(())
    })?;
    for end in ["deleted here", "deleted elsewhere", "expired"] {
        let session = Session::open(one)?;
        enable(one, &session, "fixture_", "report")?;
        assert!(lists(one, &session, "fixture_report")?);
        assert_eq!(
            session_call(one, &session, "fixture_report")?.unwrap(),
            "report of this session"
        );
        let with_it = kept()?;
        anyhow::ensure!(with_it > before + 4000.0, "{before} {with_it}");
        match end {
            "deleted here" => assert_eq!(session.delete(one)?.status, 200),
            "deleted elsewhere" => assert_eq!(session.delete(two)?.status, 200),
            _ => {}
        }
        wait::until("it is dropped", PATIENCE, || {
            let now = kept()?;
            anyhow::ensure!(now < before + 1.0, "{end}: {before} {with_it} {now}");
            Ok(())
        })?;
    }
    Ok(())
}
