//! An API server without a cluster.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::audit::{self, Request};
use crate::certificates::{ADMIN, Authority};
use crate::deadline::wait_for;
use crate::go_modules::{self, GoModule};
use crate::{kubeconfig, kubernetes};
use vmcp_external::ports;

const SCRIPT: &str = include_str!("../scripts/api-server.sh");

/// A real API server and its etcd on free ports of the loopback interface, for tests that need no pods. It starts in
/// about three seconds, needs no root, and is empty.
///
/// The built-in controllers run only after [`ApiServer::start_with_controllers`]. Without them, owner references delete
/// nothing, and a Deployment gets no ReplicaSet.
///
/// It ends when the value is dropped, or when this process ends for any reason.
#[derive(Debug)]
pub struct ApiServer {
    dir: PathBuf,
    path: std::ffi::OsString,
    url: String,
    /// The server runs as long as the standard input of this process is open.
    holder: Child,
}

impl ApiServer {
    /// Builds the programs that [`ApiServer::start`] needs. The first build takes several minutes.
    ///
    /// # Errors
    /// If they cannot be built; the message has the reason.
    pub fn install() -> anyhow::Result<()> {
        programs().map(drop)
    }

    /// Starts an API server and waits until it is ready.
    ///
    /// # Errors
    /// When the programs cannot be built or do not start; the message has the end of their logs.
    pub fn start() -> anyhow::Result<Self> {
        Self::launch(false)
    }

    /// Starts an API server together with the controller manager: owner references delete, Deployments get pods (which
    /// no node runs), Services get EndpointSlices.
    ///
    /// # Errors
    /// As [`ApiServer::start`].
    pub fn start_with_controllers() -> anyhow::Result<Self> {
        Self::launch(true)
    }

    /// A kubeconfig of the administrator. It is removed with the server.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The URL of the API.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs `kubectl` and returns what it printed.
    ///
    /// # Errors
    /// If it fails; the message has its output.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<String> {
        let mut command = self.command("kubectl");
        command.args(arguments);
        kubernetes::run(command, None)
    }

    /// Waits until the API server serves these kinds, whose definitions were applied.
    ///
    /// `kubectl wait --for=condition=Established` is of no use here: it fails for a definition that has no conditions yet.
    ///
    /// # Errors
    /// If a kind is not served within a minute.
    pub fn wait_until_served(&self, kinds: &[&str]) -> anyhow::Result<()> {
        for kind in kinds {
            wait_for(&format!("{kind} are served"), Duration::from_secs(60), || {
                Ok(self.kubectl(["get", kind, "-A"]).ok().map(drop))
            })?;
        }
        Ok(())
    }

    /// A command that finds `kubectl` on its search path and this API server in its environment, as its administrator.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("PATH", &self.path)
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", self.dir.join("kubectl"));
        command
    }

    /// A kubeconfig of the administrator, impersonating `user`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_as(&self, user: &str) -> anyhow::Result<PathBuf> {
        let text = fs::read_to_string(self.kubeconfig())?;
        let mut config: serde_json::Value = serde_json::from_str(&text)?;
        config["users"][0]["user"]["as"] = user.into();
        let file = tempfile::Builder::new()
            .prefix("kubeconfig-as-")
            .tempfile_in(&self.dir)?
            .into_temp_path()
            .keep()?;
        fs::write(&file, format!("{config:#}\n"))?;
        Ok(file)
    }

    /// The requests of `user` that have ended, or whose response has started, in the order of the audit log.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn requests_of(&self, user: &str) -> anyhow::Result<Vec<Request>> {
        audit::requests_of(&self.dir.join("audit.log"), user)
    }

    /// Kills the API server, and returns when it is gone. etcd keeps all objects.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.tell_script("kill")?;
        wait_for("the end of the API server", Duration::from_secs(10), || {
            Ok((!self.is_ready()).then_some(()))
        })
    }

    /// Starts the API server after [`ApiServer::kill`], at the same address, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; the message has the end of its log.
    pub fn start_again(&self) -> anyhow::Result<()> {
        self.tell_script("start")?;
        self.wait_until_ready()
    }

    fn launch(controllers: bool) -> anyhow::Result<Self> {
        let mut folders = programs()?;
        folders.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let path = std::env::join_paths(folders)?;
        let dir = tempfile::Builder::new().prefix("vmcp-api-").tempdir()?.keep();
        let [port, etcd, etcd_peer] = [
            ports::free()?.port(),
            ports::free()?.port(),
            ports::free()?.port(),
        ];
        let url = format!("https://127.0.0.1:{port}");
        let pki = dir.join("pki");
        let authority = Authority::create(&pki)?;
        authority.api_server(&["127.0.0.1".parse()?])?;
        authority.client(&ADMIN)?;
        kubeconfig::write(&dir.join("kubeconfig"), &url, &pki, ADMIN.file)?;
        let holder = Command::new("setsid")
            .args(["sh", "-c", SCRIPT, "api-server.sh"])
            .arg(&dir)
            .args([port, etcd, etcd_peer].map(|port| port.to_string()))
            .arg(if controllers { "yes" } else { "no" })
            .env("PATH", &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run setsid, from Debian's util-linux")?;
        let server = Self {
            dir,
            path,
            url,
            holder,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn is_ready(&self) -> bool {
        self.kubectl(["get", "--raw", "/readyz"]).is_ok()
    }

    fn wait_until_ready(&self) -> anyhow::Result<()> {
        wait_for("the API server", Duration::from_secs(60), || {
            Ok(self.is_ready().then_some(()))
        })
        .with_context(|| format!("{}{}", tail(&self.dir, "etcd"), tail(&self.dir, "kube-apiserver")))
    }

    /// Sends a command to the script.
    fn tell_script(&self, command: &str) -> anyhow::Result<()> {
        let mut input = self.holder.stdin.as_ref().context("the script has no input")?;
        writeln!(input, "{command}").context("the script has ended")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        if let Err(error) = self.holder.wait() {
            eprintln!(
                "the API server in {} did not end cleanly: {error}",
                self.dir.display()
            );
        }
    }
}

fn programs() -> anyhow::Result<Vec<PathBuf>> {
    go_modules::programs(&[GoModule::Kubernetes, GoModule::Etcd])
}

fn tail(dir: &Path, program: &str) -> String {
    let text = fs::read_to_string(dir.join(format!("{program}.log"))).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    format!(
        "the end of {program}'s log:\n{}\n",
        lines[lines.len().saturating_sub(10)..].join("\n")
    )
}
