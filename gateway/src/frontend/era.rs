//! Which era a message belongs to, decided here and nowhere else.
//!
//! The *legacy* era has sessions, which begin with `initialize`. The *modern* one (2026-07-28) has none: each request says in its `_meta`
//! which revision it speaks. A modern request is answered from what it says alone: nothing is kept of it, and no backend is asked.
//!
//! A client that speaks both eras probes with `server/discover`. Any of the modern era's own error codes tells it that the server is modern,
//! and it gives up instead of sending `initialize`. No modern revision is spoken here, so the probe gets what a server of the legacy
//! era says: the method does not exist.

use http::{HeaderMap, Response, StatusCode};
use serde_json::value::RawValue;

use crate::frontend::response;
use crate::frontend::response::ResponseBody;
use crate::mcp::meta;
use crate::mcp::meta::RequestMeta;
use crate::mcp::revision::{MAX_REVISION_BYTES, Revision};
use crate::mcp::{error_code, header_names as mcp, jsonrpc};
use crate::runtime::truncate::head;

/// The method that only the modern era has, and with which its clients begin.
const DISCOVER: &str = "server/discover";

/// Which era a message belongs to.
#[derive(Debug)]
pub(super) enum Era<'a> {
    /// The one with sessions.
    Legacy,
    /// The one without: what the request says of itself.
    Modern(RequestMeta<'a>),
}

/// The era of a message with this method and these parameters. Either sign makes it modern: what its `_meta` says, or a revision in the
/// header that the legacy era does not have. The latter alone is none in the handshake and in sessions of the legacy era, whose
/// clients may send what they like best.
pub(super) fn of<'a>(
    headers: &HeaderMap,
    method: &str,
    params: Option<&'a RawValue>,
) -> Result<Era<'a>, jsonrpc::InvalidMessage> {
    let meta = meta::read(params)?;
    if meta.protocol_version.is_some() {
        return Ok(Era::Modern(meta));
    }
    if method == "initialize" || headers.contains_key(mcp::SESSION_ID) {
        return Ok(Era::Legacy);
    }
    if method == DISCOVER || names_unknown_revision(headers) {
        return Ok(Era::Modern(meta));
    }
    Ok(Era::Legacy)
}

/// Whether a request without a body, GET or DELETE, is of the modern era, which has neither.
pub(super) fn is_modern_without_body(headers: &HeaderMap) -> bool {
    !headers.contains_key(mcp::SESSION_ID) && names_unknown_revision(headers)
}

/// The answer to a modern message. The probe gets an answer of the legacy era, whatever it says of itself; other messages come from clients
/// that speak the modern era only, and are told so in its terms.
pub(super) fn refuse(
    headers: &HeaderMap,
    meta: &RequestMeta<'_>,
    request: &jsonrpc::Request<'_>,
) -> Response<ResponseBody> {
    if request.method == DISCOVER {
        let message = format!("Method not found: {DISCOVER}; send initialize");
        let code = error_code::METHOD_NOT_FOUND;
        return response::error(StatusCode::BAD_REQUEST, Some(request.id), code, &message);
    }
    refuse_modern(headers, meta, Some(request.id))
}

/// The answer of the modern era. The first of the message's faults decides, in the order in which every server of that era checks: what
/// `_meta` must hold, then whether the header says the same, then whether the revision is spoken.
fn refuse_modern(
    headers: &HeaderMap,
    meta: &RequestMeta<'_>,
    id: Option<&RawValue>,
) -> Response<ResponseBody> {
    let bad = |code: i32, message: &str| response::error(StatusCode::BAD_REQUEST, id, code, message);
    let Some(requested) = meta.protocol_version.and_then(jsonrpc::string) else {
        let message = format!("params._meta: {:?} must be a string", meta::PROTOCOL_VERSION);
        return bad(error_code::INVALID_PARAMS, &message);
    };
    if !meta
        .client_capabilities
        .is_some_and(|object| object.get().starts_with('{'))
    {
        let message = format!("params._meta: {:?} must be an object", meta::CLIENT_CAPABILITIES);
        return bad(error_code::INVALID_PARAMS, &message);
    }
    let header = headers.get(mcp::PROTOCOL_VERSION);
    if header.is_none_or(|header| header.as_bytes() != requested.as_bytes()) {
        let message = "The header MCP-Protocol-Version does not say what params._meta says";
        return bad(error_code::HEADER_MISMATCH, message);
    }
    let supported: Vec<_> = Revision::ALL.into_iter().rev().map(Revision::as_str).collect();
    let message = format!(
        "Unsupported protocol version; send initialize with one of {}",
        supported.join(", ")
    );
    let requested = head(&requested, MAX_REVISION_BYTES);
    let data = serde_json::json!({"supported": supported, "requested": requested});
    let code = error_code::UNSUPPORTED_PROTOCOL_VERSION;
    response::json(
        StatusCode::BAD_REQUEST,
        jsonrpc::error_with_data(id, code, &message, Some(&data)),
    )
}

fn names_unknown_revision(headers: &HeaderMap) -> bool {
    let named = headers.get(mcp::PROTOCOL_VERSION);
    named.is_some_and(|named| named.to_str().ok().and_then(Revision::parse).is_none())
}
