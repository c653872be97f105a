//! Records in Redis: one hash per session.
//!
//! Every key begins with `{<prefix><namespace>/<name>}`. The braces are a cluster hash tag: all keys of a virtual server are in one
//! slot, so that a script over several of them is atomic, and two virtual servers never see each other's keys.
//!
//! Every change is one script, which first checks that the record lives. The clock is Redis's own, read inside the script, so that no
//! clocks of two machines are compared. A record outlives its idle deadline by [`GRACE`], so that what expired can still be told
//! from what never was.
//!
//! Every operation has a deadline of ours, because the client library waits for its own reconnection without one. An operation whose
//! deadline passed may still happen later.

mod events;
mod hash;
mod script;

use std::future::Future;
use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{
    ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError, RedisResult, ScriptInvocation,
};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use secrecy::ExposeSecret as _;

use super::{
    Bound, Created, Event, Incarnation, Life, Loaded, Missing, Owner, REMEMBERED, Recovered, SETTLE,
    SessionStore, SetOutcome, Setting, StreamOwned, Terminated, Touched, Unavailable,
};
use crate::config::{RedisStorage, ServerName, SessionLimits};
use crate::session::record::{Binding, Lifetimes, NewRecord, Record, RecordKey};

use script::Scripts;

/// How long an operation may take.
const DEADLINE: Duration = Duration::from_millis(250);
/// How long a connection attempt may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How long the pause between two connection attempts may become.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// How long a record outlives its idle deadline.
const GRACE: Duration = Duration::from_secs(10 * 60);

/// Records in Redis.
pub struct RedisStore {
    connection: ConnectionManager,
    client: ::redis::Client,
    scripts: Scripts,
    /// What the key of a record begins with.
    record_prefix: String,
    /// What the key begins with that says what became of a session.
    marker_prefix: String,
    incarnation_key: String,
    /// Where processes tell each other what they do.
    channel: String,
    lifetimes: Lifetimes,
    deadline: Duration,
}

impl RedisStore {
    /// The records of `server`. Nothing is sent before the first operation, so that a Redis that is down does not keep the process
    /// from starting.
    ///
    /// # Errors
    /// When the settings make no connection: an invalid host name, for example.
    pub fn new(
        storage: &RedisStorage,
        server: &ServerName,
        lifetimes: Lifetimes,
    ) -> Result<Self, Unavailable> {
        Self::with_deadline(storage, server, lifetimes, DEADLINE)
    }

    /// The same with another deadline per operation.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_deadline(
        storage: &RedisStorage,
        server: &ServerName,
        lifetimes: Lifetimes,
        deadline: Duration,
    ) -> Result<Self, Unavailable> {
        let mut settings = RedisConnectionInfo::default().set_db(storage.db.into());
        if let Some(username) = &storage.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &storage.password {
            settings = settings.set_password(password.expose_secret());
        }
        let info = ConnectionAddr::Tcp(storage.host.clone(), storage.port)
            .into_connection_info()
            .map_err(unavailable)?
            // Without this an answer of two writes waits 40 ms for an acknowledgement.
            .set_tcp_settings(::redis::io::tcp::TcpSettings::default().set_nodelay(true))
            .set_redis_settings(settings);
        let client = ::redis::Client::open(info).map_err(unavailable)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_DEADLINE))
            .set_response_timeout(Some(deadline))
            .set_max_delay(RECONNECT_PAUSE)
            .set_pipeline_buffer_size(512);
        let connection =
            ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(unavailable)?;
        let tag = format!("{{{}{server}}}", storage.key_prefix);
        Ok(Self {
            connection,
            client,
            scripts: Scripts::new("PUBLISH"),
            record_prefix: format!("{tag}:s:"),
            marker_prefix: format!("{tag}:m:"),
            incarnation_key: format!("{tag}:incarnation"),
            channel: format!("{tag}:events"),
            lifetimes,
            deadline,
        })
    }

    fn record(&self, key: &RecordKey) -> String {
        format!("{}{key}", self.record_prefix)
    }

    fn marker(&self, key: &RecordKey) -> String {
        format!("{}{key}", self.marker_prefix)
    }

    async fn within_deadline<T>(
        &self,
        work: impl Future<Output = RedisResult<T>> + Send,
    ) -> Result<T, Unavailable> {
        match tokio::time::timeout(self.deadline, work).await {
            Ok(outcome) => outcome.map_err(unavailable),
            Err(_) => Err(Unavailable::new(format!(
                "no answer within {} ms",
                self.deadline.as_millis()
            ))),
        }
    }

    /// What the scripts begin with that write a whole record: the keys, the name, the deadlines, and a new incarnation.
    fn writing<'a>(&self, script: &'a ::redis::Script, key: &RecordKey) -> ScriptInvocation<'a> {
        let mut call = script.key(self.record(key));
        call.key(&self.incarnation_key)
            .key(&self.channel)
            .arg(key.to_string())
            .arg(millis(self.lifetimes.idle))
            .arg(millis(GRACE))
            .arg(new_incarnation());
        call
    }

    async fn create_now(&self, key: &RecordKey, record: &NewRecord) -> Result<Created, Unavailable> {
        let mut call = self.writing(&self.scripts.create, key);
        call.arg(millis(self.lifetimes.max));
        for (field, value) in hash::new_fields(record) {
            call.arg(field).arg(value);
        }
        let mut connection = self.connection.clone();
        let answer: Option<script::Snapshot> =
            self.within_deadline(call.invoke_async(&mut connection)).await?;
        let Some(snapshot) = answer else {
            return Ok(Created::Taken);
        };
        Ok(Created::Created {
            created: u32::try_from(snapshot.0 / 1000).unwrap_or(u32::MAX),
            record: hash::record(&snapshot)?,
        })
    }

    async fn recover_now(
        &self,
        key: &RecordKey,
        life: Life,
        new: &NewRecord,
    ) -> Result<Recovered, Unavailable> {
        let mut call = self.writing(&self.scripts.recover, key);
        call.key(self.marker(key))
            .arg(hash::incarnation_text(life.incarnation))
            .arg(u64::from(life.end) * 1000)
            .arg(millis(SETTLE));
        for (field, value) in hash::new_fields(new) {
            call.arg(field).arg(value);
        }
        let mut connection = self.connection.clone();
        let answer: (String, u64, Option<script::Snapshot>) =
            self.within_deadline(call.invoke_async(&mut connection)).await?;
        match answer {
            (_, _, Some(snapshot)) => hash::record(&snapshot).map(Recovered::Found),
            (outcome, millis, None) if outcome == "wait" => {
                Ok(Recovered::Wait(Duration::from_millis(millis)))
            }
            (_, _, None) => Ok(Recovered::Gone),
        }
    }

    async fn restore_now(
        &self,
        key: &RecordKey,
        record: &Record,
        missing: Missing,
    ) -> Result<Recovered, Unavailable> {
        let mut call = self.writing(&self.scripts.restore, key);
        call.key(self.marker(key))
            .arg(hash::incarnation_text(record.life.incarnation))
            .arg(u64::from(record.life.end) * 1000)
            .arg(record.version)
            .arg(missing == Missing::Lost);
        for (field, value) in hash::all_fields(record)? {
            call.arg(field).arg(value);
        }
        let mut connection = self.connection.clone();
        let answer: Option<script::Snapshot> =
            self.within_deadline(call.invoke_async(&mut connection)).await?;
        match answer {
            Some(snapshot) => hash::record(&snapshot).map(Recovered::Found),
            None => Ok(Recovered::Gone),
        }
    }

    async fn own_stream_now(&self, key: &RecordKey, owner: Owner) -> Result<StreamOwned, Unavailable> {
        let mut call = self.scripts.own_stream.key(self.record(key));
        call.key(&self.channel)
            .arg(key.to_string())
            .arg(hash::owner_text(owner));
        let mut connection = self.connection.clone();
        match self.within_deadline(call.invoke_async(&mut connection)).await? {
            0 => Ok(StreamOwned::Gone),
            number => Ok(StreamOwned::Owned(number)),
        }
    }

    async fn incarnation_now(&self) -> Result<Incarnation, Unavailable> {
        let mut call = self.scripts.incarnation.key(&self.incarnation_key);
        call.arg(new_incarnation());
        let mut connection = self.connection.clone();
        let text: String = self.within_deadline(call.invoke_async(&mut connection)).await?;
        hash::incarnation(&text)
    }

    async fn load_now(&self, key: &RecordKey) -> Result<Loaded, Unavailable> {
        let call = self.scripts.load.key(self.record(key));
        let mut connection = self.connection.clone();
        let answer: Option<script::Snapshot> =
            self.within_deadline(call.invoke_async(&mut connection)).await?;
        match answer {
            None => Ok(Loaded::Gone),
            Some(snapshot) => hash::record(&snapshot).map(Loaded::Found),
        }
    }

    async fn bind_now(
        &self,
        key: &RecordKey,
        backend: &str,
        expected: u64,
        binding: &Binding,
    ) -> Result<Bound, Unavailable> {
        let mut call = self.scripts.bind.key(self.record(key));
        call.key(&self.channel)
            .arg(key.to_string())
            .arg(hash::binding_field(backend))
            .arg(expected)
            .arg(hash::binding_value(binding)?);
        let mut connection = self.connection.clone();
        let answer: (String, Option<script::Snapshot>) =
            self.within_deadline(call.invoke_async(&mut connection)).await?;
        match answer {
            (outcome, Some(snapshot)) if outcome == "bound" => hash::record(&snapshot).map(Bound::Bound),
            (_, Some(snapshot)) => hash::record(&snapshot).map(Bound::Lost),
            (_, None) => Ok(Bound::Gone),
        }
    }

    async fn set_now(&self, key: &RecordKey, setting: &Setting) -> Result<SetOutcome, Unavailable> {
        let hash::Field {
            name,
            value,
            kind,
            limit,
        } = hash::setting_field(setting);
        let mut call = self.scripts.set.key(self.record(key));
        call.key(&self.channel)
            .arg(key.to_string())
            .arg(name)
            .arg(value)
            .arg(kind)
            .arg(limit);
        let mut connection = self.connection.clone();
        let answer: (String, Option<script::Snapshot>) =
            self.within_deadline(call.invoke_async(&mut connection)).await?;
        match answer {
            (_, Some(snapshot)) => hash::record(&snapshot).map(SetOutcome::Set),
            (outcome, None) if outcome == "full" => Ok(SetOutcome::Full),
            (_, None) => Ok(SetOutcome::Gone),
        }
    }

    async fn touch_now(&self, keys: &[RecordKey]) -> Result<Vec<Touched>, Unavailable> {
        let mut call = self.scripts.touch.arg(millis(self.lifetimes.idle));
        call.arg(millis(GRACE));
        for key in keys {
            call.key(self.record(key));
        }
        let mut connection = self.connection.clone();
        let touched: Vec<(u64, u64)> = self.within_deadline(call.invoke_async(&mut connection)).await?;
        let outcome = |(version, left)| match version {
            0 => Touched::Gone,
            version => Touched::Alive {
                version,
                left: Duration::from_millis(left),
            },
        };
        Ok(touched.into_iter().map(outcome).collect())
    }

    async fn terminate_now(&self, key: &RecordKey, life: Life) -> Result<Terminated, Unavailable> {
        let mut call = self.scripts.terminate.key(self.record(key));
        call.key(&self.incarnation_key)
            .key(&self.channel)
            .key(self.marker(key))
            .arg(key.to_string())
            .arg(new_incarnation())
            .arg(hash::incarnation_text(life.incarnation))
            .arg(u64::from(life.end) * 1000)
            .arg(millis(REMEMBERED));
        let mut connection = self.connection.clone();
        let answer: (String, Option<script::Snapshot>) =
            self.within_deadline(call.invoke_async(&mut connection)).await?;
        match answer {
            (outcome, _) if outcome == "gone" => Ok(Terminated::Gone),
            (_, None) => Ok(Terminated::Terminated(None)),
            (_, Some(snapshot)) => hash::record(&snapshot).map(|record| Terminated::Terminated(Some(record))),
        }
    }
}

impl SessionStore for RedisStore {
    fn create<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a NewRecord,
        _: SessionLimits,
    ) -> BoxFuture<'a, Result<Created, Unavailable>> {
        self.create_now(key, record).boxed()
    }

    fn load<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Loaded, Unavailable>> {
        self.load_now(key).boxed()
    }

    fn bind_backend<'a>(
        &'a self,
        key: &'a RecordKey,
        backend: &'a str,
        expected: u64,
        binding: &'a Binding,
    ) -> BoxFuture<'a, Result<Bound, Unavailable>> {
        self.bind_now(key, backend, expected, binding).boxed()
    }

    fn set<'a>(
        &'a self,
        key: &'a RecordKey,
        setting: &'a Setting,
    ) -> BoxFuture<'a, Result<SetOutcome, Unavailable>> {
        self.set_now(key, setting).boxed()
    }

    fn touch<'a>(&'a self, keys: &'a [RecordKey]) -> BoxFuture<'a, Result<Vec<Touched>, Unavailable>> {
        self.touch_now(keys).boxed()
    }

    fn own_stream<'a>(
        &'a self,
        key: &'a RecordKey,
        owner: Owner,
    ) -> BoxFuture<'a, Result<StreamOwned, Unavailable>> {
        self.own_stream_now(key, owner).boxed()
    }

    fn terminate<'a>(
        &'a self,
        key: &'a RecordKey,
        life: Life,
    ) -> BoxFuture<'a, Result<Terminated, Unavailable>> {
        self.terminate_now(key, life).boxed()
    }

    fn recover<'a>(
        &'a self,
        key: &'a RecordKey,
        life: Life,
        new: &'a NewRecord,
    ) -> BoxFuture<'a, Result<Recovered, Unavailable>> {
        self.recover_now(key, life, new).boxed()
    }

    fn restore<'a>(
        &'a self,
        key: &'a RecordKey,
        record: &'a Record,
        missing: Missing,
    ) -> BoxFuture<'a, Result<Recovered, Unavailable>> {
        self.restore_now(key, record, missing).boxed()
    }

    fn incarnation(&self) -> BoxFuture<'_, Result<Incarnation, Unavailable>> {
        self.incarnation_now().boxed()
    }

    fn events(&self, every: Duration) -> Option<BoxStream<'static, Event>> {
        Some(events::events(self.client.clone(), self.channel.clone(), every))
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Unavailable>> {
        async move {
            let mut connection = self.connection.clone();
            let ping = async move { ::redis::cmd("PING").query_async::<()>(&mut connection).await };
            self.within_deadline(ping).await
        }
        .boxed()
    }

    fn provider(&self) -> &'static str {
        "redis"
    }
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore")
            .field("record_prefix", &self.record_prefix)
            .finish_non_exhaustive()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn unavailable(error: RedisError) -> Unavailable {
    Unavailable::new(error.to_string())
}

fn new_incarnation() -> String {
    hash::incarnation_text(Incarnation(crate::random::bytes()))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
