//! A real Redis server as a process.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;
use vmcp_peers::process::{Process, Signal};

use crate::{ports, wait};

const START_LIMIT: Duration = Duration::from_secs(10);

/// A running Redis. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Redis {
    /// Its address.
    pub address: SocketAddr,
    password: Option<String>,
    arguments: Vec<String>,
    process: Process,
    directory: TempDir,
}

impl Redis {
    /// Starts a Redis that wants `password`, if one is given.
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
        let process = launch(&directory, &arguments)?;
        let mut redis = Self {
            address,
            password: password.map(str::to_owned),
            arguments,
            process,
            directory,
        };
        redis.wait_until_ready()?;
        Ok(redis)
    }

    /// Sends a command and gives its answer.
    ///
    /// # Errors
    /// When Redis does not answer, or answers with an error.
    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> anyhow::Result<T> {
        let mut settings = redis::RedisConnectionInfo::default();
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let address = redis::ConnectionAddr::Tcp(self.address.ip().to_string(), self.address.port());
        let info = redis::IntoConnectionInfo::into_connection_info(address)?.set_redis_settings(settings);
        let limit = Duration::from_secs(2);
        let mut connection = redis::Client::open(info)?.get_connection_with_timeout(limit)?;
        connection.set_read_timeout(Some(limit))?;
        let (name, arguments) = words.split_first().context("no command")?;
        Ok(redis::cmd(name).arg(arguments).query(&mut connection)?)
    }

    /// Stops the process without ending it: connections stay open, and nothing answers.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets the process go on.
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

    /// Starts it again at the same address, empty.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = launch(&self.directory, &self.arguments)?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let ready = wait::until("Redis answers", START_LIMIT, || self.command::<String>(&["PING"]));
        match ready {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(self.process.last_words())),
        }
    }
}

fn launch(directory: &TempDir, settings: &[String]) -> anyhow::Result<Process> {
    let file = directory.path().join("redis.conf");
    std::fs::write(&file, settings.join("\n"))?;
    let mut command = Command::new(vmcp_peers::redis::redis_server()?);
    command.arg(&file);
    Process::start("redis", &command)
}
