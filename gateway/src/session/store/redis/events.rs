//! Events between replicas over Redis publish/subscribe.
//!
//! A script publishes each change atomically with the change itself. [`Subscription`] proves by PING that no event is
//! missing. When it ends, events are lost until there is a new subscription, which [`StoreEvent::Interrupted`]
//! reports.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures::stream::{self, BoxStream, StreamExt as _};
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::connection::{RedisConnection, Subscription, SubscriptionEvent};
use super::{ProcessId, SessionLife, StoreEvent};
use crate::session::record::RecordKey;
use crate::session::store::redis::record_hash;

/// Pause between two attempts to subscribe.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_millis(250);

/// A message as the scripts publish it: an array that begins with its type.
enum PublishedEvent<'a> {
    /// `record`, key, Redis's clock, fields and values.
    Record(&'a str, &'a str, Vec<String>),
    /// `created`, creator (not kept), Redis's clock, the common prefix of the fields `fixed`, the common field
    /// `times`, then for each record its key and the rest of `fixed`.
    Created(&'a str, &'a str, &'a str, Vec<String>),
    /// `terminated`, key, incarnation, end in milliseconds.
    Terminated(&'a str, &'a str, &'a str),
    /// The array `["stream", key, owner, number]`.
    Stream(&'a str, &'a str, u64),
    /// The array `["changed", key]`.
    Changed(&'a str),
}

impl<'de: 'a, 'a> Deserialize<'de> for PublishedEvent<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Parts)
    }
}

struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = PublishedEvent<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array that begins with the name of an event")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        match part(&mut parts)? {
            "record" => Ok(PublishedEvent::Record(
                part(&mut parts)?,
                part(&mut parts)?,
                part(&mut parts)?,
            )),
            "created" => {
                let _writer: &str = part(&mut parts)?;
                Ok(PublishedEvent::Created(
                    part(&mut parts)?,
                    part(&mut parts)?,
                    part(&mut parts)?,
                    part(&mut parts)?,
                ))
            }
            "terminated" => Ok(PublishedEvent::Terminated(
                part(&mut parts)?,
                part(&mut parts)?,
                part(&mut parts)?,
            )),
            "stream" => Ok(PublishedEvent::Stream(
                part(&mut parts)?,
                part(&mut parts)?,
                part(&mut parts)?,
            )),
            "changed" => Ok(PublishedEvent::Changed(part(&mut parts)?)),
            other => Err(A::Error::custom(format_args!("no event is named {other:?}"))),
        }
    }
}

fn part<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(parts: &mut A) -> Result<T, A::Error> {
    parts
        .next_element()?
        .ok_or_else(|| A::Error::custom("the event ends too soon"))
}

/// The events of `channel`, without the records that `listener` itself created.
pub(super) fn events(
    connection: RedisConnection,
    channel: String,
    listener: ProcessId,
    every: Duration,
) -> BoxStream<'static, StoreEvent> {
    let listener = Listener {
        connection,
        channel,
        own: record_hash::owner_text(listener),
        every,
        subscription: None,
    };
    stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await;
        Some((event, listener))
    })
    .boxed()
}

struct Listener {
    connection: RedisConnection,
    channel: String,
    /// This process's id in events.
    own: String,
    every: Duration,
    subscription: Option<Subscription>,
}

impl Listener {
    async fn next(&mut self) -> StoreEvent {
        loop {
            let Some(subscription) = &mut self.subscription else {
                self.subscribe().await;
                continue;
            };
            match subscription.next().await {
                Ok(SubscriptionEvent::Message(message)) if self.is_own_creation(&message) => {}
                Ok(SubscriptionEvent::Message(message)) => return event(&message),
                Ok(SubscriptionEvent::Pong { sent }) => return StoreEvent::CurrentAsOf(sent),
                Err(lost) => {
                    tracing::debug!(%lost, "event subscription lost");
                    self.subscription = None;
                    return StoreEvent::Interrupted;
                }
            }
        }
    }

    /// Whether a message reports records created here. There are many of these, and parsing one costs as much as
    /// creating it.
    fn is_own_creation(&self, message: &[u8]) -> bool {
        let rest = message.strip_prefix(br#"["created",""#);
        rest.is_some_and(|rest| rest.starts_with(self.own.as_bytes()))
    }

    async fn subscribe(&mut self) {
        self.connection.opened().await;
        match self.connection.subscribe(&self.channel, self.every).await {
            Ok(subscription) => self.subscription = Some(subscription),
            Err(error) => {
                tracing::debug!(%error, "failed to subscribe to events");
                tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
            }
        }
    }
}

/// Decodes a message. An unreadable one comes from a newer gateway: it counts as a change of the session that it
/// names, and otherwise as an interruption.
fn event(message: &[u8]) -> StoreEvent {
    if let Some(event) = read(message) {
        return event;
    }
    match session_of(message) {
        Some(key) => StoreEvent::Changed(key),
        None => {
            tracing::warn!("unreadable event; cached sessions are read again");
            StoreEvent::Interrupted
        }
    }
}

/// The session that a message names: the element after its type.
fn session_of(message: &[u8]) -> Option<RecordKey> {
    let parts: Vec<&RawValue> = serde_json::from_slice(message).ok()?;
    let name: &str = serde_json::from_str(parts.get(1)?.get()).ok()?;
    bytes(name).map(RecordKey)
}

fn read(payload: &[u8]) -> Option<StoreEvent> {
    let key = |text: &str| bytes(text).map(RecordKey);
    let record = |name: &str, now: &str, fields: &[&str]| {
        let record = record_hash::read(now.parse().ok()?, fields).ok()?;
        Some((key(name)?, record))
    };
    match serde_json::from_slice(payload).ok()? {
        PublishedEvent::Record(name, now, fields) => {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            Some(StoreEvent::Records(vec![record(name, now, &fields)?]))
        }
        PublishedEvent::Created(now, fixed, times, records) => {
            let records = records.chunks_exact(2).map(|parts| {
                let fixed = format!("{fixed}{}", parts[1]);
                record(&parts[0], now, &record_hash::fields_of_new(&fixed, times))
            });
            Some(StoreEvent::Records(records.collect::<Option<_>>()?))
        }
        PublishedEvent::Terminated(name, incarnation, end) => {
            let life = SessionLife {
                incarnation: record_hash::incarnation(incarnation).ok()?,
                end: u32::try_from(end.parse::<u64>().ok()? / 1000).ok()?,
            };
            Some(StoreEvent::Terminated(key(name)?, life))
        }
        PublishedEvent::Stream(name, owner, number) => Some(StoreEvent::StreamOwner {
            key: key(name)?,
            owner: ProcessId(bytes(owner)?),
            number,
        }),
        PublishedEvent::Changed(name) => key(name).map(StoreEvent::Changed),
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_event_invalidates_the_named_session_or_all() {
        // An unreadable event counts as a change of the session that it names, and otherwise as an interruption.
        let key = RecordKey([7; 16]);
        for message in [
            format!(r#"["changed","{key}"]"#),
            format!(r#"["record","{key}","0",["schema","9"]]"#),
            format!(r#"["terminated","{key}","no incarnation","0"]"#),
            format!(r#"["stream","{key}","no owner",1]"#),
            format!(r#"["news","{key}",{{"of":"tomorrow"}}]"#),
        ] {
            assert_eq!(event(message.as_bytes()), StoreEvent::Changed(key), "{message}");
        }
        for message in [
            "",
            "[]",
            r#"{"version":2}"#,
            r#"["changed","x"]"#,
            r#"["record",7]"#,
            r#"["created","0","9 "]"#,
        ] {
            assert_eq!(event(message.as_bytes()), StoreEvent::Interrupted, "{message}");
        }
    }
}
