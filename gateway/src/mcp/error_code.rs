//! JSON-RPC error codes, from the JSON-RPC 2.0 and MCP specifications.

/// The text is not JSON.
pub(crate) const PARSE_ERROR: i32 = -32700;
/// The JSON is not a valid message, or not one that is allowed at this point.
pub(crate) const INVALID_REQUEST: i32 = -32600;
/// The method is unknown or not offered.
pub(crate) const METHOD_NOT_FOUND: i32 = -32601;
/// The params do not match the method; also for an unknown tool or prompt.
pub(crate) const INVALID_PARAMS: i32 = -32602;
/// The gateway or the backend failed; the request is not at fault.
pub(crate) const INTERNAL: i32 = -32603;
/// The session is unknown, expired or terminated. The TypeScript SDK introduced this code, and clients handle it.
pub(crate) const SESSION_NOT_FOUND: i32 = -32001;
/// The revision in the header differs from the one in the message (specification 2026-07-28, basic/transports).
pub(crate) const HEADER_MISMATCH: i32 = -32020;
/// The revision is not supported (specification 2026-07-28, basic/transports).
pub(crate) const UNSUPPORTED_PROTOCOL_VERSION: i32 = -32022;
/// The user must open the URLs in the error first (specification 2025-11-25, client/elicitation).
pub(crate) const URL_ELICITATION_REQUIRED: i32 = -32042;
/// The resource is unknown (specification 2025-11-25, server/resources).
pub(crate) const RESOURCE_NOT_FOUND: i32 = -32002;
