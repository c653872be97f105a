//! Builds the images of third-party programs for tests in a cluster.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use vmcp_external::{npm, redis};

use super::{Config, Image};

/// Writes the image of Debian's Redis to `redis.tar` in `dir`, with the name `vmcp.dev/redis:7`. By default it is a server
/// without persistence that all pods can reach. It includes `redis-cli`.
///
/// # Errors
/// If Redis cannot be installed or the file cannot be written.
pub fn redis(dir: &Path) -> anyhow::Result<PathBuf> {
    let mut config = Config::running(["/usr/bin/redis-server"]);
    config.arguments = ["--protected-mode", "no", "--save", "", "--dir", "/tmp"]
        .map(String::from)
        .to_vec();
    let mut image = Image::new("vmcp.dev/redis:7", config);
    image.base();
    image.program(&redis::redis_server()?, "/usr/bin/redis-server")?;
    image.program(&redis::redis_cli()?, "/usr/bin/redis-cli")?;
    let archive = dir.join("redis.tar");
    image.write(&archive)?;
    Ok(archive)
}

/// Writes the image of the MCP project's example server `everything` to `everything.tar` in `dir`, with the names
/// `vmcp.dev/everything:VERSION` and `vmcp.dev/everything:dev`. It serves Streamable HTTP on port 3001 at `/mcp`.
///
/// # Errors
/// If Node.js is missing, npm fails or the file cannot be written.
pub fn everything(dir: &Path) -> anyhow::Result<PathBuf> {
    let servers = npm::servers()?;
    let modules = Path::new("/app/node_modules");
    let program = modules.join(".bin/mcp-server-everything");
    let mut config = Config::running(
        [Path::new("/usr/bin/node"), &program].map(|path| path.to_string_lossy().into_owned()),
    );
    config.arguments = vec!["streamableHttp".to_owned()];
    config.environment = vec!["NODE_ENV=production".to_owned(), "PORT=3001".to_owned()];
    let mut image = Image::new("vmcp.dev/everything:dev", config);
    image.also_named(&format!("vmcp.dev/everything:{}", version(servers.modules())?));
    image.base();
    image.program(servers.node(), "/usr/bin/node")?;
    image.folder(servers.modules(), modules)?;
    let archive = dir.join("everything.tar");
    image.write(&archive)?;
    Ok(archive)
}

fn version(modules: &Path) -> anyhow::Result<String> {
    let file = modules.join("@modelcontextprotocol/server-everything/package.json");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let package: serde_json::Value = serde_json::from_str(&text)?;
    let version = package.get("version").and_then(serde_json::Value::as_str);
    version
        .map(str::to_owned)
        .with_context(|| format!("{} has no version", file.display()))
}
