//! One request to one backend: it calls a tool, gets a prompt, reads a resource or completes an argument.
//!
//! A request is sent once. It is sent again in one case only: the backend does not know the upstream session, so it has not executed
//! the request. The session is replaced first. Every other failure goes to the caller, with whether a retry is safe.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::{timeout, timeout_at};
use vmcp_crds::config::Capability;

use super::{Core, UpstreamError, UpstreamOpener};
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

/// How long a backend may take to accept the error that refuses its request.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// The kind of item that a request addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallSubject {
    /// A tool, addressed by `tools/call`.
    Tool,
    /// A prompt, addressed by `prompts/get`.
    Prompt,
    /// `resources/read`, and other requests that name a resource by its `uri`.
    Resource,
    /// The target of `completion/complete`: a prompt or a resource template.
    Completion,
}

/// A backend's response to a request, with its permit.
#[derive(Debug)]
pub struct CallReply {
    /// The backend's response, in its own framing.
    pub answer: BackendResponse,
    /// The request's permit at the backend. Keep it until the response is complete.
    pub admitted: CallPermit,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The parameters do not match the method.
    #[error(transparent)]
    Params(#[from] InvalidMessage),
    /// No backend offers the item.
    #[error("unknown {} {name:?}", .subject.noun())]
    Unknown {
        /// The kind of item that was requested.
        subject: CallSubject,
        /// The advertised name, or URI, that the caller used.
        name: String,
    },
    /// A backend that has not answered since the process started may offer the item.
    #[error("backend {0} is not known yet; try again")]
    Undiscovered(BackendName),
    /// The backend offers the item but no completion of its arguments.
    #[error("backend {0} does not complete arguments")]
    NoCompletion(BackendName),
    /// The exchange with the backend failed.
    #[error("backend {backend} {error}")]
    Backend {
        /// Name of the backend in the configuration.
        backend: BackendName,
        /// What went wrong in the exchange.
        error: BackendError,
        /// Whether the request may have reached the backend.
        sent: bool,
    },
    /// The caller's session ended in the meantime.
    #[error("the session has ended")]
    Gone,
    /// The session store cannot say which upstream session to use. The request was not sent.
    #[error("the session store is unavailable: {0}")]
    Unavailable(String),
}

impl CallSubject {
    /// The gateway capability that the request needs.
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

/// A request with its backend, ready to be sent.
#[derive(Clone, Debug)]
pub struct RoutedCall {
    /// The backend that offers the item.
    pub backend: Backend,
    /// The client's message, with the backend's own name instead of the advertised name.
    pub message: Bytes,
    /// The deadline for the complete response.
    pub deadline: Deadline,
}

impl Core {
    /// Finds the backend that offers the requested item in `snapshot`, and rewrites the message for it. The deadline starts here.
    ///
    /// # Errors
    /// When no known backend offers the item, or the parameters are malformed.
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
            NotFound::Undiscovered(backend) => CallError::Undiscovered(backend),
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

    /// Sends a request with the id `id` to its backend in the caller's upstream session, and replaces that session once if the backend
    /// has lost it. At the deadline the gateway cancels the request at the backend.
    ///
    /// # Errors
    /// When there is no response.
    pub async fn send(
        &self,
        upstreams: &impl UpstreamOpener,
        routed: &RoutedCall,
        id: &RawValue,
    ) -> Result<CallReply, CallError> {
        let (backend, deadline) = (&routed.backend, routed.deadline);
        let admitted = timeout_at(deadline.at(), backend.admit()).await;
        let admitted = admitted.unwrap_or_else(|_| Err(deadline.passed()));
        let mut admitted = admitted.map_err(|error| CallError::upstream(backend, error.into()))?;
        let mut sent_in = None;
        // Boxed: otherwise several layers of callers would move all of its state.
        let exchange = Box::pin(self.exchange(upstreams, backend, &routed.message, id, &mut sent_in));
        let outcome = timeout_at(deadline.at(), exchange).await;
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

    /// Cancels the request `id` at `backend`, in the background.
    pub fn cancel(&self, backend: &Backend, session: UpstreamSession, id: &RawValue) {
        let id = id.to_owned();
        self.spawn_ending_message(backend, |backend| async move {
            let reason = "the deadline of the call has passed";
            backend.cancel(&session, &id, reason).await
        });
    }

    /// Answers the request `id` of `backend` with an error, in the background. Without it the backend would wait for a response forever.
    pub fn decline(&self, backend: &Backend, session: UpstreamSession, id: &RawValue, reason: &str) {
        let error = jsonrpc::error(Some(id), error_code::INTERNAL, reason);
        self.spawn_ending_message(backend, |backend| async move {
            let sending = timeout(REFUSAL_DEADLINE, backend.notify(&session, error));
            sending
                .await
                .unwrap_or(Err(BackendError::Deadline(REFUSAL_DEADLINE)))
        });
    }

    fn spawn_ending_message<T>(&self, backend: &Backend, send: impl FnOnce(Backend) -> T)
    where
        T: Future<Output = Result<(), BackendError>> + Send + 'static,
    {
        let name = backend.name().clone();
        let Ok(permit) = Arc::clone(&self.ending_messages).try_acquire_owned() else {
            tracing::warn!(backend = %name, "too many cancellations in flight; dropping one");
            return;
        };
        let sending = send(backend.clone());
        self.tasks.spawn(async move {
            if let Err(error) = sending.await {
                tracing::debug!(backend = %name, %error, "failed to deliver cancellation");
            }
            drop(permit);
        });
    }
}

/// The lists in which a resource is looked up, in this order.
const OF_RESOURCES: &[ListKind] = &[ListKind::Resources, ListKind::Templates];
/// The lists in which the target of a completion is looked up, in this order.
const OF_TEMPLATES: &[ListKind] = &[ListKind::Templates, ListKind::Resources];

/// The item that a request addresses, as found in a snapshot.
#[derive(Debug)]
pub struct LocatedCall<'a> {
    /// The name that the client used.
    pub name: Cow<'a, str>,
    /// The lists that may contain the item. The first list that has it decides its backend.
    pub kinds: &'static [ListKind],
    /// The backend that offers the item, if one does.
    pub backend: Option<Backend>,
    /// The list that says so. There is none where it is known by its prefix or by URIs like it.
    pub listed_as: Option<ListKind>,
}

/// Whether another backend gets a request if it lists what the request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contest {
    /// It gets the request.
    Won,
    /// The order of the backends decides.
    ByOrder,
    /// It does not get the request.
    Lost,
}

impl LocatedCall<'_> {
    /// Whether a backend gets the request if it has the name in its list of that kind.
    #[must_use]
    pub fn contest(&self, kind: ListKind) -> Contest {
        let place = |kind| self.kinds.iter().position(|other| *other == kind);
        let Some(listed) = self.listed_as.and_then(place) else {
            return Contest::Won;
        };
        match place(kind).map(|place| place.cmp(&listed)) {
            Some(Ordering::Less) => Contest::Won,
            Some(Ordering::Equal) => Contest::ByOrder,
            Some(Ordering::Greater) | None => Contest::Lost,
        }
    }
}

/// Finds the item that a request with these parameters addresses. `None` for malformed parameters.
#[must_use]
pub fn locate<'a>(
    snapshot: &CatalogSnapshot,
    subject: CallSubject,
    params: Option<&'a RawValue>,
) -> Option<LocatedCall<'a>> {
    let found = find(snapshot, subject, params).ok()?;
    // No resource is found by the text of a template.
    let by_name = |kind: &ListKind| subject != CallSubject::Resource || *kind == ListKind::Resources;
    let has = |kind: &ListKind| by_name(kind) && snapshot.listing(*kind).has(&found.name.1);
    Some(LocatedCall {
        listed_as: found.kinds.iter().copied().find(has),
        name: found.name.1,
        kinds: found.kinds,
        backend: found.route.ok().map(|route| route.backend),
    })
}

/// The item that a request names.
struct FoundItem<'a> {
    name: params::JsonString<'a>,
    /// The lists that may contain the item.
    kinds: &'static [ListKind],
    /// The `task` of a call, which is not forwarded.
    task: Option<&'a RawValue>,
    route: Result<ItemRoute, NotFound>,
}

fn find<'a>(
    snapshot: &CatalogSnapshot,
    subject: CallSubject,
    params: Option<&'a RawValue>,
) -> Result<FoundItem<'a>, InvalidMessage> {
    type Lookup = fn(&CatalogSnapshot, &str) -> Result<ItemRoute, NotFound>;
    let mut task = None;
    let (name, kinds, lookup): (_, &[ListKind], Lookup) = match subject {
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
        CallSubject::Resource => (params::uri(params)?, OF_RESOURCES, CatalogSnapshot::resource),
        CallSubject::Completion => match params::reference(params)? {
            Reference::Prompt(name) => (name, &[ListKind::Prompts], CatalogSnapshot::prompt),
            Reference::Resource(uri) => (uri, OF_TEMPLATES, CatalogSnapshot::template),
        },
    };
    let route = lookup(snapshot, &name.1);
    Ok(FoundItem {
        name,
        kinds,
        task,
        route,
    })
}

impl CallError {
    /// Whether the request is known not to have been executed, so a retry is safe.
    #[must_use]
    pub fn is_retry_safe(&self) -> bool {
        match self {
            Self::Backend { error, sent, .. } => !sent || error.is_retry_safe(),
            Self::Params(_)
            | Self::Unknown { .. }
            | Self::Undiscovered(_)
            | Self::NoCompletion(_)
            | Self::Gone
            | Self::Unavailable(_) => true,
        }
    }

    /// The backend's own error text, for the client.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Backend { error, .. } => error.detail(),
            _ => None,
        }
    }

    /// Creates the error of a request that was sent.
    #[must_use]
    pub fn sent(backend: &Backend, error: BackendError) -> Self {
        Self::Backend {
            backend: backend.name().clone(),
            error,
            sent: true,
        }
    }

    /// Creates the error of a request that was not sent, because there is no upstream session.
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

/// Rewrites the message: it gets the backend's own name and loses `task`. A backend must not create a task that the client cannot
/// fetch, and a receiver that declares no tasks must ignore the field (specification 2025-11-25, basic/utilities/tasks).
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

    /// The list that is searched first decides; within one list the order of the backends does.
    #[test]
    fn contest_is_decided_by_the_first_list_that_has_the_name() {
        let located = |kinds, listed_as| LocatedCall {
            name: "x".into(),
            kinds,
            backend: None,
            listed_as,
        };
        let contests = |kinds, listed_as| {
            [ListKind::Resources, ListKind::Templates].map(|kind| located(kinds, listed_as).contest(kind))
        };
        use Contest::{ByOrder, Lost, Won};
        assert_eq!(contests(OF_RESOURCES, Some(ListKind::Resources)), [ByOrder, Lost]);
        assert_eq!(contests(OF_TEMPLATES, Some(ListKind::Templates)), [Lost, ByOrder]);
        assert_eq!(contests(OF_TEMPLATES, Some(ListKind::Resources)), [ByOrder, Won]);
        assert_eq!(contests(OF_RESOURCES, None), [Won, Won]);
        assert_eq!(
            located(&[ListKind::Tools], Some(ListKind::Tools)).contest(ListKind::Tools),
            ByOrder
        );
    }

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
