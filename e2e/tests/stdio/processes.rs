//! How many processes run, for whom, and with which environment.

use serde_json::json;
use vmcp_crds::config::{Duration, ProcessMode, VariableSource};
use vmcp_e2e::counting_session::CountingSession;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::wait;

use crate::{LIMIT, new_mark, server, servers, test_server, value};

/// Each session has a process of its own, so no state of one client reaches another. DELETE ends it.
#[test]
fn session_has_its_own_process_until_it_ends() -> anyhow::Result<()> {
    let mark = new_mark("own-process");
    let mut recipe = test_server()?;
    recipe.hot().backends[0]
        .env
        .insert("MARK".to_owned(), value(&mark));
    let gateway = recipe.start()?;
    assert_eq!(servers(&mark)?.len(), 1, "the gateway's own");
    let mut counting = (0..3)
        .map(|_| CountingSession::open(gateway.mcp, "local_counter"))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for _ in 0..3 {
        for session in &mut counting {
            session.call(gateway.mcp)?;
        }
    }
    assert_eq!(servers(&mark)?.len(), 4);
    let status = gateway.status(&recipe)?;
    assert_eq!(
        status.backends[0].processes.as_ref().map(|of| of.running),
        Some(4)
    );
    for session in &counting {
        assert_eq!(session.session().delete(gateway.mcp)?.status, 200);
    }
    wait::until("their processes end", LIMIT, || {
        let running = servers(&mark)?.len();
        anyhow::ensure!(running == 1, "{running} run");
        Ok(())
    })
}

#[test]
fn shared_process_serves_all_sessions() -> anyhow::Result<()> {
    let mark = new_mark("shared-process");
    let mut recipe = test_server()?;
    recipe.hot().backends[0]
        .env
        .insert("MARK".to_owned(), value(&mark));
    recipe.hot().backends[0].processes = ProcessMode::Shared;
    let gateway = recipe.start()?;
    let (first, second) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    let (one, other) = (&first, &second);
    for (session, count) in [(one, "1"), (other, "2"), (one, "3")] {
        assert_eq!(
            session
                .call(gateway.mcp, "local_counter", &json!({}))?
                .tool_text()?,
            count
        );
    }
    // Two requests with one id get their own responses.
    let call = |session: &Session, ms: u64| {
        session
            .call_as(7, gateway.mcp, "local_sleep", &json!({"ms": ms}))?
            .tool_text()
    };
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| call(one, 300));
        assert_eq!(call(other, 100)?, "slept 100 ms");
        let slow = slow.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?;
        assert_eq!(slow?, "slept 300 ms");
        anyhow::Ok(())
    })?;
    assert_eq!(servers(&mark)?.len(), 1);
    Ok(())
}

#[test]
fn call_beyond_max_processes_gets_503() -> anyhow::Result<()> {
    let mut recipe = test_server()?;
    recipe.hot().backends[0].max_processes = 1;
    let gateway = recipe.start()?;
    let (first, second) = (Session::open(gateway.mcp)?, Session::open(gateway.mcp)?);
    let counter = |session: &Session| session.call(gateway.mcp, "local_counter", &json!({}));
    assert_eq!(counter(&first)?.tool_text()?, "1");
    let refused = counter(&second)?;
    assert_eq!(
        (refused.status, refused.error_code()),
        (503, -32603),
        "{}",
        refused.text()
    );
    assert!(refused.header("retry-after").is_some());
    assert!(refused.text().contains("maxProcesses"), "{}", refused.text());
    assert_eq!(first.delete(gateway.mcp)?.status, 200);
    wait::until("the place is free", LIMIT, || {
        assert_eq!(counter(&second)?.tool_text()?, "1");
        Ok(())
    })
}

#[test]
fn idle_process_ends_and_the_next_call_starts_one() -> anyhow::Result<()> {
    let mark = new_mark("idle");
    let mut recipe = test_server()?;
    let backend = &mut recipe.hot().backends[0];
    backend.env.insert("MARK".to_owned(), value(&mark));
    backend.idle_timeout = Duration::from_millis(1000);
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    let counter = || {
        session
            .call(gateway.mcp, "local_counter", &json!({}))?
            .tool_text()
    };
    assert_eq!(counter()?, "1");
    assert_eq!(counter()?, "2");
    let before = servers(&mark)?;
    wait::until("the idle process ends", LIMIT, || {
        let now = servers(&mark)?;
        anyhow::ensure!(now.len() < before.len(), "{now:?} run");
        Ok(())
    })?;
    assert_eq!(counter()?, "1", "a new process");
    Ok(())
}

/// The environment is what the configuration names and a few usual variables. A secret is not in the log.
#[test]
fn server_gets_only_the_named_environment() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let (seen, key) = (directory.path().join("seen"), directory.path().join("key"));
    std::fs::write(&key, "from the file\n")?;
    let script = format!(
        "env > {}; pwd >> {0}; echo \"is $TOKEN\" >&2; exec {} --stdio",
        seen.display(),
        server()?
    );
    let mut recipe = crate::recipe(&["sh", "-c", &script])?;
    let own = &mut recipe.hot().backends[0];
    own.working_directory = Some(directory.path().to_owned());
    let env = VariableSource {
        env: Some("GATEWAY_TOKEN".to_owned()),
        ..VariableSource::default()
    };
    let file = VariableSource {
        file: Some(key),
        ..VariableSource::default()
    };
    for (name, source) in [("TOKEN", env), ("KEY", file), ("LEVEL", value("high"))] {
        own.env.insert(name.to_owned(), source);
    }
    recipe
        .environment
        .insert("GATEWAY_TOKEN".to_owned(), "s3cret-token".to_owned());
    let gateway = recipe.start()?;
    Session::open(gateway.mcp)?.names(gateway.mcp, "tools/list")?;
    let seen = std::fs::read_to_string(seen)?;
    let mut lines: Vec<&str> = seen.lines().collect();
    for expected in [
        "TOKEN=s3cret-token",
        "KEY=from the file",
        "LEVEL=high",
        &directory.path().display().to_string(),
    ] {
        assert!(lines.contains(&expected), "{expected}: {seen}");
    }
    let usual = [
        "PATH=", "HOME=", "LANG=", "TMPDIR=", "TOKEN=", "KEY=", "LEVEL=", "PWD=", "SHLVL=", "_=", "OLDPWD=",
        "/",
    ];
    lines.retain(|line| !usual.iter().any(|usual| line.starts_with(usual)));
    assert!(lines.is_empty(), "{lines:?}");
    wait::until("standard error is in the log", LIMIT, || {
        let log = gateway.log()?;
        anyhow::ensure!(
            log.contains("is <hidden>") && !log.contains("s3cret-token"),
            "{log}"
        );
        Ok(())
    })
}

/// Each replica starts a process of its own for a session. Only the state in the process is not shared.
#[test]
fn other_replica_starts_its_own_process() -> anyhow::Result<()> {
    let redis = Redis::start(None)?;
    let mut recipe = test_server()?;
    recipe.use_redis(redis.address);
    let (one, other) = (recipe.start()?, recipe.start()?);
    let session = Session::open(one.mcp)?;
    for (gateway, count) in [(&one, "1"), (&other, "1"), (&one, "2"), (&other, "2")] {
        assert_eq!(
            session
                .call(gateway.mcp, "local_counter", &json!({}))?
                .tool_text()?,
            count
        );
    }
    Ok(())
}
