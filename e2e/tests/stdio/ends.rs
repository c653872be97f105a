//! Nothing of a server outlives its session or the gateway.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tempfile::TempDir;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::wait;
use vmcp_external::process::Signal;

use crate::{LIMIT, marked, new_mark, recipe, server, value};

/// A server that ignores SIGTERM and the end of its input, and leaves processes in its group and in a session of their own.
fn stubborn(mark: &str) -> anyhow::Result<(Recipe, TempDir)> {
    let directory = tempfile::tempdir()?;
    let script = directory.path().join("stubborn.sh");
    let text = format!(
        "#!/bin/sh\ntrap '' TERM\nsetsid sleep 1000 &\nsh -c 'trap \"\" TERM; sleep 1001' &\n{} --stdio\nsleep 1002\n",
        server()?
    );
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let mut recipe = recipe(&[&script.display().to_string()])?;
    recipe.hot().backends[0]
        .env
        .insert("MARK".to_owned(), value(mark));
    Ok((recipe, directory))
}

fn wait_until_gone(mark: &str) -> anyhow::Result<()> {
    wait::until("nothing is left", LIMIT, || {
        let left = marked(mark)?;
        anyhow::ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })
}

#[test]
fn nothing_is_left_after_sigkill_of_the_gateway() -> anyhow::Result<()> {
    let mark = new_mark("sigkill");
    let (recipe, _directory) = stubborn(&mark)?;
    let mut gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(
        session
            .call(gateway.mcp, "local_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    assert!(
        marked(&mark)?.len() > 8,
        "two servers, each with its supervisor and what it leaves"
    );
    gateway.kill()?;
    wait_until_gone(&mark)
}

#[test]
fn nothing_is_left_after_the_drain() -> anyhow::Result<()> {
    let mark = new_mark("drain");
    let (recipe, _directory) = stubborn(&mark)?;
    let mut gateway = recipe.start()?;
    assert!(!marked(&mark)?.is_empty());
    gateway.signal(Signal::TERM)?;
    assert!(gateway.wait_until_ended(Duration::from_secs(20))?);
    let left = marked(&mark)?;
    assert!(left.is_empty(), "{left:?} outlive the gateway");
    Ok(())
}

#[test]
fn removed_backend_ends_its_processes() -> anyhow::Result<()> {
    let mark = new_mark("removed");
    let (mut recipe, _directory) = stubborn(&mark)?;
    let backends = std::mem::take(&mut recipe.hot().backends);
    let hot = vmcp_crds::config::HotConfig {
        backends,
        ..Default::default()
    };
    let mount = vmcp_e2e::mount::Mount::new(&serde_yaml::to_string(&hot)?)?;
    recipe.config.hot = None;
    recipe.config.hot_file = Some(mount.file());
    let gateway = recipe.start()?;
    let session = Session::open(gateway.mcp)?;
    assert_eq!(
        session
            .call(gateway.mcp, "local_counter", &json!({}))?
            .tool_text()?,
        "1"
    );
    mount.put("{}")?;
    wait_until_gone(&mark)
}

/// A thousand sessions, in at most 32 processes at a time, leave no process, no zombie, no open file and no memory.
#[test]
fn thousand_sessions_leave_nothing_behind() -> anyhow::Result<()> {
    const WORKERS: usize = 8;
    let mark = new_mark("many");
    let mut recipe = crate::test_server()?;
    let backend = &mut recipe.hot().backends[0];
    backend.env.insert("MARK".to_owned(), value(&mark));
    backend.max_processes = 32;
    let gateway = recipe.start()?;
    let open_and_end = || -> anyhow::Result<()> {
        let session = Session::open(gateway.mcp)?;
        let called = session.call(gateway.mcp, "local_counter", &json!({}))?;
        assert_eq!(called.tool_text()?, "1");
        assert_eq!(session.delete(gateway.mcp)?.status, 200);
        Ok(())
    };
    let round = |sessions: usize| -> anyhow::Result<()> {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|_| scope.spawn(|| (0..sessions / WORKERS).try_for_each(|_| open_and_end())))
                .collect();
            for worker in workers {
                worker
                    .join()
                    .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
            }
            anyhow::Ok(())
        })?;
        wait::until("their processes have ended", LIMIT, || {
            let left = marked(&mark)?.len();
            anyhow::ensure!(left <= 2, "{left} are left");
            Ok(())
        })
    };
    round(80)?;
    let (files, memory) = (gateway.open_files()?, gateway.resident_bytes()?);
    round(920)?;
    let (files_after, memory_after) = (gateway.open_files()?, gateway.resident_bytes()?);
    assert!(
        files_after <= files + 4,
        "{files_after} open files, and {files} before"
    );
    assert!(
        memory_after < memory + 8 * 1024 * 1024,
        "{memory_after} bytes, and {memory} before"
    );
    let id = gateway.process_status("Pid")?.context("the gateway runs")?;
    wait::until("no zombie is left", LIMIT, || {
        let zombies = zombies_of(&id)?;
        anyhow::ensure!(zombies.is_empty(), "{zombies:?}");
        Ok(())
    })
}

/// The zombies for which the process with this id has not waited.
fn zombies_of(id: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let mut fields = rest.split_ascii_whitespace();
        if fields.next() == Some("Z") && fields.next() == Some(id) {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}
