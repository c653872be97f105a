//! Starts, uses and ends a cluster.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use vmcp_external::{cache, step};

use crate::deadline::wait_for;
use crate::go_modules::{self, GoModule};
use crate::network::Network;
use crate::run_dir::RunDir;
use crate::tree::{self, Tree};
use crate::{base_images, kubernetes, machine, processes};

/// Options of a new cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for its configuration, data and logs. It is removed with the cluster. The default is a new folder in the
    /// cache.
    pub dir: Option<PathBuf>,
    /// Number of nodes, 1 to 9.
    pub nodes: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self { dir: None, nodes: 2 }
    }
}

/// A running cluster.
///
/// A cluster that this process started ends when the value is dropped, or when the process ends for any reason.
#[derive(Debug)]
pub struct Cluster {
    run: RunDir,
    /// The search path with the cluster's programs.
    path: OsString,
    network: Network,
    /// `None` if another process started the cluster.
    tree: Option<Tree>,
}

impl Cluster {
    /// Installs and builds the programs that [`Cluster::up`] needs. The first time takes about ten minutes. A test run does
    /// it first, so that no test waits for it.
    ///
    /// # Errors
    /// If the machine cannot run a cluster or a program cannot be installed; the message has the reason.
    pub fn install() -> anyhow::Result<()> {
        machine::supported()?;
        machine::install_packages()?;
        programs().map(drop)
    }

    /// Starts a cluster and waits until its nodes and DNS are ready.
    ///
    /// # Errors
    /// If the machine cannot run a cluster, a program ends, or the cluster is not ready in time. Everything is removed then.
    pub fn up(options: &Options) -> anyhow::Result<Self> {
        machine::supported()?;
        if !(1..=9).contains(&options.nodes) {
            bail!("a cluster has 1 to 9 nodes, not {}", options.nodes);
        }
        machine::install_packages()?;
        let (path, images) = programs()?;
        let run = new_run_dir(options.dir.as_deref())?;
        // From here on, an early return drops the tree, which removes everything.
        let cluster = step("start the control plane", || {
            run.fill(options.nodes)?;
            let tree = Tree::start(run.clone(), &path, &images)?;
            let network = tree.network()?;
            let cluster = Self {
                run,
                path,
                network,
                tree: Some(tree),
            };
            cluster.wait("the API server", &["get", "--raw", "/readyz"])?;
            cluster.apply(include_str!("../manifests/coredns.yaml"))?;
            Ok(cluster)
        })?;
        step("wait for the nodes", || cluster.nodes_ready(options.nodes))?;
        step("wait for Services and DNS", || {
            cluster.services_ready()?;
            cluster.wait(
                "a service account in the default namespace",
                &["get", "serviceaccount", "default"],
            )?;
            cluster.wait(
                "DNS",
                &[
                    "rollout",
                    "status",
                    "deployment/coredns",
                    "-n",
                    "kube-system",
                    "--timeout=1s",
                ],
            )
        })?;
        Ok(cluster)
    }

    /// Opens the cluster that another process started in `dir`. Dropping this value does not end it.
    ///
    /// # Errors
    /// If no cluster runs there.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let run = RunDir::at(dir)?;
        let network = tree::network(&run)?.with_context(|| {
            format!(
                "no cluster runs in {}; start one with `cluster up`",
                run.path().display()
            )
        })?;
        Ok(Self {
            run,
            path: programs()?.0,
            network,
            tree: None,
        })
    }

    /// Makes the cluster outlive this process, until [`Cluster::end`].
    ///
    /// # Errors
    /// If it has ended already.
    pub fn keep(mut self) -> anyhow::Result<()> {
        self.tree.take().map_or(Ok(()), Tree::keep)
    }

    /// Ends this cluster, even if another process started it, and waits until nothing of it is left.
    ///
    /// # Errors
    /// If something could not be removed.
    pub fn down(mut self) -> anyhow::Result<()> {
        match self.tree.take() {
            Some(mut tree) => tree.end(),
            None => tree::end(&self.run),
        }
    }

    /// Ends the cluster in `dir`, even a partly started one, and removes its remains. Does nothing if there is no cluster.
    ///
    /// # Errors
    /// If something could not be removed.
    pub fn end(dir: &Path) -> anyhow::Result<()> {
        tree::end(&RunDir::at(dir)?)
    }

    /// The name of the control group of a cluster in `dir`, in every hierarchy under `/sys/fs/cgroup`. The pods of node N
    /// are below `nodeN/kubepods`.
    ///
    /// # Errors
    /// If a cluster cannot use that folder.
    pub fn control_group(dir: &Path) -> anyhow::Result<String> {
        Ok(RunDir::at(dir)?.control_group())
    }

    /// The folder of the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.run.path()
    }

    /// The folder with a log file of each program.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.run.logs()
    }

    /// The kubeconfig of the administrator. Its server is reachable only in the cluster's network.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.run.kubeconfig()
    }

    /// The cluster's network, for threads of this process.
    #[must_use]
    pub fn network(&self) -> Network {
        self.network.clone()
    }

    /// A command that runs in the cluster's network, with `KUBECONFIG` set and `kubectl` and `helm` on its search path. It
    /// sees the files and processes of the host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut network = OsString::from("--net=");
        network.push(self.network.path());
        let mut command = Command::new("nsenter");
        command.arg(network).arg("--").arg(program);
        self.set_environment(&mut command);
        command
    }

    /// A command that runs as part of the cluster: in its network, with its mounts and processes, and ends with it.
    pub(crate) fn resident(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        let first = processes::first_of(&self.run.script("control-plane.sh"), &[])?
            .context("the cluster has ended")?;
        // Keeps the current folder. Entering the mount namespace would change it to the root.
        let mut here = OsString::from("--wdns=");
        here.push(std::env::current_dir().context("the current folder is gone")?);
        let mut command = Command::new("nsenter");
        command.args(["--target", &first.pid.to_string(), "--net", "--mount", "--pid"]);
        command.arg(here).arg("--").arg(program);
        self.set_environment(&mut command);
        Ok(command)
    }

    /// Sets the search path, the kubeconfig, and the folders of the clients' own data. They do not use the user's home,
    /// which may have configurations of other clusters.
    fn set_environment(&self, command: &mut Command) {
        command
            .env("PATH", &self.path)
            .env("KUBECONFIG", self.kubeconfig());
        for name in [
            "KUBECACHEDIR",
            "HELM_CACHE_HOME",
            "HELM_CONFIG_HOME",
            "HELM_DATA_HOME",
        ] {
            command.env(name, self.dir().join("clients").join(name));
        }
    }

    /// Runs `kubectl` and returns what it printed.
    ///
    /// # Errors
    /// If it fails; the message has its output.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<String> {
        let mut command = self.command("kubectl");
        command.args(arguments);
        kubernetes::run(command, None)
    }

    /// Runs `helm` and returns what it printed.
    ///
    /// # Errors
    /// If it fails; the message has its output.
    pub fn helm<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<String> {
        let mut command = self.command("helm");
        command.args(arguments);
        kubernetes::run(command, None)
    }

    /// Applies manifests, server-side.
    ///
    /// # Errors
    /// If the API server rejects one.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        let mut command = self.command("kubectl");
        command.args(["apply", "--server-side", "-f", "-"]);
        kubernetes::run(command, Some(manifests)).map(drop)
    }

    /// Loads the images of a docker-archive on every node.
    ///
    /// # Errors
    /// If a node is down or rejects the file.
    pub fn load_image(&self, archive: &Path) -> anyhow::Result<()> {
        let archive =
            fs::canonicalize(archive).with_context(|| format!("no image at {}", archive.display()))?;
        thread::scope(|scope| {
            let loads: Vec<_> = self
                .run
                .nodes()
                .into_iter()
                .map(|node| {
                    scope.spawn({
                        let archive = &archive;
                        move || self.import(node, archive)
                    })
                })
                .collect();
            loads.into_iter().try_for_each(|load| {
                load.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    fn import(&self, node: u8, archive: &Path) -> anyhow::Result<()> {
        let first = processes::first_of(&self.run.script("node.sh"), &[&node.to_string()])?
            .with_context(|| format!("node{node} is down"))?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &first.pid.to_string(), "--mount", "--"]);
        command
            .args(["ctr", "-n", "k8s.io", "images", "import"])
            .arg(archive)
            .env("PATH", &self.path);
        kubernetes::run(command, None)
            .with_context(|| format!("on node{node}"))
            .map(drop)
    }

    /// Kills a node as a power failure does: no process on it gets a signal that it can handle.
    ///
    /// # Errors
    /// If the node is down already.
    pub fn kill_node(&self, node: u8) -> anyhow::Result<()> {
        let (script, arguments) = (self.run.script("node.sh"), [&*node.to_string()]);
        processes::first_of(&script, &arguments)?
            .with_context(|| format!("node{node} is down already"))?
            .kill()?;
        wait_for(&format!("the end of node{node}"), Duration::from_secs(10), || {
            Ok(processes::root_of(&script, &arguments)?.is_none().then_some(()))
        })
    }

    fn nodes_ready(&self, nodes: u8) -> anyhow::Result<()> {
        for node in 1..=nodes {
            let name = format!("node/node{node}");
            self.wait(&name, &["wait", "--for=condition=Ready", &name, "--timeout=1s"])?;
        }
        Ok(())
    }

    /// Waits until this process reaches the API server by the address of its Service. The nodes need no such wait, because
    /// DNS becomes ready only after its pods have reached a Service.
    fn services_ready(&self) -> anyhow::Result<()> {
        let address = "10.96.0.1:443".parse()?;
        wait_for("the address of a Service", Duration::from_secs(90), || {
            self.tree.as_ref().map_or(Ok(()), Tree::check)?;
            Ok(self
                .network
                .connect_within(address, Duration::from_millis(200))
                .ok())
        })
        .map(drop)
    }

    /// Repeats a `kubectl` command until it succeeds, or a program of the cluster ends.
    fn wait(&self, what: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let mut last = None;
        wait_for(what, Duration::from_secs(90), || {
            self.tree.as_ref().map_or(Ok(()), Tree::check)?;
            last = self.kubectl(arguments).err();
            Ok(Some(()).filter(|()| last.is_none()))
        })
        .map_err(|error| match last.take() {
            Some(last) => error.context(last),
            None => error,
        })
    }
}

/// Creates the folder of a new cluster.
fn new_run_dir(wanted: Option<&Path>) -> anyhow::Result<RunDir> {
    if let Some(dir) = wanted {
        let run = RunDir::at(dir)?;
        if tree::is_running(&run)? {
            bail!(
                "a cluster runs in {}; end it with `cluster down`",
                run.path().display()
            );
        }
        // Removes the remains of a killed process.
        tree::end(&run)?;
        fs::create_dir_all(run.path()).with_context(|| format!("cannot create {}", run.path().display()))?;
        return Ok(run);
    }
    let parent = cache::dir()?.join("clusters");
    fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    RunDir::at(&tempfile::Builder::new().prefix("").tempdir_in(&parent)?.keep())
}

/// The search path with the cluster's own programs first, and the base images of the nodes.
fn programs() -> anyhow::Result<(OsString, Vec<PathBuf>)> {
    let mut folders = go_modules::programs(&[
        GoModule::CoreDns,
        GoModule::Kubernetes,
        GoModule::Etcd,
        GoModule::Helm,
    ])?;
    let images = base_images::all(&folders[0])?;
    folders.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    // The user's search path may lack the folders of system programs.
    folders.extend(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    let path =
        std::env::join_paths(folders).context("a folder of the search path has a colon in its name")?;
    Ok((path, images))
}
