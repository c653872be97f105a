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
use tokio::time::Instant;

use super::failure::{authentication_failure, connection_refusal, database_failure, unavailable};
use super::tls;
use crate::config::{RedisAddress, RedisPassword, RedisStorage, RedisTls};
use crate::session::store::StoreError;

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
    pub(super) fn new(storage: &RedisStorage) -> Result<Self, StoreError> {
        if let Some(tls) = &storage.tls {
            tls::client_config(tls).map_err(StoreError::unavailable)?;
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
    pub(super) fn secret(&self) -> Result<Option<SecretString>, StoreError> {
        match &self.password {
            None => Ok(None),
            Some(RedisPassword::Fixed(password)) => Ok(Some(password.clone())),
            Some(RedisPassword::File(file)) => {
                let text = std::fs::read_to_string(file).map_err(|error| {
                    StoreError::unavailable(format!(
                        "cannot read the password file {}: {error}",
                        file.display()
                    ))
                })?;
                let password = text.trim_end_matches(['\r', '\n']);
                if password.is_empty() {
                    let reason = format!("the password file {} is empty", file.display());
                    return Err(StoreError::unavailable(reason));
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
    ) -> Result<Dialled, StoreError> {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let mut dialled = self.dial(address, None, &info, config()).await?;
        if let Some(secret) = secret {
            self.authenticate(&mut dialled, secret, self.connect_timeout)
                .await?;
        }
        if self.db != 0 {
            let mut select = ::redis::cmd("SELECT");
            select.arg(self.db);
            let selected = dialled.try_ask::<()>(&select, self.connect_timeout).await?;
            selected.map_err(|error| database_failure(&error, self.db))?;
        }
        Ok(dialled)
    }

    async fn authenticate(
        &self,
        dialled: &mut Dialled,
        secret: &SecretString,
        limit: Duration,
    ) -> Result<(), StoreError> {
        let username = self.username.as_deref();
        let mut auth = ::redis::cmd("AUTH");
        auth.arg(username).arg(secret.expose_secret());
        let answer = dialled.try_ask::<()>(&auth, limit).await?;
        answer.map_err(|error| authentication_failure(&error, username).hiding(secret.expose_secret()))
    }

    /// Opens a connection to a sentinel: without a password first, then with it if the sentinel requires one.
    pub(super) async fn for_sentinel(
        &self,
        address: &RedisAddress,
        secret: Option<&SecretString>,
    ) -> Result<Dialled, StoreError> {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let mut dialled = self.dial(address, None, &info, config()).await?;
        let without = dialled
            .ask::<()>(&::redis::cmd("PING"), self.command_timeout)
            .await;
        match (without, secret) {
            (Err(_), Some(secret)) => {
                self.authenticate(&mut dialled, secret, self.command_timeout)
                    .await?;
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
    ) -> Result<Dialled, StoreError> {
        let mut info = RedisConnectionInfo::default()
            .set_skip_set_lib_name()
            .set_protocol(ProtocolVersion::RESP3);
        if let Some(username) = &self.username {
            info = info.set_username(username);
        }
        let secret = self.secret()?;
        if let Some(secret) = &secret {
            info = info.set_password(secret.expose_secret());
        }
        let dialled = self
            .dial(address, Some(peer), &info, config().set_push_sender(pushed))
            .await;
        dialled.map_err(|error| match &secret {
            Some(secret) => error.hiding(secret.expose_secret()),
            None => error,
        })
    }

    async fn dial(
        &self,
        address: &RedisAddress,
        peer: Option<SocketAddr>,
        info: &RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<Dialled, StoreError> {
        let millis = self.connect_timeout.as_millis();
        let deadline = Instant::now() + self.connect_timeout;
        let peers = match peer {
            Some(peer) => vec![peer],
            None => tokio::time::timeout_at(deadline, resolve(address))
                .await
                .unwrap_or_else(|_| {
                    let host = &address.host;
                    let reason = format!(
                        "the host name of Redis, {host:?}, was not resolved within {millis} ms; check the name server"
                    );
                    Err(StoreError::unavailable(reason))
                })?,
        };
        let dialling = async {
            let connecting = TcpStream::connect(&*peers).await;
            let stream = connecting.map_err(|error| {
                StoreError::unavailable(format!("cannot connect to Redis at {address}: {error}"))
            })?;
            let peer = stream.peer_addr().map_err(StoreError::unavailable)?;
            // Nagle's algorithm would delay a response by 40 ms until the acknowledgement.
            stream.set_nodelay(true).map_err(StoreError::unavailable)?;
            match &self.tls {
                None => begin(stream, peer, info, config).await,
                Some(tls) => {
                    let encrypting = tls::encrypt(tls, &address.host, stream).await;
                    begin(encrypting?, peer, info, config).await
                }
            }
        };
        tokio::time::timeout_at(deadline, dialling)
            .await
            .unwrap_or_else(|_| {
                let reason = format!("no connection to Redis at {address} within {millis} ms");
                Err(StoreError::unavailable(reason))
            })
    }
}

/// The IP addresses of the server.
async fn resolve(address: &RedisAddress) -> Result<Vec<SocketAddr>, StoreError> {
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
    let found = found.map_err(|error| {
        let host = &address.host;
        StoreError::unavailable(format!(
            "no such host as {host:?}, where Redis should be: {error}; check the address in sessionStorage"
        ))
    })?;
    Ok(found.collect())
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
) -> Result<Dialled, StoreError>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, driver) = MultiplexedConnection::new_with_config(info, stream, config)
        .await
        .map_err(|error| unavailable(&error))?;
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
    ) -> Result<T, StoreError> {
        self.try_ask(command, limit)
            .await?
            .map_err(|error| unavailable(&error))
    }

    /// As `ask`, but returns the server's error for a command that may be refused.
    pub(super) async fn try_ask<T: FromRedisValue>(
        &mut self,
        command: &::redis::Cmd,
        limit: Duration,
    ) -> Result<::redis::RedisResult<T>, StoreError> {
        let (connection, driver) = (&mut self.connection, &mut self.driver);
        let mut answer = std::pin::pin!(command.query_async(connection));
        tokio::select! {
            biased;
            answer = &mut answer => Ok(answer),
            () = driver => {
                // With TLS 1.3, a server refuses the certificate of a client after the handshake.
                let error = answer.now_or_never().and_then(Result::err);
                let refusal = error.as_ref().and_then(connection_refusal);
                Err(refusal.unwrap_or_else(|| StoreError::unavailable("Redis closed the connection")))
            }
            () = tokio::time::sleep(limit) => {
                let reason = format!("Redis did not answer within {} ms", limit.as_millis());
                Err(StoreError::unavailable(reason))
            }
        }
    }
}
