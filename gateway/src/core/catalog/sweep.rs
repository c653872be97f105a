//! Keeping one backend's part of the catalogue warm.
//!
//! The gateway looks with an upstream session of its own, which belongs to no client, and keeps it for the next look. A backend
//! that fails is looked at again soon, then less and less often.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::{Catalog, Member};
use crate::backend::{Backend, BackendError, Hello, Listed, UpstreamSession};
use crate::readiness::Pending;
use crate::wire::revision::Revision;

/// How old what is known of a backend may become.
const REFRESH: Duration = Duration::from_secs(60);
/// The first pause after a failure; it doubles up to [`REFRESH`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How long a look may take before it counts as failed.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn keep_warm(catalog: Catalog, member: Arc<Member>, first_look: Option<Pending>) {
    let mut first_look = first_look;
    let mut session = None;
    let mut retry = FIRST_RETRY;
    loop {
        let looking = look(&member.backend, &mut session, &catalog);
        let outcome = tokio::time::timeout(LOOK_DEADLINE, looking).await;
        observe(
            &catalog,
            &member,
            outcome.unwrap_or(Err(BackendError::Deadline(LOOK_DEADLINE))),
        );
        drop(first_look.take());
        retry = pause(&member, retry).await;
    }
}

fn observe(catalog: &Catalog, member: &Member, outcome: Result<Vec<Listed>, BackendError>) {
    let name = member.backend.name();
    match &outcome {
        Ok(tools) => tracing::debug!(backend = %name, tools = tools.len(), "looked at the backend"),
        Err(error) => tracing::warn!(backend = %name, %error, "the backend cannot be listed"),
    }
    if member.observe(outcome) {
        catalog.merge();
    }
}

/// Waits until the next look is due, and gives the pause after the next failure.
async fn pause(member: &Member, retry: Duration) -> Duration {
    if member.state().error.is_none() {
        tokio::time::sleep(REFRESH).await;
        return FIRST_RETRY;
    }
    tokio::time::sleep(retry).await;
    (retry * 2).min(REFRESH)
}

async fn look(
    backend: &Backend,
    session: &mut Option<UpstreamSession>,
    catalog: &Catalog,
) -> Result<Vec<Listed>, BackendError> {
    if let Some(known) = session {
        match backend.list_tools(known).await {
            Err(BackendError::SessionLost) => *session = None,
            outcome => return outcome,
        }
    }
    let capabilities = raw("{}")?;
    let client_info = raw(concat!(
        r#"{"name":"vmcp-gateway","version":""#,
        env!("CARGO_PKG_VERSION"),
        r#""}"#
    ))?;
    let hello = Hello {
        revision: Revision::LATEST,
        capabilities: &capabilities,
        client_info: &client_info,
    };
    let opened = backend.initialize(&hello).await?;
    catalog.shared.metrics.handshake(backend.name());
    backend.list_tools(session.insert(opened)).await
}

fn raw(text: &str) -> Result<Box<RawValue>, BackendError> {
    RawValue::from_string(text.to_owned()).map_err(|error| BackendError::Invalid(error.to_string()))
}
