//! JSON-RPC error codes, from the JSON-RPC 2.0 and MCP specifications.

/// The text is not JSON.
pub(crate) const PARSE_ERROR: i32 = -32700;
/// The JSON is not a request that may stand here.
pub(crate) const INVALID_REQUEST: i32 = -32600;
/// The method is not known or not offered.
pub(crate) const METHOD_NOT_FOUND: i32 = -32601;
/// The parameters do not fit the method; also an unknown tool or prompt.
pub(crate) const INVALID_PARAMS: i32 = -32602;
/// Something failed that is not the request's fault.
pub(crate) const INTERNAL: i32 = -32603;
/// The session is unknown, expired or terminated. The code is the TypeScript SDK's; clients know it.
pub(crate) const SESSION_NOT_FOUND: i32 = -32001;
/// The header names another revision than the message (specification 2026-07-28, basic/transports).
pub(crate) const HEADER_MISMATCH: i32 = -32020;
/// The revision is not spoken (the same).
pub(crate) const UNSUPPORTED_PROTOCOL_VERSION: i32 = -32022;
/// The user has to open URLs first, which the error names (specification 2025-11-25, client/elicitation).
pub(crate) const URL_ELICITATION_REQUIRED: i32 = -32042;
/// The resource is unknown (specification 2025-11-25, server/resources).
pub(crate) const RESOURCE_NOT_FOUND: i32 = -32002;
