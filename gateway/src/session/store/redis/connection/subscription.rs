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
use super::failure::{CommandFailure, is_forbidden, reason};
use crate::config::RedisAddress;
use crate::session::record::RecordKey;
use crate::session::store::StoreError;
use crate::session::store::redis::connection::reconnect::{ConnectionState, OpenConnection};

/// Capacity of the message queue. If it is full, the subscription ends, because a dropped message must not go
/// unnoticed.
const MAX_WAITING: usize = 4096;
/// Time without an answer after which the connection counts as lost.
const PING_LIMIT: Duration = Duration::from_secs(3);

/// What a subscription delivers, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum SubscriptionEvent {
    /// A published message.
    Message(Vec<u8>),
    /// Everything published before `asked` has been delivered.
    Proved {
        /// When the answered PING was sent.
        asked: Instant,
    },
}

/// A subscription. It ends when dropped.
pub struct Subscription {
    connection: ::redis::aio::MultiplexedConnection,
    pushes: mpsc::Receiver<PushInfo>,
    /// State of the command connection. If that connects to another server, this subscription ends.
    link: watch::Receiver<ConnectionState>,
    number: u64,
    ticks: Interval,
    /// The command that serves as PING.
    question: Probe,
    asked: Option<PendingProbe>,
    /// An answered PING, and the number of messages queued before its answer.
    freshness: Option<(Instant, usize)>,
    _driver: JoinSet<()>,
}

/// Why there is no subscription.
pub(super) struct SubscribeError {
    pub(super) reason: String,
    /// The node that owns the channel instead.
    pub(super) elsewhere: Option<RedisAddress>,
    /// Whether the server is a replica.
    pub(super) is_replica: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Role,
    Ping,
}

impl From<String> for SubscribeError {
    fn from(reason: String) -> Self {
        Self {
            reason,
            elsewhere: None,
            is_replica: false,
        }
    }
}

/// A PING under way.
struct PendingProbe {
    at: Instant,
    answer: BoxFuture<'static, RedisResult<Value>>,
}

impl Subscription {
    pub(super) async fn begin(
        dialler: &Arc<Dialler>,
        open: OpenConnection,
        link: watch::Receiver<ConnectionState>,
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
        let question = match dialled.try_ask(&::redis::cmd("ROLE"), PING_LIMIT).await? {
            Ok(role) if is_primary(&role) => Probe::Role,
            Ok(_) => {
                return Err(SubscribeError {
                    is_replica: true,
                    ..format!("Redis at {} is a replica", open.address).into()
                });
            }
            Err(error) if is_forbidden(&error) => Probe::Ping,
            Err(error) => return Err(reason(&error).into()),
        };
        let mut subscribe = ::redis::cmd(subscribe);
        subscribe.arg(channel);
        if let Err(error) = dialled.try_ask::<Value>(&subscribe, PING_LIMIT).await? {
            return Err(SubscribeError {
                reason: reason(&error),
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
                Err(_) => return Err("Redis did not confirm the subscription".to_owned().into()),
            }
        }
        let mut commands = open.connection.clone();
        hear_oneself(&mut dialled, &mut pushes, &mut commands, publish, channel).await?;
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
            link,
            number: open.number,
            ticks,
            question,
            asked: None,
            freshness: None,
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
            if let Some((asked, before)) = self.freshness {
                if before == 0 {
                    self.freshness = None;
                    return Ok(SubscriptionEvent::Proved { asked });
                }
                self.freshness = Some((asked, before - 1));
                match self.pushes.try_recv().map(told) {
                    Ok(Some(message)) => return message.map(SubscriptionEvent::Message),
                    Ok(None) => continue,
                    Err(_) => return Err(lost("a message was dropped")),
                }
            }
            let overdue = self.asked.as_ref().map(|asked| asked.at + PING_LIMIT);
            tokio::select! {
                push = self.pushes.recv() => match push.map(told) {
                    Some(Some(message)) => return message.map(SubscriptionEvent::Message),
                    Some(None) => {}
                    None => return Err(lost("more messages came than could be taken")),
                },
                answer = answered(&mut self.asked) => {
                    let Some(PendingProbe { at, .. }) = self.asked.take() else { continue };
                    let answer = answer.map_err(|error| lost(&reason(&error)))?;
                    if self.question == Probe::Role && !is_primary(&answer) {
                        return Err(lost("the server is a replica now"));
                    }
                    self.freshness = Some((at, self.pushes.len()));
                }
                _ = self.ticks.tick(), if self.asked.is_none() => {
                    let mut connection = self.connection.clone();
                    let question = ::redis::cmd(match self.question {
                        Probe::Role => "ROLE",
                        Probe::Ping => "PING",
                    });
                    let asking = async move { question.query_async(&mut connection).await };
                    self.asked = Some(PendingProbe { at: Instant::now(), answer: asking.boxed() });
                }
                () = until(overdue) => return Err(lost("it did not answer")),
                _ = self.link.wait_for(|link| matches!(link, ConnectionState::Open(open) if open.number != self.number)) => {
                    return Err(lost("the connection was made anew"));
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
async fn hear_oneself(
    dialled: &mut Dialled,
    pushes: &mut mpsc::Receiver<PushInfo>,
    commands: &mut ::redis::aio::MultiplexedConnection,
    publish: &str,
    channel: &str,
) -> Result<(), String> {
    let said = format!(r#"["changed","{}"{ANNOUNCEMENT}"#, RecordKey::random());
    let mut publish = ::redis::cmd(publish);
    publish.arg(channel).arg(&said);
    let publishing = async {
        let published: RedisResult<Value> = publish.query_async(commands).await;
        published.map_err(|error| reason(&error))
    };
    let hearing = async {
        loop {
            match pushes.recv().await.map(message) {
                Some(Some(Ok(heard))) if heard == said.as_bytes() => return Ok(()),
                Some(Some(Err(lost))) => return Err(lost.to_string()),
                Some(_) => {}
                None => return Err("more messages came than could be taken".to_owned()),
            }
        }
    };
    tokio::select! {
        biased;
        both = async { tokio::try_join!(publishing, hearing) } => both.map(drop),
        () = &mut dialled.driver => Err("Redis closed the connection".to_owned()),
        () = tokio::time::sleep(PING_LIMIT) => {
            Err("the subscriber does not hear what is published: it was led to another server".to_owned())
        }
    }
}

/// Whether the response to `ROLE` is that of a primary.
pub(super) fn is_primary(role: &Value) -> bool {
    let Value::Array(parts) = role else { return false };
    parts.first() == Some(&Value::BulkString(b"master".to_vec()))
}

fn lost(why: &str) -> StoreError {
    StoreError::unavailable(format!("the subscription to Redis has ended: {why}"))
}

/// The message in a push. `None` if it has none, or only confirms a subscription.
fn told(push: PushInfo) -> Option<Result<Vec<u8>, StoreError>> {
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

async fn answered(asked: &mut Option<PendingProbe>) -> RedisResult<Value> {
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
