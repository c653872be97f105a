//! A cluster's life: up, used, down.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use vmcp_peers::{cache, step};

use crate::deadline::wait_for;
use crate::go_modules::{self, GoModule};
use crate::network::Network;
use crate::run_dir::RunDir;
use crate::tree::{self, Tree};
use crate::{base_images, kubernetes, machine, processes};

/// How a cluster is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of its configuration, data and logs; it goes when the cluster goes. Without one a new folder in the
    /// cache is taken.
    pub dir: Option<PathBuf>,
    /// How many nodes, 1 to 9.
    pub nodes: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self { dir: None, nodes: 2 }
    }
}

/// A running cluster.
///
/// One that this process started ends when the value is dropped, and when the process ends in any way.
#[derive(Debug)]
pub struct Cluster {
    run: RunDir,
    /// The search path with the cluster's programs.
    path: OsString,
    network: Network,
    /// None for a cluster that another process started.
    tree: Option<Tree>,
}

impl Cluster {
    /// Installs and builds everything that [`Cluster::up`] needs. The first time takes about ten minutes; a test run does
    /// it beforehand, so that no test waits for it.
    ///
    /// # Errors
    /// When the machine cannot run a cluster or something cannot be installed; the message says what.
    pub fn install() -> anyhow::Result<()> {
        machine::supported()?;
        machine::install_packages()?;
        programs().map(drop)
    }

    /// Starts a cluster and waits until its nodes are ready and names resolve in its pods.
    ///
    /// # Errors
    /// When the machine cannot run one, a program ends, or it is not ready in time. Nothing is left behind then.
    pub fn up(options: &Options) -> anyhow::Result<Self> {
        machine::supported()?;
        if !(1..=9).contains(&options.nodes) {
            bail!("a cluster has 1 to 9 nodes, not {}", options.nodes);
        }
        machine::install_packages()?;
        let (path, images) = programs()?;
        let run = new_run_dir(options.dir.as_deref())?;
        // From here on an early return drops the tree, and that removes everything.
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

    /// The cluster that another process keeps in `dir`. Dropping this value does not end it.
    ///
    /// # Errors
    /// When there is none.
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

    /// Lets the cluster outlive this process. [`Cluster::end`] ends it.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn keep(mut self) -> anyhow::Result<()> {
        self.tree.take().map_or(Ok(()), Tree::keep)
    }

    /// Ends this cluster, whoever started it, and waits until nothing of it is left.
    ///
    /// # Errors
    /// When something is left.
    pub fn down(mut self) -> anyhow::Result<()> {
        match self.tree.take() {
            Some(mut tree) => tree.end(),
            None => tree::end(&self.run),
        }
    }

    /// Ends the cluster in `dir`, however far it came, and removes what is left of it. No cluster there is no error.
    ///
    /// # Errors
    /// When something is left.
    pub fn end(dir: &Path) -> anyhow::Result<()> {
        tree::end(&RunDir::at(dir)?)
    }

    /// The name that the control group of a cluster in `dir` has in every hierarchy under `/sys/fs/cgroup`. Node N's pods
    /// are below `nodeN/kubepods`.
    ///
    /// # Errors
    /// When no cluster can be in that folder.
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

    /// The kubeconfig of the administrator. Its server answers only in the cluster's network.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.run.kubeconfig()
    }

    /// The cluster's network, for threads of this process.
    #[must_use]
    pub fn network(&self) -> Network {
        self.network.clone()
    }

    /// A program that will run in the cluster's network, with `KUBECONFIG` set and `kubectl` and `helm` on its search
    /// path. It sees the files and processes of the host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut network = OsString::from("--net=");
        network.push(self.network.path());
        let mut command = Command::new("nsenter");
        command.arg(network).arg("--").arg(program);
        self.equip(&mut command);
        command
    }

    /// A program that will run as part of the cluster: in its network, with its mounts and processes, and ending with it.
    pub(crate) fn resident(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        let first = processes::first_of(&self.run.script("control-plane.sh"), &[])?
            .context("the cluster has ended")?;
        // In the folder where it was called: entering the mounts alone would leave it in the root.
        let mut here = OsString::from("--wdns=");
        here.push(std::env::current_dir().context("the current folder is gone")?);
        let mut command = Command::new("nsenter");
        command.args(["--target", &first.pid.to_string(), "--net", "--mount", "--pid"]);
        command.arg(here).arg("--").arg(program);
        self.equip(&mut command);
        Ok(command)
    }

    /// Where programs find the cluster's clients, their configuration, and a place for what they remember: not the
    /// home of the user, who may have clusters of his own.
    fn equip(&self, command: &mut Command) {
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
    /// When it fails; the message has its words.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<String> {
        let mut command = self.command("kubectl");
        command.args(arguments);
        kubernetes::run(command, None)
    }

    /// Runs `helm` and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the message has its words.
    pub fn helm<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<String> {
        let mut command = self.command("helm");
        command.args(arguments);
        kubernetes::run(command, None)
    }

    /// Applies manifests, server-side.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        let mut command = self.command("kubectl");
        command.args(["apply", "--server-side", "-f", "-"]);
        kubernetes::run(command, Some(manifests)).map(drop)
    }

    /// Puts the images of a docker-archive on every node.
    ///
    /// # Errors
    /// When a node is down or refuses the file.
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

    /// Takes a node away as a power failure does: nothing on it gets a signal that it could act on.
    ///
    /// # Errors
    /// When the node is down already.
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

    /// Waits until this process reaches the API server by the address of its Service. The nodes' way to Services needs no
    /// such wait: DNS is ready only when its pods have gone it.
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

/// The folder of a new cluster.
fn new_run_dir(wanted: Option<&Path>) -> anyhow::Result<RunDir> {
    if let Some(dir) = wanted {
        let run = RunDir::at(dir)?;
        if tree::is_running(&run)? {
            bail!(
                "a cluster runs in {}; end it with `cluster down`",
                run.path().display()
            );
        }
        // What a killed process left there.
        tree::end(&run)?;
        fs::create_dir_all(run.path()).with_context(|| format!("cannot create {}", run.path().display()))?;
        return Ok(run);
    }
    let parent = cache::dir()?.join("clusters");
    fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    RunDir::at(&tempfile::Builder::new().prefix("").tempdir_in(&parent)?.keep())
}

/// The search path with the cluster's own programs first, and the images that every node has.
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
    // A user's search path may lack the folders of the system's own programs.
    folders.extend(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    let path =
        std::env::join_paths(folders).context("a folder of the search path has a colon in its name")?;
    Ok((path, images))
}
