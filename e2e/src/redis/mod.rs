//! Real Redis servers as processes: one, a primary with sentinels, and a cluster.

mod certificates;
mod cluster;
pub mod documented_user;
mod sentinel;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use redis::FromRedisValue;
use tempfile::TempDir;
use vmcp_external::process::{Process, Signal};

use crate::{ports, wait};

pub use certificates::{Certificates, Identity};
pub use cluster::Cluster;
pub use sentinel::{MASTER_NAME, Sentinels};

const START_LIMIT: Duration = Duration::from_secs(10);

/// A running Redis. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Redis {
    /// Its address.
    pub address: SocketAddr,
    password: Option<String>,
    arguments: Vec<String>,
    program: PathBuf,
    process: Process,
    directory: TempDir,
}

impl Redis {
    /// Starts a Redis that requires `password`, if one is given.
    ///
    /// # Errors
    /// When it cannot be started; the message has its last words.
    pub fn start(password: Option<&str>) -> anyhow::Result<Self> {
        Self::start_with(password, &[])
    }

    /// Starts a Redis with further settings, as they would stand in its configuration file.
    ///
    /// # Errors
    /// When it cannot be started; the message has its last words.
    pub fn start_with(password: Option<&str>, settings: &[&str]) -> anyhow::Result<Self> {
        Self::start_as(&vmcp_external::redis::redis_server()?, password, settings)
    }

    /// Starts another program that is compatible with Redis.
    ///
    /// # Errors
    /// When it cannot be started; the message has its last words.
    pub fn start_as(program: &Path, password: Option<&str>, settings: &[&str]) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let address = ports::free()?;
        let mut arguments = vec![
            format!("port {}", address.port()),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", directory.path().display()),
            "save \"\"".to_owned(),
            "appendonly no".to_owned(),
        ];
        arguments.extend(password.map(|password| format!("requirepass \"{password}\"")));
        arguments.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let process = launch(program, &directory, &arguments)?;
        let mut redis = Self {
            address,
            password: password.map(str::to_owned),
            arguments,
            program: program.to_owned(),
            process,
            directory,
        };
        redis.wait_until_ready()?;
        Ok(redis)
    }

    /// Starts a Redis that also listens at the address which is given back, encrypted, with a certificate for `name`. With
    /// `wants_certificates` it lets only those in whose certificate the same authority has issued.
    ///
    /// # Errors
    /// When it cannot be started; the message has its last words.
    pub fn start_encrypted(
        certificates: &Certificates,
        name: &str,
        wants_certificates: bool,
        settings: &[&str],
    ) -> anyhow::Result<(Self, SocketAddr)> {
        let (address, identity) = (ports::free()?, certificates.issue(name)?);
        let mut all = vec![
            format!("tls-port {}", address.port()),
            format!("tls-cert-file {}", identity.cert.display()),
            format!("tls-key-file {}", identity.key.display()),
            format!("tls-ca-cert-file {}", certificates.authority().display()),
            format!(
                "tls-auth-clients {}",
                if wants_certificates { "yes" } else { "no" }
            ),
        ];
        all.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        Ok((Self::start_with(None, &all)?, address))
    }

    /// The password that it wants.
    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Sends a command and gives its answer.
    ///
    /// # Errors
    /// When Redis does not answer, or answers with an error.
    pub fn command<T: FromRedisValue>(&self, words: &[&str]) -> anyhow::Result<T> {
        ask(self.address, self.password.as_deref(), words)
    }

    /// How often it has executed each command, by its own count.
    ///
    /// # Errors
    /// When it does not say.
    pub fn commands(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let info: String = self.command(&["INFO", "commandstats"])?;
        let count = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        Ok(info.lines().filter_map(count).collect())
    }

    /// How often it has run a script, by its own count.
    ///
    /// # Errors
    /// When it does not say.
    pub fn scripts(&self) -> anyhow::Result<u64> {
        let commands = self.commands()?.into_iter();
        Ok(commands
            .filter_map(|(name, count)| name.starts_with("eval").then_some(count))
            .sum())
    }

    /// Changes the field of a hash behind the gateways' back.
    ///
    /// # Errors
    /// When there is no such field.
    pub fn change_field(
        &self,
        hash: &str,
        field: &str,
        change: impl FnOnce(&str) -> String,
    ) -> anyhow::Result<()> {
        let value: String = self.command(&["HGET", hash, field])?;
        self.command(&["HSET", hash, field, &change(&value)])
    }

    /// Removes its directory, so that it cannot save.
    ///
    /// # Errors
    /// When it cannot be taken away.
    pub fn lose_directory(&self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(self.directory.path()).context("cannot remove the directory of Redis")
    }

    /// Makes every attempt to save its data fail, until [`Self::unblock_saving`].
    ///
    /// # Errors
    /// When the place of its file cannot be taken.
    pub fn block_saving(&self) -> anyhow::Result<()> {
        std::fs::create_dir(self.snapshot()).context("cannot take the place of the snapshot")
    }

    /// Lets it save its data again.
    ///
    /// # Errors
    /// When its directory cannot be changed.
    pub fn unblock_saving(&self) -> anyhow::Result<()> {
        std::fs::remove_dir(self.snapshot()).context("cannot make room for the snapshot")
    }

    fn snapshot(&self) -> PathBuf {
        self.directory.path().join("dump.rdb")
    }

    /// Suspends the process: connections stay open, and get no replies.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Resumes the process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Kills the process, and its data with it.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Starts it again at the same address, empty but for what [`Self::save`] has saved.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.start_loading()?;
        self.wait_until_ready()
    }

    /// Writes its data to its directory, from where [`Self::start_again`] and [`Self::start_loading`] read it.
    ///
    /// # Errors
    /// When it cannot.
    pub fn save(&self) -> anyhow::Result<()> {
        self.command::<String>(&["SAVE"]).map(drop)
    }

    /// Starts it again at the same address, and does not wait for it to have read its data.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_loading(&mut self) -> anyhow::Result<()> {
        self.process = launch(&self.program, &self.directory, &self.arguments)?;
        Ok(())
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let ready = wait::until("Redis answers", START_LIMIT, || self.command::<String>(&["PING"]));
        match ready {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(self.process.last_words())),
        }
    }
}

/// Sends a command to the server at `address`.
fn ask<T: FromRedisValue>(address: SocketAddr, password: Option<&str>, words: &[&str]) -> anyhow::Result<T> {
    let mut settings = redis::RedisConnectionInfo::default();
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    let address = redis::ConnectionAddr::Tcp(address.ip().to_string(), address.port());
    let info = redis::IntoConnectionInfo::into_connection_info(address)?.set_redis_settings(settings);
    let limit = Duration::from_secs(2);
    let mut connection = redis::Client::open(info)?.get_connection_with_timeout(limit)?;
    connection.set_read_timeout(Some(limit))?;
    let (name, arguments) = words.split_first().context("no command")?;
    Ok(redis::cmd(name).arg(arguments).query(&mut connection)?)
}

fn launch(program: &Path, directory: &TempDir, settings: &[String]) -> anyhow::Result<Process> {
    let file = directory.path().join("redis.conf");
    std::fs::write(&file, settings.join("\n"))?;
    let mut command = Command::new(program);
    command.arg(&file);
    Process::start("redis", &command)
}
