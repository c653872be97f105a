//! Records to the fields of a hash and back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::{Deserialize, Serialize};

use super::script::Snapshot;
use super::{Incarnation, Life, Owner, Setting, Unavailable};
use crate::backend::UpstreamSession;
use crate::session::record::{Binding, NewRecord, PrincipalTag, Record, RecordKey};
use crate::session::store::MAX_SUBSCRIPTIONS;
use crate::wire::revision::Revision;

/// The version of the layout. A record of another one is left alone.
pub(super) const SCHEMA: &str = "1";
/// What the field of a binding begins with; the backend's name follows.
const BINDING: &str = "b:";
/// What the field of a subscription begins with; the resource's URI follows.
const SUBSCRIPTION: &str = "u:";
/// The field of the log level.
const LOG_LEVEL: &str = "log";

/// A binding as it stands in its field, behind its generation and a space.
#[derive(Serialize, Deserialize)]
struct StoredBinding {
    origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    revision: String,
}

/// The fields of a record that nobody has used yet.
pub(super) fn new_fields(record: &NewRecord) -> [(&'static str, String); 5] {
    [
        ("schema", SCHEMA.to_owned()),
        ("principal", principal_text(record.principal_tag)),
        ("revision", record.revision.as_str().to_owned()),
        ("capabilities", record.capabilities.clone()),
        ("client", record.client_info.clone()),
    ]
}

/// The fields of a record as it is, but for those that the scripts write.
pub(super) fn all_fields(record: &Record) -> Result<Vec<(String, String)>, Unavailable> {
    let new = NewRecord {
        principal_tag: record.principal_tag,
        revision: record.revision,
        capabilities: record.capabilities.clone(),
        client_info: record.client_info.clone(),
    };
    let mut fields: Vec<_> = new_fields(&new)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    if let Some(level) = &record.log_level {
        fields.push((LOG_LEVEL.to_owned(), level.clone()));
    }
    for (uri, backend) in &record.subscriptions {
        fields.push((format!("{SUBSCRIPTION}{uri}"), backend.clone()));
    }
    for (backend, binding) in &record.bindings {
        fields.push((binding_field(backend), binding_value(binding)?));
    }
    Ok(fields)
}

/// A principal as it stands in Redis.
pub(super) fn principal_text(tag: PrincipalTag) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(tag.0)
}

/// The key that `text` shows, as [`RecordKey`] is shown.
pub(super) fn key(text: &str) -> Option<RecordKey> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    bytes.try_into().ok().map(RecordKey)
}

/// An incarnation as it stands in Redis.
pub(super) fn incarnation_text(incarnation: Incarnation) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(incarnation.0)
}

/// The incarnation in `text`.
pub(super) fn incarnation(text: &str) -> Result<Incarnation, Unavailable> {
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map(Incarnation).ok_or_else(|| unreadable("incarnation"))
}

/// A process as it stands in events.
pub(super) fn owner_text(owner: Owner) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(owner.0)
}

/// A field as the script that changes it wants it.
pub(super) struct Field<'a> {
    pub(super) name: String,
    /// Empty: the field is removed.
    pub(super) value: &'a str,
    /// What the fields of its kind begin with.
    pub(super) kind: &'static str,
    /// How many of its kind there may be; 0: no limit.
    pub(super) limit: usize,
}

pub(super) fn setting_field(setting: &Setting) -> Field<'_> {
    let subscription = |uri: &str| format!("{SUBSCRIPTION}{uri}");
    match setting {
        Setting::LogLevel(level) => Field {
            name: LOG_LEVEL.to_owned(),
            value: level,
            kind: LOG_LEVEL,
            limit: 0,
        },
        Setting::Subscribe { uri, backend } => Field {
            name: subscription(uri),
            value: backend,
            kind: SUBSCRIPTION,
            limit: MAX_SUBSCRIPTIONS,
        },
        Setting::Unsubscribe { uri } => Field {
            name: subscription(uri),
            value: "",
            kind: SUBSCRIPTION,
            limit: 0,
        },
    }
}

pub(super) fn binding_field(backend: &str) -> String {
    format!("{BINDING}{backend}")
}

pub(super) fn binding_value(binding: &Binding) -> Result<String, Unavailable> {
    let id = binding
        .session
        .id
        .as_ref()
        .map(|id| id.to_str().map(str::to_owned))
        .transpose();
    let stored = StoredBinding {
        origin: binding.origin.clone(),
        id: id.map_err(|_| Unavailable::of_record("the backend's session id is not visible ASCII"))?,
        revision: binding.session.revision.as_str().to_owned(),
    };
    let json = serde_json::to_string(&stored).map_err(|error| Unavailable::of_record(error.to_string()))?;
    Ok(format!("{} {json}", binding.generation))
}

/// The record that a script returned. One that cannot be read is an error, not gone: it is left for a gateway that can.
pub(super) fn record((now, flat): &Snapshot) -> Result<Record, Unavailable> {
    let pairs: Option<Vec<_>> = flat.iter().map(|part| text(part)).collect();
    read(*now, &pairs.ok_or_else(|| unreadable("not text"))?)
}

/// The record in `flat`, its fields and values by turns, as it was when Redis's clock said `now`.
pub(super) fn read(now: u64, flat: &[&str]) -> Result<Record, Unavailable> {
    let fields: HashMap<&str, &str> = flat.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let field = |name: &str| fields.get(name).copied().ok_or_else(|| unreadable(name));
    if field("schema")? != SCHEMA {
        return Err(Unavailable::of_record(format!(
            "the session's record has the schema {:?}, and this gateway reads only {SCHEMA:?}",
            field("schema")?
        )));
    }
    let tag = BASE64_URL_SAFE_NO_PAD
        .decode(field("principal")?)
        .ok()
        .and_then(|tag| tag.try_into().ok());
    let number =
        |name: &str| -> Result<u64, Unavailable> { field(name)?.parse().map_err(|_| unreadable(name)) };
    let (idle, end) = (number("idle")?, number("end")?);
    let until = |deadline: u64| Duration::from_millis(deadline.saturating_sub(now));
    let life = Life {
        incarnation: incarnation(field("incarnation")?)?,
        end: u32::try_from(end / 1000).unwrap_or(u32::MAX),
    };
    let (mut bindings, mut subscriptions) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in &fields {
        if let Some(uri) = name.strip_prefix(SUBSCRIPTION) {
            subscriptions.insert(uri.to_owned(), (*value).to_owned());
        }
        if let Some(backend) = name.strip_prefix(BINDING) {
            bindings.insert(
                backend.to_owned(),
                Box::new(binding(value).ok_or_else(|| unreadable(name))?),
            );
        }
    }
    Ok(Record {
        principal_tag: PrincipalTag(tag.ok_or_else(|| unreadable("principal"))?),
        revision: Revision::parse(field("revision")?).ok_or_else(|| unreadable("revision"))?,
        capabilities: field("capabilities")?.to_owned(),
        client_info: field("client")?.to_owned(),
        life,
        version: number("version")?,
        untouched: Duration::from_millis(now.saturating_sub(number("touched")?)),
        left: until(idle.min(end)),
        remaining: until(end),
        log_level: fields.get(LOG_LEVEL).map(|level| (*level).to_owned()),
        subscriptions,
        bindings,
    })
}

fn binding(value: &str) -> Option<Binding> {
    let (generation, json) = value.split_once(' ')?;
    let stored: StoredBinding = serde_json::from_str(json).ok()?;
    let id = stored.id.map(HeaderValue::try_from).transpose().ok()?;
    Some(Binding {
        origin: stored.origin,
        session: UpstreamSession {
            id,
            revision: Revision::parse(&stored.revision)?,
        },
        generation: generation.parse().ok()?,
    })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn unreadable(what: &str) -> Unavailable {
    Unavailable::of_record(format!(
        "the session's record cannot be read ({what}); it is left as it is"
    ))
}
