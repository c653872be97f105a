//! rmcp's sessions in memory, with replay added for sessions and kept away from requests without one.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, SessionConfig, SessionTransport,
};
use rmcp::transport::streamable_http_server::session::{
    RestoreOutcome, ServerSseMessage, SessionId, SessionManager,
};

use crate::args::Args;
use crate::events::Events;

/// The event id that rmcp gives the first event of a GET stream. It belongs to no stored event.
const PRIMING: &str = "0";

/// The session manager.
///
/// It hides its event store from rmcp's stateless service: a request of a client without a session ends with
/// its connection, as the 2026-07-28 revision demands, and is not kept running for a client to resume.
#[derive(Debug)]
pub(crate) struct Sessions {
    local: LocalSessionManager,
    events: Arc<Events>,
}

impl Sessions {
    pub(crate) fn new(args: &Args) -> Self {
        let events = Arc::<Events>::default();
        let mut local = LocalSessionManager::default().with_event_store(Arc::clone(&events) as _);
        local.session_config = config(args);
        Self { local, events }
    }

    /// The ids of the sessions that are open, sorted.
    pub(crate) async fn ids(&self) -> Vec<String> {
        let sessions = self.local.sessions.read().await;
        let mut ids: Vec<String> = sessions.keys().map(|id| String::from(id.as_ref())).collect();
        ids.sort();
        ids
    }

    /// Whether a request with this id would be served.
    pub(crate) async fn knows(&self, id: &str) -> bool {
        self.local.sessions.read().await.contains_key(id)
    }

    /// Forgets a session as if the process had restarted: its streams end, and it is not known any more.
    pub(crate) async fn forget(&self, id: &str) {
        if let Err(error) = self.close_session(&id.into()).await {
            tracing::warn!(%error, id, "cannot close the session");
        }
    }
}

fn config(args: &Args) -> SessionConfig {
    let mut config = SessionConfig::default();
    config.keep_alive = (args.session_idle > 0).then(|| Duration::from_secs(args.session_idle));
    config.sse_retry = Some(Duration::from_millis(args.sse_retry));
    config
}

impl SessionManager for Sessions {
    type Error = LocalSessionManagerError;
    type Transport = SessionTransport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.local.create_session().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.local.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.local.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        // Its streams end: their followers in the store are notified.
        let closed = self.local.close_session(id).await;
        self.events.end(id);
        closed
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.create_stream(id, message).await
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.local.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        if last_event_id == PRIMING {
            Ok(self.local.create_standalone_stream(id).await?.left_stream())
        } else {
            Ok(self.local.resume(id, last_event_id).await?.right_stream())
        }
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        self.local.restore_session(id).await
    }
}
