//! What is known of one request, gathered once when it has been authenticated.

use std::sync::Arc;

use http::HeaderMap;

use crate::backend::ClientHeaders;
use crate::config::HotSettings;
use crate::core::Principal;
use crate::mcp::method::Method;

/// One authenticated HTTP request. Handlers take it instead of loading the configuration themselves: a reload
/// between two steps of a request would otherwise show it two configurations. What belongs to one message of
/// the request, such as its method, is in [`super::post::SessionRequest`].
#[derive(Debug)]
pub(super) struct RequestContext {
    /// The hot configuration as it was when the request arrived.
    pub(super) hot: Arc<HotSettings>,
    /// The caller.
    pub(super) principal: Principal,
    /// The headers of the request.
    pub(super) headers: HeaderMap,
    /// Those headers that pass through to backends.
    pub(super) passed: ClientHeaders,
}

impl RequestContext {
    pub(super) fn new(hot: Arc<HotSettings>, principal: Principal, headers: HeaderMap) -> Self {
        let passed = ClientHeaders::select(&headers, &hot.pass_headers);
        Self {
            hot,
            principal,
            headers,
            passed,
        }
    }

    /// How many requests of one session may run at a time.
    pub(super) fn session_request_limit(&self) -> usize {
        self.hot.limits.requests_in_flight_per_session
    }
}

/// The kind of a request, for metrics and the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// A POST with one request or notification.
    Message(Method),
    /// A POST with one response.
    Response,
    /// A POST with a batch.
    Batch,
    /// A GET of the endpoint.
    Get,
    /// A DELETE of the endpoint.
    Delete,
    /// A request that was rejected before its method was known, or one for another path.
    Other,
}

impl RequestKind {
    /// Value of the metric label `method`, from a fixed set.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Message(method) => method.label(),
            Self::Response => "response",
            Self::Batch => "batch",
            Self::Get => "GET",
            Self::Delete => "DELETE",
            Self::Other => "other",
        }
    }
}
