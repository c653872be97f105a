//! The commands of `cargo xtask cluster`.

use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context as _, bail};
use vmcp_external::{cache, step};

use crate::image;
use crate::{Cluster, Options};

/// Run a real two-node Kubernetes cluster on this machine.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Start a cluster that runs until `down`. The first start builds Kubernetes, which takes about ten minutes.
    Up {
        /// The folder of the cluster.
        #[command(flatten)]
        location: ClusterLocation,
        /// Number of nodes, 1 to 9.
        #[arg(long, default_value_t = 2)]
        nodes: u8,
    },
    /// Load images on every node.
    Load {
        /// The folder of the cluster.
        #[command(flatten)]
        location: ClusterLocation,
        /// The archives; the default is all that `cargo xtask image` has built.
        archives: Vec<PathBuf>,
    },
    /// Open a shell in the cluster's network, with kubectl and helm configured. It ends with the cluster.
    Shell {
        /// The folder of the cluster.
        #[command(flatten)]
        location: ClusterLocation,
        /// A command to run instead of the shell.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// End the cluster and remove everything that belongs to it, even if it was started only partly.
    Down {
        /// The folder of the cluster.
        #[command(flatten)]
        location: ClusterLocation,
    },
}

/// The folder of the cluster that a command uses.
#[derive(Debug, clap::Args)]
pub struct ClusterLocation {
    /// The cluster's folder; the default is `cluster` in the cache.
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl ClusterLocation {
    fn dir(self) -> anyhow::Result<PathBuf> {
        self.dir.map_or_else(|| Ok(cache::dir()?.join("cluster")), Ok)
    }
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// If it fails; the message says what to do.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Up { location, nodes } => up(location.dir()?, nodes),
            Self::Load { location, archives } => load(&location.dir()?, archives),
            Self::Shell { location, command } => shell(&location.dir()?, &command),
            Self::Down { location } => {
                let dir = location.dir()?;
                step("take the cluster down", || Cluster::end(&dir))
            }
        }
    }
}

fn up(dir: PathBuf, nodes: u8) -> anyhow::Result<()> {
    let started = Instant::now();
    let cluster = Cluster::up(&Options {
        dir: Some(dir),
        nodes,
    })?;
    let (dir, logs) = (cluster.dir().to_owned(), cluster.logs());
    cluster.keep()?;
    println!(
        "The cluster is ready after {:.1} s, in {}.",
        started.elapsed().as_secs_f32(),
        dir.display()
    );
    println!(
        "Logs: {}. Its addresses are reachable in `cargo xtask cluster shell`.",
        logs.display()
    );
    Ok(())
}

fn load(dir: &Path, mut archives: Vec<PathBuf>) -> anyhow::Result<()> {
    let cluster = Cluster::open(dir)?;
    if archives.is_empty() {
        let built = image::default_output()?;
        archives = archives_in(&built).with_context(|| format!("no images in {}", built.display()))?;
        if archives.is_empty() {
            bail!(
                "no images in {}; build them with `cargo xtask image`",
                built.display()
            );
        }
    }
    for archive in archives {
        step(&format!("load {}", archive.display()), || {
            cluster.load_image(&archive)
        })?;
    }
    Ok(())
}

fn archives_in(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            archives.push(path);
        }
    }
    archives.sort();
    Ok(archives)
}

fn shell(dir: &Path, command: &[String]) -> anyhow::Result<()> {
    let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let (program, arguments) = command
        .split_first()
        .map_or((&shell, &[][..]), |(program, rest)| (program, rest));
    let status = Cluster::open(dir)?
        .resident(program)?
        .args(arguments)
        .status()
        .context("cannot run nsenter")?;
    if !command.is_empty() && !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}
