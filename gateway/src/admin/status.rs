//! `/status`: the state of this process as [`GatewayStatus`].

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use subtle::ConstantTimeEq as _;
use vmcp_crds::status::{
    BackendState, BackendStatus, Breaker, GatewayStatus, Health, ProtocolEra, ServerExit, ServerProcesses,
    TokenIssuerStatus,
};

use super::{Admin, respond, text as plain};
use crate::backend::{Backend, BackendError, BreakerState, ListKind};
use crate::catalog::DiscoveryState;
use crate::runtime::truncate;

/// Largest size in bytes of a backend's error. The error may contain text of the backend, which may be long.
const MAX_ERROR_BYTES: usize = 1000;

/// Precedes the error of a backend of the modern era.
const MODERN_ONLY: &str =
    "it supports only protocol revisions without sessions, which this gateway does not use: ";

impl Admin {
    pub(super) fn status(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        if !self.is_authorized(headers) {
            let mut response = plain(
                StatusCode::UNAUTHORIZED,
                "/status needs the bearer token that `vmcp-gateway status-token` prints.\n",
            );
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        match serde_json::to_vec_pretty(&self.collect()) {
            Ok(body) => respond(StatusCode::OK, HeaderValue::from_static("application/json"), body),
            Err(_) => plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The status could not be encoded.\n",
            ),
        }
    }

    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let Some(keys) = &self.keys else { return true };
        let value = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let token = value.strip_prefix("Bearer ").unwrap_or_default();
        keys.all().any(|key| {
            let expected = key.status_token(&self.server.namespace, &self.server.name);
            bool::from(expected.as_bytes().ct_eq(token.as_bytes()))
        })
    }

    fn collect(&self) -> GatewayStatus {
        let snapshot = self.core.catalog().snapshot();
        let backend = |(name, state): (crate::config::BackendName, std::sync::Arc<DiscoveryState>)| {
            let running = self.core.catalog().backend(name.as_str());
            let era = running.as_ref().and_then(Backend::era);
            BackendStatus {
                name: name.to_string(),
                state: state_of(&state),
                health: self.core.catalog().health(&name),
                breaker: running.as_ref().map(|backend| breaker_of(backend.breaker())),
                era,
                revision: running
                    .as_ref()
                    .and_then(Backend::revision)
                    .map(|revision| revision.as_str().to_owned()),
                tools: offered(&state, ListKind::Tools),
                prompts: offered(&state, ListKind::Prompts),
                resources: offered(&state, ListKind::Resources),
                resource_templates: offered(&state, ListKind::Templates),
                processes: running.as_ref().and_then(processes_of),
                needs_affinity: running.is_some_and(|backend| backend.needs_affinity()),
                error: state.error.as_ref().map(|error| {
                    let is_answer =
                        matches!(error, BackendError::JsonRpc { .. } | BackendError::Status { .. });
                    let is_modern = era == Some(ProtocolEra::Modern);
                    let cause = if is_answer && is_modern { MODERN_ONLY } else { "" };
                    truncate::head(&format!("{cause}it {error}"), MAX_ERROR_BYTES).to_owned()
                }),
            }
        };
        let mut warnings = snapshot.warnings.to_lines();
        let backends = self.core.catalog().backends();
        let single = backends.iter().filter(|backend| backend.has_single_session());
        warnings.extend(
            single.map(|backend| format!("backend {} {}", backend.name(), BackendError::SingleSession)),
        );
        let hiding = backends
            .iter()
            .filter(|backend| backend.has_hidden_session_lists());
        warnings.extend(hiding.map(|backend| {
            let name = backend.name();
            format!(
                "backend {name} has told a client's session that its lists changed, and the gateway's own session sees no change: with \
                 `catalog: perSession` clients see what it lists to their own sessions"
            )
        }));
        let hot = self.core.hot();
        warnings.extend(hot.kept_connections.iter().map(|kept| {
            let (name, file) = (&kept.backend, kept.missing_file.display());
            format!(
                "backend {name} keeps its previous URL and connection settings: the new ones name the file {file}, which does not exist"
            )
        }));
        GatewayStatus {
            server: self.server.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hot_config_hash: hot.hash.clone(),
            hot_config_error: self.core.hot_error(),
            ready: self.is_ready(),
            draining: self.drain.is_draining(),
            session_store: self.sessions.store_status(),
            token_issuer: self.auth.issuer().map(|state| TokenIssuerStatus {
                issuer: state.issuer,
                keys: state.keys,
                error: state.error,
            }),
            tools: snapshot.tools.len(),
            backends: self.core.catalog().states().into_iter().map(backend).collect(),
            conflicts: snapshot.conflicts.to_lines(),
            faults: snapshot.faults.to_lines(),
            warnings,
        }
    }
}

/// The state of a backend. A few failures of a backend are not reported as failing, because they may be temporary.
fn processes_of(backend: &Backend) -> Option<ServerProcesses> {
    let last_exit = backend.last_process_exit().map(|exit| ServerExit {
        code: exit.code,
        reason: exit.to_string(),
        last_lines: exit.last_lines,
    });
    Some(ServerProcesses {
        running: backend.process_count()?,
        last_exit,
    })
}

fn state_of(state: &DiscoveryState) -> BackendState {
    match (&state.offer, &state.error, state.health) {
        (_, _, Health::Unavailable) => BackendState::Failing,
        (_, Some(error), _) if !error.is_backend_failure() => BackendState::Failing,
        (Some(_), _, _) => BackendState::Ready,
        (None, _, _) => BackendState::Unknown,
    }
}

fn breaker_of(state: BreakerState) -> Breaker {
    match state {
        BreakerState::Closed => Breaker::Closed,
        BreakerState::HalfOpen => Breaker::HalfOpen,
        BreakerState::Open => Breaker::Open,
    }
}

fn offered(state: &DiscoveryState, kind: ListKind) -> usize {
    state
        .offer
        .as_ref()
        .map_or(0, |offer| offer.list(kind).items.len())
}
