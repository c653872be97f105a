//! Keeping one backend's part of the catalogue warm.
//!
//! The gateway looks with an upstream session of its own, which belongs to no client, and keeps it for the next look. A backend
//! that fails is looked at again soon, then less and less often.
//!
//! Between two looks it is probed with the cheapest request that every server must answer, a `ping` in that session. Looks and probes
//! together say whether it can be reached ([`State::health`](super::State)); a look that fails is a probe that failed. Calls do not
//! wait for any of this, and do not heed it: they have the breaker, and only tell here when they begin to fail.

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

/// The first pause after a failure; it doubles up to the pause after a success.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The least pause between two looks, whatever a backend notifies.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// How many times as long as a look took of a core the pause after it is at least: a backend whose list is large, and changes again and
/// again, takes a twentieth of a core.
const PAUSES: u32 = 19;
/// The longest of such pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a session that all clients share is replaced in one look: what is known of it may be out of date here and in the store.
const SHARED_ATTEMPTS: u32 = 2;
/// How long a backend may take to greet.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// What the gateway says of itself. Some servers list tools only to clients that could answer what those tools ask, and a client
/// behind the gateway may be one: so it declares everything that it relays.
const OWN_CAPABILITIES: &str = r#"{"roots":{"listChanged":true},"sampling":{"context":{},"tools":{}},"elicitation":{"form":{},"url":{}}}"#;
const OWN_INFO: &str = concat!(
    r#"{"name":"vmcp-gateway","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

/// Keeps the backend's part warm until `stop`, and then closes the session in which it looked.
pub(super) async fn keep_warm(catalog: Catalog, member: Arc<CatalogBackend>, stop: impl Future<Output = ()>) {
    let mut greeting = None;
    tokio::select! {
        () = stop => {}
        () = look_again_and_again(&catalog, &member, &mut greeting) => {}
    }
    // Others use what they find in the store.
    let is_stored = member
        .backend
        .shared_session()
        .is_some_and(|shared| shared.is_stored);
    if let Some(greeting) = greeting.filter(|_| !is_stored) {
        close(&member.backend, &greeting).await;
    }
}

async fn look_again_and_again(
    catalog: &Catalog,
    member: &Arc<CatalogBackend>,
    greeting: &mut Option<InitializeResult>,
) {
    let mut ear = ListChangedListener::default();
    let mut retry = FIRST_RETRY;
    loop {
        let before = member.backend.meter().taken();
        let began = Instant::now();
        let looking = look(catalog, member, greeting);
        observe(catalog, member, looking.await, began).await;
        member.set_first_look(None);
        let looked = Instant::now();
        let least_pause = pause_after(member.backend.meter().taken().saturating_sub(before));
        let session = greeting.as_ref().map(|greeting| &greeting.session);
        // It goes on over the probes: a backend may take longer than until the next one to open its stream.
        let mut hearing = pin!(ear.changed(&member.backend, session));
        loop {
            let (settings, refresh) = (member.settings(), catalog.aggregation().refresh.max(least_pause));
            let state = member.state();
            let pause = if state.is_troubled() {
                // One that refuses us is asked less and less often; one that is away may be back any moment.
                let longest = if state.answers() {
                    refresh
                } else {
                    settings.interval
                };
                let pause = retry.min(longest).max(least_pause);
                retry = (retry * 2).min(longest);
                pause
            } else {
                retry = FIRST_RETRY;
                let left = (looked + refresh).saturating_duration_since(Instant::now());
                settings.interval.min(left)
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut hearing => break,
                () = member.stale.notified() => break,
                () = member.backend.wait_for_failures() => {
                    tokio::time::sleep_until(looked + FIRST_RETRY).await;
                    break;
                }
            }
            let is_due = looked.elapsed() >= refresh;
            if is_due || !probe(catalog, member, session).await {
                break;
            }
        }
        tokio::time::sleep_until(looked + least_pause).await;
    }
}

/// The least pause after a look that took so much processor time.
fn pause_after(taken: Duration) -> Duration {
    taken.saturating_mul(PAUSES).clamp(LEAST_PAUSE, LONGEST_PAUSE)
}

/// Asks for a sign of life in the session of the last look, and says whether that is all there is to do now. Otherwise a look has to
/// follow: there is no session, or it is lost, or the backend is back.
async fn probe(catalog: &Catalog, member: &Arc<CatalogBackend>, session: Option<&UpstreamSession>) -> bool {
    let Some(session) = session else { return false };
    let limit = member.settings().timeout;
    let backend = member.backend.for_own_session();
    let asking = tokio::time::timeout(limit, backend.ping(session));
    let outcome = match asking.await.unwrap_or(Err(BackendError::Deadline(limit))) {
        Err(error) if error.is_backend_failure() => Err(error),
        Err(BackendError::SessionLost) => {
            backend.lose_shared_session(session);
            return false;
        }
        Ok(()) | Err(_) => Ok(()),
    };
    if let Err(error) = &outcome {
        tracing::debug!(backend = %member.backend.name(), %error, "a probe failed");
    }
    let answered = outcome.is_ok();
    if told(member, |member| member.probed(outcome)) {
        let catalog = catalog.clone();
        compute(member, move |_| catalog.merge()).await;
    }
    !(answered && member.state().is_troubled())
}

async fn observe(
    catalog: &Catalog,
    member: &Arc<CatalogBackend>,
    outcome: Result<BackendOffer, BackendError>,
    began: Instant,
) {
    let name = member.backend.name();
    match &outcome {
        Ok(offer) => {
            if member.state().is_troubled() {
                member.backend.mark_recovered();
            }
            tracing::debug!(backend = %name, tools = offer.tools.items.len(), "looked at the backend");
        }
        Err(error) => tracing::debug!(backend = %name, %error, "the backend cannot be listed"),
    }
    let catalog = catalog.clone();
    let taking = compute(member, move |member| {
        let (is_answer, is_first) = (outcome.is_ok(), member.state().offer.is_none());
        let is_changed = told(member, |member| member.observe(outcome));
        if is_answer {
            member.backend.note_list_check(began, is_changed && !is_first);
        }
        if is_changed {
            // Before the others have to wait for the snapshot.
            member.show();
            catalog.merge();
        }
    });
    taking.await;
}

/// Does `work` where it keeps no call waiting. It counts as the backend's.
async fn compute(member: &Arc<CatalogBackend>, work: impl FnOnce(&CatalogBackend) + Send + 'static) {
    let own = Arc::clone(member);
    let computing = member.backend.compute(move || work(&own));
    if let Err(error) = computing.await {
        tracing::error!(backend = %member.backend.name(), %error, "cannot take what the backend offers");
    }
}

/// Makes a change, and logs what it means: transitions, and not every attempt.
fn told(member: &CatalogBackend, change: impl FnOnce(&CatalogBackend) -> bool) -> bool {
    let before = member.state();
    let changed = change(member);
    let after = member.state();
    let name = member.backend.name();
    match &after.error {
        Some(error) if before.health != after.health || before.error.is_none() => {
            tracing::warn!(backend = %name, health = after.health.as_str(), %error, "the backend does not answer as it should");
        }
        None if before.error.is_some() => tracing::info!(backend = %name, "the backend answers again"),
        Some(_) | None => {}
    }
    changed
}

/// One look, with the session of the last one where the backend has sessions. After a failure the backend is greeted anew: it may
/// have become another version.
async fn look(
    catalog: &Catalog,
    member: &CatalogBackend,
    greeting: &mut Option<InitializeResult>,
) -> Result<BackendOffer, BackendError> {
    let backend = &member.backend.for_own_session();
    let wanted = catalog.aggregation().capabilities.clone();
    let before = member.state().offer.clone();
    if backend.shares_session() {
        let mut attempts = 0..SHARED_ATTEMPTS;
        loop {
            let shared = shared_session(catalog, backend, greeting.take()).await?;
            let known = greeting.insert(shared);
            let outcome = lists(backend, known, &wanted, before.as_deref()).await;
            if !matches!(outcome, Err(BackendError::SessionLost)) {
                return outcome;
            }
            backend.lose_shared_session(&known.session);
            *greeting = None;
            if attempts.next().is_none() {
                return outcome;
            }
        }
    }
    // The greeting stays where it is while it is used, so that whoever ends this knows which session to close.
    if let Some(known) = greeting.as_ref().filter(|known| known.session.id.is_some()) {
        match lists(backend, known, &wanted, before.as_deref()).await {
            Err(BackendError::SessionLost) => {}
            Ok(offer) => return Ok(offer),
            Err(error) => {
                close_behind(catalog, backend, greeting.take());
                return Err(error);
            }
        }
    }
    *greeting = None;
    let opened = greeting.insert(greet(backend).await?);
    catalog.shared.metrics.handshake(backend.name());
    let outcome = lists(backend, opened, &wanted, before.as_deref()).await;
    if outcome.is_err() {
        close_behind(catalog, backend, greeting.take());
    }
    outcome
}

/// The session of all clients: the one that is known here, or to another replica, or a new one.
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
    // What the gateway had for itself before the configuration changed may be the only one that there is.
    let opened = match own {
        Some(own) if backend.ping(&own.session).await.is_ok() => own,
        _ => {
            catalog.shared.metrics.handshake(backend.name());
            greet(backend).await?
        }
    };
    backend.share_session(SharedSession::new(opened.clone()));
    Ok(opened)
}

/// Closes a session that is given up, without making the next look wait.
fn close_behind(catalog: &Catalog, backend: &Backend, greeting: Option<InitializeResult>) {
    let Some(greeting) = greeting else { return };
    let backend = backend.clone();
    // There is one at a time per backend: a look fails no more often than once in a while.
    catalog
        .shared
        .tasks
        .spawn(async move { close(&backend, &greeting).await });
}

async fn close(backend: &Backend, greeting: &InitializeResult) {
    if let Err(error) = backend.close(&greeting.session).await {
        tracing::debug!(backend = %backend.name(), %error, "the catalogue's session could not be deleted");
    }
}

async fn greet(backend: &Backend) -> Result<InitializeResult, BackendError> {
    let (capabilities, client_info) = (raw(OWN_CAPABILITIES)?, raw(OWN_INFO)?);
    let hello = InitializeParams {
        revision: Revision::LATEST,
        capabilities: &capabilities,
        client_info: &client_info,
    };
    backend.initialize_session(&hello, GREETING_DEADLINE).await
}

/// The lists that the backend declares and the gateway wants. A list that cannot be had stays what it was, and takes the others
/// down only when there are none.
async fn lists(
    backend: &Backend,
    greeting: &InitializeResult,
    wanted: &[Capability],
    before: Option<&BackendOffer>,
) -> Result<BackendOffer, BackendError> {
    let mut offer = BackendOffer {
        capabilities: greeting.capabilities,
        gives_session_ids: greeting.session.id.is_some(),
        instructions: greeting.instructions.clone(),
        ..BackendOffer::default()
    };
    let (mut had, mut failure) = (0, None);
    for kind in ListKind::ALL {
        let (needed, declared) = needs(kind, greeting.capabilities);
        if !wanted.contains(&needed) {
            *offer.list_mut(kind) = BackendList::unknown();
            continue;
        }
        if !declared {
            // The SDKs' clients ask all the same, and servers that are written by hand may declare nothing at all.
            if kind == ListKind::Tools
                && declares_nothing(greeting.capabilities)
                && let Ok(list) = backend.list(&greeting.session, kind).await
            {
                offer.capabilities.tools = !list.items.is_empty();
                *offer.list_mut(kind) = list;
            }
            continue;
        }
        match backend.list(&greeting.session, kind).await {
            Ok(list) => *offer.list_mut(kind) = list,
            // Many servers with resources have no word for templates.
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
        had += 1;
    }
    match failure {
        Some(error) if had == 0 => Err(error),
        _ => Ok(offer),
    }
}

pub(super) fn needs(kind: ListKind, declared: ServerCapabilities) -> (Capability, bool) {
    match kind {
        ListKind::Tools => (Capability::Tools, declared.tools),
        ListKind::Prompts => (Capability::Prompts, declared.prompts),
        ListKind::Resources | ListKind::Templates => (Capability::Resources, declared.resources),
    }
}

/// Whether a backend declares nothing that could be listed.
fn declares_nothing(declared: ServerCapabilities) -> bool {
    !(declared.tools || declared.prompts || declared.resources)
}

fn raw(text: &str) -> Result<Box<RawValue>, BackendError> {
    RawValue::from_string(text.to_owned()).map_err(|error| BackendError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_is_followed_by_a_pause_in_proportion_to_its_cost() {
        for (taken, pause) in [
            (Duration::ZERO, LEAST_PAUSE),
            (Duration::from_millis(5), LEAST_PAUSE),
            (Duration::from_millis(100), Duration::from_millis(1900)),
            (Duration::from_secs(100), LONGEST_PAUSE),
            (Duration::MAX, LONGEST_PAUSE),
        ] {
            assert_eq!(pause_after(taken), pause, "{taken:?}");
        }
    }
}
