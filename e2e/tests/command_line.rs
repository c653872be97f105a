//! The gateway's command line: help, output and exit codes.

use std::process::{Command, Output};

use vmcp_crds::config::{GatewayConfig, REDIS_PASSWORD_ENV};
use vmcp_e2e::binaries;

/// The outcome of `vmcp-gateway` with these arguments and this environment.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Output> {
    let mut command = Command::new(binaries::path("vmcp-gateway")?);
    command
        .args(arguments)
        .env_remove("VMCP_CONFIG")
        .env_remove(REDIS_PASSWORD_ENV);
    Ok(command.envs(environment.iter().copied()).output()?)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn version_names_protocol_revisions() -> anyhow::Result<()> {
    let output = run(&["version"], &[])?;
    let text = stdout(&output);
    assert!(output.status.success());
    assert!(
        text.starts_with(&format!("vmcp-gateway {}\n", env!("CARGO_PKG_VERSION"))),
        "{text}"
    );
    assert!(text.contains("\ncommit: "), "{text}");
    assert!(
        text.contains("protocol revisions: 2025-11-25, 2025-06-18, 2025-03-26, 2024-11-05\n"),
        "{text}"
    );
    Ok(())
}

#[test]
fn help_explains_first_steps() -> anyhow::Result<()> {
    for (arguments, words) in [
        (
            &["--help"][..],
            &[
                "serve --config gateway.yaml",
                "VMCP_CONFIG",
                REDIS_PASSWORD_ENV,
                "64",
                "docs/configuration.md",
            ][..],
        ),
        (
            &["serve", "--help"],
            &[
                "http://127.0.0.1:4483/mcp",
                "/readyz",
                "SIGTERM",
                "hotFile",
                "[env: VMCP_CONFIG=",
            ],
        ),
        (
            &["validate", "--help"],
            &["64", "no secret", "[env: VMCP_CONFIG="],
        ),
        (&["keygen", "--help"], &["keygen > keys/current"]),
        (
            &["import", "--help"],
            &[
                "import ~/.config/Claude/claude_desktop_config.json",
                "set -a; . ./vmcp.env; set +a",
                "--force",
                "docs/desktop.md",
            ],
        ),
    ] {
        let output = run(arguments, &[])?;
        let text = stdout(&output);
        for word in words {
            assert!(
                text.contains(word),
                "{word} is not in the help of {arguments:?}:\n{text}"
            );
        }
    }
    let none = run(&["serve"], &[])?;
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("--config"), "{}", stderr(&none));
    Ok(())
}

/// `validate` prints every field and no secret, and its output is an equivalent configuration.
#[test]
fn validate_output_is_complete_and_equivalent() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("gateway.yaml");
    let path = file.to_str().unwrap_or_default();
    std::fs::write(
        &file,
        "version: v1\nsessionStorage: {provider: redis, address: 'r:1'}\nsessionKeys: {directory: keys}\nhotFile: hot.yaml\n",
    )?;
    std::fs::write(directory.path().join("hot.yaml"), "limits: {sessions: 7}\n")?;
    std::fs::create_dir(directory.path().join("keys"))?;
    std::fs::write(
        directory.path().join("keys/current"),
        run(&["keygen"], &[])?.stdout,
    )?;
    let environment = [("VMCP_CONFIG", path), (REDIS_PASSWORD_ENV, "hunter2")];
    let printed = run(&["validate"], &environment)?;
    assert!(printed.status.success(), "{}", stderr(&printed));
    let text = stdout(&printed);
    for line in [
        "drainDelay: 5s",
        "keyPrefix: 'vmcp:'",
        "sessions: 7",
        "requestsInFlight: 4096",
        "strategy: prefix",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("hunter2") && !stderr(&printed).contains("hunter2"));
    let meant = GatewayConfig::parse(&text, &file)?;
    let mut read = GatewayConfig::load(&file)?;
    read.hot_file = None;
    assert_eq!(meant, read);
    Ok(())
}

#[test]
fn invalid_file_exits_with_64_and_location() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("gateway.yaml");
    let path = file.to_str().unwrap_or_default();
    let hot = "backends:\n- {name: a, url: 'http://a',\n  timeouts: {call: 0s}}\n";
    std::fs::write(directory.path().join("hot.yaml"), hot)?;
    for (text, words) in [
        (
            "version: v1\nhot:\n  limits:\n    sesions: 1\n",
            &["gateway.yaml:4", "hot.limits", "`sesions`", "`sessions`"][..],
        ),
        (
            "version: v1\nhot: {limits: {sessions: 0}}\n",
            &["gateway.yaml:2: at `hot.limits.sessions`", "found 0", "1 to"],
        ),
        (
            "version: v1\nhot: {allowedOrigins: [example.com]}\n",
            &["hot.allowedOrigins[0]", "example.com", "https://"],
        ),
        (
            "version: v1\nhotFile: hot.yaml\n",
            &[
                "hot.yaml:3: at `backends[0].timeouts.call`",
                "found 0s",
                "1ms to 24h",
            ],
        ),
    ] {
        std::fs::write(&file, text)?;
        for command in ["validate", "serve"] {
            let output = run(&[command, "--config", path], &[])?;
            assert_eq!(output.status.code(), Some(64), "{command}: {}", stderr(&output));
            for word in words {
                assert!(stderr(&output).contains(word), "{word}: {}", stderr(&output));
            }
        }
    }
    // Also errors in files that it names, with which the gateway would not start.
    std::fs::create_dir(directory.path().join("keys"))?;
    std::fs::write(directory.path().join("keys/current"), "s3cret")?;
    for (text, words) in [
        (
            "version: v1\nsessionKeys: {directory: keys}\n",
            &[
                "gateway.yaml:2: at `sessionKeys.directory`",
                "keys/current is no session key",
                "keygen",
            ][..],
        ),
        (
            "version: v1\nsessionKeys:\n  directory: nowhere\n",
            &[
                "gateway.yaml:3: at `sessionKeys.directory`",
                "nowhere/current: No such file",
            ],
        ),
        (
            "version: v1\nhotFile: nowhere.yaml\n",
            &["gateway.yaml:2: at `hotFile`", "nowhere.yaml\" cannot be read"],
        ),
        (
            "version: v1\nincomingAuth: {type: oidc, oidc: {issuer: 'https://i', audience: 'https://a',\n  caBundlePath: ca.pem}}\n",
            &["gateway.yaml:3: at `incomingAuth.oidc.caBundlePath`", "ca.pem"],
        ),
        (
            "version: v1\nlisteners: {mcp: '127.0.0.1:9', admin: '127.0.0.1:9'}\n",
            &["gateway.yaml:2: at `listeners.admin`", "127.0.0.1:9"],
        ),
    ] {
        std::fs::write(&file, text)?;
        let told = ["validate", "serve"].map(|command| run(&[command, "--config", path], &[]));
        let [validated, served] = told;
        let (validated, served) = (validated?, served?);
        assert_eq!(validated.status.code(), Some(64), "{}", stderr(&validated));
        assert_eq!(served.status.code(), Some(64), "{}", stderr(&served));
        assert_eq!(stderr(&validated), stderr(&served));
        assert!(!stderr(&served).contains("s3cret"));
        for word in words {
            assert!(stderr(&served).contains(word), "{word}: {}", stderr(&served));
        }
    }
    let missing = run(&["serve", "--config", "/nowhere/gateway.yaml"], &[])?;
    assert_eq!(missing.status.code(), Some(64));
    assert!(
        stderr(&missing).contains("/nowhere/gateway.yaml"),
        "{}",
        stderr(&missing)
    );
    Ok(())
}
