//! Access log and metrics of one request, from its head to the last byte of its response.
//!
//! The access log has one line per request, written when its response is complete. At level debug every
//! request is logged; otherwise the requests that `accessLog.sample` picks, and every request that failed. A
//! line holds no bodies and no session ids, only a tag that is the same for all lines of one session.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Either;

use super::Frontend;
use crate::config::{BackendName, HotSettings};
use crate::frontend::request_context::RequestKind;
use crate::frontend::response::ResponseBody;
use crate::mcp::header_names;
use crate::telemetry::request_id::{self, RequestId};

/// Logged as the status of a request whose client went away before there was a status; proxies use the same
/// number.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The backend that failed, and its error.
#[derive(Clone, Debug)]
pub(super) struct CallFailure {
    pub(super) backend: BackendName,
    pub(super) error: String,
}

/// Response extension: a backend failure that the HTTP status does not show. It may be set after the response
/// has begun.
#[derive(Clone, Debug, Default)]
pub(super) struct FailureSlot(Arc<OnceLock<CallFailure>>);

impl FailureSlot {
    pub(super) fn of(failure: CallFailure) -> Self {
        Self(Arc::new(OnceLock::from(failure)))
    }

    /// Moves the failure of `part`, a response that becomes a part of this one, into this slot. The first
    /// failure is kept.
    pub(super) fn take(&self, part: &mut Response<ResponseBody>) {
        let slot = part.extensions_mut().remove::<Self>();
        if let Some(failure) = slot.and_then(|slot| slot.0.get().cloned()) {
            // A later failure is dropped: the log line has room for one.
            let _first = self.0.set(failure);
        }
    }
}

/// Response extension: the response is the rest of a call's response stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resumed;

/// Records one request. Dropping it before the response is complete means that the client went away.
pub(super) struct RequestLog {
    frontend: Arc<Frontend>,
    id: RequestId,
    session: Option<HeaderValue>,
    started: Instant,
    kind: RequestKind,
    /// Sampling threshold of the access log when the request arrived.
    sample_threshold: u64,
    status: Option<StatusCode>,
    failure: Option<FailureSlot>,
    /// The kind of stream that the response is: `call`, `resumed` or `session`.
    stream: Option<&'static str>,
    complete: bool,
    aborted: bool,
}

impl RequestLog {
    pub(super) fn start(frontend: &Arc<Frontend>, hot: &HotSettings, headers: &HeaderMap) -> Self {
        frontend.metrics.request_began();
        Self {
            frontend: Arc::clone(frontend),
            id: RequestId::of(headers),
            session: headers.get(header_names::SESSION_ID).cloned(),
            started: Instant::now(),
            kind: RequestKind::Other,
            sample_threshold: hot.access_log.threshold,
            status: None,
            failure: None,
            stream: None,
            complete: false,
            aborted: false,
        }
    }

    pub(super) fn id(&self) -> &RequestId {
        &self.id
    }

    /// Records whether the whole body has been handed to the connection.
    pub(super) fn set_complete(&mut self, is_complete: bool) {
        self.complete = is_complete;
    }

    /// Records that the body broke off.
    pub(super) fn set_aborted(&mut self) {
        self.aborted = true;
    }

    /// Records the response, adds the request id to its headers, and follows its body to the end.
    pub(super) fn follow(
        mut self,
        kind: RequestKind,
        mut response: Response<ResponseBody>,
    ) -> Response<ResponseBody> {
        self.kind = kind;
        self.status = Some(response.status());
        self.failure = response.extensions_mut().remove::<FailureSlot>();
        response
            .headers_mut()
            .insert(request_id::HEADER, self.id.header());
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        if header_names::is_media_type(content_type, &header_names::EVENT_STREAM) {
            let is_resumed = response.extensions().get::<Resumed>().is_some();
            self.record_stream(match kind {
                RequestKind::Get if is_resumed => "resumed",
                RequestKind::Get => "session",
                _ => "call",
            });
        }
        let (head, body) = response.into_parts();
        let body = match body {
            Either::Left(whole) => {
                self.complete = true;
                Either::Left(whole)
            }
            Either::Right(mut streamed) => {
                streamed.log_to(self);
                Either::Right(streamed)
            }
        };
        Response::from_parts(head, body)
    }

    fn record_stream(&mut self, kind: &'static str) {
        self.stream = Some(kind);
        let metrics = &self.frontend.metrics;
        metrics.stream_opened(kind);
        if kind == "session" {
            metrics.request_ended();
        }
    }

    /// Whether the response is the session's own stream. It belongs to no call, and the client decides when
    /// it ends.
    fn is_session_stream(&self) -> bool {
        self.stream == Some("session")
    }

    fn failure(&self) -> Option<&CallFailure> {
        self.failure.as_ref().and_then(|slot| slot.0.get())
    }

    fn outcome(&self) -> &'static str {
        match self.status.map(|status| status.as_u16()) {
            None => "gone",
            Some(500..) => "unavailable",
            Some(400..) => "rejected",
            Some(_) if self.failure().is_some() || self.aborted => "failed",
            Some(_) if !self.complete && !self.is_session_stream() => "gone",
            Some(_) => "ok",
        }
    }

    fn log(&self, outcome: &'static str) {
        let status = self
            .status
            .map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16());
        let failure = self.failure();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = %self.id,
                    method = self.kind.label(),
                    status,
                    outcome,
                    duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    session = self.session.as_ref().map(|id| self.frontend.sessions.log_tag(id.as_bytes())),
                    backend = failure.map(|failure| failure.backend.as_str()),
                    error = failure.map(|failure| failure.error.as_str()),
                    "request served"
                )
            };
        }
        match (outcome, self.status.map(|status| status.as_u16())) {
            ("failed" | "unavailable", _) => line!(warn),
            // 401, 404 and 405 are part of normal operation: expired tokens, ended sessions, clients that
            // probe for a stream.
            ("rejected", Some(status)) if !matches!(status, 401 | 404 | 405) => line!(info),
            _ if tracing::enabled!(tracing::Level::DEBUG) => line!(debug),
            _ if self.id.is_sampled(self.sample_threshold) => line!(info),
            _ => {}
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let (outcome, metrics) = (self.outcome(), &self.frontend.metrics);
        let status = self
            .status
            .map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16());
        metrics.request(self.kind.label(), status, outcome);
        if let Some(kind) = self.stream {
            metrics.stream_ended(kind);
        }
        if !self.is_session_stream() {
            metrics.request_ended();
            metrics.request_took(self.kind.label(), self.started.elapsed());
        }
        if self.aborted {
            metrics.answer_aborted();
        }
        self.log(outcome);
    }
}
