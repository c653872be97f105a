//! Decides the protocol era of a message: legacy or modern.
//!
//! The *legacy* era has sessions, which begin with `initialize`. The *modern* era (2026-07-28) has none: each
//! request names its revision in `_meta`. No modern revision is supported yet, so that every modern request
//! is rejected from its own content alone, without stored state and without a backend.
//!
//! A client that supports both eras probes with `server/discover`. An error code of the modern era would tell
//! it that the server is modern, and it would not fall back to `initialize`. The probe therefore gets the
//! response of a legacy server: method not found.

use http::{HeaderMap, Response};
use serde_json::value::RawValue;

use crate::frontend::header_checks::filled;
use crate::frontend::rejection::Rejection;
use crate::frontend::response::ResponseBody;
use crate::mcp::meta;
use crate::mcp::meta::RequestMeta;
use crate::mcp::method::Method;
use crate::mcp::revision::{MAX_REVISION_BYTES, Revision};
use crate::mcp::{header_names as mcp, jsonrpc};
use crate::runtime::truncate::head;

/// The protocol era of a message.
#[derive(Debug)]
pub(super) enum Era<'a> {
    /// The era with sessions.
    Legacy,
    /// The era without sessions, with the request's own metadata.
    Modern(RequestMeta<'a>),
}

/// The era of a message. It is modern if `_meta` says so, or if the header `MCP-Protocol-Version` names a
/// revision that the legacy era does not have. The header alone does not count in the handshake or with a
/// session id (`has_session`): legacy clients may send any value there.
pub(super) fn of<'a>(
    headers: &HeaderMap,
    has_session: bool,
    method: Method,
    params: Option<&'a RawValue>,
) -> Result<Era<'a>, jsonrpc::InvalidMessage> {
    let meta = meta::read(params)?;
    if meta.protocol_version.is_some() {
        return Ok(Era::Modern(meta));
    }
    if method == Method::Initialize || has_session {
        return Ok(Era::Legacy);
    }
    if method == Method::Discover || names_unknown_revision(headers) {
        return Ok(Era::Modern(meta));
    }
    Ok(Era::Legacy)
}

/// Whether a GET or DELETE is of the modern era, which has neither method.
pub(super) fn is_modern_without_body(headers: &HeaderMap) -> bool {
    !headers.contains_key(mcp::SESSION_ID) && names_unknown_revision(headers)
}

/// Rejects a modern message. The probe gets a legacy response whatever its metadata say; other messages come
/// from clients that support only the modern era, and get a modern error.
pub(super) fn reject(
    headers: &HeaderMap,
    meta: &RequestMeta<'_>,
    request: &jsonrpc::Request<'_>,
    method: Method,
) -> Response<ResponseBody> {
    if method == Method::Discover {
        let message = "Method not found: server/discover; send initialize";
        return Rejection::DiscoverUnsupported.response(Some(request.id), message);
    }
    reject_modern(headers, meta, Some(request.id))
}

/// The error of the modern era. The checks run in the order that the specification gives: the required fields
/// of `_meta`, then agreement with the header, then the revision.
fn reject_modern(
    headers: &HeaderMap,
    meta: &RequestMeta<'_>,
    id: Option<&RawValue>,
) -> Response<ResponseBody> {
    let Some(requested) = meta.protocol_version.and_then(jsonrpc::string) else {
        let message = format!("params._meta: {:?} must be a string", meta::PROTOCOL_VERSION);
        return Rejection::ModernFieldMissing.response(id, &message);
    };
    if !meta
        .client_capabilities
        .is_some_and(|object| object.get().starts_with('{'))
    {
        let message = format!("params._meta: {:?} must be an object", meta::CLIENT_CAPABILITIES);
        return Rejection::ModernFieldMissing.response(id, &message);
    }
    let header = headers.get(mcp::PROTOCOL_VERSION);
    if header.is_none_or(|header| header.as_bytes() != requested.as_bytes()) {
        let message = "The header MCP-Protocol-Version does not say what params._meta says";
        return Rejection::ModernHeaderMismatch.response(id, message);
    }
    let supported: Vec<_> = Revision::ALL.into_iter().rev().map(Revision::as_str).collect();
    let message = format!(
        "Unsupported protocol version; send initialize with one of {}",
        supported.join(", ")
    );
    let requested = head(&requested, MAX_REVISION_BYTES);
    let data = serde_json::json!({"supported": supported, "requested": requested});
    Rejection::ModernUnsupported.response_with_data(id, &message, &data)
}

fn names_unknown_revision(headers: &HeaderMap) -> bool {
    let named = filled(headers, mcp::PROTOCOL_VERSION);
    named.is_some_and(|named| named.to_str().ok().and_then(Revision::of_peer).is_none())
}
