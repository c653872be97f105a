//! A channel that is listened to, and the proof that it is.
//!
//! Redis answers what is asked on the subscriber's connection in order: when the answer is here, everything that was published before
//! the question was sent is here too. What the connection brings goes through one queue, so that the proof stands behind the messages.
//! The question is `ROLE`, or `PING` where the user may not ask that: a primary that has become a replica proves nothing any more.
//!
//! It must be the server to which the commands go. So the subscriber connects to the address at which that one is, and begins with a
//! message that is published there: it hears that message, or it listens to somebody else.

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

/// How many messages may wait to be taken. One that finds no place ends the subscription, because a message that is missed must
/// not go unnoticed.
const MAX_WAITING: usize = 4096;
/// After this long without an answer to a question the connection counts as lost.
const PING_LIMIT: Duration = Duration::from_secs(3);

/// What a subscription brings, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum SubscriptionEvent {
    /// What was published.
    Message(Vec<u8>),
    /// Everything that was published before `asked` has been brought.
    Proved {
        /// When the question was sent to which this is the answer.
        asked: Instant,
    },
}

/// A channel that is listened to. It ends when it is dropped.
pub struct Subscription {
    connection: ::redis::aio::MultiplexedConnection,
    pushes: mpsc::Receiver<PushInfo>,
    /// The connection for commands: when it is another one, the server is another one, or is reached in another way.
    link: watch::Receiver<ConnectionState>,
    number: u64,
    ticks: Interval,
    /// What is asked for a proof.
    question: Probe,
    asked: Option<PendingProbe>,
    /// The proof that was given, and how many messages stand before it.
    proof: Option<(Instant, usize)>,
    _driver: JoinSet<()>,
}

/// Why there is no subscription.
pub(super) struct SubscribeError {
    pub(super) reason: String,
    /// The server that has the channel instead.
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

/// A question on its way.
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
        // A message that finds no place closes the queue: the sender is gone from then on.
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
        // The answer stands in the queue, too. What is behind it is a message.
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
            proof: None,
            _driver: driving,
        })
    }

    /// What comes next. The first proof is asked for at once. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// When the subscription has ended: the connection broke, Redis is another one now, an answer is long overdue, or messages came
    /// faster than they were taken.
    pub async fn next(&mut self) -> Result<SubscriptionEvent, StoreError> {
        loop {
            if let Some((asked, before)) = self.proof {
                if before == 0 {
                    self.proof = None;
                    return Ok(SubscriptionEvent::Proved { asked });
                }
                self.proof = Some((asked, before - 1));
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
                    self.proof = Some((at, self.pushes.len()));
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

/// How the message ends with which a subscriber finds out that it hears. To a process that does not know that, it says that a session has
/// changed that nobody has.
const ANNOUNCEMENT: &str = r#","subscribed"]"#;

/// Publishes a message by the connection for commands, and waits until the subscriber hears it.
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

/// Whether the answer to `ROLE` is that of a primary.
pub(super) fn is_primary(role: &Value) -> bool {
    let Value::Array(parts) = role else { return false };
    parts.first() == Some(&Value::BulkString(b"master".to_vec()))
}

fn lost(why: &str) -> StoreError {
    StoreError::new(format!("the subscription to Redis has ended: {why}"))
}

/// The message in a push; nothing, when it is none, or tells of nothing but somebody who has begun to listen.
fn told(push: PushInfo) -> Option<Result<Vec<u8>, StoreError>> {
    let is_announcement = |message: &Vec<u8>| message.ends_with(ANNOUNCEMENT.as_bytes());
    message(push).filter(|message| !message.as_ref().is_ok_and(is_announcement))
}

/// The message in a push; nothing, when it is none.
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
