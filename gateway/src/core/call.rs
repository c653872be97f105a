//! One call of a tool.
//!
//! A call is sent once. It is sent a second time in a single case: the backend says that it does not know the upstream session,
//! which means that it has not executed the call; then the session is replaced first. Anything else that goes wrong is told to
//! the caller, with whether trying again is safe.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Core, UpstreamError, Upstreams};
use crate::backend::{Answer, Backend, BackendError};
use crate::config::BackendName;
use crate::core::catalog::Route;
use crate::wire::jsonrpc::{Fault, Named, Request};
use crate::wire::splice::splice;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The parameters are not those of a call.
    #[error(transparent)]
    Params(#[from] Fault),
    /// No backend offers a tool of that name.
    #[error("unknown tool {0:?}")]
    UnknownTool(String),
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
    /// The upstream session cannot be known at the moment. The call was not sent.
    #[error("the session store is unavailable: {0}")]
    Unavailable(String),
}

impl Core {
    /// Sends the call `request`, which came in as `message`, to the backend that offers the tool, and gives the backend and
    /// its answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call_tool(
        &self,
        upstreams: &impl Upstreams,
        message: &Bytes,
        request: &Request<'_>,
    ) -> Result<(Backend, Answer), CallError> {
        let (name_bytes, name) = Named::parse(request.params)?;
        let Some(Route {
            backend,
            name: original,
        }) = self.catalog.route(&name)
        else {
            return Err(CallError::UnknownTool(name.into_owned()));
        };
        let message = if *original == *name {
            message.clone()
        } else {
            rename(message, name_bytes, &original)?
        };
        let failed = |error: UpstreamError| CallError::upstream(&backend, error);
        let session = upstreams.open(&backend).await.map_err(failed)?;
        match backend.call(&session, message.clone(), request.id).await {
            Ok(answer) => Ok((backend, answer)),
            Err(BackendError::SessionLost) => {
                self.metrics.repaired(backend.name());
                tracing::info!(backend = %backend.name(), "the backend lost its session; opening another");
                let session = upstreams.replace(&backend, &session).await.map_err(failed)?;
                let answer = backend.call(&session, message, request.id).await;
                answer
                    .map_err(|error| failed(error.into()))
                    .map(|answer| (backend.clone(), answer))
            }
            Err(error) => Err(failed(error.into())),
        }
    }
}

impl CallError {
    fn upstream(backend: &Backend, error: UpstreamError) -> Self {
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
        code: crate::wire::code::INTERNAL,
        message: message.to_owned(),
    };
    let original =
        serde_json::to_vec(original).map_err(|_| fault("the tool's name cannot be written as JSON"))?;
    Ok(splice(message, advertised.get(), &original)
        .ok_or_else(|| fault("the tool's name cannot be found"))?)
}
