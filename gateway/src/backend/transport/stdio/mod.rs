//! The stdio transport: the server is a program that the gateway runs, with one message a line on its standard streams (specification
//! 2025-11-25, basic/transports).
//!
//! An upstream session is a process: it ends with the process and exists in one gateway process only, so no session record contains it. A
//! process that has ended is a lost session: running calls fail, and the next call starts another.
//!
//! Each server runs below a supervisor process (see [`crate::supervisor`]), so that nothing of it outlives the gateway.

mod environment;
mod line_reader;
mod process;
mod process_exit;
mod process_output;
mod start_pauses;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Transport;
use super::routed_stream::lock;
use crate::backend::initialize::{Attempt, INITIALIZED};
use crate::backend::own_request_id::SessionOwner;
use crate::backend::{
    Backend, BackendError, BackendResponse, Cookies, InitializeResult, MessageRole, ResponseEvents,
    UpstreamSession,
};
use crate::config::ServerCommand;
use crate::mcp::correlation;
use crate::mcp::jsonrpc::Message;
use crate::mcp::method::Method;
use crate::mcp::revision::Revision;

use environment::Environment;
use process::ServerProcess;
use start_pauses::StartPauses;

pub use process_exit::ProcessExit;

/// The processes of one backend, by the session ids that the gateway assigns.
#[derive(Debug)]
pub(in crate::backend) struct ServerProcesses {
    command: Arc<ServerCommand>,
    running: Mutex<HashMap<HeaderValue, Arc<ServerProcess>>>,
    /// The places for processes of clients' sessions.
    places: Arc<Semaphore>,
    pauses: StartPauses,
    /// How the last process ended that the gateway has not stopped.
    last_exit: Mutex<Option<ProcessExit>>,
}

impl ServerProcesses {
    pub(super) fn new(command: Arc<ServerCommand>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(command.max_processes)),
            command,
            running: Mutex::default(),
            pauses: StartPauses::default(),
            last_exit: Mutex::default(),
        }
    }

    /// The program that they run.
    pub(super) fn command(&self) -> &Arc<ServerCommand> {
        &self.command
    }

    fn get(&self, id: &HeaderValue) -> Option<Arc<ServerProcess>> {
        lock(&self.running).get(id).map(Arc::clone)
    }

    /// The number of running processes.
    pub(super) fn count(&self) -> usize {
        lock(&self.running).len()
    }

    /// How the last process ended that the gateway has not stopped.
    pub(super) fn last_exit(&self) -> Option<ProcessExit> {
        lock(&self.last_exit).clone()
    }

    /// Removes the process `id`, which has ended. `exit` says how, if the gateway has not stopped it.
    fn remove(&self, id: &HeaderValue, exit: Option<ProcessExit>) {
        lock(&self.running).remove(id);
        if let Some(exit) = exit {
            self.pauses.note_exit(exit.ran_for);
            *lock(&self.last_exit) = Some(exit);
        }
    }

    /// The number of the process of `session`; `None` when it does not run in this gateway process.
    pub(super) fn number(&self, session: &UpstreamSession) -> Option<u64> {
        let id = session.id.as_ref()?;
        self.get(id)?;
        u64::from_str_radix(id.to_str().ok()?, 16).ok()
    }

    /// The messages of the process of `session` that belong to no call.
    pub(super) fn listen(&self, session: &UpstreamSession) -> Result<ResponseEvents, BackendError> {
        let gone = || BackendError::status(StatusCode::NOT_FOUND.as_u16());
        let process = session.id.as_ref().and_then(|id| self.get(id));
        process.and_then(|process| process.listen()).ok_or_else(gone)
    }

    /// Ends the process of `session`.
    pub(super) fn close(&self, session: &UpstreamSession) {
        let Some(id) = &session.id else { return };
        if let Some(process) = lock(&self.running).remove(id) {
            process.stop();
        }
    }

    /// Ends all processes.
    pub(super) fn close_all(&self) {
        for process in lock(&self.running).values() {
            process.stop();
        }
    }

    /// Takes a place for a process of a client's session.
    fn take_place(&self) -> Result<OwnedSemaphorePermit, BackendError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| BackendError::TooManyProcesses(self.command.max_processes))
    }
}

/// Cancels a call at the server when it is dropped before a message has arrived for it.
struct UnansweredCall<'a> {
    process: &'a ServerProcess,
    id: Option<&'a RawValue>,
}

impl UnansweredCall<'_> {
    fn end(mut self) {
        self.id = None;
    }
}

impl Drop for UnansweredCall<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.process.cancel(id);
        }
    }
}

impl Transport {
    fn processes(&self) -> Option<&ServerProcesses> {
        match self {
            Self::Stdio(processes) => Some(processes),
            Self::StreamableHttp | Self::HttpSse(_) => None,
        }
    }
}

impl Backend {
    /// The number of processes that the gateway runs for it; `None` for a server that is reached over HTTP.
    #[must_use]
    pub fn process_count(&self) -> Option<usize> {
        self.inner.transport.processes().map(ServerProcesses::count)
    }

    /// How its last process ended that the gateway has not stopped.
    #[must_use]
    pub fn last_process_exit(&self) -> Option<ProcessExit> {
        self.inner.transport.processes()?.last_exit()
    }

    fn server_process(&self, session: &UpstreamSession) -> Result<Arc<ServerProcess>, BackendError> {
        let processes = self.inner.transport.processes();
        let id = session.id.as_ref();
        let process = processes.zip(id).and_then(|(processes, id)| processes.get(id));
        process.ok_or(BackendError::SessionLost)
    }

    /// Starts a process and returns the id of the new session.
    async fn start_process(&self, processes: &ServerProcesses) -> Result<HeaderValue, BackendError> {
        processes.pauses.check()?;
        // The process in which the gateway lists what the server offers does not compete with those of clients.
        let place = match self.session_owner {
            SessionOwner::Client => Some(processes.take_place()?),
            SessionOwner::Gateway => None,
        };
        let environment = Environment::resolve(&processes.command).await?;
        let number = format!("{:016x}", crate::runtime::random::u64());
        let id = HeaderValue::try_from(number).map_err(|error| BackendError::Invalid(error.to_string()))?;
        let started = ServerProcess::start(self, &processes.command, environment, id.clone(), place);
        let process = started.inspect_err(|_| processes.pauses.note_exit(std::time::Duration::ZERO))?;
        lock(&processes.running).insert(id.clone(), process);
        Ok(id)
    }

    /// Sends the request `message` with the id `id`. If the first message for the call is its response, that is all; otherwise it is a
    /// stream. A call that is dropped before its first message is cancelled.
    pub(super) async fn call_over_stdio(
        &self,
        session: &UpstreamSession,
        message: Bytes,
        id: &RawValue,
    ) -> Result<BackendResponse, BackendError> {
        let process = self.server_process(session)?;
        let mut events = process.call(message, id).await?;
        let unanswered = UnansweredCall {
            process: &process,
            id: Some(id),
        };
        let first = events.next().await;
        unanswered.end();
        let Some(first) = first? else {
            return Err(BackendError::Broken(
                "the call was cancelled, or its process was stopped".to_owned(),
            ));
        };
        match self.read_message(first.data.as_ref().unwrap_or(&Bytes::new()), id) {
            MessageRole::Answer(answer) => return Ok(BackendResponse::Whole(answer)),
            MessageRole::MalformedAnswer(error) => return Err(error),
            MessageRole::Unreadable(_) | MessageRole::Other => events.put_back(first),
        }
        Ok(BackendResponse::Events(
            Box::new(session.clone()),
            Box::new(events),
        ))
    }

    /// Sends a notification or a response. A cancelled call ends at once, because the server need not answer it (specification 2025-11-25,
    /// basic/utilities/cancellation).
    pub(super) async fn notify_over_stdio(
        &self,
        session: &UpstreamSession,
        message: Bytes,
    ) -> Result<(), BackendError> {
        let process = self.server_process(session)?;
        process.send(message.clone()).await?;
        if let Ok(Message::Notification { method, params }) = Message::parse(&message)
            && Method::parse(&method) == Method::Cancelled
            && let Ok(id) = correlation::cancelled_id(params)
        {
            process.end_call(id);
        }
        Ok(())
    }

    /// Sends `initialize` to a new process.
    pub(super) async fn initialize_over_stdio(
        &self,
        revision: Revision,
        message: Bytes,
        id: &RawValue,
        attempt: &mut Attempt,
    ) -> Result<InitializeResult, BackendError> {
        let Some(processes) = self.inner.transport.processes() else {
            return Err(BackendError::SessionLost);
        };
        let session = UpstreamSession {
            id: Some(self.start_process(processes).await?),
            revision,
            address: None,
            cookies: Cookies::default(),
        };
        attempt.note_opened(&session);
        let answering = async {
            let answer = self.call_over_stdio(&session, message, id).await?;
            answer.whole(id).await
        };
        // A process that ends before its first answer has executed nothing.
        let answer = answering.await.map_err(|error| match error {
            BackendError::Broken(reason) => BackendError::Unreachable(reason),
            BackendError::SessionLost => BackendError::Unreachable("its process ended at once".to_owned()),
            other => other,
        })?;
        let result = attempt.complete(&answer, session)?;
        self.notify_over_stdio(&result.session, INITIALIZED).await?;
        Ok(result)
    }
}
