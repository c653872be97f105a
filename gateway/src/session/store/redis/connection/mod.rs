//! Connection to Redis.
//!
//! A [`RedisConnection`] hides the topology (one server, a primary named by sentinels, or a cluster), TLS and
//! credentials, and changes of all of these.
//!
//! `RedisConnection::run` runs a script within one deadline. Calls never queue for a connection: after `MISSES`
//! unanswered calls in a row, or while no server is reachable, calls fail at once, and the reconnect loop looks for a
//! server every half second. An operation whose deadline has passed may still happen later.
//!
//! [`RedisConnection::subscribe`] receives a channel on a connection of its own. Scripts publish with the command
//! [`RedisConnection::publish_command`], because in a cluster a channel belongs to a slot. Example:
//!
//! ```ignore
//! loop {
//!     // Ends when the connection is open; subscribing fails at once while it is not.
//!     connection.opened().await;
//!     let Ok(mut subscription) = connection.subscribe(&channel, PING_EVERY).await else { continue };
//!     // No message published from here on is missed.
//!     loop {
//!         match subscription.next().await {
//!             Ok(SubscriptionEvent::Message(message)) => apply(message),
//!             // Everything published before this instant has been returned as a message.
//!             Ok(SubscriptionEvent::Pong { sent }) => last_pong = sent,
//!             // Messages since the last pong may be missing.
//!             Err(lost) => break,
//!         }
//!     }
//! }
//! ```

mod dial;
mod failure;
mod reconnect;
mod subscription;
mod tls;
mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, RedisResult, Value};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::StoreError;
use super::script::ScriptCall;
use crate::config::{RedisAddress, RedisStorage, RedisTopology};

use dial::Dialler;
use failure::{CommandFailure, reason, refused, unavailable};
use reconnect::{BrokenReport, ConnectionState, OpenConnection, Reconnector};
pub use subscription::{Subscription, SubscriptionEvent};
use topology::Topology;

/// Number of unanswered calls in a row after which the connection counts as down.
const MISSES: u32 = 3;
/// Pause before a retry while keys are split between two nodes.
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// Capacity of the queue of reports to the reconnect loop. Further reports say nothing new.
const MAX_REPORTS: usize = 16;

/// Connection to Redis. A cheap-clone handle; dropping the last one closes the connection.
#[derive(Clone)]
pub struct RedisConnection {
    shared: Arc<Shared>,
}

struct Shared {
    state: Arc<watch::Sender<ConnectionState>>,
    reports: mpsc::Sender<BrokenReport>,
    /// Number of unanswered calls in a row.
    misses: AtomicU32,
    dialler: Arc<Dialler>,
    deadline: Duration,
    /// Whether one server is configured, without sentinels or cluster.
    single: bool,
    /// Whether channels belong to slots (a cluster).
    sharded: bool,
    /// The reconnect task. Dropping this ends it.
    _reconnect_task: JoinSet<()>,
}

impl std::fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConnection").finish_non_exhaustive()
    }
}

/// A command or a script.
#[derive(Clone, Copy)]
enum Command<'a> {
    Script(&'a ScriptCall<'a>),
    Command(&'a Cmd),
}

/// Why an attempt gave no result.
enum AttemptFailure {
    /// A retry within the deadline would not help.
    Failed(StoreError),
    /// The connection with this number is unusable. Another one may work.
    Elsewhere { number: u64, reason: String },
}

impl RedisConnection {
    /// Starts to open a connection as configured in `storage`, to the server that has `probe_key`. Failures to
    /// connect are reported by calls.
    ///
    /// # Errors
    /// A configured file is unusable.
    pub fn new(storage: &RedisStorage, probe_key: &str) -> Result<Self, StoreError> {
        let dialler = Arc::new(Dialler::new(storage)?);
        let state = Arc::new(watch::Sender::new(ConnectionState::Opening));
        let (reports, report_receiver) = mpsc::channel(MAX_REPORTS);
        let reconnector = Reconnector {
            dialler: Arc::clone(&dialler),
            topology: Topology {
                servers: storage.topology.clone(),
                probe_key: probe_key.to_owned(),
                command_timeout: storage.command_timeout,
            },
            state: Arc::clone(&state),
            reports: report_receiver,
        };
        let mut reconnect_task = JoinSet::new();
        reconnect_task.spawn(reconnector.run());
        let shared = Shared {
            state,
            reports,
            misses: AtomicU32::new(0),
            dialler,
            deadline: storage.command_timeout,
            single: matches!(storage.topology, RedisTopology::Single(_)),
            sharded: matches!(storage.topology, RedisTopology::Cluster(_)),
            _reconnect_task: reconnect_task,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Runs a script.
    ///
    /// # Errors
    /// Redis did not answer in time, or answered with an error. The script may have run, or may still run.
    pub(super) async fn run<T: FromRedisValue>(&self, call: &ScriptCall<'_>) -> Result<T, StoreError> {
        self.within_deadline(Command::Script(call)).await
    }

    /// Runs a command without keys, or one whose keys are on this server.
    ///
    /// # Errors
    /// As `Self::run`.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.within_deadline(Command::Command(command)).await
    }

    /// `PUBLISH` or `SPUBLISH`: the command by which a script reaches [`Self::subscribe`]. The channel's name has the
    /// hash tag of the keys.
    #[must_use]
    pub fn publish_command(&self) -> &'static str {
        if self.shared.sharded {
            "SPUBLISH"
        } else {
            "PUBLISH"
        }
    }

    /// Completes when the connection is open.
    pub async fn opened(&self) {
        self.opened_after(0).await;
    }

    /// Completes when a connection with a higher number than `number` is open, and returns its number. The first one has number 1.
    pub(super) async fn opened_after(&self, number: u64) -> u64 {
        let mut state = self.shared.state.subscribe();
        let is_later =
            |state: &ConnectionState| matches!(state, ConnectionState::Open(open) if open.number > number);
        // Cannot fail: the sender lives as long as `self`.
        match state.wait_for(is_later).await.as_deref() {
            Ok(ConnectionState::Open(open)) => open.number,
            _ => number,
        }
    }

    /// Subscribes to `channel` and sends a PING every `ping_every`. No message published after this returns is
    /// missed.
    ///
    /// # Errors
    /// Redis is down or refuses the subscription.
    pub async fn subscribe(&self, channel: &str, ping_every: Duration) -> Result<Subscription, StoreError> {
        let (open, state) = {
            let mut state = self.shared.state.subscribe();
            let open = open(&mut state, 0).await?;
            (open, state)
        };
        let number = open.number;
        let commands = if self.shared.sharded {
            ["SSUBSCRIBE", "SPUBLISH"]
        } else {
            ["SUBSCRIBE", "PUBLISH"]
        };
        let begun = Subscription::begin(&self.shared.dialler, open, state, commands, channel, ping_every);
        begun.await.map_err(|refusal| {
            if refusal.elsewhere.is_some() || refusal.is_replica {
                self.report_broken(number, refusal.elsewhere);
            }
            refusal.error
        })
    }

    async fn within_deadline<T: FromRedisValue>(&self, work: Command<'_>) -> Result<T, StoreError> {
        let deadline = self.shared.deadline;
        let (mut asked, mut why) = (None, None);
        match tokio::time::timeout(deadline, self.attempts(work, &mut asked, &mut why)).await {
            Ok(Ok(value)) => ::redis::from_redis_value(value)
                .map_err(|error| StoreError::unavailable(format!("unexpected response from Redis: {error}"))),
            Ok(Err(unavailable)) => Err(unavailable),
            Err(_) => {
                let reason =
                    why.unwrap_or_else(|| format!("Redis did not answer within {} ms", deadline.as_millis()));
                if let Some(number) = asked {
                    self.count_miss(number, &reason);
                }
                Err(StoreError::unavailable(reason))
            }
        }
    }

    /// Retries until there is a result. `asked` is the connection that owes an answer, `why` its last error.
    async fn attempts(
        &self,
        work: Command<'_>,
        asked: &mut Option<u64>,
        why: &mut Option<String>,
    ) -> Result<Value, StoreError> {
        let mut state = self.shared.state.subscribe();
        let mut unfit = 0;
        loop {
            let open = open(&mut state, unfit).await?;
            *asked = Some(open.number);
            let outcome = self.attempt(work, open).await;
            *asked = None;
            match outcome {
                Ok(value) => return Ok(value),
                Err(AttemptFailure::Failed(unavailable)) => return Err(unavailable),
                Err(AttemptFailure::Elsewhere { number, reason }) => {
                    unfit = number;
                    *why = Some(reason);
                }
            }
        }
    }

    async fn attempt(&self, work: Command<'_>, open: OpenConnection) -> Result<Value, AttemptFailure> {
        let OpenConnection {
            number,
            address,
            mut connection,
            ..
        } = open;
        let (mut command, mut in_full) = match work {
            Command::Script(call) => (call.by_digest(), false),
            Command::Command(command) => (command.clone(), true),
        };
        loop {
            let outcome: RedisResult<Value> = command.query_async(&mut connection).await;
            let error = match outcome {
                Ok(value) => {
                    self.shared.misses.store(0, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(error) => error,
            };
            let reason = reason(&error);
            match (CommandFailure::of(&error, &address), work) {
                (CommandFailure::NoScript, Command::Script(call)) if !in_full => {
                    in_full = true;
                    command = call.in_full();
                }
                (CommandFailure::TryAgain, _) => tokio::time::sleep(TRY_AGAIN).await,
                (CommandFailure::Moved(to), _) if self.shared.sharded => {
                    self.report_broken(number, Some(to));
                    return Err(AttemptFailure::Elsewhere { number, reason });
                }
                (CommandFailure::Ask(to), Command::Script(call)) if self.shared.sharded => {
                    // Boxed, because it is rare and larger than the rest of a call.
                    return Box::pin(self.ask(&to, call))
                        .await
                        .map_err(AttemptFailure::Failed);
                }
                // Nothing was written, so another connection may be tried.
                (CommandFailure::Demoted, _) => {
                    self.report_broken(number, None);
                    return Err(if self.shared.single {
                        AttemptFailure::Failed(refused(&error))
                    } else {
                        AttemptFailure::Elsewhere { number, reason }
                    });
                }
                (CommandFailure::Broken, _) => {
                    self.report_broken(number, None);
                    return Err(AttemptFailure::Failed(unavailable(&error)));
                }
                _ => return Err(AttemptFailure::Failed(refused(&error))),
            }
        }
    }

    /// Runs a script at the node to which the keys are moving.
    async fn ask(&self, node: &RedisAddress, call: &ScriptCall<'_>) -> Result<Value, StoreError> {
        let secret = self.shared.dialler.secret()?;
        let mut dialled = self.shared.dialler.for_commands(node, secret.as_ref()).await?;
        let deadline = self.shared.deadline;
        dialled.ask::<()>(&::redis::cmd("ASKING"), deadline).await?;
        dialled.ask(&call.in_full(), deadline).await
    }

    fn report_broken(&self, number: u64, hint: Option<RedisAddress>) {
        // A full queue means that the reconnect loop knows already.
        self.shared.reports.try_send(BrokenReport { number, hint }).ok();
    }

    /// Counts an unanswered call on the connection `number`.
    fn count_miss(&self, number: u64, reason: &str) {
        if self.shared.misses.fetch_add(1, Ordering::Relaxed) + 1 < MISSES {
            return;
        }
        self.shared.misses.store(0, Ordering::Relaxed);
        let down = self.shared.state.send_if_modified(|state| {
            let open = matches!(state, ConnectionState::Open(open) if open.number == number);
            if open {
                *state = ConnectionState::Down(StoreError::unavailable(reason));
            }
            open
        });
        if down {
            self.report_broken(number, None);
        }
    }
}

/// Returns the connection if it is open, or waits while it is opening. It must be later than `unfit`.
///
/// # Errors
/// The connection is down, for this reason.
async fn open(
    state: &mut watch::Receiver<ConnectionState>,
    unfit: u64,
) -> Result<OpenConnection, StoreError> {
    let decided = state.wait_for(|state| match state {
        ConnectionState::Opening => false,
        ConnectionState::Open(open) => open.number > unfit,
        ConnectionState::Down(_) => true,
    });
    match decided.await.as_deref() {
        Ok(ConnectionState::Open(open)) => Ok(open.clone()),
        Ok(ConnectionState::Down(error)) => Err(error.clone()),
        Ok(ConnectionState::Opening) | Err(_) => {
            Err(StoreError::unavailable("the connection to Redis has ended"))
        }
    }
}
