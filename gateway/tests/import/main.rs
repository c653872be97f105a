//! `vmcp-gateway import` on files as the clients write them. Each folder has a file, and what is written and printed for it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Context as _;
use tempfile::TempDir;
use vmcp_crds::config::GatewayConfig;
use vmcp_gateway::config::Config;

/// The folders, with the place of the file in a project, and the exit code.
const CLIENTS: [(&str, &str, i32); 7] = [
    ("claude-desktop", "claude_desktop_config.json", 0),
    ("claude-code", ".mcp.json", 0),
    ("vscode", ".vscode/mcp.json", 0),
    ("vscode-settings", "settings.json", 0),
    ("cursor", ".cursor/mcp.json", 0),
    ("others", "mcp_config.json", 0),
    ("problems", "mcp.json", 1),
];

/// In the secrets of all files.
const SECRET: &str = "s3cret";

/// A project in which files are imported.
struct Project {
    _directory: TempDir,
    path: PathBuf,
}

impl Project {
    fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().canonicalize()?.join("shop");
        fs::create_dir(&path)?;
        Ok(Self {
            _directory: directory,
            path,
        })
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path.join(file);
        fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        Ok(fs::write(path, text)?)
    }

    fn read(&self, file: &str) -> String {
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        text.replace(&self.path.display().to_string(), "/work/shop")
    }

    fn import(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmcp-gateway"));
        command.arg("import").args(arguments).current_dir(&self.path);
        command
            .env_clear()
            .envs([("HOME", "/home/ada"), ("REGION", "eu")]);
        Ok(command.output()?)
    }

    fn mode(&self, file: &str) -> anyhow::Result<u32> {
        let metadata = fs::symlink_metadata(self.path.join(file))?;
        Ok(metadata.permissions().mode() & 0o7777)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn fixture(folder: &str, file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/import")
        .join(folder)
        .join(file);
    fs::read_to_string(path).unwrap_or_default()
}

/// The configuration is valid, the secrets are in the other file only, and every server and field that is not imported is named.
#[test]
fn files_of_clients_are_imported_as_expected() -> anyhow::Result<()> {
    for (folder, file, code) in CLIENTS {
        let project = Project::new()?;
        project.write(file, &fixture(folder, "input.json"))?;
        let output = project.import(&[file])?;
        let (printed, messages) = (text(&output.stdout), text(&output.stderr));
        for (expected, found) in [
            ("gateway.yaml", project.read("gateway.yaml")),
            ("vmcp.env", project.read("vmcp.env")),
            ("stderr", messages.clone()),
            ("stdout", printed.clone()),
        ] {
            assert_eq!(found, fixture(folder, expected), "{folder}: {expected}");
        }
        assert_eq!(output.status.code(), Some(code), "{folder}: {messages}");

        let configuration = project.read("gateway.yaml");
        for (name, text) in [
            ("gateway.yaml", &configuration),
            ("output", &printed),
            ("messages", &messages),
        ] {
            assert!(!text.contains(SECRET), "{folder}: a secret is in {name}:\n{text}");
        }
        let written = project.path.join("gateway.yaml");
        let parsed = GatewayConfig::load(&written)?;
        let again = serde_yaml::to_string(&parsed)?;
        assert!(
            configuration.ends_with(&again.replace(&project.path.display().to_string(), "/work/shop")),
            "{again}"
        );
        let config = Config::load(&written, None)?;
        assert_eq!(
            config.hot.backends.len(),
            parsed.hot.unwrap_or_default().backends.len()
        );
        assert_eq!(project.mode("gateway.yaml")?, 0o600);
        if project.path.join("vmcp.env").exists() {
            assert_eq!(project.mode("vmcp.env")?, 0o600);
        }
    }
    Ok(())
}

/// Each secret of the imported file is in the file with the secrets.
#[test]
fn no_secret_of_an_imported_server_is_lost() -> anyhow::Result<()> {
    for (folder, expected) in [("claude-desktop", 3), ("claude-code", 1), ("problems", 1)] {
        let found = fixture(folder, "vmcp.env").matches(SECRET).count();
        assert_eq!(found, expected, "{folder}");
    }
    Ok(())
}

/// An existing file is replaced only with `--force`, and then others cannot read it.
#[test]
fn existing_files_are_kept_without_force() -> anyhow::Result<()> {
    let servers = r#"{"mcpServers": {"a": {"command": "a", "env": {"TOKEN": "s3cret"}}}}"#;
    for existing in ["gateway.yaml", "vmcp.env"] {
        let project = Project::new()?;
        project.write("mcp.json", servers)?;
        project.write(existing, "mine")?;
        let refused = project.import(&["mcp.json"])?;
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{error}");
        assert!(
            error.contains(&format!("{existing} exists; use --force")),
            "{error}"
        );
        assert_eq!(project.read(existing), "mine");
        assert_eq!(
            fs::read_dir(&project.path).unwrap().count(),
            2,
            "nothing is written"
        );

        let replaced = project.import(&["mcp.json", "--force"])?;
        assert!(replaced.status.success(), "{}", text(&replaced.stderr));
        assert_eq!(
            (project.mode("gateway.yaml")?, project.mode("vmcp.env")?),
            (0o600, 0o600)
        );
        assert!(project.read("vmcp.env").contains("MCP_A_TOKEN='s3cret'"));
    }
    Ok(())
}

/// `--force` does not replace the imported file, and two outputs have two names.
#[test]
fn output_paths_are_checked() -> anyhow::Result<()> {
    let project = Project::new()?;
    project.write("mcp.json", r#"{"mcpServers": {"a": {"command": "a"}}}"#)?;
    for (arguments, expected) in [
        (["--output", "mcp.json"], "is the imported file"),
        (["--env-file", "mcp.json"], "is the imported file"),
        (["--env-file", "./gateway.yaml"], "the same file"),
        (
            ["--output", "nowhere/gateway.yaml"],
            "cannot write nowhere/gateway.yaml: No such file",
        ),
    ] {
        let refused = project.import(&[&["mcp.json", "--force"][..], &arguments].concat())?;
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    let moved = project.import(&["mcp.json", "--output", "my gateway.yaml", "--env-file", "secrets"])?;
    assert!(moved.status.success(), "{}", text(&moved.stderr));
    assert!(text(&moved.stdout).contains("\n  vmcp-gateway serve --config 'my gateway.yaml'\n"));
    assert!(!project.path.join("secrets").exists(), "there are no secrets");
    Ok(())
}

/// A file without servers exits with 64, says what is expected, and nothing is written.
#[test]
fn file_without_usable_server_exits_with_64() -> anyhow::Result<()> {
    for (content, expected) in [
        (
            "[]",
            "mcp.json: found a list; expected an object with the servers",
        ),
        (
            "{\"a\": 1}",
            "mcp.json: found neither `mcpServers` nor `servers`; expected",
        ),
        ("{\"mcpServers\": {}}", "mcp.json: found no server; expected"),
        (
            "{\"mcpServers\": []}",
            "mcp.json: at `mcpServers`: found a list; expected an object",
        ),
        (
            "{\"servers\": {\"a\": {}}, \"inputs\": [{}]}",
            "mcp.json: at `inputs[0].id`: missing",
        ),
        (
            "{\n\"mcpServers\": // s3cret\n{}}",
            "mcp.json:2:15: expected value; comments are not JSON",
        ),
        (
            "{\"mcpServers\": {\"a\": {}, \"a\": {}}}",
            "mcp.json:1:28: duplicate field \"a\"",
        ),
        (
            "{\"mcpServers\": {\"a\": {}}}",
            "at `mcpServers.a`: not imported: has neither `command` nor `url`",
        ),
    ] {
        let project = Project::new()?;
        project.write("mcp.json", content)?;
        let refused = project.import(&["mcp.json"])?;
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(64), "{content}: {error}");
        assert!(
            error.contains(expected) && !error.contains(SECRET),
            "{content}: {error}"
        );
        assert_eq!(fs::read_dir(&project.path).unwrap().count(), 1, "{content}");
    }
    let missing = Project::new()?.import(&["mcp.json"])?;
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        text(&missing.stderr).contains("cannot read mcp.json: No such file"),
        "{}",
        text(&missing.stderr)
    );
    Ok(())
}
