//! Subscription to a channel, with the proof that no message is missing.
//!
//! Redis answers commands on a connection in order. So when the answer to a PING has arrived, every message published
//! before the PING was sent has arrived as well. Messages and answers go through one queue, which keeps their order.
//! The command is `ROLE`, or `PING` if the user may not run `ROLE`: a primary that has become a replica proves
//! nothing.
//!
//! The subscription must be at the server that gets the commands. So it connects to that server's IP address,
//! publishes an announcement over the command connection, and waits until it receives it.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{PushInfo, PushKind, RedisResult, Value};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::dial::{Dialled, Dialler};
use super::failure::{CommandFailure, is_forbidden, reason, unavailable};
use super::topology::is_primary;
use crate::config::RedisAddress;
use crate::session::record::RecordKey;
use crate::session::store::StoreError;
use crate::session::store::redis::connection::reconnect::{ConnectionState, OpenConnection};

/// Capacity of the message queue. If it is full, the subscription ends, because a dropped message must not go
/// unnoticed.
const MAX_WAITING: usize = 4096;
/// Time without an answer after which the connection counts as lost.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// What a subscription delivers, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum SubscriptionEvent {
    /// A message that a replica has published.
    Message(Vec<u8>),
    /// A PING was answered: everything published before `sent` has been delivered.
    Pong {
        /// When the answered PING was sent.
        sent: Instant,
    },
}

/// A subscription. It ends when dropped.
pub struct Subscription {
    connection: ::redis::aio::MultiplexedConnection,
    pushes: mpsc::Receiver<PushInfo>,
    /// State of the command connection. If that connects to another server, this subscription ends.
    state: watch::Receiver<ConnectionState>,
    number: u64,
    ticks: Interval,
    /// The command that serves as PING.
    ping_command: PingCommand,
    asked: Option<PendingPing>,
    /// An answered PING, and the number of messages queued before its answer.
    answered_ping: Option<(Instant, usize)>,
    _driver: JoinSet<()>,
}

/// Why there is no subscription.
pub(super) struct SubscribeError {
    pub(super) error: StoreError,
    /// The node that owns the channel instead.
    pub(super) elsewhere: Option<RedisAddress>,
    /// Whether the server is a replica.
    pub(super) is_replica: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PingCommand {
    Role,
    Ping,
}

impl From<StoreError> for SubscribeError {
    fn from(error: StoreError) -> Self {
        Self {
            error,
            elsewhere: None,
            is_replica: false,
        }
    }
}

/// A PING under way.
struct PendingPing {
    at: Instant,
    answer: BoxFuture<'static, RedisResult<Value>>,
}

impl Subscription {
    pub(super) async fn begin(
        dialler: &Arc<Dialler>,
        open: OpenConnection,
        state: watch::Receiver<ConnectionState>,
        [subscribe, publish]: [&str; 2],
        channel: &str,
        ping_every: Duration,
    ) -> Result<Self, SubscribeError> {
        let (sender, mut pushes) = mpsc::channel(MAX_WAITING);
        // A full queue is closed: the sender is dropped.
        let sender = std::sync::Mutex::new(Some(sender));
        let pushed = move |push: PushInfo| {
            let mut sender = sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let sent = sender
                .as_ref()
                .is_some_and(|sender| sender.try_send(push).is_ok());
            if !sent {
                *sender = None;
            }
            if sent { Ok(()) } else { Err(()) }
        };
        let mut dialled = dialler.for_pushes(&open.address, open.peer, pushed).await?;
        let ping_command = match dialled.try_ask(&::redis::cmd("ROLE"), PING_TIMEOUT).await? {
            Ok(role) if is_primary(&role) => PingCommand::Role,
            Ok(_) => {
                let reason = format!("Redis at {} is a replica", open.address);
                return Err(SubscribeError {
                    is_replica: true,
                    ..StoreError::unavailable(reason).into()
                });
            }
            Err(error) if is_forbidden(&error) => PingCommand::Ping,
            Err(error) => return Err(unavailable(&error).into()),
        };
        let mut subscribe = ::redis::cmd(subscribe);
        subscribe.arg(channel);
        if let Err(error) = dialled.try_ask::<Value>(&subscribe, PING_TIMEOUT).await? {
            return Err(SubscribeError {
                error: unavailable(&error),
                is_replica: false,
                elsewhere: match CommandFailure::of(&error, &open.address) {
                    CommandFailure::Moved(to) => Some(to),
                    _ => None,
                },
            });
        }
        // The answer is in the queue as well. What follows it is a message.
        loop {
            match pushes.try_recv() {
                Ok(push) if matches!(push.kind, PushKind::Subscribe | PushKind::SSubscribe) => break,
                Ok(_) => {}
                Err(_) => {
                    return Err(StoreError::unavailable("Redis did not confirm the subscription").into());
                }
            }
        }
        let mut commands = open.connection.clone();
        confirm_by_announcement(&mut dialled, &mut pushes, &mut commands, publish, channel).await?;
        let Dialled {
            connection, driver, ..
        } = dialled;
        let mut ticks = tokio::time::interval(ping_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut driving = JoinSet::new();
        driving.spawn(driver);
        Ok(Self {
            connection,
            pushes,
            state,
            number: open.number,
            ticks,
            ping_command,
            asked: None,
            answered_ping: None,
            _driver: driving,
        })
    }

    /// Returns the next event. Sends the first PING at once. Cancel safe.
    ///
    /// # Errors
    /// The subscription has ended: the connection broke, Redis is another server now, an answer is overdue, or the
    /// queue was full.
    pub async fn next(&mut self) -> Result<SubscriptionEvent, StoreError> {
        loop {
            if let Some((sent, before)) = self.answered_ping {
                if before == 0 {
                    self.answered_ping = None;
                    return Ok(SubscriptionEvent::Pong { sent });
                }
                self.answered_ping = Some((sent, before - 1));
                match self.pushes.try_recv().map(message_to_deliver) {
                    Ok(Some(message)) => return message.map(SubscriptionEvent::Message),
                    Ok(None) => continue,
                    Err(_) => return Err(lost("a message was dropped")),
                }
            }
            let overdue = self.asked.as_ref().map(|asked| asked.at + PING_TIMEOUT);
            tokio::select! {
                push = self.pushes.recv() => match push.map(message_to_deliver) {
                    Some(Some(message)) => return message.map(SubscriptionEvent::Message),
                    Some(None) => {}
                    None => return Err(lost("the message queue is full")),
                },
                answer = ping_answer(&mut self.asked) => {
                    let Some(PendingPing { at, .. }) = self.asked.take() else { continue };
                    let answer = answer.map_err(|error| lost(&reason(&error)))?;
                    if self.ping_command == PingCommand::Role && !is_primary(&answer) {
                        return Err(lost("the server is a replica now"));
                    }
                    self.answered_ping = Some((at, self.pushes.len()));
                }
                _ = self.ticks.tick(), if self.asked.is_none() => {
                    let mut connection = self.connection.clone();
                    let ping_command = ::redis::cmd(match self.ping_command {
                        PingCommand::Role => "ROLE",
                        PingCommand::Ping => "PING",
                    });
                    let asking = async move { ping_command.query_async(&mut connection).await };
                    self.asked = Some(PendingPing { at: Instant::now(), answer: asking.boxed() });
                }
                () = until(overdue) => return Err(lost("PING was not answered")),
                _ = self.state.wait_for(|state| matches!(state, ConnectionState::Open(open) if open.number != self.number)) => {
                    return Err(lost("the command connection was replaced"));
                }
            }
        }
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

/// End of the announcement. To a process that does not know it, it is a change of a session that does not exist.
const ANNOUNCEMENT: &str = r#","subscribed"]"#;

/// Publishes the announcement over the command connection and waits until the subscription receives it.
async fn confirm_by_announcement(
    dialled: &mut Dialled,
    pushes: &mut mpsc::Receiver<PushInfo>,
    commands: &mut ::redis::aio::MultiplexedConnection,
    publish: &str,
    channel: &str,
) -> Result<(), StoreError> {
    let announcement = format!(r#"["changed","{}"{ANNOUNCEMENT}"#, RecordKey::random());
    let mut publish = ::redis::cmd(publish);
    publish.arg(channel).arg(&announcement);
    let publishing = async {
        let published: RedisResult<Value> = publish.query_async(commands).await;
        published.map_err(|error| unavailable(&error))
    };
    let receiving = async {
        loop {
            match pushes.recv().await.map(message) {
                Some(Some(Ok(received))) if received == announcement.as_bytes() => return Ok(()),
                Some(Some(Err(lost))) => return Err(lost),
                Some(_) => {}
                None => return Err(StoreError::unavailable("the message queue is full")),
            }
        }
    };
    tokio::select! {
        biased;
        both = async { tokio::try_join!(publishing, receiving) } => both.map(drop),
        () = &mut dialled.driver => Err(StoreError::unavailable("Redis closed the connection")),
        () = tokio::time::sleep(PING_TIMEOUT) => Err(StoreError::unavailable(
            "the announcement did not arrive: the subscription is at another server",
        )),
    }
}

fn lost(why: &str) -> StoreError {
    StoreError::unavailable(format!("the subscription to Redis has ended: {why}"))
}

/// The message in a push. `None` if it has none, or only confirms a subscription.
fn message_to_deliver(push: PushInfo) -> Option<Result<Vec<u8>, StoreError>> {
    let is_announcement = |message: &Vec<u8>| message.ends_with(ANNOUNCEMENT.as_bytes());
    message(push).filter(|message| !message.as_ref().is_ok_and(is_announcement))
}

/// The message in a push, if it has one.
fn message(push: PushInfo) -> Option<Result<Vec<u8>, StoreError>> {
    match push.kind {
        PushKind::Message | PushKind::SMessage => match push.data.into_iter().nth(1) {
            Some(Value::BulkString(message)) => Some(Ok(message)),
            _ => None,
        },
        PushKind::Disconnection => Some(Err(lost("the connection broke"))),
        // The slot has moved to another node.
        PushKind::Unsubscribe | PushKind::SUnsubscribe => Some(Err(lost("Redis ended it"))),
        _ => None,
    }
}

async fn ping_answer(asked: &mut Option<PendingPing>) -> RedisResult<Value> {
    match asked {
        Some(asked) => (&mut asked.answer).await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
