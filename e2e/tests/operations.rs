//! Checks `docs/OPERATIONS.md`: its commands work, and the metrics, logs and fields that it names exist.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::json;
use vmcp_e2e::binaries;
use vmcp_e2e::harness::Harness;
use vmcp_e2e::http_client::Session;
use vmcp_e2e::redis::{Redis, documented_user};
use vmcp_external::requires;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page() -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(root().join("docs/OPERATIONS.md"))?)
}

fn start() -> anyhow::Result<Harness<Redis>> {
    let builder = Harness::builder().test_server("fixture", &[]);
    builder.redis(Redis::start(None)?).start()
}

/// What stands between the fences of shell blocks.
fn commands(page: &str) -> String {
    let blocks = page.split("```sh\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    blocks.collect::<Vec<_>>().join("\n")
}

/// Every text between backticks in `text`.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of the column `name` of the page's tables, one after the other.
fn column(page: &str, name: &str) -> Vec<String> {
    let mut index = None;
    let mut cells = Vec::new();
    for line in page.lines() {
        if !line.starts_with('|') {
            index = None;
            continue;
        }
        let row: Vec<&str> = line.split('|').map(str::trim).collect();
        match index {
            None => index = row.iter().position(|cell| *cell == name),
            Some(index) => cells.extend(row.get(index).map(|cell| (*cell).to_owned())),
        }
    }
    cells
}

/// The text of every source file below `directory`.
fn sources(directory: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            text.push_str(&sources(&path)?);
        } else {
            text.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
        }
    }
    Ok(text)
}

#[requires(redis)]
#[test]
fn every_command_on_the_page_works() -> anyhow::Result<()> {
    let harness = start()?;
    let (redis, recipe, gateway) = (&harness.redis, &harness.recipe, harness.gateway());
    Session::open(gateway.mcp)?;
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("gateway.yaml"), gateway.config()?)?;
    let keys = recipe.config.session_keys.as_ref().context("there are keys")?;
    // As on the page, but with the addresses and files of this test.
    let script = commands(&page()?)
        .replace("ADMIN=127.0.0.1:9483", &format!("ADMIN={}", gateway.admin))
        .replace("KEYS=keys", &format!("KEYS={}", keys.directory.display()));
    let programs = [
        binaries::path("vmcp-gateway")?,
        vmcp_external::redis::redis_cli()?,
    ];
    let mut path = std::env::var("PATH").unwrap_or_default();
    for program in &programs {
        let directory = program.parent().context("a program stands in a directory")?;
        path = format!("{}:{path}", directory.display());
    }
    let output = Command::new("sh")
        .args(["-euc", &script])
        .current_dir(directory.path())
        .env("PATH", path)
        .env("REDIS_URL", format!("redis://{}", redis.address))
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{printed}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for expected in [
        "ok\n",
        "vmcp_requests_total",
        "\"sessionStore\"",
        "version: v1",
        "noeviction",
        "used_memory_human",
    ] {
        assert!(printed.contains(expected), "{expected} is not in\n{printed}");
    }
    Ok(())
}

/// Every metric, log message and field that the page names exists.
#[test]
fn documented_metrics_logs_and_fields_exist() -> anyhow::Result<()> {
    let page = page()?;
    let gateway = sources(&root().join("gateway/src"))?;
    let status = std::fs::read_to_string(root().join("crds/src/status.rs"))?;
    let mut named = 0;
    for metric in quoted(&page).filter(|text| text.starts_with("vmcp_")) {
        let name = metric.split(['{', ' ']).next().unwrap_or(metric);
        let name = name.trim_start_matches("vmcp_").trim_end_matches("_total");
        ensure!(
            gateway.contains(&format!("\"{name}\"")),
            "there is no metric {metric}"
        );
        named += 1;
    }
    for cell in column(&page, "log") {
        for line in quoted(&cell) {
            ensure!(gateway.contains(&format!("\"{line}\"")), "nobody logs {line:?}");
            named += 1;
        }
    }
    for cell in column(&page, "`/status`") {
        for field in quoted(&cell).filter(|text| text.chars().any(|c| c == '.' || c.is_uppercase())) {
            for part in field.split('.') {
                let snake: String = part
                    .trim_end_matches("[]")
                    .chars()
                    .flat_map(|c| [c.is_uppercase().then_some('_'), Some(c.to_ascii_lowercase())])
                    .flatten()
                    .collect();
                ensure!(
                    status.contains(&format!("pub {snake}:")),
                    "there is no field {field}"
                );
            }
            named += 1;
        }
    }
    assert!(named > 30, "the page names only {named} things");
    Ok(())
}

/// A session uses no more memory of Redis than the page says.
#[requires(redis)]
#[test]
fn session_uses_documented_redis_memory() -> anyhow::Result<()> {
    const SESSIONS: i64 = 1000;
    let page = page()?;
    let stated = page
        .split(" bytes of Redis's memory")
        .next()
        .and_then(|before| before.rsplit(' ').next())
        .and_then(|number| number.replace(',', "").parse::<i64>().ok());
    let stated = stated.context("the page says how many bytes a session takes")?;
    let harness = start()?;
    let (redis, gateway) = (&harness.redis, harness.gateway());
    let used = || -> anyhow::Result<i64> {
        let info: String = redis.command(&["INFO", "memory"])?;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(line.context("Redis says how much it uses")?.parse()?)
    };
    let with_binding = || -> anyhow::Result<()> {
        let session = Session::open(gateway.mcp)?;
        let count = session.call(gateway.mcp, "fixture_counter", &json!({}))?;
        ensure!(count.tool_text()? == "1");
        Ok(())
    };
    // Memory that Redis allocates once, such as its script cache, belongs to no session.
    with_binding()?;
    let before = used()?;
    (0..SESSIONS).try_for_each(|_| with_binding())?;
    let each = (used()? - before) / SESSIONS;
    assert!(
        (stated / 2..=stated).contains(&each),
        "a session takes {each} bytes, and the page says {stated}"
    );
    Ok(())
}

/// The permissions that the page links are enough for the gateways.
#[requires(redis)]
#[test]
fn linked_redis_permissions_are_enough() -> anyhow::Result<()> {
    ensure!(
        page()?.contains("(redis.md#permissions)"),
        "the page names the permissions"
    );
    let user = documented_user::setting()?;
    let harness = Harness::builder()
        .test_server("fixture", &[])
        .redis(Redis::start_with(None, &[&user])?)
        .configure(|recipe| {
            recipe.config.session_storage.username = Some(documented_user::NAME.to_owned());
            recipe.password = Some(documented_user::PASSWORD.to_owned());
        })
        .replicas(2)
        .start()?;
    let gateways = &harness.gateways;
    let session = Session::open(gateways[0].mcp)?;
    for (index, gateway) in gateways.iter().cycle().take(4).enumerate() {
        let count = session
            .call(gateway.mcp, "fixture_counter", &json!({}))?
            .tool_text()?;
        assert_eq!(count, (index + 1).to_string());
        let answer = session.request(gateway.mcp, "logging/setLevel", &json!({"level": "error"}))?;
        assert!(answer.text().contains("\"result\""), "{}", answer.text());
        let resource = json!({"uri": "test://watched-resource"});
        for method in ["resources/subscribe", "resources/unsubscribe"] {
            let answer = session.request(gateway.mcp, method, &resource)?;
            assert!(
                answer.text().contains("\"result\""),
                "{method}: {}",
                answer.text()
            );
        }
    }
    assert_eq!(session.delete(gateways[1].mcp)?.status, 200);
    for gateway in gateways {
        let log = gateway.log()?;
        assert!(!log.contains("NOPERM"), "{log}");
        assert!(gateway.status(&harness.recipe)?.session_store.available);
    }
    Ok(())
}
