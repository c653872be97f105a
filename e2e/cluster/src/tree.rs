//! Starts and ends the process tree of a cluster.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, bail};

use crate::deadline::wait_for;
use crate::run_dir::{CLEAN, RunDir};
use crate::{network::Network, processes};

/// The process tree of a cluster that this process started. It ends when the value is dropped, except after [`Self::keep`].
#[derive(Debug)]
pub(crate) struct Tree {
    run: RunDir,
    /// The process outside the namespaces; its standard input is the tether.
    holder: Option<Child>,
}

impl Tree {
    /// Starts the tree, with `path` as its search path.
    pub(crate) fn start(run: RunDir, path: &OsStr, images: &[PathBuf]) -> anyhow::Result<Self> {
        let nodes: Vec<_> = run.nodes().iter().map(u8::to_string).collect();
        let images: Vec<_> = images.iter().map(|image| image.to_string_lossy()).collect();
        let log = fs::File::create(run.logs().join("tree.log"))?;
        // In a new session, so that Ctrl-C reaches only the calling process. Its end closes the tether, which ends the
        // tree.
        let holder = Command::new("setsid")
            .arg("sh")
            .arg(run.script("tree.sh"))
            .arg(run.path())
            .env("PATH", path)
            .env("CGROUP", run.control_group())
            .env("NODES", nodes.join(" "))
            .env("IMAGES", images.join(" "))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run setsid, from Debian's util-linux")?;
        Ok(Self {
            run,
            holder: Some(holder),
        })
    }

    /// Waits for the network of the tree.
    pub(crate) fn network(&self) -> anyhow::Result<Network> {
        wait_for(
            "the first process of the cluster",
            Duration::from_secs(10),
            || {
                self.check()?;
                network(&self.run)
            },
        )
    }

    /// Checks that all programs of the cluster still run.
    ///
    /// # Errors
    /// If a program has ended; the message has the end of its log.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let ended = match fs::read_to_string(self.run.path().join("ended")) {
            Ok(ended) => ended,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).context("cannot check whether the cluster runs"),
        };
        let Some((name, status)) = ended.lines().next().and_then(|line| line.split_once(' ')) else {
            return Ok(());
        };
        let log = self.run.logs().join(format!("{name}.log"));
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        bail!("{name} ended with status {status}; the end of its log:\n{tail}");
    }

    /// Makes the cluster outlive this process, until [`end`].
    pub(crate) fn keep(mut self) -> anyhow::Result<()> {
        if let Some(mut holder) = self.holder.take()
            && let Some(mut tether) = holder.stdin.take()
        {
            tether.write_all(b"stay\n").context("the cluster has ended")?;
        }
        Ok(())
    }

    /// Ends the tree and waits until nothing of it is left.
    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        let Some(mut holder) = self.holder.take() else {
            return Ok(());
        };
        drop(holder.stdin.take());
        let ended = end(&self.run);
        holder.wait().context("cannot wait for the cluster's end")?;
        ended
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!(
                "the cluster in {} did not end cleanly: {error:#}",
                self.run.path().display()
            );
        }
    }
}

/// Whether a process of the cluster in `run` exists.
pub(crate) fn is_running(run: &RunDir) -> anyhow::Result<bool> {
    let root = processes::root_of(&run.script("control-plane.sh"), &[])?;
    Ok(root.is_some() || processes::running(&run.script("tree.sh"))?.is_some())
}

/// The network of the cluster in `run`. `None` if it does not run.
pub(crate) fn network(run: &RunDir) -> anyhow::Result<Option<Network>> {
    first(run)?.map(|first| Network::of(first.pid)).transpose()
}

/// Ends the cluster in `run`, even if another process started it or it was started only partly, and waits until nothing of
/// it is left.
pub(crate) fn end(run: &RunDir) -> anyhow::Result<()> {
    wait_for(
        "the end of the cluster's processes",
        Duration::from_secs(30),
        || {
            // Its parent is not killed, because it ends only after all processes of the tree have ended.
            if let Some(first) = first(run)? {
                first.kill()?;
            }
            Ok((!is_running(run)?).then_some(()))
        },
    )?;
    // Already done by the holder, except if it was killed.
    let status = Command::new("sh")
        .args(["-c", CLEAN])
        .env("CGROUP", run.control_group())
        .status()?;
    if !status.success() {
        bail!(
            "the control groups {} under /sys/fs/cgroup could not be removed",
            run.control_group()
        );
    }
    match fs::remove_dir_all(run.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", run.path().display()))
        }
        _ => Ok(()),
    }
}

fn first(run: &RunDir) -> anyhow::Result<Option<processes::Process>> {
    processes::first_of(&run.script("control-plane.sh"), &[])
}
