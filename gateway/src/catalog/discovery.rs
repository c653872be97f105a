//! Discovery: one task per backend that keeps the backend's part of the catalog current.
//!
//! It lists the backend in an upstream session of the gateway's own, which belongs to no client, and reuses that session for the next
//! discovery. After a failure it retries soon, then with growing pauses.
//!
//! Between two discoveries it probes the backend with a `ping` in that session, the cheapest request that every server must answer.
//! Discoveries and probes together decide the backend's health ([`DiscoveryState::health`](super::DiscoveryState::health)); a failed
//! discovery counts as a failed probe. Calls neither wait for this nor depend on it. They have the circuit breaker, which only wakes the
//! discovery when calls begin to fail.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;
use vmcp_crds::config::Capability;

use super::{Catalog, CatalogBackend};
use crate::backend::{
    Backend, BackendError, BackendList, InitializeParams, InitializeResult, ListKind, ServerCapabilities,
    SharedSession, UpstreamSession,
};
use crate::catalog::exposure::BackendOffer;
use crate::catalog::list_changed_listener::ListChangedListener;
use crate::mcp::error_code;
use crate::mcp::revision::Revision;

/// First pause after a failure. It doubles up to the pause after a success.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Minimum pause between two discoveries, however often the backend sends `list_changed`.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The pause after a discovery is at least this many times its CPU time. A backend with a large list that keeps changing so uses at most a
/// twentieth of a core.
const PAUSE_PER_CPU_TIME: u32 = 19;
/// Maximum of the pause that follows from the CPU time.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How often one discovery replaces a lost shared session. The session known here and the one in the store may both be out of date.
const MAX_SHARED_SESSION_REPLACEMENTS: u32 = 2;
/// Time limit of `initialize` in the gateway's own session.
const INITIALIZE_DEADLINE: Duration = Duration::from_secs(10);

/// The client capabilities that the gateway declares for itself: all that it relays. Some servers list a tool only to clients that can
/// answer its requests, and a client of the gateway may be one.
const OWN_CAPABILITIES: &str = r#"{"roots":{"listChanged":true},"sampling":{"context":{},"tools":{}},"elicitation":{"form":{},"url":{}}}"#;
const OWN_CLIENT_INFO: &str = concat!(
    r#"{"name":"vmcp-gateway","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

/// Discovers the backend until `stop` resolves, then closes the gateway's own session.
pub(super) async fn run_discovery(
    catalog: Catalog,
    member: Arc<CatalogBackend>,
    stop: impl Future<Output = ()>,
) {
    let mut initialized = None;
    tokio::select! {
        () = stop => {}
        () = discover_repeatedly(&catalog, &member, &mut initialized) => {}
    }
    // Other replicas use the session in the store, so it stays open.
    let is_stored = member
        .backend
        .shared_session()
        .is_some_and(|shared| shared.is_stored);
    if let Some(initialized) = initialized.filter(|_| !is_stored) {
        close(&member.backend, &initialized).await;
    }
}

async fn discover_repeatedly(
    catalog: &Catalog,
    member: &Arc<CatalogBackend>,
    initialized: &mut Option<InitializeResult>,
) {
    let mut listener = ListChangedListener::default();
    let mut retry = FIRST_RETRY;
    loop {
        let before = member.backend.meter().cpu_time();
        let began = Instant::now();
        let discovering = discover(catalog, member, initialized);
        record_discovery(catalog, member, discovering.await, began).await;
        member.set_first_discovery(None);
        let discovered_at = Instant::now();
        let min_pause = min_pause_after(member.backend.meter().cpu_time().saturating_sub(before));
        let session = initialized.as_ref().map(|initialized| &initialized.session);
        // The future outlives several probes: a backend may take longer than one probe interval to open its stream.
        let mut listening = pin!(listener.changed(&member.backend, session));
        loop {
            let (settings, refresh) = (member.settings(), catalog.aggregation().refresh.max(min_pause));
            let state = member.state();
            let pause = if state.has_error() {
                // Back off up to `refresh` from a backend that answers with errors; one that is unreachable may be back at any moment.
                let longest = if state.is_answering() {
                    refresh
                } else {
                    settings.interval
                };
                let pause = retry.min(longest).max(min_pause);
                retry = (retry * 2).min(longest);
                pause
            } else {
                retry = FIRST_RETRY;
                let left = (discovered_at + refresh).saturating_duration_since(Instant::now());
                settings.interval.min(left)
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut listening => break,
                () = member.stale.notified() => break,
                () = member.backend.wait_for_failures() => {
                    tokio::time::sleep_until(discovered_at + FIRST_RETRY).await;
                    break;
                }
            }
            let is_due = discovered_at.elapsed() >= refresh;
            if is_due || !probe(catalog, member, session).await {
                break;
            }
        }
        tokio::time::sleep_until(discovered_at + min_pause).await;
    }
}

/// Minimum pause after a discovery that used `taken` of CPU time.
fn min_pause_after(taken: Duration) -> Duration {
    taken
        .saturating_mul(PAUSE_PER_CPU_TIME)
        .clamp(MIN_PAUSE, MAX_PAUSE)
}

/// Pings the backend in the gateway's own session. Returns false if a discovery must follow: there is no session, it is lost, or the
/// backend has recovered.
async fn probe(catalog: &Catalog, member: &Arc<CatalogBackend>, session: Option<&UpstreamSession>) -> bool {
    let Some(session) = session else { return false };
    let limit = member.settings().timeout;
    let backend = member.backend.for_own_session();
    let asking = tokio::time::timeout(limit, backend.ping(session));
    let outcome = match asking.await.unwrap_or(Err(BackendError::Deadline(limit))) {
        Err(error) if error.is_backend_failure() => Err(error),
        Err(BackendError::SessionLost) => {
            backend.drop_shared_session(session);
            return false;
        }
        Ok(()) | Err(_) => Ok(()),
    };
    if let Err(error) = &outcome {
        tracing::debug!(backend = %member.backend.name(), %error, "health probe failed");
    }
    let answered = outcome.is_ok();
    if apply_and_log(member, |member| member.record_probe(outcome)) {
        let catalog = catalog.clone();
        compute(member, move |_| catalog.merge()).await;
    }
    !(answered && member.state().has_error())
}

async fn record_discovery(
    catalog: &Catalog,
    member: &Arc<CatalogBackend>,
    outcome: Result<BackendOffer, BackendError>,
    began: Instant,
) {
    let name = member.backend.name();
    match &outcome {
        Ok(offer) => {
            if member.state().has_error() {
                member.backend.mark_recovered();
            }
            tracing::debug!(backend = %name, tools = offer.tools.items.len(), "backend discovered");
        }
        Err(error) => tracing::debug!(backend = %name, %error, "failed to list backend"),
    }
    let catalog = catalog.clone();
    let taking = compute(member, move |member| {
        let (is_answer, is_first) = (outcome.is_ok(), member.state().offer.is_none());
        let is_changed = apply_and_log(member, |member| member.record_discovery(outcome));
        if is_answer {
            member.backend.note_list_check(began, is_changed && !is_first);
        }
        if is_changed {
            // Before the lock that orders the merges, so that other backends do not wait for it.
            member.advertise();
            catalog.merge();
        }
    });
    taking.await;
}

/// Runs `work` on the compute threads, where it delays no call, and charges its CPU time to the backend.
async fn compute(member: &Arc<CatalogBackend>, work: impl FnOnce(&CatalogBackend) + Send + 'static) {
    let own = Arc::clone(member);
    let computing = member.backend.compute(move || work(&own));
    if let Err(error) = computing.await {
        tracing::error!(backend = %member.backend.name(), %error, "failed to record discovery");
    }
}

/// Applies `change`, and logs transitions instead of every attempt.
fn apply_and_log(member: &CatalogBackend, change: impl FnOnce(&CatalogBackend) -> bool) -> bool {
    let before = member.state();
    let changed = change(member);
    let after = member.state();
    let name = member.backend.name();
    match &after.error {
        Some(error) if before.health != after.health || before.error.is_none() => {
            tracing::warn!(backend = %name, health = after.health.as_str(), %error, "backend failing");
        }
        None if before.error.is_some() => tracing::info!(backend = %name, "backend recovered"),
        Some(_) | None => {}
    }
    changed
}

/// Runs one discovery, in the session of the previous one if the backend has sessions. After a failure it sends `initialize` again, because
/// the backend may have been upgraded.
async fn discover(
    catalog: &Catalog,
    member: &CatalogBackend,
    initialized: &mut Option<InitializeResult>,
) -> Result<BackendOffer, BackendError> {
    let backend = &member.backend.for_own_session();
    let wanted = catalog.aggregation().capabilities.clone();
    let before = member.state().offer.clone();
    if backend.shares_session() {
        let mut attempts = 0..MAX_SHARED_SESSION_REPLACEMENTS;
        loop {
            let shared = shared_session(catalog, backend, initialized.take()).await?;
            let known = initialized.insert(shared);
            let outcome = read_lists(backend, known, &wanted, before.as_deref()).await;
            if !matches!(outcome, Err(BackendError::SessionLost)) {
                return outcome;
            }
            backend.drop_shared_session(&known.session);
            *initialized = None;
            if attempts.next().is_none() {
                return outcome;
            }
        }
    }
    // `initialized` stays set while it is used, so that a cancelled discovery still knows which session to close.
    if let Some(known) = initialized.as_ref().filter(|known| known.session.id.is_some()) {
        match read_lists(backend, known, &wanted, before.as_deref()).await {
            Err(BackendError::SessionLost) => {}
            Ok(offer) => return Ok(offer),
            Err(error) => {
                close_in_background(catalog, backend, initialized.take());
                return Err(error);
            }
        }
    }
    *initialized = None;
    let opened = initialized.insert(initialize(backend).await?);
    catalog.shared.metrics.handshake(backend.name());
    let outcome = read_lists(backend, opened, &wanted, before.as_deref()).await;
    if outcome.is_err() {
        close_in_background(catalog, backend, initialized.take());
    }
    outcome
}

/// Returns the session that all clients share: the one known here, the one in the store, or a new one.
async fn shared_session(
    catalog: &Catalog,
    backend: &Backend,
    own: Option<InitializeResult>,
) -> Result<InitializeResult, BackendError> {
    if backend.shared_session().is_none() {
        backend.consult_store().await;
    }
    if let Some(shared) = backend.shared_session() {
        return Ok(shared.initialize_result);
    }
    // After a configuration change the gateway's own session may be the only one that the backend allows.
    let opened = match own {
        Some(own) if backend.ping(&own.session).await.is_ok() => own,
        _ => {
            catalog.shared.metrics.handshake(backend.name());
            initialize(backend).await?
        }
    };
    backend.share_session(SharedSession::new(opened.clone()));
    Ok(opened)
}

/// Closes an abandoned session in the background, so that the next discovery does not wait for it.
fn close_in_background(catalog: &Catalog, backend: &Backend, initialized: Option<InitializeResult>) {
    let Some(initialized) = initialized else { return };
    let backend = backend.clone();
    // Bounded: each backend has one discovery at a time, and failures are spaced by pauses.
    catalog
        .shared
        .tasks
        .spawn(async move { close(&backend, &initialized).await });
}

async fn close(backend: &Backend, initialized: &InitializeResult) {
    if let Err(error) = backend.close(&initialized.session).await {
        tracing::debug!(backend = %backend.name(), %error, "failed to delete the catalog's upstream session");
    }
}

async fn initialize(backend: &Backend) -> Result<InitializeResult, BackendError> {
    let (capabilities, client_info) = (raw_json(OWN_CAPABILITIES)?, raw_json(OWN_CLIENT_INFO)?);
    let params = InitializeParams {
        revision: Revision::LATEST,
        capabilities: &capabilities,
        client_info: &client_info,
    };
    backend.initialize_session(&params, INITIALIZE_DEADLINE).await
}

/// Reads the lists that the backend declares and the configuration wants. A list that cannot be read keeps its last content; the discovery
/// fails only if no list could be read.
async fn read_lists(
    backend: &Backend,
    initialized: &InitializeResult,
    wanted: &[Capability],
    before: Option<&BackendOffer>,
) -> Result<BackendOffer, BackendError> {
    let mut offer = BackendOffer {
        capabilities: initialized.capabilities,
        gives_session_ids: initialized.session.id.is_some(),
        instructions: initialized.instructions.clone(),
        server_info: initialized.server_info.clone(),
        ..BackendOffer::default()
    };
    let (mut lists_read, mut failure) = (0, None);
    for kind in ListKind::ALL {
        let (needed, declared) = required_capability(kind, initialized.capabilities);
        if !wanted.contains(&needed) {
            *offer.list_mut(kind) = BackendList::unknown();
            continue;
        }
        if !declared {
            // The official SDKs' clients list tools anyway, and hand-written servers may declare no capability at all.
            if kind == ListKind::Tools
                && declares_nothing(initialized.capabilities)
                && let Ok(list) = backend.list(&initialized.session, kind).await
            {
                offer.capabilities.tools = !list.items.is_empty();
                *offer.list_mut(kind) = list;
            }
            continue;
        }
        match backend.list(&initialized.session, kind).await {
            Ok(list) => *offer.list_mut(kind) = list,
            // Many servers with resources do not implement `resources/templates/list`.
            Err(BackendError::JsonRpc { code, .. }) if code == i64::from(error_code::METHOD_NOT_FOUND) => {}
            Err(error @ (BackendError::SessionLost | BackendError::Unreachable(_))) => return Err(error),
            Err(error) => {
                offer.faults.push(format!("{}: it {error}", kind.method()));
                *offer.list_mut(kind) =
                    before.map_or_else(BackendList::unknown, |before| before.list(kind).clone());
                failure.get_or_insert(error);
                continue;
            }
        }
        lists_read += 1;
    }
    match failure {
        Some(error) if lists_read == 0 => Err(error),
        _ => Ok(offer),
    }
}

pub(super) fn required_capability(kind: ListKind, declared: ServerCapabilities) -> (Capability, bool) {
    match kind {
        ListKind::Tools => (Capability::Tools, declared.tools),
        ListKind::Prompts => (Capability::Prompts, declared.prompts),
        ListKind::Resources | ListKind::Templates => (Capability::Resources, declared.resources),
    }
}

/// Whether the backend declares none of the capabilities that have lists.
fn declares_nothing(declared: ServerCapabilities) -> bool {
    !(declared.tools || declared.prompts || declared.resources)
}

fn raw_json(text: &str) -> Result<Box<RawValue>, BackendError> {
    RawValue::from_string(text.to_owned()).map_err(|error| BackendError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_is_proportional_to_cpu_time() {
        for (taken, pause) in [
            (Duration::ZERO, MIN_PAUSE),
            (Duration::from_millis(5), MIN_PAUSE),
            (Duration::from_millis(100), Duration::from_millis(1900)),
            (Duration::from_secs(100), MAX_PAUSE),
            (Duration::MAX, MAX_PAUSE),
        ] {
            assert_eq!(min_pause_after(taken), pause, "{taken:?}");
        }
    }
}
