//! A gateway as a process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use vmcp_crds::config::{
    BackendConfig, GatewayConfig, HotConfig, Listeners, REDIS_PASSWORD_ENV, SessionKeys, SessionStorage,
    SessionStorageProvider,
};
use vmcp_crds::session_key::{CURRENT, SessionKey};
use vmcp_crds::status::GatewayStatus;
use vmcp_external::process::{Process, Signal};

use crate::{binaries, http_client, ports, wait};

/// How long a gateway may take until it is ready. Readiness itself waits 3 s for a backend that hangs.
const READY_LIMIT: Duration = Duration::from_secs(15);

/// The configuration file, in the directory of a gateway.
const CONFIG_FILE: &str = "gateway.yaml";

/// A running gateway. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Gateway {
    /// The MCP endpoint's address.
    pub mcp: SocketAddr,
    /// The admin port's address.
    pub admin: SocketAddr,
    process: Process,
    directory: TempDir,
}

/// How the gateways of one virtual server are started: what its replicas have in common.
#[derive(Debug)]
pub struct Recipe {
    /// The configuration; each gateway gets listeners of its own.
    pub config: GatewayConfig,
    /// The password of the session store.
    pub password: Option<String>,
    /// Further environment variables of the gateways.
    pub environment: BTreeMap<String, String>,
    /// What the gateways see instead of `/etc/hosts`, if anything; see [`vmcp_external::hosts`].
    pub hosts: Option<String>,
    /// A command that starts the gateways, such as `taskset -c 0`; none by default.
    pub wrapper: Vec<String>,
    keys: Option<TempDir>,
}

impl Recipe {
    /// Gateways with these backends and sessions in memory: the smallest configuration.
    ///
    /// # Errors
    /// When the configuration cannot be made.
    pub fn in_memory(backends: &[(&str, &str)]) -> anyhow::Result<Self> {
        let backend = |(name, url): &(&str, &str)| BackendConfig {
            name: (*name).to_owned(),
            url: (*url).to_owned(),
            ..BackendConfig::default()
        };
        let mut config: GatewayConfig = serde_yaml::from_str("{version: v1, drainDelay: 200ms}")?;
        config.hot = Some(HotConfig {
            backends: backends.iter().map(backend).collect(),
            ..HotConfig::default()
        });
        Ok(Self {
            config,
            password: None,
            environment: BTreeMap::new(),
            hosts: None,
            wrapper: Vec::new(),
            keys: None,
        })
    }

    /// Gateways with these backends, sessions in memory, and a session key that they share.
    ///
    /// # Errors
    /// When the key cannot be written.
    pub fn new(backends: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut recipe = Self::in_memory(backends)?;
        let keys = TempDir::new()?;
        std::fs::write(keys.path().join(CURRENT), SessionKey::generate()?.to_text())?;
        recipe.config.session_keys = Some(SessionKeys {
            directory: keys.path().to_owned(),
        });
        recipe.keys = Some(keys);
        Ok(recipe)
    }

    /// Keeps the sessions in the Redis at `address`. The other settings of the session store get their defaults; the caller may change them.
    pub fn use_redis(&mut self, address: SocketAddr) -> &mut SessionStorage {
        self.config.session_storage = SessionStorage {
            provider: SessionStorageProvider::Redis,
            address: Some(address.to_string()),
            ..SessionStorage::default()
        };
        &mut self.config.session_storage
    }

    /// The configuration that a gateway takes over while it runs.
    pub fn hot(&mut self) -> &mut HotConfig {
        self.config.hot.get_or_insert_default()
    }

    /// Starts a gateway on free ports and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; the message has its last words.
    pub fn start(&self) -> anyhow::Result<Gateway> {
        let mut gateway = self.start_unready(ports::free()?)?;
        gateway.wait_until_ready()?;
        Ok(gateway)
    }

    /// Starts a gateway that cannot use its session store, and waits until it is ready but for that.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn start_without_store(&self) -> anyhow::Result<Gateway> {
        let gateway = self.start_unready(ports::free()?)?;
        wait::until("only the session store is missing", READY_LIMIT, || {
            let answer = http_client::get(gateway.admin, "/readyz", &[])?;
            ensure!(
                answer.status == 503 && answer.text() == "not ready: the session store\n",
                "{} {}",
                answer.status,
                answer.text()
            );
            Ok(())
        })?;
        Ok(gateway)
    }

    /// Starts a gateway with its MCP endpoint at `mcp`, and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_unready(&self, mcp: SocketAddr) -> anyhow::Result<Gateway> {
        let directory = TempDir::new()?;
        let mut config = self.config.clone();
        config.listeners.mcp = mcp;
        config.listeners.admin = ports::free()?;
        let file = directory.path().join(CONFIG_FILE);
        std::fs::write(&file, serde_yaml::to_string(&config)?)?;
        let program = binaries::path("vmcp-gateway")?;
        let mut command = match (&self.hosts, &*self.wrapper) {
            (None, []) => Command::new(program),
            (None, [wrapper, arguments @ ..]) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(program);
                command
            }
            (Some(hosts), _) => {
                let file = directory.path().join("hosts");
                std::fs::write(&file, hosts)?;
                vmcp_external::hosts::command(program.as_ref(), &file)?
            }
        };
        command.arg("serve").arg("--config").arg(&file);
        command.envs(&self.environment);
        if let Some(password) = &self.password {
            command.env(REDIS_PASSWORD_ENV, password);
        }
        Gateway::launch(&command, &config.listeners, directory)
    }

    /// The bearer token of `/status`.
    ///
    /// # Errors
    /// When the gateways share no key, or it cannot be read.
    pub fn status_token(&self) -> anyhow::Result<String> {
        let keys = self.keys.as_ref().context("these gateways share no key")?;
        let key = SessionKey::parse(&std::fs::read_to_string(keys.path().join(CURRENT))?)?;
        Ok(key.status_token(&self.config.namespace, &self.config.name))
    }
}

impl Gateway {
    /// Starts a gateway as `command` says; its files are in `directory`, which is kept as long as it runs.
    pub(crate) fn launch(
        command: &Command,
        listeners: &Listeners,
        directory: TempDir,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            mcp: listeners.mcp,
            admin: listeners.admin,
            process: Process::start("gateway", command)?,
            directory,
        })
    }

    /// The configuration file that it was started with.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join(CONFIG_FILE)
    }

    /// Waits until `/readyz` responds with 200.
    ///
    /// # Errors
    /// When the process ends, or does not become ready in time; the message has its last words.
    pub fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let admin = self.admin;
        let ready = wait::until("the gateway is ready", READY_LIMIT, || {
            if let Some(status) = self.process.ended()? {
                return Ok(Err(format!("the gateway ended: {status}")));
            }
            let answer = http_client::get(admin, "/readyz", &[])?;
            if answer.status != 200 {
                bail!("{}", answer.text().trim());
            }
            Ok(Ok(()))
        });
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => bail!("{error}; {}", self.process.last_words()),
            Err(error) => Err(error.context(self.process.last_words())),
        }
    }

    /// The response of `/status`.
    ///
    /// # Errors
    /// When it does not say anything.
    pub fn status(&self, recipe: &Recipe) -> anyhow::Result<GatewayStatus> {
        let authorization = format!("Bearer {}", recipe.status_token()?);
        let answer = http_client::get(self.admin, "/status", &[("authorization", &authorization)])?;
        serde_json::from_slice(&answer.body)
            .with_context(|| format!("/status: {} {}", answer.status, answer.text()))
    }

    /// One counter or gauge of `/metrics`: the sum over all lines that begin with `name` and contain `labels`.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn metric(&self, name: &str, labels: &str) -> anyhow::Result<f64> {
        let answer = http_client::get(self.admin, "/metrics", &[])?;
        let text = answer.text();
        let lines = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(labels));
        Ok(lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// The value of the line `name` in `/proc/PID/status`, if there is such a line.
    ///
    /// # Errors
    /// When the system does not say anything.
    pub fn process_status(&self, name: &str) -> anyhow::Result<Option<String>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(other, _)| *other == name);
        Ok(found.map(|(_, value)| value.trim().to_owned()))
    }

    /// How much memory the process holds, in bytes.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let line = self.process_status("VmRSS")?;
        let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        Ok(kib.context("the system does not say how much memory the gateway holds")? * 1024)
    }

    /// The processor time of all threads that run now.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let mut taken = Duration::ZERO;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            // A thread may end meanwhile.
            let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
            taken += Duration::from_nanos(nanos.context("the system does not say how long a thread ran")?);
        }
        Ok(taken)
    }

    /// How many files and connections the process has open.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn open_files(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count())
    }

    /// Kills the process with SIGKILL, so that it cannot drain.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Waits until the process has exited, and returns whether it exited with 0.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn wait_until_ended(&mut self, limit: Duration) -> anyhow::Result<bool> {
        let status = wait::until("the gateway ends", limit, || {
            self.process.ended()?.context("it is running")
        })?;
        Ok(status.success())
    }

    /// The text of its configuration file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn config(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.directory.path().join(CONFIG_FILE))?)
    }

    /// Resets the peak of the memory, so that [`Self::peak_memory`] is the peak since now.
    ///
    /// # Errors
    /// When the system does not take it.
    pub fn forget_peak_memory(&self) -> anyhow::Result<()> {
        // Resets VmHWM; see proc(5).
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5")
            .context("the system does not forget the peak of the memory")
    }

    /// The peak of the memory that the process held, in bytes.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        Ok(kib.context("no VmHWM")? * 1024)
    }

    /// Whether the process is running.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// The output of the process so far.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.process.log())?)
    }
}
