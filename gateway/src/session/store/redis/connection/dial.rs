//! Opens one connection to one Redis server or sentinel.

use std::net::SocketAddr;
use std::time::Duration;

use ::redis::aio::{AsyncPushSender, MultiplexedConnection};
use ::redis::{AsyncConnectionConfig, FromRedisValue, ProtocolVersion, RedisConnectionInfo};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::failure::reason;
use super::tls;
use crate::config::{RedisAddress, RedisPassword, RedisStorage, RedisTls};

/// Capacity of the queue of calls that wait to be written.
const QUEUE: usize = 512;

/// Opens connections: TLS, authentication and timeouts.
#[derive(Debug)]
pub(super) struct Dialler {
    username: Option<String>,
    pub(super) password: Option<RedisPassword>,
    db: u16,
    tls: Option<RedisTls>,
    connect_timeout: Duration,
    command_timeout: Duration,
}

/// An open connection. It makes progress only while `driver` is polled.
pub(super) struct Dialled {
    pub(super) connection: MultiplexedConnection,
    /// The server's IP address. The host name may resolve differently next time.
    pub(super) peer: SocketAddr,
    /// Completes when the connection ends or its last handle is dropped.
    pub(super) driver: BoxFuture<'static, ()>,
}

impl Dialler {
    /// Reads the settings from `storage`.
    ///
    /// # Errors
    /// A file is unusable.
    pub(super) fn new(storage: &RedisStorage) -> Result<Self, String> {
        if let Some(tls) = &storage.tls {
            tls::client_config(tls)?;
        }
        let dialler = Self {
            username: storage.username.clone(),
            password: storage.password.clone(),
            db: storage.db,
            tls: storage.tls.clone(),
            connect_timeout: storage.connect_timeout,
            command_timeout: storage.command_timeout,
        };
        dialler.secret()?;
        Ok(dialler)
    }

    /// Reads the current password.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn secret(&self) -> Result<Option<SecretString>, String> {
        match &self.password {
            None => Ok(None),
            Some(RedisPassword::Fixed(password)) => Ok(Some(password.clone())),
            Some(RedisPassword::File(file)) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| format!("cannot read the password file {}: {error}", file.display()))?;
                let password = text.trim_end_matches(['\r', '\n']);
                if password.is_empty() {
                    return Err(format!("the password file {} is empty", file.display()));
                }
                Ok(Some(password.into()))
            }
        }
    }

    /// Opens a connection for commands, authenticated with `secret`.
    pub(super) async fn for_commands(
        &self,
        address: &RedisAddress,
        secret: Option<&SecretString>,
    ) -> Result<Dialled, String> {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let mut dialled = self.dial(address, None, &info, config()).await?;
        if let Some(secret) = secret {
            let mut auth = ::redis::cmd("AUTH");
            auth.arg(self.username.as_deref()).arg(secret.expose_secret());
            dialled.ask::<()>(&auth, self.connect_timeout).await?;
        }
        if self.db != 0 {
            let mut select = ::redis::cmd("SELECT");
            select.arg(self.db);
            dialled.ask::<()>(&select, self.connect_timeout).await?;
        }
        Ok(dialled)
    }

    /// Opens a connection to a sentinel: without a password first, then with it if the sentinel requires one.
    pub(super) async fn for_sentinel(
        &self,
        address: &RedisAddress,
        secret: Option<&SecretString>,
    ) -> Result<Dialled, String> {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let mut dialled = self.dial(address, None, &info, config()).await?;
        let without = dialled
            .ask::<()>(&::redis::cmd("PING"), self.command_timeout)
            .await;
        match (without, secret) {
            (Err(_), Some(secret)) => {
                let mut auth = ::redis::cmd("AUTH");
                auth.arg(self.username.as_deref()).arg(secret.expose_secret());
                dialled.ask::<()>(&auth, self.command_timeout).await?;
                Ok(dialled)
            }
            (without, _) => without.map(|()| dialled),
        }
    }

    /// Opens a connection for subscriptions to the server at `peer`, which has the name `address`. `pushed` gets its
    /// push messages in order.
    pub(super) async fn for_pushes(
        &self,
        address: &RedisAddress,
        peer: SocketAddr,
        pushed: impl AsyncPushSender,
    ) -> Result<Dialled, String> {
        let mut info = RedisConnectionInfo::default()
            .set_skip_set_lib_name()
            .set_protocol(ProtocolVersion::RESP3);
        if let Some(username) = &self.username {
            info = info.set_username(username);
        }
        if let Some(secret) = self.secret()? {
            info = info.set_password(secret.expose_secret());
        }
        self.dial(address, Some(peer), &info, config().set_push_sender(pushed))
            .await
    }

    async fn dial(
        &self,
        address: &RedisAddress,
        peer: Option<SocketAddr>,
        info: &RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<Dialled, String> {
        let dialling = async {
            let connecting = match peer {
                Some(peer) => TcpStream::connect(peer).await,
                None => TcpStream::connect((address.host.as_str(), address.port)).await,
            };
            let stream =
                connecting.map_err(|error| format!("cannot connect to Redis at {address}: {error}"))?;
            let peer = stream.peer_addr().map_err(|error| error.to_string())?;
            // Nagle's algorithm would delay a response by 40 ms until the acknowledgement.
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            match &self.tls {
                None => begin(stream, peer, info, config).await,
                Some(tls) => {
                    let stream = tls::encrypt(tls, &address.host, stream).await?;
                    begin(stream, peer, info, config).await
                }
            }
        };
        let timeout = self.connect_timeout;
        tokio::time::timeout(timeout, dialling).await.unwrap_or_else(|_| {
            Err(format!(
                "no connection to Redis at {address} within {} ms",
                timeout.as_millis()
            ))
        })
    }
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_pipeline_buffer_size(QUEUE)
        .set_response_timeout(None)
}

async fn begin<C>(
    stream: C,
    peer: SocketAddr,
    info: &RedisConnectionInfo,
    config: AsyncConnectionConfig,
) -> Result<Dialled, String>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, driver) = MultiplexedConnection::new_with_config(info, stream, config)
        .await
        .map_err(|error| reason(&error))?;
    Ok(Dialled {
        connection,
        peer,
        // The future is fused: polling it again after its end is allowed.
        driver: driver.fuse().boxed(),
    })
}

impl Dialled {
    /// Sends a command on a connection that nothing else drives yet.
    pub(super) async fn ask<T: FromRedisValue>(
        &mut self,
        command: &::redis::Cmd,
        limit: Duration,
    ) -> Result<T, String> {
        self.try_ask(command, limit)
            .await?
            .map_err(|error| reason(&error))
    }

    /// As `ask`, but returns the server's error for a command that may be refused.
    pub(super) async fn try_ask<T: FromRedisValue>(
        &mut self,
        command: &::redis::Cmd,
        limit: Duration,
    ) -> Result<::redis::RedisResult<T>, String> {
        let (connection, driver) = (&mut self.connection, &mut self.driver);
        tokio::select! {
            biased;
            answer = command.query_async(connection) => Ok(answer),
            () = driver => Err("Redis closed the connection".to_owned()),
            () = tokio::time::sleep(limit) => Err(format!("Redis did not answer within {} ms", limit.as_millis())),
        }
    }
}
