//! The command `cargo xtask image`.

use std::path::PathBuf;

use anyhow::Context as _;
use vmcp_external::step;

use super::{Profile, everything, ours, redis};

/// Build container images of the gateway, the operator, the test server, Redis and a third-party MCP server.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The images to build; the default is all.
    #[arg(value_enum)]
    names: Vec<Name>,
    /// The profile for the programs of this workspace.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// The folder for the images, one `docker save` archive each; the default is `images` in cargo's target folder.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// A group of images that can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// vmcp.dev/gateway:dev, vmcp.dev/operator:dev and vmcp.dev/test-server:dev.
    Ours,
    /// vmcp.dev/redis:7, the Redis of Debian.
    Redis,
    /// vmcp.dev/everything:dev, an MCP server on Node.js.
    Everything,
}

impl Args {
    /// Builds the images and prints the path of each.
    ///
    /// # Errors
    /// If one cannot be built.
    pub fn run(self) -> anyhow::Result<()> {
        let wanted = |name| self.names.is_empty() || self.names.contains(&name);
        let output = self.output.map_or_else(default_output, Ok)?;
        let mut built = Vec::new();
        if wanted(Name::Ours) {
            built.extend(step("image of our own programs", || ours(&output, self.profile))?);
        }
        if wanted(Name::Redis) {
            built.push(step("image of Redis", || redis(&output))?);
        }
        if wanted(Name::Everything) {
            built.push(step("image of server-everything", || everything(&output))?);
        }
        for archive in built {
            println!("{}", archive.display());
        }
        Ok(())
    }
}

/// The default folder for images: `images` in cargo's target folder.
pub(crate) fn default_output() -> anyhow::Result<PathBuf> {
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(PathBuf::from(target).join("images"));
    }
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let workspace = workspace
        .ancestors()
        .nth(2)
        .context("this crate is not in its workspace")?;
    Ok(workspace.join("target/images"))
}
