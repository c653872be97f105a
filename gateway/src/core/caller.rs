//! The interfaces through which an operation reaches the state of its caller.
//!
//! A session of the legacy era keeps this state in its record, where every replica finds it. A request of the modern era has no session.
//! An operation names the part that it needs and depends on neither.

use std::future::Future;
use std::sync::Arc;

use http::HeaderValue;
use serde_json::value::RawValue;

use super::{CallSubject, RoutedCall};
use crate::backend::{Backend, BackendError, ClientHeaders, ListKind, UpstreamSession};
use crate::catalog::CatalogSnapshot;
use crate::mcp::revision::Revision;

/// The caller of an operation. A cheap-clone handle.
pub trait Caller: UpstreamOpener + IssuedIds + ClientView + Clone + Send + 'static {
    /// The protocol revision that the caller speaks.
    fn revision(&self) -> Revision;

    /// Prepares a routed call: binds the headers that pass through, and replaces the progress token by a signed one.
    fn prepare_call(&self, routed: RoutedCall, headers: &ClientHeaders) -> RoutedCall;

    /// Records that the caller is in use: a request arrived, or a running one continues.
    fn record_use(&self);
}

/// Opens the upstream sessions of one caller.
pub trait UpstreamOpener: Sync {
    /// Returns the caller's session at `backend`, and opens it if there is none yet.
    fn open(&self, backend: &Backend) -> impl Future<Output = Result<UpstreamSession, UpstreamError>> + Send;

    /// Returns a session at `backend` that replaces `lost`, which the backend no longer knows.
    fn replace(
        &self,
        backend: &Backend,
        lost: &UpstreamSession,
    ) -> impl Future<Output = Result<UpstreamSession, UpstreamError>> + Send;

    /// Stores the cookies that a response in `session` has set, so that the next replica that uses the session sends them.
    fn keep_cookies(&self, backend: &Backend, session: &UpstreamSession) -> impl Future<Output = ()> + Send;
}

/// Issues the ids that a client sees in place of a backend's own.
pub trait IssuedIds {
    /// Issues the signed form of `original`, a request id or progress token that `backend` sent in `upstream`.
    /// Returns `None` if that upstream session was replaced, because an answer could not be delivered.
    fn sign_relayed_id(
        &self,
        kind: RelayedIdKind,
        backend: &Backend,
        upstream: &UpstreamSession,
        original: &RawValue,
    ) -> Option<String>;

    /// Returns the client's token if `token` is the signed one of a call of this caller to `backend`.
    fn progress_token(&self, backend: &Backend, token: &RawValue) -> Option<Box<RawValue>>;

    /// The client's JSON id for `original`, an elicitation id of `backend`. Returns `None` if `original` is not an id.
    fn elicitation_id(&self, backend: &Backend, original: &RawValue) -> Option<String>;

    /// Event id for the position `event` in the response stream of call `request`, if it can have one.
    fn event_id_of_call(
        &self,
        backend: &Backend,
        upstream: &UpstreamSession,
        request: &RawValue,
        event: Option<&HeaderValue>,
    ) -> Option<String>;
}

/// What backends offer to one client. Some backends list to single sessions.
pub trait ClientView: Sync {
    /// What is offered to the client, for a list of that kind. Backends that list to single sessions are asked, but for one page of a
    /// list that `goes_on`.
    fn catalog_to_list(
        &self,
        kind: ListKind,
        goes_on: bool,
        headers: &ClientHeaders,
    ) -> impl Future<Output = Arc<CatalogSnapshot>> + Send;

    /// What is offered to the client, for a request with these parameters. Backends that list to single sessions are asked if their
    /// lists may decide which backend gets the request.
    fn catalog_to_find(
        &self,
        subject: CallSubject,
        params: Option<&RawValue>,
        headers: &ClientHeaders,
    ) -> impl Future<Output = Arc<CatalogSnapshot>> + Send;

    /// Records that `backend` has reported a change of its lists in the client's upstream session. Returns whether the client itself
    /// must be notified, because the backend lists to single sessions.
    fn list_has_changed(&self, backend: &Backend, kinds: &[ListKind]) -> bool;

    /// Whether `backend` lists the resource `uri` to this client alone.
    fn is_listed(&self, backend: &Backend, uri: &str) -> bool;

    /// Whether the client subscribed to `uri` at `backend`, or to a resource that contains it.
    fn is_subscribed(&self, backend: &Backend, uri: &str) -> bool;
}

/// Kind of a relayed id. The kinds are not interchangeable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayedIdKind {
    /// The id of a request.
    Request,
    /// The progress token of a request.
    Progress,
}

/// Why there is no upstream session.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The backend did not open one.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The caller's own session ended in the meantime.
    #[error("the session has ended")]
    Gone,
    /// The session store cannot be reached.
    #[error("the session store is unavailable: {0}")]
    Unavailable(String),
}
