//! What is stored of a session: what the client agreed to, and where its upstream sessions are.
//!
//! The record stores intent, not liveness: a backend that fails stays in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;

use super::store::SessionLife;
use crate::backend::UpstreamSession;
use crate::mcp::revision::Revision;
use crate::session::upstream::bindings::Bindings;

/// How long a session lives without use. Open streams and running calls are use.
pub const IDLE_TTL: Duration = Duration::from_secs(30 * 60);
/// How long a session lives at most.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// A deadline that was moved less than this ago is not moved again.
const TOUCH_EVERY: Duration = Duration::from_secs(30);

/// What a record takes where it is remembered, beside what others have put into it.
const REMEMBERED_BYTES: usize = 1024;

/// Names a record in the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey(pub [u8; 16]);

/// A keyed digest of the principal to whom a session is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrincipalTag(pub [u8; 16]);

/// How long sessions live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Without use.
    pub idle: Duration,
    /// At most.
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

/// What is known of a session when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// To whom it is bound.
    pub principal_tag: PrincipalTag,
    /// The tags that the same principal has by other keys in use: sessions under those count as his. They are not stored.
    pub other_tags: Vec<PrincipalTag>,
    /// What client and gateway agreed on.
    pub revision: Revision,
    /// The client's capabilities, as it wrote them.
    pub capabilities: Arc<str>,
    /// The client's name and version, as it wrote them.
    pub client_info: Arc<str>,
}

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// To whom it is bound.
    pub principal_tag: PrincipalTag,
    /// What client and gateway agreed on.
    pub revision: Revision,
    /// The client's capabilities, as it wrote them.
    pub capabilities: Arc<str>,
    /// The client's name and version, as it wrote them.
    pub client_info: Arc<str>,
    /// When it began and when it ends at the latest.
    pub life: SessionLife,
    /// Grows with every change but that of the idle deadline.
    pub version: u64,
    /// How long ago the idle deadline was moved, by the store's clock.
    pub untouched: Duration,
    /// How long it lives without use, by the store's clock.
    pub left: Duration,
    /// How long it lives at most, by the store's clock.
    pub remaining: Duration,
    /// From which level on the client wants log messages, if it has said so.
    pub log_level: Option<String>,
    /// The resources of which the client wants to hear, and the backend that has each.
    pub subscriptions: BTreeMap<String, String>,
    /// The upstream session at each backend that it has used.
    pub bindings: Bindings,
}

/// The upstream session of a session at one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// [`crate::backend::Backend::origin`] of the backend that gave it. It is never sent to another.
    pub origin: String,
    /// The upstream session.
    pub session: UpstreamSession,
    /// Counts the upstream sessions that this session has had at the backend, from 1. A change names the one that it replaces.
    pub generation: u64,
}

impl RecordKey {
    /// A key that nobody can guess.
    #[must_use]
    pub fn random() -> Self {
        Self(crate::runtime::random::bytes())
    }
}

impl NewRecord {
    /// How many sessions this one counts for: one for each KiB that its client says of itself.
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
        // With anonymous access a key is half of a bearer secret; logs show enough of it to tell two apart.
        write!(f, "RecordKey({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

impl Lifetimes {
    /// How often the idle deadline of a session in use is moved: seldom, and in time.
    pub(super) fn touch_every(&self) -> Duration {
        TOUCH_EVERY.min(self.idle / 4)
    }
}

impl Record {
    /// How many bytes its client has put into it.
    pub(super) fn bytes(&self) -> usize {
        self.capabilities.len() + self.client_info.len() + self.subscription_bytes()
    }

    /// About how many bytes it takes where it is remembered, with what clients and backends have put into it.
    pub(super) fn size(&self) -> usize {
        let bindings = self.bindings.iter().map(|(backend, binding)| {
            let session = &binding.session;
            let id = session.id.as_ref().map_or(0, HeaderValue::len);
            size_of::<Binding>() + backend.len() + binding.origin.len() + id + session.cookies.bytes()
        });
        REMEMBERED_BYTES + self.bytes() + bindings.sum::<usize>()
    }

    /// How many of them are subscriptions.
    pub(super) fn subscription_bytes(&self) -> usize {
        let watched = self.subscriptions.iter();
        watched.map(|(uri, backend)| uri.len() + backend.len()).sum()
    }

    /// The generation of the binding to `backend`; 0 if there is none.
    pub(super) fn generation(&self, backend: &str) -> u64 {
        self.bindings.get(backend).map_or(0, |binding| binding.generation)
    }
}
