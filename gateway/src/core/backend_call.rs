//! One request to one backend: a call of a tool, a prompt, a resource, a completion.
//!
//! A request is sent once. It is sent a second time in a single case: the backend says that it does not know the upstream session,
//! which means that it has not executed the request; then the session is replaced first. Anything else that goes wrong is told to
//! the caller, with whether trying again is safe.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use vmcp_crds::config::Capability;

use super::{Core, UpstreamError, UpstreamSessions};
use crate::backend::{
    Backend, BackendError, BackendResponse, CallPermit, Deadline, ListKind, UpstreamSession,
};
use crate::catalog::{CatalogSnapshot, ItemRoute, NotFound};
use crate::config::BackendName;
use crate::mcp::error_code;
use crate::mcp::jsonrpc;
use crate::mcp::jsonrpc::{InvalidMessage, Request};
use crate::mcp::params;
use crate::mcp::params::Reference;
use crate::mcp::splice::{member, splice, splice_all};
use crate::runtime::timeout::until;
use crate::telemetry::request_id::CurrentRequestId;

/// How long a backend has to take an answer that refuses what it asked.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// What a request asks one backend for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallSubject {
    /// `tools/call`.
    Tool,
    /// `prompts/get`.
    Prompt,
    /// `resources/read`, and whatever else names a resource by its `uri`.
    Resource,
    /// `completion/complete`.
    Completion,
}

/// What a backend answers to a request.
#[derive(Debug)]
pub struct CallReply {
    /// The answer.
    pub answer: BackendResponse,
    /// The request's place at the backend; to be kept until the answer has come whole.
    pub admitted: CallPermit,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The parameters are not those of the method.
    #[error(transparent)]
    Params(#[from] InvalidMessage),
    /// No backend has it.
    #[error("unknown {} {name:?}", .subject.noun())]
    Unknown {
        /// What was asked for.
        subject: CallSubject,
        /// What the caller calls it by.
        name: String,
    },
    /// A backend that has not answered since the process started may have it.
    #[error("backend {0} is not known yet; try again")]
    NotYet(BackendName),
    /// The backend has it, and does not complete its arguments.
    #[error("backend {0} does not complete arguments")]
    NoCompletion(BackendName),
    /// The backend did not answer.
    #[error("backend {backend} {error}")]
    Backend {
        /// The backend's name.
        backend: BackendName,
        /// What went wrong.
        error: BackendError,
        /// Whether the request may have reached the backend.
        sent: bool,
    },
    /// The caller's session has ended meanwhile.
    #[error("the session has ended")]
    Gone,
    /// The upstream session cannot be known at the moment. The request was not sent.
    #[error("the session store is unavailable: {0}")]
    Unavailable(String),
}

impl CallSubject {
    /// What of the gateway's capabilities the request needs.
    #[must_use]
    pub fn capability(self) -> Capability {
        match self {
            Self::Tool => Capability::Tools,
            Self::Prompt => Capability::Prompts,
            Self::Resource => Capability::Resources,
            Self::Completion => Capability::Completions,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Prompt => "prompt",
            Self::Resource => "resource",
            Self::Completion => "prompt or resource template",
        }
    }
}

/// A request on its way to its backend.
#[derive(Clone, Debug)]
pub struct RoutedCall {
    /// The backend that has what it asks for.
    pub backend: Backend,
    /// The client's message, with the name that the backend uses in the place of the one that the client uses.
    pub message: Bytes,
    /// Until when the call may last, to the end of its answer.
    pub deadline: Deadline,
}

impl Core {
    /// The backend that has what `request` asks for in `snapshot`, and what it is told. The call's time begins here.
    ///
    /// # Errors
    /// When no backend is known to have it.
    pub fn route(
        &self,
        snapshot: &CatalogSnapshot,
        subject: CallSubject,
        message: &Bytes,
        request: &Request<'_>,
    ) -> Result<RoutedCall, CallError> {
        let FoundItem {
            name: (raw, name),
            task,
            route,
            ..
        } = find(snapshot, subject, request.params)?;
        let route = route.map_err(|nowhere| match nowhere {
            NotFound::Unknown => CallError::Unknown {
                subject,
                name: name.to_string(),
            },
            NotFound::NotYet(backend) => CallError::NotYet(backend),
        })?;
        if subject == CallSubject::Completion && !snapshot.completes(route.backend.name()) {
            return Err(CallError::NoCompletion(route.backend.name().clone()));
        }
        let tool = (subject == CallSubject::Tool).then_some(&*route.name);
        let message = if *route.name == *name && task.is_none() {
            message.clone()
        } else {
            rewritten(message, request.params, raw, &route.name, task)?
        };
        Ok(RoutedCall {
            deadline: route.backend.deadline(tool),
            backend: route.backend,
            message,
        })
    }

    /// Sends a request with the id `id` to its backend in the caller's session there, and repairs that session once if the backend has
    /// lost it. At the deadline the backend is told that the request is cancelled.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(
        &self,
        upstreams: &impl UpstreamSessions,
        routed: &RoutedCall,
        id: &RawValue,
    ) -> Result<CallReply, CallError> {
        let (backend, deadline) = (&routed.backend, routed.deadline);
        let admitted = until(deadline.at(), backend.admit()).await;
        let admitted = admitted.unwrap_or_else(|| Err(deadline.passed()));
        let mut admitted = admitted.map_err(|error| CallError::upstream(backend, error.into()))?;
        let mut sent_in = None;
        // Boxed: whoever waits for it, in several layers, would otherwise move all of its state.
        let exchange = Box::pin(self.exchange(upstreams, backend, &routed.message, id, &mut sent_in));
        let outcome = tokio::time::timeout_at(deadline.at(), exchange).await;
        let error = match outcome {
            Ok(Ok(answer)) => {
                admitted.answered();
                return Ok(CallReply { answer, admitted });
            }
            Ok(Err(error)) => error,
            Err(_) => {
                if let Some(session) = &sent_in {
                    self.cancel(backend, session.clone(), id);
                }
                deadline.passed().into()
            }
        };
        match &error {
            UpstreamError::Backend(error) => admitted.failed(error),
            UpstreamError::Gone | UpstreamError::Unavailable(_) => admitted.undecided(),
        }
        Err(match error {
            UpstreamError::Backend(error) if sent_in.is_some() => CallError::sent(backend, error),
            error => CallError::upstream(backend, error),
        })
    }

    /// Says in `sent_in` in which session the request was sent last, also when this is dropped before there is an answer.
    async fn exchange(
        &self,
        upstreams: &impl UpstreamSessions,
        backend: &Backend,
        message: &Bytes,
        id: &RawValue,
        sent_in: &mut Option<UpstreamSession>,
    ) -> Result<BackendResponse, UpstreamError> {
        let mut session = &*sent_in.insert(upstreams.open(backend).await?);
        let mut outcome = backend.call(session, message.clone(), id).await;
        if matches!(outcome, Err(BackendError::SessionLost)) {
            let lost = session.clone();
            *sent_in = None;
            self.metrics.repaired(backend.name());
            tracing::info!(request_id = %CurrentRequestId, backend = %backend.name(), "the backend lost its session; opening another");
            session = &*sent_in.insert(Box::pin(upstreams.replace(backend, &lost)).await?);
            outcome = Box::pin(backend.call(session, message.clone(), id)).await;
        }
        // Before the client has the answer: its next call may reach another process.
        if session.has_cookies_to_store() {
            Box::pin(upstreams.keep_cookies(backend, session)).await;
        }
        Ok(outcome?)
    }

    /// Tells `backend`, in the background, that nobody waits any longer for the answer to the request `id`.
    pub fn cancel(&self, backend: &Backend, session: UpstreamSession, id: &RawValue) {
        let id = id.to_owned();
        self.tell(backend, |backend| async move {
            let reason = "the deadline of the call has passed";
            backend.cancel(&session, &id, reason).await
        });
    }

    /// Answers the request `id` of `backend` with an error, in the background: it waits for an answer that nobody will give.
    pub fn decline(&self, backend: &Backend, session: UpstreamSession, id: &RawValue, reason: &str) {
        let error = jsonrpc::error(Some(id), error_code::INTERNAL, reason);
        self.tell(backend, |backend| async move {
            let told = tokio::time::timeout(REFUSAL_DEADLINE, backend.notify(&session, error));
            told.await
                .unwrap_or(Err(BackendError::Deadline(REFUSAL_DEADLINE)))
        });
    }

    fn tell<T>(&self, backend: &Backend, telling: impl FnOnce(Backend) -> T)
    where
        T: Future<Output = Result<(), BackendError>> + Send + 'static,
    {
        let name = backend.name().clone();
        let Ok(permit) = Arc::clone(&self.cancelling).try_acquire_owned() else {
            tracing::warn!(backend = %name, "too many messages are on their way to backends; one is not sent");
            return;
        };
        let telling = telling(backend.clone());
        self.tasks.spawn(async move {
            if let Err(error) = telling.await {
                tracing::debug!(backend = %name, %error, "a message that ends something was not taken");
            }
            drop(permit);
        });
    }
}

/// Where things with URIs are listed.
const URIS: &[ListKind] = &[ListKind::Resources, ListKind::Templates];

/// What a request is about, as far as a snapshot says.
#[derive(Debug)]
pub struct LocatedCall<'a> {
    /// What the client calls it by.
    pub name: Cow<'a, str>,
    /// In which lists it may be.
    pub kinds: &'static [ListKind],
    /// The backend that has it.
    pub backend: Option<Backend>,
}

/// What a request with these parameters is about, as far as `snapshot` says; `None` where they do not fit.
#[must_use]
pub fn locate<'a>(
    snapshot: &CatalogSnapshot,
    subject: CallSubject,
    params: Option<&'a RawValue>,
) -> Option<LocatedCall<'a>> {
    let found = find(snapshot, subject, params).ok()?;
    Some(LocatedCall {
        name: found.name.1,
        kinds: found.kinds,
        backend: found.route.ok().map(|route| route.backend),
    })
}

/// What a request names.
struct FoundItem<'a> {
    name: params::Text<'a>,
    /// In which lists that may be.
    kinds: &'static [ListKind],
    /// The `task` of a call, which is not sent on.
    task: Option<&'a RawValue>,
    route: Result<ItemRoute, NotFound>,
}

fn find<'a>(
    snapshot: &CatalogSnapshot,
    subject: CallSubject,
    params: Option<&'a RawValue>,
) -> Result<FoundItem<'a>, InvalidMessage> {
    type Look = fn(&CatalogSnapshot, &str) -> Result<ItemRoute, NotFound>;
    let mut task = None;
    let (name, kinds, look): (_, &[ListKind], Look) = match subject {
        CallSubject::Tool => {
            let name;
            (name, task) = params::tool(params)?;
            (name, &[ListKind::Tools], CatalogSnapshot::tool)
        }
        CallSubject::Prompt => (
            params::name(params)?,
            &[ListKind::Prompts],
            CatalogSnapshot::prompt,
        ),
        CallSubject::Resource => (params::uri(params)?, URIS, CatalogSnapshot::resource),
        CallSubject::Completion => match params::reference(params)? {
            Reference::Prompt(name) => (name, &[ListKind::Prompts], CatalogSnapshot::prompt),
            Reference::Resource(uri) => (uri, URIS, CatalogSnapshot::template),
        },
    };
    let route = look(snapshot, &name.1);
    Ok(FoundItem {
        name,
        kinds,
        task,
        route,
    })
}

impl CallError {
    /// Whether the request is known not to have been executed, so that trying again is safe.
    #[must_use]
    pub fn is_retry_safe(&self) -> bool {
        match self {
            Self::Backend { error, sent, .. } => !sent || error.is_retry_safe(),
            Self::Params(_)
            | Self::Unknown { .. }
            | Self::NotYet(_)
            | Self::NoCompletion(_)
            | Self::Gone
            | Self::Unavailable(_) => true,
        }
    }

    /// What the backend says of it, for the client.
    #[must_use]
    pub fn said(&self) -> Option<&str> {
        match self {
            Self::Backend { error, .. } => error.said(),
            _ => None,
        }
    }

    /// What went wrong with a request that was sent.
    #[must_use]
    pub fn sent(backend: &Backend, error: BackendError) -> Self {
        Self::Backend {
            backend: backend.name().clone(),
            error,
            sent: true,
        }
    }

    /// Why there is no upstream session, so that the request was not sent.
    fn upstream(backend: &Backend, error: UpstreamError) -> Self {
        match error {
            UpstreamError::Backend(error) => Self::Backend {
                backend: backend.name().clone(),
                error,
                sent: false,
            },
            UpstreamError::Gone => Self::Gone,
            UpstreamError::Unavailable(reason) => Self::Unavailable(reason),
        }
    }
}

/// The message with the backend's name, and without `task`: no backend may make a task that no client can fetch, and a receiver that
/// declares no tasks must ignore the field (specification 2025-11-25, basic/utilities/tasks).
fn rewritten(
    message: &Bytes,
    params: Option<&RawValue>,
    advertised: &RawValue,
    original: &str,
    task: Option<&RawValue>,
) -> Result<Bytes, CallError> {
    let fault = |message: &str| InvalidMessage {
        code: error_code::INTERNAL,
        message: message.to_owned(),
    };
    let original = serde_json::to_vec(original).map_err(|_| fault("the name cannot be written as JSON"))?;
    let rewritten = match (params, task) {
        (Some(params), Some(task)) => {
            let member = member(params.get(), task.get());
            let member = member.ok_or_else(|| fault("the task cannot be found"))?;
            splice_all(message, &[(advertised.get(), &original), (member, b"")])
        }
        _ => splice(message, advertised.get(), &original),
    };
    Ok(rewritten.ok_or_else(|| fault("the name cannot be found"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_is_sent_with_the_backends_name_and_without_task() {
        for (params, sent) in [
            (
                r#"{"name":"a_x","task":{"ttl":1},"arguments":{"task":2}}"#,
                r#"{"name":"x","arguments":{"task":2}}"#,
            ),
            (r#"{"task":null,"name":"a_x"}"#, r#"{"name":"x"}"#),
            (
                r#"{"name":"a_x","arguments":{"task":2}}"#,
                r#"{"name":"x","arguments":{"task":2}}"#,
            ),
            (r#"{"name":"a_x","t\u0061sk":{}}"#, r#"{"name":"x"}"#),
        ] {
            let message = |params: &str| {
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
            };
            let bytes = Bytes::from(message(params));
            let Ok(jsonrpc::Message::Request(request)) = jsonrpc::Message::parse(&bytes) else {
                panic!("no request")
            };
            let ((raw, _), task) = params::tool(request.params).unwrap();
            let rewritten = rewritten(&bytes, request.params, raw, "x", task).unwrap();
            assert_eq!(rewritten, message(sent));
        }
    }
}
