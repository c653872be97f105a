//! The session record: what client and gateway agreed on, and the upstream bindings.
//!
//! The record stores intent, not liveness: the binding to a failed backend stays.

pub mod bindings;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;

use crate::backend::UpstreamSession;
use crate::mcp::revision::Revision;
use bindings::Bindings;

/// Default idle lifetime of a session. Open streams and running calls count as use.
pub const IDLE_TTL: Duration = Duration::from_secs(30 * 60);
/// Default absolute lifetime of a session.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Minimum interval between two moves of the idle deadline.
const TOUCH_EVERY: Duration = Duration::from_secs(30);

/// Estimated size of a cached record, without the parts that client and backends control.
const RECORD_OVERHEAD_BYTES: usize = 1024;

/// The key of a record in the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey(pub [u8; 16]);

/// Incarnation: one life of the store's data, from empty to empty. A new one means that the data was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation(pub [u8; 8]);

/// Incarnation and absolute deadline of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLife {
    /// The incarnation of the store's data in which the session id was created.
    pub incarnation: Incarnation,
    /// Absolute deadline in seconds since 1970, by the store's clock.
    pub end: u32,
}

/// Keyed digest of the principal that owns a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrincipalTag(pub [u8; 16]);

/// How long a session lives: without use, and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Maximum time without use.
    pub idle: Duration,
    /// Maximum time since creation.
    pub max: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            idle: IDLE_TTL,
            max: MAX_LIFETIME,
        }
    }
}

/// The parts of a record that are known when the session begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// The owner of the session.
    pub principal_tag: PrincipalTag,
    /// Tags of the same principal under the other signing keys. Sessions with those tags count towards the limit. Not
    /// stored.
    pub other_tags: Vec<PrincipalTag>,
    /// The negotiated protocol revision.
    pub revision: Revision,
    /// The client's capabilities, as the client wrote them.
    pub capabilities: Arc<str>,
    /// The client's name and version, as the client wrote them.
    pub client_info: Arc<str>,
}

/// The stored form of a live client session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner of the session.
    pub principal_tag: PrincipalTag,
    /// The negotiated protocol revision.
    pub revision: Revision,
    /// The client's capabilities, as the client wrote them.
    pub capabilities: Arc<str>,
    /// The client's name and version, as the client wrote them.
    pub client_info: Arc<str>,
    /// The incarnation of the store's data in which it began, and its absolute deadline.
    pub life: SessionLife,
    /// Grows with each change, except moves of the idle deadline.
    pub version: u64,
    /// Time since the idle deadline was last moved, by the store's clock.
    pub untouched: Duration,
    /// Time to the idle deadline, by the store's clock.
    pub left: Duration,
    /// Time to the absolute deadline, by the store's clock.
    pub remaining: Duration,
    /// Minimum level of log messages that the client asked for.
    pub log_level: Option<String>,
    /// URIs of the resources to which the client subscribed, with the backend of each.
    pub subscriptions: BTreeMap<String, String>,
    /// The upstream binding of each backend that the session has used.
    pub bindings: Bindings,
}

/// Upstream binding: the upstream session of a client session at one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// [`crate::backend::Backend::origin`] of the backend that created it. The session id is never sent to another
    /// origin.
    pub origin: String,
    /// The upstream session that this binding names.
    pub session: UpstreamSession,
    /// Counts the upstream sessions at this backend, from 1. A compare-and-set names the generation that it replaces.
    pub generation: u64,
}

impl RecordKey {
    /// Draws a key that no client can guess.
    #[must_use]
    pub fn random() -> Self {
        Self(crate::runtime::random::bytes())
    }
}

impl NewRecord {
    /// Number of sessions that this one counts for: one per KiB of the client's own data.
    pub(super) fn weight(&self) -> u32 {
        let bytes = self.capabilities.len() + self.client_info.len();
        u32::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With anonymous access the key is half of a bearer secret. Logs show only enough to tell keys apart.
        write!(f, "RecordKey({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

impl Lifetimes {
    /// Interval at which the idle deadline of a session in use is moved: rarely, but before it passes.
    pub(super) fn touch_every(&self) -> Duration {
        TOUCH_EVERY.min(self.idle / 4)
    }
}

impl Record {
    /// Number of bytes that the client has put into the record.
    pub(super) fn bytes(&self) -> usize {
        self.capabilities.len() + self.client_info.len() + self.subscription_bytes()
    }

    /// Estimated size in the cache, with what client and backends have put into it.
    pub(super) fn size(&self) -> usize {
        let bindings = self.bindings.iter().map(|(backend, binding)| {
            let session = &binding.session;
            let id = session.id.as_ref().map_or(0, HeaderValue::len);
            size_of::<Binding>() + backend.len() + binding.origin.len() + id + session.cookies.bytes()
        });
        RECORD_OVERHEAD_BYTES + self.bytes() + bindings.sum::<usize>()
    }

    /// Number of bytes in subscriptions.
    pub(super) fn subscription_bytes(&self) -> usize {
        let watched = self.subscriptions.iter();
        watched.map(|(uri, backend)| uri.len() + backend.len()).sum()
    }

    /// Generation of the binding to `backend`; 0 if there is none.
    pub(super) fn generation(&self, backend: &str) -> u64 {
        self.bindings.get(backend).map_or(0, |binding| binding.generation)
    }
}
