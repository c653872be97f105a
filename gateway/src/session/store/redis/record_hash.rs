//! Encodes session records as Redis hashes and decodes them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::{Deserialize, Serialize};

use super::{Incarnation, ProcessId, SessionLife, SettingChange, StoreError};
use crate::backend::{Cookies, UpstreamSession};
use crate::mcp::revision::Revision;
use crate::session::record::bindings::Bindings;
use crate::session::record::{Binding, NewRecord, PrincipalTag, Record, RecordKey};
use crate::session::store::MAX_SUBSCRIPTIONS;

/// A record as a script returns it: Redis's time in milliseconds, and the hash's fields and values.
pub(super) type ScriptRecord = (u64, Vec<Vec<u8>>);

/// Version of the layout. Records of another version are not touched. The scripts state what all versions share.
pub(super) const SCHEMA: &str = "1";
/// Field of the immutable part. The scripts write it.
const FIXED: &str = "fixed";
/// Field of the deadlines and the version. The scripts write it.
const TIMES: &str = "times";
/// Prefix of binding fields; the backend's name follows.
const BINDING: &str = "b:";
/// Prefix of subscription fields; the resource's URI follows.
const SUBSCRIPTION: &str = "u:";
/// Field of the log level.
const LOG_LEVEL: &str = "log";

/// JSON value of a binding, after its generation and a space.
#[derive(Serialize, Deserialize)]
struct StoredBinding {
    origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    revision: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Cookies::is_empty")]
    cookies: Cookies,
}

/// Arguments of the scripts for a new record: its principal, and the rest of the field `fixed`. It is one field
/// because Redis needs as much memory per field as for its content.
pub(super) fn new_fields(record: &NewRecord) -> [String; 2] {
    agreed(
        record.principal_tag,
        record.revision,
        &record.capabilities,
        &record.client_info,
    )
}

/// The same for an existing record, followed by its other fields and values in turn.
pub(super) fn all_fields(record: &Record) -> Result<Vec<String>, StoreError> {
    let mut fields = Vec::from(agreed(
        record.principal_tag,
        record.revision,
        &record.capabilities,
        &record.client_info,
    ));
    if let Some(level) = &record.log_level {
        fields.extend([LOG_LEVEL.to_owned(), level.clone()]);
    }
    for (uri, backend) in &record.subscriptions {
        fields.extend([format!("{SUBSCRIPTION}{uri}"), backend.clone()]);
    }
    for (backend, binding) in record.bindings.iter() {
        fields.extend([binding_field(backend), binding_value(binding)?]);
    }
    Ok(fields)
}

fn agreed(tag: PrincipalTag, revision: Revision, capabilities: &str, client_info: &str) -> [String; 2] {
    let (revision, length) = (revision.as_str(), capabilities.len());
    [
        principal_text(tag),
        format!("{revision} {length} {capabilities}{client_info}"),
    ]
}

/// Text form of a principal tag.
pub(super) fn principal_text(tag: PrincipalTag) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(tag.0)
}

/// Parses the text form of a [`RecordKey`].
pub(super) fn key(text: &str) -> Option<RecordKey> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    bytes.try_into().ok().map(RecordKey)
}

/// Text form of an incarnation.
pub(super) fn incarnation_text(incarnation: Incarnation) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(incarnation.0)
}

/// Parses the hexadecimal text of an incarnation.
pub(super) fn incarnation(text: &str) -> Result<Incarnation, StoreError> {
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map(Incarnation).ok_or_else(|| unreadable("incarnation"))
}

/// Text form of a process id in events.
pub(super) fn owner_text(owner: ProcessId) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(owner.0)
}

/// Arguments of the script that changes a field.
pub(super) struct Field<'a> {
    pub(super) name: String,
    /// New value. Empty removes the field.
    pub(super) value: &'a str,
    /// Prefix shared by fields of its type.
    pub(super) kind: &'static str,
    /// Maximum number of fields with that prefix; 0 means no limit.
    pub(super) limit: usize,
}

pub(super) fn setting_field(setting: &SettingChange) -> Field<'_> {
    let subscription = |uri: &str| format!("{SUBSCRIPTION}{uri}");
    match setting {
        SettingChange::LogLevel(level) => Field {
            name: LOG_LEVEL.to_owned(),
            value: level,
            kind: LOG_LEVEL,
            limit: 0,
        },
        SettingChange::Subscribe { uri, backend } => Field {
            name: subscription(uri),
            value: backend,
            kind: SUBSCRIPTION,
            limit: MAX_SUBSCRIPTIONS,
        },
        SettingChange::Unsubscribe { uri } => Field {
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

pub(super) fn binding_value(binding: &Binding) -> Result<String, StoreError> {
    let id = binding
        .session
        .id
        .as_ref()
        .map(|id| id.to_str().map(str::to_owned))
        .transpose();
    let stored = StoredBinding {
        origin: binding.origin.clone(),
        id: id.map_err(|_| StoreError::corrupt_record("the backend's session id is not visible ASCII"))?,
        revision: binding.session.revision.as_str().to_owned(),
        address: binding.session.address,
        cookies: binding.session.cookies.clone(),
    };
    let json =
        serde_json::to_string(&stored).map_err(|error| StoreError::corrupt_record(error.to_string()))?;
    Ok(format!("{} {json}", binding.generation))
}

/// Decodes the record that a script returned. An unreadable record is an error, not gone: a newer gateway can use it.
pub(super) fn record((now, flat): &ScriptRecord) -> Result<Record, StoreError> {
    let pairs: Option<Vec<_>> = flat.iter().map(|part| text(part)).collect();
    read(*now, &pairs.ok_or_else(|| unreadable("not text"))?)
}

/// Fields and values of a record that was just created.
pub(super) fn fields_of_new<'a>(fixed: &'a str, times: &'a str) -> [&'a str; 4] {
    [FIXED, fixed, TIMES, times]
}

/// Decodes a record from `flat`, its fields and values in turn, as of Redis's time `now`.
pub(super) fn read(now: u64, flat: &[&str]) -> Result<Record, StoreError> {
    let fields: HashMap<&str, &str> = flat.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let field = |name: &str| fields.get(name).copied().ok_or_else(|| unreadable(name));
    let fixed = Fixed::read(field(FIXED)?)?;
    let times = Times::read(field(TIMES)?).ok_or_else(|| unreadable(TIMES))?;
    let until = |deadline: u64| Duration::from_millis(deadline.saturating_sub(now));
    let (mut bindings, mut subscriptions) = (Bindings::default(), BTreeMap::new());
    for (name, value) in &fields {
        if let Some(uri) = name.strip_prefix(SUBSCRIPTION) {
            subscriptions.insert(uri.to_owned(), (*value).to_owned());
        }
        if let Some(backend) = name.strip_prefix(BINDING) {
            bindings.insert(backend, binding(value).ok_or_else(|| unreadable(name))?);
        }
    }
    Ok(Record {
        principal_tag: fixed.principal_tag,
        revision: fixed.revision,
        capabilities: fixed.capabilities.into(),
        client_info: fixed.client_info.into(),
        life: SessionLife {
            incarnation: fixed.incarnation,
            end: u32::try_from(fixed.end / 1000).unwrap_or(u32::MAX),
        },
        version: times.version,
        untouched: Duration::from_millis(now.saturating_sub(times.touched)),
        left: until(times.idle.min(fixed.end)),
        remaining: until(fixed.end),
        log_level: fields.get(LOG_LEVEL).map(|level| (*level).to_owned()),
        subscriptions,
        bindings,
    })
}

/// Content of the immutable field.
struct Fixed<'a> {
    incarnation: Incarnation,
    /// Creation time in milliseconds since 1970.
    end: u64,
    principal_tag: PrincipalTag,
    revision: Revision,
    capabilities: &'a str,
    client_info: &'a str,
}

impl<'a> Fixed<'a> {
    fn read(text: &'a str) -> Result<Self, StoreError> {
        let mut parts = text.splitn(7, ' ');
        let mut part = |name: &'static str| parts.next().ok_or_else(|| unreadable(name));
        let schema = part("schema")?;
        if schema != SCHEMA {
            return Err(StoreError::corrupt_record(format!(
                "the session record has schema {schema:?}; this gateway reads {SCHEMA:?} only"
            )));
        }
        let incarnation = incarnation(part("incarnation")?)?;
        let end = part("end")?.parse().map_err(|_| unreadable("end"))?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(part("principal")?).ok();
        let tag = tag.and_then(|tag| tag.try_into().ok());
        let revision = Revision::parse(part("revision")?).ok_or_else(|| unreadable("revision"))?;
        let length = part("length")?.parse().map_err(|_| unreadable("length"))?;
        let (capabilities, client_info) = part("capabilities")?
            .split_at_checked(length)
            .ok_or_else(|| unreadable("capabilities"))?;
        Ok(Self {
            incarnation,
            end,
            principal_tag: PrincipalTag(tag.ok_or_else(|| unreadable("principal"))?),
            revision,
            capabilities,
            client_info,
        })
    }
}

/// Content of the field that every change updates: deadlines in milliseconds since 1970, and the version.
struct Times {
    idle: u64,
    touched: u64,
    version: u64,
}

impl Times {
    fn read(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(str::parse);
        let mut number = || numbers.next()?.ok();
        Some(Self {
            idle: number()?,
            touched: number()?,
            version: number()?,
        })
    }
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
            address: stored.address,
            cookies: stored.cookies,
        },
        generation: generation.parse().ok()?,
    })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn unreadable(what: &str) -> StoreError {
    StoreError::corrupt_record(format!(
        "unreadable session record ({what}); it is left unchanged"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Comparing records does not show this, because equality of upstream sessions ignores cookies.
    #[test]
    fn cookies_of_a_binding_survive_the_store() {
        let cookies = r#"[{"name":"lb","value":"1","until":1}]"#;
        let stored = Binding {
            origin: "origin".to_owned(),
            session: UpstreamSession {
                id: None,
                revision: Revision::LATEST,
                address: None,
                cookies: serde_json::from_str(cookies).unwrap(),
            },
            generation: 3,
        };
        let read = binding(&binding_value(&stored).unwrap()).unwrap();
        assert_eq!(serde_json::to_string(&read.session.cookies).unwrap(), cookies);
        assert_eq!(read, stored);
    }
}
