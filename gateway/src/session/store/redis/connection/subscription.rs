//! A channel that is listened to, and the proof that it is.
//!
//! Redis answers a PING on the subscriber's connection in order: when the answer is here, everything that was published before the
//! PING was sent is here too. What the connection brings goes through one queue, so that the proof stands behind the messages.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{PushInfo, PushKind, RedisResult, Value};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::dial::{Dialled, Dialler};
use super::failure::{Failure, reason};
use super::keeper::{Link, Open};
use crate::config::RedisAddress;
use crate::session::store::Unavailable;

/// How many messages may wait to be taken. One that finds no place ends the subscription, because a message that is missed must
/// not go unnoticed.
const MAX_WAITING: usize = 4096;
/// After this long without an answer to a PING the connection counts as lost.
const PING_LIMIT: Duration = Duration::from_secs(3);

/// What a subscription brings, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
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
    link: watch::Receiver<Link>,
    number: u64,
    ticks: Interval,
    asked: Option<Asked>,
    /// The proof that was given, and how many messages stand before it.
    proof: Option<(Instant, usize)>,
    _driver: JoinSet<()>,
}

/// Why there is no subscription.
pub(super) struct Refusal {
    pub(super) reason: String,
    /// The server that has the channel instead.
    pub(super) elsewhere: Option<RedisAddress>,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self {
            reason,
            elsewhere: None,
        }
    }
}

/// A PING on its way.
struct Asked {
    at: Instant,
    answer: BoxFuture<'static, RedisResult<Value>>,
}

impl Subscription {
    pub(super) async fn begin(
        dialler: &Arc<Dialler>,
        open: Open,
        link: watch::Receiver<Link>,
        command: &str,
        channel: &str,
        ping_every: Duration,
    ) -> Result<Self, Refusal> {
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
        let mut dialled = dialler.for_pushes(&open.address, pushed).await?;
        let mut subscribe = ::redis::cmd(command);
        subscribe.arg(channel);
        if let Err(error) = dialled.try_ask::<Value>(&subscribe, PING_LIMIT).await? {
            return Err(Refusal {
                reason: reason(&error),
                elsewhere: match Failure::of(&error, &open.address) {
                    Failure::Moved(to) => Some(to),
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
        let Dialled { connection, driver } = dialled;
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
    pub async fn next(&mut self) -> Result<Heard, Unavailable> {
        loop {
            if let Some((asked, before)) = self.proof {
                if before == 0 {
                    self.proof = None;
                    return Ok(Heard::Proved { asked });
                }
                self.proof = Some((asked, before - 1));
                match self.pushes.try_recv().map(message) {
                    Ok(Some(message)) => return message.map(Heard::Message),
                    Ok(None) => continue,
                    Err(_) => return Err(lost("a message was dropped")),
                }
            }
            let overdue = self.asked.as_ref().map(|asked| asked.at + PING_LIMIT);
            tokio::select! {
                push = self.pushes.recv() => match push.map(message) {
                    Some(Some(message)) => return message.map(Heard::Message),
                    Some(None) => {}
                    None => return Err(lost("more messages came than could be taken")),
                },
                answer = answered(&mut self.asked) => {
                    let Some(Asked { at, .. }) = self.asked.take() else { continue };
                    answer.map_err(|error| lost(&reason(&error)))?;
                    self.proof = Some((at, self.pushes.len()));
                }
                _ = self.ticks.tick(), if self.asked.is_none() => {
                    let mut connection = self.connection.clone();
                    let ping = async move { ::redis::cmd("PING").query_async(&mut connection).await };
                    self.asked = Some(Asked { at: Instant::now(), answer: ping.boxed() });
                }
                () = until(overdue) => return Err(lost("it did not answer")),
                _ = self.link.wait_for(|link| matches!(link, Link::Open(open) if open.number != self.number)) => {
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

fn lost(why: &str) -> Unavailable {
    Unavailable::new(format!("the subscription to Redis has ended: {why}"))
}

/// The message in a push; nothing, when it is none.
fn message(push: PushInfo) -> Option<Result<Vec<u8>, Unavailable>> {
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

async fn answered(asked: &mut Option<Asked>) -> RedisResult<Value> {
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
