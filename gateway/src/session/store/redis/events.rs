//! What processes tell each other, by publish and subscribe, and the proof that nothing of it was missed.
//!
//! The scripts publish what they change, in one step with the change. A PING on the connection that is subscribed is answered behind
//! everything that was published before it: once its answer is there, so is all of that. A subscription that answers no PING for
//! [`PATIENCE`] is given up and made anew; in between, whatever is published is lost, which [`Event::Interrupted`] says.

use std::collections::VecDeque;
use std::time::Duration;

use ::redis::aio::{PubSubSink, PubSubStream};
use ::redis::{Client, Msg, RedisResult, Value};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, BoxStream, StreamExt as _};
use serde::Deserialize;
use tokio::time::Instant;

use super::{CONNECT_DEADLINE, Event, Life, Owner, RECONNECT_PAUSE, hash};
use crate::session::record::RecordKey;

/// How long a PING may stay unanswered.
const PATIENCE: Duration = Duration::from_secs(3);
/// The first pause between two attempts to subscribe; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// A message as the scripts write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Told<'a> {
    /// `record`, key, Redis's clock, fields and values.
    Record(&'a str, &'a str, &'a str, Vec<String>),
    /// `terminated`, key, incarnation, end in milliseconds.
    Terminated(&'a str, &'a str, &'a str, &'a str),
    /// `stream`, key, owner, number.
    Stream(&'a str, &'a str, &'a str, u64),
    /// `changed`, key.
    Changed(&'a str, &'a str),
}

/// The events of `channel`.
pub(super) fn events(client: Client, channel: String, every: Duration) -> BoxStream<'static, Event> {
    let subscription = Subscription {
        client,
        channel,
        every,
        ready: VecDeque::new(),
        pause: FIRST_PAUSE,
        live: None,
    };
    stream::unfold(subscription, |mut subscription| async move {
        let event = subscription.next().await;
        Some((event, subscription))
    })
    .boxed()
}

struct Subscription {
    client: Client,
    channel: String,
    every: Duration,
    /// What has come and was not taken yet.
    ready: VecDeque<Event>,
    pause: Duration,
    live: Option<Live>,
}

struct Live {
    messages: PubSubStream,
    /// The next PING: the sink, and when the PING was sent, if it was answered.
    proving: BoxFuture<'static, (PubSubSink, Option<Instant>)>,
}

impl Subscription {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let Some(live) = &mut self.live else {
                self.connect().await;
                continue;
            };
            tokio::select! {
                biased;
                message = live.messages.next() => match message {
                    Some(message) => self.ready.extend(event(&message)),
                    None => self.lost(),
                },
                (sink, sent) = &mut live.proving => match sent {
                    Some(sent) => {
                        // What came before the answer is in the buffer already.
                        while let Some(Some(message)) = live.messages.next().now_or_never() {
                            self.ready.extend(event(&message));
                        }
                        self.ready.push_back(Event::Proved(sent));
                        live.proving = prove(sink, sent + self.every);
                        self.pause = FIRST_PAUSE;
                    }
                    None => self.lost(),
                },
            }
        }
    }

    fn lost(&mut self) {
        self.live = None;
        self.ready.push_back(Event::Interrupted);
    }

    async fn connect(&mut self) {
        match tokio::time::timeout(CONNECT_DEADLINE, subscribe(&self.client, &self.channel)).await {
            Ok(Ok((sink, messages))) => {
                let proving = prove(sink, Instant::now());
                self.live = Some(Live { messages, proving });
                return;
            }
            Ok(Err(error)) => tracing::debug!(%error, "cannot subscribe to what other processes do"),
            Err(_) => tracing::debug!("cannot subscribe to what other processes do: no answer"),
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RECONNECT_PAUSE);
    }
}

async fn subscribe(client: &Client, channel: &str) -> RedisResult<(PubSubSink, PubSubStream)> {
    let (mut sink, messages) = client.get_async_pubsub().await?.split();
    sink.subscribe(channel).await?;
    Ok((sink, messages))
}

fn prove(mut sink: PubSubSink, at: Instant) -> BoxFuture<'static, (PubSubSink, Option<Instant>)> {
    async move {
        tokio::time::sleep_until(at).await;
        let sent = Instant::now();
        let answered = tokio::time::timeout(PATIENCE, sink.ping::<Value>()).await;
        (sink, matches!(answered, Ok(Ok(_))).then_some(sent))
    }
    .boxed()
}

/// What a message says. One that cannot be read is of a newer gateway.
fn event(message: &Msg) -> Option<Event> {
    let event = read(message.get_payload_bytes());
    if event.is_none() {
        tracing::warn!("another process tells something that this one does not understand");
    }
    event
}

fn read(payload: &[u8]) -> Option<Event> {
    let key = |text: &str| bytes(text).map(RecordKey);
    match serde_json::from_slice(payload).ok()? {
        Told::Record("record", name, now, fields) => {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let record = hash::read(now.parse().ok()?, &fields).ok()?;
            Some(Event::Record(key(name)?, Box::new(record)))
        }
        Told::Terminated("terminated", name, incarnation, end) => {
            let life = Life {
                incarnation: hash::incarnation(incarnation).ok()?,
                end: u32::try_from(end.parse::<u64>().ok()? / 1000).ok()?,
            };
            Some(Event::Terminated(key(name)?, life))
        }
        Told::Stream("stream", name, owner, number) => Some(Event::StreamOwner {
            key: key(name)?,
            owner: Owner(bytes(owner)?),
            number,
        }),
        Told::Changed("changed", name) => key(name).map(Event::Changed),
        _ => None,
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}
