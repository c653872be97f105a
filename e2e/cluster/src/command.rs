//! The commands that `cargo xtask cluster` offers.

use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context as _, bail};
use vmcp_peers::{cache, step};

use crate::image;
use crate::{Cluster, Options};

/// A real two-node Kubernetes on this machine.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Start a cluster that stays until `down`. The first time builds Kubernetes, which takes about ten minutes.
    Up {
        /// Which cluster.
        #[command(flatten)]
        place: Place,
        /// How many nodes, 1 to 9.
        #[arg(long, default_value_t = 2)]
        nodes: u8,
    },
    /// Put images on every node.
    Load {
        /// Which cluster.
        #[command(flatten)]
        place: Place,
        /// The archives; without any, all that `cargo xtask image` has built.
        archives: Vec<PathBuf>,
    },
    /// Open a shell inside the cluster, where its addresses answer and kubectl and helm are set up. It ends with the cluster.
    Shell {
        /// Which cluster.
        #[command(flatten)]
        place: Place,
        /// A command to run instead of the shell.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// End the cluster and remove everything that belongs to it, however far it came.
    Down {
        /// Which cluster.
        #[command(flatten)]
        place: Place,
    },
}

/// Which cluster a command is about.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The cluster's folder; the default is `cluster` in the cache.
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Place {
    fn dir(self) -> anyhow::Result<PathBuf> {
        self.dir.map_or_else(|| Ok(cache::dir()?.join("cluster")), Ok)
    }
}

impl Command {
    /// Carries the command out.
    ///
    /// # Errors
    /// When it cannot be carried out; the message says what to do.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Up { place, nodes } => up(place.dir()?, nodes),
            Self::Load { place, archives } => load(&place.dir()?, archives),
            Self::Shell { place, command } => shell(&place.dir()?, &command),
            Self::Down { place } => {
                let dir = place.dir()?;
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
        "Logs: {}. Its addresses answer in `cargo xtask cluster shell`.",
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
