//! One request to one backend: a call of a tool, a prompt, a resource, a completion.
//!
//! A request is sent once. It is sent a second time in a single case: the backend says that it does not know the upstream session,
//! which means that it has not executed the request; then the session is replaced first. Anything else that goes wrong is told to
//! the caller, with whether trying again is safe.

use bytes::Bytes;
use serde_json::value::RawValue;
use vmcp_crds::config::Capability;

use super::{Core, UpstreamError, Upstreams};
use crate::backend::{Admitted, Answer, Backend, BackendError};
use crate::config::BackendName;
use crate::core::catalog::{Nowhere, Route, Snapshot};
use crate::wire::code;
use crate::wire::jsonrpc::{Fault, Request};
use crate::wire::params::{self, Reference};
use crate::wire::splice::splice;

/// What a request asks one backend for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
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
pub struct Reply {
    /// The backend.
    pub backend: Backend,
    /// Its answer.
    pub answer: Answer,
    /// The request's place at the backend; to be kept until the answer has come whole.
    pub admitted: Admitted,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The parameters are not those of the method.
    #[error(transparent)]
    Params(#[from] Fault),
    /// No backend has it.
    #[error("unknown {} {name:?}", .subject.noun())]
    Unknown {
        /// What was asked for.
        subject: Subject,
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
    },
    /// The caller's session has ended meanwhile.
    #[error("the session has ended")]
    Gone,
    /// The upstream session cannot be known at the moment. The request was not sent.
    #[error("the session store is unavailable: {0}")]
    Unavailable(String),
}

impl Subject {
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

impl Core {
    /// Sends `request`, which came in as `message`, to the backend that has what it asks for, and gives its answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call(
        &self,
        upstreams: &impl Upstreams,
        subject: Subject,
        message: &Bytes,
        request: &Request<'_>,
    ) -> Result<Reply, CallError> {
        let (backend, message) = self.route(subject, message, request)?;
        self.send(upstreams, backend, message, request.id).await
    }

    /// The backend that has what `request` asks for, and the message for it: the client's, with the name that the backend uses in the
    /// place of the one that the client uses.
    ///
    /// # Errors
    /// When no backend is known to have it.
    pub fn route(
        &self,
        subject: Subject,
        message: &Bytes,
        request: &Request<'_>,
    ) -> Result<(Backend, Bytes), CallError> {
        let snapshot = self.catalog().snapshot();
        let (raw, name, route) = find(&snapshot, subject, request.params)?;
        let route = route.map_err(|nowhere| match nowhere {
            Nowhere::Unknown => CallError::Unknown {
                subject,
                name: name.to_string(),
            },
            Nowhere::NotYet(backend) => CallError::NotYet(backend),
        })?;
        if subject == Subject::Completion && !snapshot.completes(route.backend.name()) {
            return Err(CallError::NoCompletion(route.backend.name().clone()));
        }
        let message = if *route.name == *name {
            message.clone()
        } else {
            rename(message, raw, &route.name)?
        };
        Ok((route.backend, message))
    }

    /// Sends `message`, a request with the id `id`, to `backend` in the caller's session there, and repairs that session once if the
    /// backend has lost it.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(
        &self,
        upstreams: &impl Upstreams,
        backend: Backend,
        message: Bytes,
        id: &RawValue,
    ) -> Result<Reply, CallError> {
        let admitted = backend.admit().await;
        let mut admitted = admitted.map_err(|error| CallError::upstream(&backend, error.into()))?;
        match self.exchange(upstreams, &backend, message, id).await {
            Ok(answer) => {
                admitted.answered();
                Ok(Reply {
                    backend,
                    answer,
                    admitted,
                })
            }
            Err(error) => {
                match &error {
                    UpstreamError::Backend(error) => admitted.failed(error),
                    UpstreamError::Gone | UpstreamError::Unavailable(_) => admitted.undecided(),
                }
                Err(CallError::upstream(&backend, error))
            }
        }
    }

    async fn exchange(
        &self,
        upstreams: &impl Upstreams,
        backend: &Backend,
        message: Bytes,
        id: &RawValue,
    ) -> Result<Answer, UpstreamError> {
        let session = upstreams.open(backend).await?;
        match backend.call(&session, message.clone(), id).await {
            Err(BackendError::SessionLost) => {
                self.metrics.repaired(backend.name());
                tracing::info!(backend = %backend.name(), "the backend lost its session; opening another");
                let session = upstreams.replace(backend, &session).await?;
                Ok(backend.call(&session, message, id).await?)
            }
            outcome => Ok(outcome?),
        }
    }
}

/// What a request names, where that stands, and where it is.
type Found<'a> = (&'a RawValue, std::borrow::Cow<'a, str>, Result<Route, Nowhere>);

fn find<'a>(snapshot: &Snapshot, subject: Subject, params: Option<&'a RawValue>) -> Result<Found<'a>, Fault> {
    type Look = fn(&Snapshot, &str) -> Result<Route, Nowhere>;
    let ((raw, name), look): (_, Look) = match subject {
        Subject::Tool => (params::name(params)?, Snapshot::tool),
        Subject::Prompt => (params::name(params)?, Snapshot::prompt),
        Subject::Resource => (params::uri(params)?, Snapshot::resource),
        Subject::Completion => match params::reference(params)? {
            Reference::Prompt(name) => (name, Snapshot::prompt),
            Reference::Resource(uri) => (uri, Snapshot::template),
        },
    };
    let route = look(snapshot, &name);
    Ok((raw, name, route))
}

impl CallError {
    pub(super) fn upstream(backend: &Backend, error: UpstreamError) -> Self {
        match error {
            UpstreamError::Backend(error) => Self::Backend {
                backend: backend.name().clone(),
                error,
            },
            UpstreamError::Gone => Self::Gone,
            UpstreamError::Unavailable(reason) => Self::Unavailable(reason),
        }
    }
}

fn rename(message: &Bytes, advertised: &RawValue, original: &str) -> Result<Bytes, CallError> {
    let fault = |message: &str| Fault {
        code: code::INTERNAL,
        message: message.to_owned(),
    };
    let original = serde_json::to_vec(original).map_err(|_| fault("the name cannot be written as JSON"))?;
    Ok(splice(message, advertised.get(), &original).ok_or_else(|| fault("the name cannot be found"))?)
}
