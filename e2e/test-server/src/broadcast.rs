//! Sends notifications to all sessions and listeners.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::future::join_all;
use rmcp::RoleServer;
use rmcp::model::{LoggingLevel, LoggingMessageNotificationParam, ResourceUpdatedNotificationParam};
use rmcp::service::{Peer, ServiceError, SubscriptionSink};
use serde_json::Value;
use tokio::sync::broadcast;

use crate::session::Session;

/// A notification to sessions.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Tools,
    Prompts,
    Resources,
    Updated(String),
    Log(LoggingLevel, Value),
}

impl Change {
    /// Notifies the client of a session.
    pub(crate) async fn send(&self, peer: &Peer<RoleServer>) -> Result<(), ServiceError> {
        match self {
            Self::Tools => peer.notify_tool_list_changed().await,
            Self::Prompts => peer.notify_prompt_list_changed().await,
            Self::Resources => peer.notify_resource_list_changed().await,
            Self::Updated(uri) => {
                peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri))
                    .await
            }
            Self::Log(level, data) => {
                let message = LoggingMessageNotificationParam::new(*level, data.clone());
                peer.notify_logging_message(message.with_logger("test-server"))
                    .await
            }
        }
    }
}

impl Change {
    /// Notifies a client without a session, if it has subscribed to this notification.
    pub(crate) async fn send_listener(&self, sink: &SubscriptionSink) {
        let sent = match self {
            Self::Tools => sink.notify_tool_list_changed().await,
            Self::Prompts => sink.notify_prompt_list_changed().await,
            Self::Resources => sink.notify_resource_list_changed().await,
            Self::Updated(uri) => sink.notify_resource_updated(uri).await,
            // Log messages belong to requests.
            Self::Log(..) => Ok(()),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a listener was not told");
        }
    }
}

/// The recipients of notifications: the sessions, and the listeners of clients without a session.
#[derive(Debug)]
pub(crate) struct Audience {
    sessions: Mutex<Vec<Weak<Session>>>,
    listeners: broadcast::Sender<Change>,
}

impl Default for Audience {
    fn default() -> Self {
        Self {
            sessions: Mutex::default(),
            listeners: broadcast::Sender::new(64),
        }
    }
}

impl Audience {
    /// Adds a session whose client is ready.
    pub(crate) fn join(&self, session: &Arc<Session>, id: Option<String>, peer: Peer<RoleServer>) {
        if session.is_ready(id, peer) {
            self.sessions
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Arc::downgrade(session));
        }
    }

    /// The changes from now on, for a `subscriptions/listen`.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Change> {
        self.listeners.subscribe()
    }

    /// The sessions that are open.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| session.strong_count() > 0);
        sessions.iter().filter_map(Weak::upgrade).collect()
    }

    /// Sends `change` to every recipient that it concerns, and returns their number.
    pub(crate) async fn tell(&self, change: &Change) -> usize {
        // An error only means that there is no listener.
        let listeners = self.listeners.send(change.clone()).unwrap_or(0);
        let sessions = self.sessions();
        let told = join_all(sessions.iter().map(|session| session.tell(change))).await;
        listeners + told.into_iter().filter(|heard| *heard).count()
    }
}
