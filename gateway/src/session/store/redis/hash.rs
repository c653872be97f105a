//! Records to the fields of a hash and back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::{Deserialize, Serialize};

use super::script::Snapshot;
use super::{Setting, Unavailable};
use crate::backend::UpstreamSession;
use crate::session::record::{Binding, NewRecord, PrincipalTag, Record};
use crate::session::store::MAX_SUBSCRIPTIONS;
use crate::wire::revision::Revision;

/// The version of the layout. A record of another one is left alone.
const SCHEMA: &str = "1";
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

pub(super) fn new_fields(record: &NewRecord) -> [(&'static str, String); 5] {
    [
        ("schema", SCHEMA.to_owned()),
        ("principal", BASE64_URL_SAFE_NO_PAD.encode(record.principal_tag.0)),
        ("revision", record.revision.as_str().to_owned()),
        ("capabilities", record.capabilities.clone()),
        ("client", record.client_info.clone()),
    ]
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
        id: id.map_err(|_| Unavailable::new("the backend's session id is not visible ASCII"))?,
        revision: binding.session.revision.as_str().to_owned(),
    };
    let json = serde_json::to_string(&stored).map_err(|error| Unavailable::new(error.to_string()))?;
    Ok(format!("{} {json}", binding.generation))
}

/// The record that a script returned. One that cannot be read is an error, not gone: it is left for a gateway that can.
pub(super) fn record((now, flat): &Snapshot) -> Result<Record, Unavailable> {
    let pairs = flat
        .chunks_exact(2)
        .map(|pair| Some((text(&pair[0])?, text(&pair[1])?)));
    let fields: HashMap<&str, &str> = pairs
        .collect::<Option<_>>()
        .ok_or_else(|| unreadable("not text"))?;
    let field = |name: &str| fields.get(name).copied().ok_or_else(|| unreadable(name));
    if field("schema")? != SCHEMA {
        return Err(Unavailable::new(format!(
            "the session's record has the schema {:?}, and this gateway reads only {SCHEMA:?}",
            field("schema")?
        )));
    }
    let tag = BASE64_URL_SAFE_NO_PAD
        .decode(field("principal")?)
        .ok()
        .and_then(|tag| tag.try_into().ok());
    let touched: u64 = field("touched")?.parse().map_err(|_| unreadable("touched"))?;
    let (mut bindings, mut subscriptions) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in &fields {
        if let Some(uri) = name.strip_prefix(SUBSCRIPTION) {
            subscriptions.insert(uri.to_owned(), (*value).to_owned());
        }
        if let Some(backend) = name.strip_prefix(BINDING) {
            bindings.insert(
                backend.to_owned(),
                binding(value).ok_or_else(|| unreadable(name))?,
            );
        }
    }
    Ok(Record {
        principal_tag: PrincipalTag(tag.ok_or_else(|| unreadable("principal"))?),
        revision: Revision::parse(field("revision")?).ok_or_else(|| unreadable("revision"))?,
        capabilities: field("capabilities")?.to_owned(),
        client_info: field("client")?.to_owned(),
        untouched: Duration::from_millis(now.saturating_sub(touched)),
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
    Unavailable::new(format!(
        "the session's record cannot be read ({what}); it is left as it is"
    ))
}
